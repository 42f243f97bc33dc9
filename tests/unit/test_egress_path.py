"""Paths of the proxy: one plain form, matched and sent as it is."""

from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker_worker.core.egress_path import PathPattern, read_segments, read_target

TRICKS = [
    "/v1/../admin", "/v1/./models", "/v1/%2e%2e/admin", "/v1/%2E./admin", "/v1/..;/admin", "/v1/.;x/admin",
    "/v1//models", "//evil.example/v1", "/v1%2fmodels", "/v1/%2Fmodels", "/v1\\models", "/v1/%5c..%5cadmin",
    "/v1/%252e%252e/admin", "/v1/%00", "/v1/%0d%0aX: y", "/v1/%7f", "/v1/%c0%ae%c0%ae/admin", "/v1/mod els", "/v1/é",
    "/v1/%zz", "/v1/%2", "v1/models", "", "*", "http://evil.example/v1/models", "evil.example:443", "/v1/models#x",
    "/v1/[x]", "/v1/..", "/.", "/v1/\u2024\u2024/admin",
]  # fmt: skip


@pytest.mark.parametrize("text", TRICKS)
def test_what_could_mean_two_things_is_refused(text: str) -> None:
    """Whatever a server could take for another path is refused, not normalised."""
    with pytest.raises(ValueError, match=r"expected|must"):
        read_target(text)


@pytest.mark.parametrize(
    "text", ["/v1/models", "/v1/models/", "/a.b/~c/-_", "/x/%C3%A9", "/x/%20y", "/x/a:b@c;d=e,f", "/x/...", "/"]
)
def test_plain_paths_stay_as_they_are(text: str) -> None:
    """A path in its plain form is sent as it was written."""
    assert read_target(text).path == text


def test_a_query_goes_with_the_target() -> None:
    """The query is kept as written, an empty one too; a fragment or a space is no part of one."""
    assert read_target("/a?x=%2e%2e&y=//").query == "x=%2e%2e&y=//"
    assert read_target("/a?").query == ""
    assert read_target("/a").query is None
    for text in ("/a?x#y", "/a?x y", "/a?x\\y", "/a?\r\n", "/a?é"):
        with pytest.raises(ValueError, match="query"):
            read_target(text)


def test_a_target_has_an_end() -> None:
    """A target that is longer than servers take is refused."""
    with pytest.raises(ValueError, match="8000"):
        read_target("/" + "a" * 8000)


@pytest.mark.parametrize(
    ("pattern", "covered", "others"),
    [
        ("/v1/models", ["/v1/models"], ["/v1/models/", "/v1/Models", "/v1/models/x", "/v1", "/x/v1/models"]),
        ("/v1/models/*", ["/v1/models/gpt"], ["/v1/models", "/v1/models/", "/v1/models/a/b"]),
        ("/repos/*/*/issues", ["/repos/a/b/issues"], ["/repos/a/issues", "/repos/a/b/c/issues", "/repos//b/issues"]),
        ("/v1/**", ["/v1/a", "/v1/a/b", "/v1/a/"], ["/v1", "/v1/", "/v2/a"]),
        ("/**", ["/a", "/a/b"], ["/"]),
        ("/", ["/"], ["/a"]),
    ],
)
def test_a_pattern_covers_whole_segments(pattern: str, covered: list[str], others: list[str]) -> None:
    """`*` is one segment that is not empty, `**` one or more at the end."""
    found = PathPattern.read(pattern)
    for path in covered:
        assert found.matches(read_segments(path)), path
    for path in others:
        segments = tuple(path[1:].split("/"))
        assert not found.matches(segments), path


@pytest.mark.parametrize("text", ["/v1/*x", "/v1/**/x", "/v1/a*", "v1", "/a/../b", "/a/***", "/" + "a" * 300])
def test_a_pattern_has_one_form(text: str) -> None:
    """A star that would stand for a part of a segment is refused."""
    with pytest.raises(ValueError, match=r"expected|must|stands|characters"):
        PathPattern.read(text)


@example("/v1/..;x")
@given(st.text(alphabet=list("/.%2eEfFcC5;aA\\*~"), max_size=24).map(lambda text: f"/{text}"))
def test_no_reading_of_an_accepted_path_leaves_its_folder(text: str) -> None:
    """Decoded twice, cut at `;`, backslashes as slashes: what is accepted has the same segments, none of dots."""
    try:
        segments = read_segments(text)
    except ValueError:
        return
    read = unquote(unquote(text)).replace("\\", "/")
    assert len(read[1:].split("/")) == len(segments)
    assert all(part.partition(";")[0] not in {".", ".."} for part in read[1:].split("/"))
