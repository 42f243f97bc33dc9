"""The YAML reader: everything surprising is refused with file, line and what to do."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from broker_worker.core.errors import ConfigError
from broker_worker.files import yaml_reader
from broker_worker.files.yaml_reader import MAX_BYTES, MAX_DEPTH, Kind, MappingNode, Scalar, parse_yaml, read_yaml


@pytest.fixture(params=["libyaml", "pure Python"])
def _each_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with PyYAML's C parser and with its Python parser."""
    monkeypatch.setattr(yaml_reader, "_Loader", yaml.CSafeLoader if request.param == "libyaml" else yaml.SafeLoader)


def scalar(text: str) -> Scalar:
    """The one value of the mapping `key: text`."""
    node = parse_yaml(f"key: {text}\n".encode(), "f.yaml").entries["key"][1]
    assert isinstance(node, Scalar)
    return node


def refusal(content: str | bytes) -> ConfigError:
    """The error that a file with that content gives."""
    raw = content.encode() if isinstance(content, str) else content
    with pytest.raises(ConfigError) as caught:
        parse_yaml(raw, "f.yaml")
    return caught.value


@pytest.mark.usefixtures("_each_parser")
@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("a:\n\tb: 1\n", 2, "a tab"),
        ("a: b\n\n# why\tnot\n", 3, "a tab"),
        ("a: 1\nb: 2\na: 3\n", 3, "the key `a` stands here and already in line 1"),
        ("a: &x [1]\nb: 2\n", 1, "an anchor or alias (& or *)"),
        ("a: 1\nb: *x\n", 2, "an anchor or alias (& or *)"),
        ("a: 1\nb: *\n", 2, "not valid YAML: an anchor or alias (& or *)"),
        ("a: 1\nb:\n  <<: {c: 1}\n", 3, "a merge key `<<`"),
        ("a: !!python/object:os.system x\n", 1, "a tag (a word that begins with !)"),
        ("a: !!str x\n", 1, "a tag (a word that begins with !)"),
        ("a: ! x\n", 1, "a tag (a word that begins with !)"),
        ("a: 1\n---\nb: 1\n", 2, "a second document begins here"),
        ("%YAML 1.1\n---\na: 1\n", 1, "a directive (a line that begins with %)"),
        ("a: 1\non: 2\n", 2, "`on`, which YAML takes for a boolean, stands where a key was expected"),
        ("no: 2\n", 1, "`no`, which YAML takes for a boolean, stands where a key was expected"),
        ("12: 2\n", 1, "`12`, which YAML takes for a number, stands where a key was expected"),
        ("2026-01-01: 2\n", 1, "`2026-01-01`, which YAML takes for a date, stands where a key was expected"),
        ("null: 2\n", 1, "`null`, which YAML takes for a nothing, stands where a key was expected"),
        ("'': 2\n", 1, "nothing stands where a key was expected"),
        ("? [a, b]\n: 2\n", 1, "a list or mapping stands where a key was expected"),
        ("a: |\n  two\n  lines\n", 1, "a text with a line break or a control character"),
        ('a: "nul \\0"\n', 1, "a text with a line break or a control character"),
        ("- a\n- b\n", 1, "expected `key: value` lines at the top of the file"),
        ("just words\n", 1, "expected `key: value` lines at the top of the file"),
    ],
)
def test_what_is_refused_has_its_line(content: str, line: int, message: str) -> None:
    """One mistake a file: the message says what was found, the line where."""
    error = refusal(content)
    assert (str(error), error.line) == (f"f.yaml:{line}: {message}", line)


@pytest.mark.usefixtures("_each_parser")
@pytest.mark.parametrize(
    ("content", "line"),
    [("a: [1, 2\n", 2), ("a: b: c\n", 1), ("a: 'x\n", 2), ("a: 1\n b: 2\n", 2), ("a: {b: 1]\n", 1), ("a: @x\n", 1)],
)
def test_broken_syntax_has_its_line_and_a_hint(content: str, line: int) -> None:
    """The parser's problem, in a line that exists."""
    error = refusal(content)
    assert error.line == line
    assert str(error).startswith(f"f.yaml:{line}: not valid YAML: ")
    assert error.hint


def test_a_syntax_error_does_not_repeat_the_file_s_text() -> None:
    """A value that was pasted into a file does not reach the terminal or a log."""
    error = refusal("a: 'c4nary\nb: c4nary: c4nary\n")
    assert "c4nary" not in str(error) + error.hint
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\u2028", "U+2028"),
        ("\x85", "U+0085"),
        ("\r", "U+000D"),
        ("\u202e", "U+202E"),
        ("\xa0", "U+00A0"),
        ("\0", "U+0000"),
    ],
)
def test_a_character_that_hides_what_a_file_says_is_refused(character: str, name: str) -> None:
    """A comment that YAML ends earlier than an editor shows, or text that an editor shows in another order."""
    error = refusal(f"a: b\n# comment {character}allow: x\n")
    assert str(error) == f"f.yaml:2: an invisible character, {name}"


def test_line_ends_of_windows_are_accepted() -> None:
    """And counted as people count them."""
    assert parse_yaml(b"a: b\r\nc: d\r\n", "f.yaml").entries["c"][0] == 2


@pytest.mark.parametrize("content", ["", "# only a comment\n", "---\n", "~\n", "\n\n"])
def test_an_empty_file_is_an_error(content: str) -> None:
    """An empty policy is more likely an accident than a wish."""
    assert str(refusal(content)) == "f.yaml: is empty"


def test_a_byte_order_mark_is_accepted() -> None:
    """Editors on Windows write one."""
    assert list(parse_yaml(b"\xef\xbb\xbfa: 1\n", "f.yaml").entries) == ["a"]


@pytest.mark.parametrize("content", [b"a: 1\nb: \xff\n", "a: 1\nb: ü\n".encode("latin-1")])
def test_text_that_is_not_utf_8_has_its_line(content: bytes) -> None:
    """Latin-1 and arbitrary bytes."""
    assert str(refusal(content)) == "f.yaml:2: not UTF-8"


def test_utf_16_is_refused() -> None:
    """Its byte order mark is no UTF-8."""
    assert "not UTF-8" in str(refusal("a: 1\n".encode("utf-16")))


def test_a_file_larger_than_the_cap_is_refused() -> None:
    """One byte too many, before anything is parsed."""
    padding = b"# " + b"x" * (MAX_BYTES - 7)
    parse_yaml(padding + b"\na: b", "f.yaml")
    assert "larger than" in str(refusal(padding + b"\na: bc"))


def test_nesting_is_bounded() -> None:
    """As deep as the cap is fine, one deeper is not."""
    inner = MAX_DEPTH - 1
    parse_yaml(("a: " + "[" * inner + "]" * inner).encode(), "f.yaml")
    assert "nested deeper" in str(refusal("a: " + "[" * (inner + 1) + "]" * (inner + 1)))


@pytest.mark.usefixtures("_each_parser")
@pytest.mark.parametrize("bomb", ["[" * 100_000, "{a: " * 50_000, "- " * 5000, "? " * 5000])
def test_deep_nesting_ends_early(bomb: str) -> None:
    """A hundred thousand brackets are refused at the seventeenth."""
    assert refusal(bomb).line == 1


def test_anchors_that_explode_are_refused_at_the_first() -> None:
    """A "billion laughs" file never expands."""
    laughs = "a: &a [x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    assert refusal(laughs).line == 1


@pytest.mark.usefixtures("_each_parser")
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("openai.api_key", Kind.TEXT),
        ("30/m", Kind.TEXT),
        ("'12'", Kind.TEXT),
        ('"on"', Kind.TEXT),
        ("on", Kind.BOOLEAN),
        ("No", Kind.BOOLEAN),
        ("12", Kind.NUMBER),
        ("0x10", Kind.NUMBER),
        ("1.10", Kind.NUMBER),
        ("1_000", Kind.NUMBER),
        ("12:30", Kind.NUMBER),
        ("2026-12-31", Kind.DATE),
        ("~", Kind.NOTHING),
        ("", Kind.NOTHING),
    ],
)
def test_a_plain_scalar_says_what_yaml_takes_it_for(text: str, kind: Kind) -> None:
    """`on` is a boolean and `1.10` a number to YAML 1.1; quotes make text of anything."""
    assert scalar(text).kind is kind


def test_a_scalar_keeps_its_characters() -> None:
    """`1.10` is not turned into 1.1, nor `on` into True."""
    assert [scalar(text).text for text in ("1.10", "on", "007", "'a b'")] == ["1.10", "on", "007", "a b"]


def test_repr_shows_no_text() -> None:
    """A tree in a traceback or log shows lines and kinds only."""
    assert "c4nary" not in repr(parse_yaml(b"a: c4nary\n", "f.yaml"))


def test_lines_are_those_of_the_file() -> None:
    """Of keys and of values, below comments and blank lines."""
    tree = parse_yaml(b"# one\n\na:\n  b: 1\n  c:\n    - x\n    - y\n", "f.yaml")
    line, inner = tree.entries["a"]
    assert isinstance(inner, MappingNode)
    assert (line, inner.line, inner.entries["c"][0]) == (3, 4, 5)


@pytest.mark.parametrize(
    ("name", "message"), [("missing.yaml", "does not exist"), (".", "is not a file"), ("a\0b", "does not exist")]
)
def test_a_path_that_is_no_file_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    """Missing, a folder, or a name that no file can have."""
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / name)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A reader must not hang on a file that never ends."""
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="is not a file"):
        read_yaml(tmp_path / "pipe.yaml")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions and disks: the reason is the system's, the hint is ours."""
    (tmp_path / "policy.yaml").write_text("a: 1\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied") as caught:
        read_yaml(tmp_path / "policy.yaml")
    assert caught.value.hint == "give the broker's user the right to read it"


def line_of_error(raw: bytes) -> int:
    """The line that the reader's error names; 0 if there is no error."""
    try:
        parse_yaml(raw, "f.yaml")
    except ConfigError as error:
        return error.line
    return 0


FRAGMENTS = st.sampled_from(
    [
        "a",
        "b:",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&x ",
        "*x",
        "!t ",
        "|\n",
        '"',
        "'",
        "\t",
        "#",
        "%",
        "---\n",
        "? ",
        "<<: ",
        "\\",
        "\0",
        "é",
        "\u2028",
        "\x85",
        "12",
        "on",
        "~",
    ]
)


@given(st.lists(FRAGMENTS, max_size=30).map("".join))
@example('a: "\\ud800"')
@example('a: "\\UFFFFFFFF"')
@example("a: \ufeff")
def test_arbitrary_text_raises_nothing_but_config_error(text: str) -> None:
    """Whatever a file holds, the reader ends with a tree or with an error that has a place in the file."""
    raw = text.encode()
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(yaml_reader, "_Loader", loader)
            assert 0 <= line_of_error(raw) <= text.count("\n") + 1


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_config_error(raw: bytes) -> None:
    """The same for what is not even text."""
    with suppress(ConfigError):
        parse_yaml(raw, "f.yaml")
