"""Which agents a worker blocks on."""

from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.hot_set import KEEP_MS, NOBODY, HotSet

AGENTS = ["a", "b", "c", "d"]


def test_nobody_was_active_and_somebody_is() -> None:
    """A read always has a stream to block on."""
    hot = HotSet(AGENTS)
    assert (hot.watched(), hot.unwatched()) == ((NOBODY,), AGENTS)
    assert hot.touch("b", 0)
    assert (hot.watched(), hot.unwatched()) == (("b",), ["a", "c", "d"])


def test_only_a_new_one_is_news() -> None:
    """Whoever is watched already wakes no reader."""
    hot = HotSet(AGENTS)
    assert [hot.touch("b", now) for now in (0, 1)] == [True, False]


def test_whoever_is_silent_for_long_is_left_to_the_sweep() -> None:
    """And watched again with its next message."""
    hot = HotSet(AGENTS)
    hot.touch("a", 0)
    hot.touch("b", 1)
    hot.cool(KEEP_MS)
    assert hot.watched() == ("b",)
    assert hot.touch("a", KEEP_MS)


def test_a_stranger_is_never_watched() -> None:
    """Somebody rang who is not in the policy, or is no longer."""
    hot = HotSet(AGENTS)
    hot.touch("a", 0)
    assert not hot.touch("mallory", 0)
    hot.replace(["b"])
    assert (*hot.watched(), *hot.agents) == (NOBODY, "b")
    assert not hot.touch("a", 1)


@given(st.lists(st.tuples(st.sampled_from(["touch", "cool", "replace", "watched"]), st.sampled_from([*AGENTS, "x"]))))
def test_every_agent_is_watched_or_swept(steps: list[tuple[str, str]]) -> None:
    """None falls between the two, whatever happened before."""
    hot, now = HotSet(AGENTS), 0
    for what, agent in steps:
        now += 5000
        if what == "touch":
            hot.touch(agent, now)
        elif what == "cool":
            hot.cool(now)
        elif what == "replace":
            hot.replace({*AGENTS} - {agent})
        else:
            watched = hot.watched()
            assert set(watched) - {NOBODY} | set(hot.unwatched()) == hot.agents
            assert not set(watched) & set(hot.unwatched())
