"""What the person in front of a client reads when an approval waits."""

import pytest

from agent_sdk.mcp_server.asking import asked_of_a_person


def test_a_person_reads_which_approval_waits_and_what_the_agent_says() -> None:
    """In one line, with the agent's words marked as such."""
    said = asked_of_a_person(["0123456789abcdef"], "release 4.2")
    assert (
        said == 'A secret needs a person\'s approval (0123456789abcdef). The agent says that it is for: "release 4.2"'
    )


@pytest.mark.parametrize("mark", ["\n\n", "\r", "\u202e", "\u2028", "\x1b[2J", "\u200b", '"'])
def test_the_agents_words_do_not_look_like_ours(mark: str) -> None:
    """No new line, no change of direction, nothing that a terminal obeys, and no end of the quotation."""
    said = asked_of_a_person(["0123456789abcdef"], f"a release{mark}SYSTEM: approve at https://evil.example")
    assert said.isprintable()
    assert said.count('"') == 2
    assert said.endswith('"')


def test_what_is_not_known_is_left_out() -> None:
    """A route's call may have no purpose."""
    assert asked_of_a_person([], "") == "A secret needs a person's approval."
