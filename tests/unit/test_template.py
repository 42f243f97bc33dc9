"""Templates: references in double braces become values, everything else stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_sdk.errors import InvalidRequest
from agent_sdk.template import Template


def test_references_become_values_and_nothing_else_changes() -> None:
    """Other braces, bare references, bytes of any encoding; what a value holds is not looked at again."""
    text = b"a={{ secret://a.key }};{{secret://b}}\r\n{{ .Values.x }} secret://a.key \xff{{\tsecret://a.key\t}}"
    template = Template(text, "t")
    assert template.names == ("a.key", "b")
    filled = template.filled({"a.key": b"{{ secret://b }}", "b": b"\0\n"})
    assert filled == b"a={{ secret://b }};\0\n\r\n{{ .Values.x }} secret://a.key \xff{{ secret://b }}"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"x\n  {{ secret://A }}", "t:2:3"),
        (b"{{ secret://a.key", "t:1:1"),
        (b"{{ secret://a.key }", "t:1:1"),
        (b"ok {{ secret://a }}\n\n{{ secret://a\n}}", "t:3:1"),
        (b"{{ secret:// }}", "t:1:1"),
        (b"{{ secret://a | upper }}", "t:1:1"),
    ],
)
def test_what_begins_as_a_reference_and_is_none_is_refused_with_its_place(text: bytes, place: str) -> None:
    """With line and column, and without what stands there."""
    with pytest.raises(InvalidRequest, match=f"^{place}: expected {{{{ secret://NAME }}}}, with a secret's name"):
        Template(text, "t")


@settings(max_examples=200)
@given(st.lists(st.sampled_from([b"{{", b"}}", b"secret://", b"a.b", b" ", b"\n", b"x", b"{"]), max_size=12))
def test_any_text_is_filled_or_refused(parts: list[bytes]) -> None:
    """Without references it stays as it is."""
    text = b"".join(parts)
    try:
        template = Template(text, "t")
    except InvalidRequest:
        return
    filled = template.filled(dict.fromkeys(template.names, b"VALUE"))
    assert filled == text if not template.names else b"VALUE" in filled
