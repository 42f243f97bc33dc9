"""References to AWS: what a registry may point to, and what it then names."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.aws_references import ParameterPlace, SecretPlace, parse_parameter, parse_secret
from broker_worker.core.references import check_reference

VERSION = "14d53c89-5e7f-4870-81bd-1bbb3623f488"
_CHARACTERS = string.ascii_letters + string.digits


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("openai", SecretPlace("openai")),
        ("prod/db/password", SecretPlace("prod/db/password")),
        ("/prod/db", SecretPlace("/prod/db")),
        ("a_+=.@-Z9", SecretPlace("a_+=.@-Z9")),
        ("a...b", SecretPlace("a...b")),
        (f"prod/db?version={VERSION}", SecretPlace("prod/db", version=VERSION)),
        ("prod/db?stage=AWSPREVIOUS", SecretPlace("prod/db", stage="AWSPREVIOUS")),
        ("prod/db#password", SecretPlace("prod/db", field="password")),
        ("prod/db?stage=AWSPREVIOUS#pass word?#1", SecretPlace("prod/db", stage="AWSPREVIOUS", field="pass word?#1")),
        ("prod/db#Schlüssel", SecretPlace("prod/db", field="Schlüssel")),
        ("prod/db#" + "f" * 128, SecretPlace("prod/db", field="f" * 128)),
    ],
)
def test_a_secret_is_named_with_version_or_stage_and_field(path: str, place: SecretPlace) -> None:
    """In the order of any URL; a field may hold whatever a JSON key may."""
    assert parse_secret(path) == place
    assert check_reference(f"aws-sm://{path}")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "a b",
        "a//b",
        "a/",
        "//a",
        "a/../b",
        "./a",
        "ä",
        "a:b",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:a-AbCdEf",
        "a?",
        "a?version=",
        "a?version=1",
        "a?version=" + "x" * 65,
        "a?version=" + "_" * 40,
        "a?stage=",
        "a?stage=a b",
        "a?stage=" + "x" * 129,
        f"a?version={VERSION}&stage=AWSCURRENT",
        f"a?stage=A?version={VERSION}",
        "a?other=1",
        "a#",
        "a# b",
        "a#b ",
        "a#b\x00",
        "a#b\nc",
        "a#" + "f" * 129,
        "a\n",
    ],
)
def test_any_other_secret_is_refused(path: str) -> None:
    """When the file is read; the text, which may be a value that was pasted, is not repeated."""
    assert parse_secret(path) is None
    with pytest.raises(ValueError, match="reference is not of the form aws-sm://name"):
        check_reference(f"aws-sm://{path}")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/agents/openai", ParameterPlace("/agents/openai")),
        ("/agents/openai:3", ParameterPlace("/agents/openai", "3")),
        ("/agents/openai:stable", ParameterPlace("/agents/openai", "stable")),
        ("openai", ParameterPlace("openai")),
        ("openai:1", ParameterPlace("openai", "1")),
        ("/a" * 15, ParameterPlace("/a" * 15)),
        ("/agents/aws/ssm", ParameterPlace("/agents/aws/ssm")),
    ],
)
def test_a_parameter_is_named_with_its_path_and_perhaps_a_version_or_label(path: str, place: ParameterPlace) -> None:
    """As AWS itself writes it."""
    assert parse_parameter(path) == place
    assert check_reference(f"aws-ssm://{path}")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//a",
        "/a//b",
        "/a/",
        "a/b",
        "/a/../b",
        ".",
        "/a b",
        "/ä",
        "/a" * 16,
        "/a:",
        "/a:0",
        "/a:01",
        "/a:1:2",
        "/a:1x",
        "/a:" + "9" * 20,
        "/a:" + "x" * 101,
        "/a:awslabel",
        "/a:SSMlabel",
        "/aws/reference/secretsmanager/prod",
        "/AWS/service/x",
        "awsthing",
        "ssm-thing",
        "/ssm/x",
        "/a?version=1",
        "/a\n",
    ],
)
def test_any_other_parameter_is_refused(path: str) -> None:
    """Also what is AWS's own, such as the way through the Parameter Store into Secrets Manager."""
    assert parse_parameter(path) is None
    with pytest.raises(ValueError, match="reference is not of the form aws-ssm://"):
        check_reference(f"aws-ssm://{path}")


@given(
    st.text(_CHARACTERS, min_size=1, max_size=8),
    st.none() | st.text(_CHARACTERS, min_size=32, max_size=64),
    st.none() | st.text(_CHARACTERS, min_size=1, max_size=20),
    st.none() | st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=30),
)
def test_what_is_written_is_what_is_named(name: str, version: str | None, stage: str | None, field: str | None) -> None:
    """No character of a field is taken for a part of the rest."""
    stage = None if version else stage
    query = f"?version={version}" if version else f"?stage={stage}" if stage else ""
    path = name + query + ("" if field is None else f"#{field}")
    assert parse_secret(path) == SecretPlace(name, version, stage, field)


@given(st.text(st.sampled_from("ab/.:?#=1 \n%"), max_size=12))
def test_a_name_holds_no_empty_and_no_relative_part(path: str) -> None:
    """Whatever is written: what is taken has no part that could be read as another name."""
    for place in (parse_secret(path), parse_parameter(path)):
        if place is not None:
            assert not {"", ".", ".."} & set(place.name.removeprefix("/").split("/"))
