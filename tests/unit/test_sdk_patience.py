"""How the client waits, step by step: when it asks again, for which names, and what it makes of each answer."""

from collections import deque
from collections.abc import Sequence

import pytest

from agent_sdk import Code, LeaseRevoked, Refusal, Secret, Unavailable
from agent_sdk.approvals import FIRST_PAUSE, SHORT_PAUSE, SettledApprovals, until_settled
from agent_sdk.outcome import Answer
from agent_sdk.secret import loan_of
from agent_sdk.wire.messages import Resolve

LONG = 600.0


class Script(SettledApprovals):
    """Plays the notices and the answers in order, and writes down what the client does."""

    def __init__(self, steps: Sequence[tuple[set[str], Answer | Exception]]) -> None:
        super().__init__()
        self._steps = deque(steps)
        self.pauses: list[float] = []
        self.unheard: list[frozenset[str]] = []
        self.asked: list[tuple[str, ...]] = []

    async def wait(self, approvals: frozenset[str], heard: frozenset[str], seconds: float) -> frozenset[str]:
        self.pauses.append(seconds)
        self.unheard.append(approvals - heard)
        return frozenset(self._steps[0][0]) & (approvals - heard)

    async def ask(self, body: Resolve, names: tuple[str, ...], seconds: float) -> Answer:
        assert body.names == names
        self.asked.append(names)
        _, answer = self._steps.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer


def waits(name: str, approval: str | None) -> Refusal:
    return Refusal(name, Code.APPROVAL_PENDING, LONG, approval)


def granted(*names: str) -> Answer:
    return Answer({name: Secret(name, b"x") for name in names})


async def play(script: Script, *refusals: Refusal, partial: bool = False) -> Answer:
    body = Resolve(tuple(refusal.name for refusal in refusals))
    return await until_settled(script.ask, script, body, Answer({}, refusals), LONG, partial=partial)


async def test_names_of_one_approval_are_asked_for_together_and_those_of_another_not() -> None:
    """An approval is for exactly its names: to ask for one of them alone would be another question to people."""
    script = Script([({"one"}, granted("a", "c")), ({"two"}, granted("b"))])
    answer = await play(script, waits("a", "one"), waits("b", "two"), waits("c", "one"))
    assert script.asked == [("a", "c"), ("b",)]
    assert list(answer.secrets) == ["a", "b", "c"]


async def test_without_a_notice_all_that_waits_is_asked_for() -> None:
    """Whichever was settled."""
    script = Script([(set(), granted("a", "b"))])
    await play(script, waits("a", "one"), waits("b", "two"))
    assert script.asked == [("a", "b")]


async def test_a_notice_is_heard_once() -> None:
    """After it the client asks by itself, soon at first; the notice wakes it no more."""
    still = Answer({}, (waits("a", "one"),))
    script = Script([({"one"}, still), ({"one"}, still), ({"one"}, granted("a"))])
    await play(script, waits("a", "one"))
    assert script.unheard == [frozenset({"one"}), frozenset(), frozenset()]
    assert script.pauses == [FIRST_PAUSE, SHORT_PAUSE, 2 * SHORT_PAUSE]


async def test_a_limit_is_waited_for() -> None:
    """The broker's own word on when to ask again outweighs the client's habit."""
    limited = Answer({}, (Refusal("a", Code.RATE_LIMITED, 42.0),), refused=Code.RATE_LIMITED, retry_after=42.0)
    script = Script([(set(), limited), (set(), granted("a"))])
    await play(script, waits("a", "one"))
    assert script.pauses == [FIRST_PAUSE, 42.0]


@pytest.mark.parametrize(
    "trouble",
    [Answer({}, (Refusal("a", Code.EXPIRED),), refused=Code.EXPIRED), Unavailable("no answer in time")],
    ids=["late", "lost"],
)
async def test_a_request_that_came_to_nothing_is_as_if_it_had_not_been_made(trouble: Answer | Exception) -> None:
    """One that reached the broker too late, or not at all, says nothing of what people decided."""
    script = Script([({"one"}, trouble), (set(), granted("a"))])
    assert set((await play(script, waits("a", "one"))).secrets) == {"a"}
    assert script.asked == [("a",), ("a",)]


async def test_a_broker_that_does_not_name_the_approval_is_asked_now_and_then() -> None:
    """There is no notice to wait for."""
    script = Script([(set(), granted("a"))])
    assert set((await play(script, waits("a", None))).secrets) == {"a"}


async def test_the_first_name_that_is_refused_ends_an_all_or_nothing_wait() -> None:
    """The others' people need not be waited for; with `partial` they are."""
    denied = Answer({}, (Refusal("a", Code.APPROVAL_DENIED, approval="one"),))
    for partial in (False, True):
        script = Script([({"one"}, denied), ({"two"}, granted("b"))])
        answer = await play(script, waits("a", "one"), waits("b", "two"), partial=partial)
        codes = {refusal.name: refusal.code for refusal in answer.refusals}
        assert codes["a"] == Code.APPROVAL_DENIED
        assert (set(answer.secrets), codes.get("b")) == (({"b"}, None) if partial else (set(), Code.APPROVAL_PENDING))


def test_what_is_revoked_after_its_end_says_so() -> None:
    """That it was taken back is the more important reason."""
    secret = Secret("a", b"x", expires_at=0)
    assert secret.expired
    loan_of(secret).end("revoked")
    with pytest.raises(LeaseRevoked):
        secret.reveal()
