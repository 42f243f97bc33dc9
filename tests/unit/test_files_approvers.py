"""`approvers.yaml`: who may decide, with which keys, and that every mistake has its line."""

import base64
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.approvers import Approver, Approvers, Ed25519Key, WebAuthnKey
from broker_worker.core.configuration import Configuration, Dashboard
from broker_worker.core.digest import configuration_digest
from broker_worker.core.errors import ConfigError
from broker_worker.core.policy import Origin
from broker_worker.files.approvers import KEYS, decode_base64url, read_approvers
from broker_worker.files.broker import read_dashboard
from broker_worker.files.configuration import load_configuration
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml

CONFIG = Path(__file__).parents[2] / "config"
PUBLIC = "3mxxo4lGY99I-1puMNFUsi8GGxX76FKNUAVLqv3vPP8"
OTHER = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
ED25519 = f"{{kind: ed25519, public_key: {PUBLIC}}}"
WEBAUTHN = "{kind: webauthn, credential_id: AAEC, public_key: pQEC, rp_id: localhost}"


def document(text: str) -> Section:
    """The top level of a file with that text."""
    section = Section(
        parse_yaml(text.encode(), "/etc/approvers.yaml"),
        file="/etc/approvers.yaml",
        origin="approvers.yaml",
        what="top level",
    )
    section.refuse_unknown(KEYS)
    return section


def read(text: str) -> Approvers:
    """The people of a file with that text."""
    return read_approvers(document(text), Dashboard())


def test_a_person_has_groups_and_keys_of_both_kinds() -> None:
    """Everything that the file can say of a person."""
    approvers = read(f"approvers:\n  - name: alice\n    groups: [ops, leads]\n    keys: [{ED25519}, {WEBAUTHN}]\n")
    public = decode_base64url(PUBLIC)
    assert public is not None
    assert approvers.people == {
        "alice": Approver(
            "alice",
            ("ops", "leads"),
            (Ed25519Key(public), WebAuthnKey(b"\0\1\2", b"\xa5\1\2", "localhost")),
            Origin("approvers.yaml", 2),
        )
    }


def test_defaults_are_the_dashboard_s_origin_and_five_open_approvals_a_run() -> None:
    """Nobody has to write them."""
    approvers = read("approvers: []")
    assert (approvers.people, approvers.origins, approvers.max_open_per_run) == ({}, ("http://localhost:7710",), 5)


def test_limits_and_origins_are_read() -> None:
    """Both replace what holds without them."""
    approvers = read("approvers: []\nlimits: {open_per_run: 2}\norigins: [https://broker.example, http://localhost]\n")
    assert approvers.max_open_per_run == 2
    assert approvers.origins == ("https://broker.example", "http://localhost")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: {}", "1: top level: the key `approvers` is missing"),
        ("approvers: [{name: Alice, keys: []}]", "1: `name`: name 'Alice' is not in canonical form"),
        ("approvers: [{name: a, keys: []}]", "1: `keys`: without a key the person can decide nothing"),
        ("approvers: [{name: a}]", "1: entry of `approvers`: the key `keys` is missing"),
        (f"approvers: [{{name: a, groups: [x, x], keys: [{ED25519}]}}]", "1: entry of `groups`: the group `x` stands"),
        (f"approvers: [{{name: a, keys: [{ED25519}], key: 1}}]", "1: entry of `approvers`: unknown key `key`"),
        (
            "approvers:\n  - {name: a, keys: [{kind: ed25519, public_key: AAAA}]}",
            "2: `public_key`: expected an Ed25519 public key",
        ),
        (
            f"approvers:\n  - {{name: a, keys: [{{kind: ed25519, public_key: {'A' * 43}}}]}}",
            "2: `public_key`: expected an Ed25519 public key",
        ),
        (
            "approvers:\n  - {name: a, keys: [{kind: webauthn, credential_id: '*', public_key: AAEC, rp_id: x}]}",
            "2: `credential_id`: expected 1 to 1023 bytes in base64url",
        ),
        (
            "approvers:\n  - {name: a, keys: [{kind: webauthn, credential_id: AAEC, public_key: AAEC}]}",
            "2: entry of `keys`: the key `rp_id` is missing",
        ),
        (
            "approvers:\n  - {name: a, keys: [{kind: webauthn, credential_id: AA, public_key: AA, rp_id: 'x:1'}]}",
            "2: `rp_id`: found `x:1`, expected a host name",
        ),
        (
            f"approvers:\n  - {{name: a, keys: [{{kind: ed25519, public_key: {PUBLIC}, rp_id: localhost}}]}}",
            "2: `rp_id`: belongs to a key of kind webauthn",
        ),
        (
            "approvers:\n  - {name: a, keys: [{kind: rsa, public_key: AAEC}]}",
            "2: `kind`: found `rsa`, expected `ed25519` or `webauthn`",
        ),
        (
            f"approvers:\n  - {{name: a, keys: [{ED25519}]}}\n  - {{name: a, keys: [{WEBAUTHN}]}}",
            "3: entry of `approvers`: `a` stands here and in line 2",
        ),
        (
            f"approvers:\n  - {{name: a, keys: [{ED25519}]}}\n  - {{name: b, keys: [{ED25519}]}}",
            "3: entry of `approvers`: a key of `b` stands twice; `a` has it",
        ),
        (
            f"approvers:\n  - {{name: a, keys: [{WEBAUTHN}, {WEBAUTHN}]}}",
            "2: entry of `approvers`: a key of `a` stands twice; `a` has it",
        ),
        (
            f"approvers:\n  - {{name: ops, keys: [{ED25519}]}}\n  - {{name: b, groups: [ops], keys: [{WEBAUTHN}]}}",
            "2: top level: `ops` is a person and a group",
        ),
        ("approvers: []\nlimits: {open_per_run: 0}", "2: `open_per_run`: found `0`"),
        ("approvers: []\norigins: []", "2: `origins`: the list is empty"),
        ("approvers: []\norigin: []", "2: top level: unknown key `origin`"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, message: str) -> None:
    """Nothing is guessed about who decides."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(f"/etc/approvers.yaml:{message}")


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:7710/",
        "http://LOCALHOST:7710",
        "http://localhost:80",
        "https://broker.example:443",
        "http://broker.example",
        "http://127.0.0.1:7710",
        "https://[::1]",
        "https://user@broker.example",
        "https://broker.example:0",
        "https://broker.example:99999",
        "https://-a.example",
        "localhost:7710",
        "ftp://localhost",
        "null",
    ],
)
def test_an_origin_that_no_browser_would_name_is_refused(origin: str) -> None:
    """Or one where a browser offers no WebAuthn: plain HTTP, or an IP address."""
    with pytest.raises(ConfigError):
        read(f'approvers: []\norigins: ["{origin}"]')


def test_the_dashboard_s_origin_follows_its_port() -> None:
    """And is the one that counts for approvals."""
    dashboard = read_dashboard(document("approvers: {port: 9000}").get("approvers"))
    assert dashboard == Dashboard(9000, "http://localhost:9000")
    assert dashboard.rp_id == "localhost"
    assert read_approvers(document("approvers: []"), dashboard).origins == ("http://localhost:9000",)


def test_the_host_name_of_another_origin_is_what_credentials_belong_to() -> None:
    """The RP id has neither scheme nor port."""
    value = document("approvers: {origin: 'https://broker.example:8443'}").get("approvers")
    assert read_dashboard(value).rp_id == "broker.example"


@given(st.binary(max_size=80))
def test_base64url_has_one_form(raw: bytes) -> None:
    """What decodes re-encodes to the same characters; a stray one refuses it."""
    text = base64.urlsafe_b64encode(raw).decode()
    assert decode_base64url(text) == decode_base64url(text.rstrip("=")) == raw
    assert decode_base64url(text + "$") is None
    assert decode_base64url(text.rstrip("=") + "\n") is None


def folder(tmp_path: Path, approvers: str | None) -> Configuration:
    """The example configuration, with another approvers.yaml or none."""
    for path in CONFIG.glob("*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "approvers.yaml").unlink()
    if approvers is not None:
        (tmp_path / "approvers.yaml").write_text(approvers)
    return load_configuration(tmp_path)


def test_without_the_file_nobody_may_decide(tmp_path: Path) -> None:
    """It is optional, and nothing is approved by its absence."""
    assert folder(tmp_path, None).approvers.people == {}


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    """It would take everybody's right by accident."""
    with pytest.raises(ConfigError, match="is empty"):
        folder(tmp_path, "")


def test_another_approver_changes_the_configuration_s_digest_and_not_the_policy_s(tmp_path: Path) -> None:
    """What waits for a decision is not voided by a new approver."""
    nobody = folder(tmp_path, None)
    alice = folder(tmp_path, f"approvers: [{{name: alice, groups: [ops], keys: [{ED25519}]}}]")
    assert alice.policy.digest == nobody.policy.digest
    assert alice.digest != nobody.digest


@pytest.mark.parametrize(
    "person",
    [
        f"{{name: bob, groups: [ops], keys: [{ED25519}]}}",
        f"{{name: alice, groups: [leads], keys: [{ED25519}]}}",
        f"{{name: alice, groups: [ops], keys: [{WEBAUTHN}]}}",
        f"{{name: alice, groups: [ops], keys: [{{kind: ed25519, public_key: {OTHER}}}]}}",
    ],
)
def test_whatever_says_who_decides_counts_in_the_digest(tmp_path: Path, person: str) -> None:
    """Name, groups and keys."""
    configuration = folder(tmp_path, f"approvers: [{{name: alice, groups: [ops], keys: [{ED25519}]}}]")
    changed = replace(configuration, approvers=read(f"approvers: [{person}]"))
    assert configuration_digest(changed) != configuration_digest(configuration)


def test_what_the_example_shows_in_comments_is_valid(tmp_path: Path) -> None:
    """All of it without its `#`."""
    text = (CONFIG / "approvers.yaml").read_text()
    shown = "".join(line[1:] + "\n" for line in text.splitlines() if re.match(r"#(\S|  )", line))
    assert [person.name for person in folder(tmp_path, shown).approvers.people.values()] == ["alice"]
