"""What a reply becomes for the caller: secrets, refusals, and exceptions whose words are pinned."""

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent_sdk
from agent_sdk import Code, NotGranted, RateLimited, Refusal, SecretBrokerError, SeveralRefused, errors
from agent_sdk.errors import refused_as_a_whole, refused_names
from agent_sdk.holdings import Holdings
from agent_sdk.outcome import Answer, settle
from agent_sdk.secret import wall_clock
from agent_sdk.wire.messages import Reply, Result

ID = bytes(16)


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (
            Code.DENIED,
            "Denied",
            "a: denied; the audit says why (`secret-broker policy explain` on the broker's host)",
        ),
        (
            Code.UNAUTHENTICATED,
            "Unauthenticated",
            "a: the broker does not accept this run's token; start the run again with a new credential",
        ),
        (
            Code.EXPIRED,
            "Expired",
            "a: the run's token or the request's deadline is over; start the run again or compare the clocks",
        ),
        (Code.REVOKED, "Revoked", "a: revoked; this run gets it no more"),
        (Code.RATE_LIMITED, "RateLimited", "a: too many requests"),
        (Code.APPROVAL_PENDING, "ApprovalPending", "a: waiting for a human's approval; ask again later"),
        (Code.APPROVAL_DENIED, "ApprovalDenied", "a: a human refused it"),
        (Code.APPROVAL_EXPIRED, "ApprovalExpired", "a: nobody approved it in time; ask again"),
        (Code.UNAVAILABLE, "Unavailable", "a: the broker or its vault cannot serve now; ask again later"),
        (
            Code.AUDIT_UNAVAILABLE,
            "Unavailable",
            "a: the broker cannot write its audit and releases nothing; tell its operator",
        ),
        (Code.INVALID, "InvalidRequest", "a: the broker found the request invalid"),
        (Code.TOO_LARGE, "InvalidRequest", "a: the request or the value is too large"),
    ],
)
def test_every_code_has_a_class_and_words_of_its_own(code: Code, name: str, message: str) -> None:
    """Scripts may rely on class and code, people on the words."""
    error = refused_names([Refusal("a", code)])
    assert (type(error).__name__, error.code, str(error)) == (name, code, message)
    assert str(refused_as_a_whole(code, ())) == message.removeprefix("a: ")


def test_no_code_is_left_out() -> None:
    """A code that is added to the wire needs a class and words here."""
    for code in Code:
        assert isinstance(refused_as_a_whole(code, ()), NotGranted)


def test_a_rate_limit_says_when_to_ask_again() -> None:
    """retry_after is in seconds, and in the message; the longest wait counts for several names."""
    error = refused_names([Refusal("a", Code.RATE_LIMITED, 0.5), Refusal("b", Code.RATE_LIMITED, 2.0)])
    assert isinstance(error, RateLimited)
    assert error.retry_after == 2.0
    assert str(error) == "a, b: too many requests; ask again in 2 s"
    assert RateLimited("x").retry_after == 0.0


def test_names_refused_for_different_reasons_are_listed_with_their_codes() -> None:
    """One exception names all of them."""
    error = refused_names([Refusal("a", Code.DENIED), Refusal("b", Code.RATE_LIMITED, 1.5)])
    assert isinstance(error, SeveralRefused)
    assert str(error) == "not released: a (denied), b (rate_limited)"
    assert error.names == ("a", "b")
    assert error.retry_after == 1.5


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Each class stands in the module's docstring below its parent."""
    lines = [re.match(r"[ │├└─]*(\w+)", line) for line in (errors.__doc__ or "").splitlines()]
    documented = {found[1] for found in lines if found}
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, SecretBrokerError)}
    assert {c.__name__ for c in classes} <= documented
    for public in classes - {SecretBrokerError}:
        assert getattr(agent_sdk, public.__name__) is public


@pytest.mark.parametrize("name", agent_sdk.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    """The lazy package gives each name that it promises."""
    assert getattr(agent_sdk, name).__name__ == name
    assert name in dir(agent_sdk)


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    """A typing error fails as in any module."""
    with pytest.raises(AttributeError, match="module 'agent_sdk' has no attribute 'SecretBrokr'"):
        agent_sdk.__getattr__("SecretBrokr")


def test_exceptions_cross_process_borders() -> None:
    """A worker of a process pool can raise them."""
    error = pickle.loads(pickle.dumps(refused_names([Refusal("a", Code.RATE_LIMITED, 2.0)])))
    assert isinstance(error, RateLimited)
    assert (error.retry_after, error.names, error.code) == (2.0, ("a",), Code.RATE_LIMITED)


def _settle(reply: Reply, *asked: str) -> Answer:
    return settle(reply, asked, Holdings(wall_clock), 0)


def test_each_asked_name_is_granted_or_refused() -> None:
    """A mixed reply is taken apart by name, in the order asked."""
    granted = Result("b", "granted", value=b"x", source="cache", version="3")
    refused = Result("a", "refused", Code.RATE_LIMITED, retry_after=1500)
    answer = _settle(Reply(ID, "partial", results=(granted, refused)), "a", "b")
    assert answer.secrets["b"].reveal() == "x"
    assert (answer.secrets["b"].source, answer.secrets["b"].version) == ("cache", "3")
    assert answer.refusals == (Refusal("a", Code.RATE_LIMITED, 1.5),)


def test_a_name_that_was_not_asked_for_is_dropped() -> None:
    """Whatever else a reply holds is not handed out."""
    results = (Result("a", "granted", value=b"x"), Result("z", "granted", value=b"y"))
    assert set(_settle(Reply(ID, "ok", results=results), "a").secrets) == {"a"}


@pytest.mark.parametrize(
    "results", [(), (Result("a", "granted"),), (Result("b", "granted", value=b"x"),)], ids=["none", "empty", "other"]
)
def test_a_name_without_a_value_is_unavailable(results: tuple[Result, ...]) -> None:
    """A reply that says ok and gives nothing grants nothing."""
    answer = _settle(Reply(ID, "ok", results=results), "a")
    assert answer.secrets == {}
    assert answer.refusals == (Refusal("a", Code.UNAVAILABLE),)


def test_a_refusal_without_a_code_is_a_denial() -> None:
    """The strictest reading holds, for a name and for a whole request."""
    assert _settle(Reply(ID, "refused", results=(Result("a", "refused"),)), "a").refusals[0].code == Code.DENIED
    with pytest.raises(agent_sdk.Denied):
        _settle(Reply(ID, "refused")).raise_if_refused()


def test_a_request_refused_as_a_whole_refuses_every_name() -> None:
    """The request's code and wait hold for each name."""
    answer = _settle(Reply(ID, "refused", Code.RATE_LIMITED, retry_after=250), "a", "b")
    with pytest.raises(RateLimited, match="a, b: too many requests") as caught:
        answer.raise_if_refused()
    assert caught.value.retry_after == 0.25
    assert caught.value.names == ("a", "b")


@given(
    st.lists(
        st.builds(
            Result,
            name=st.sampled_from("abcd"),
            outcome=st.sampled_from(["granted", "refused"]),
            code=st.sampled_from([None, *Code]),
            value=st.sampled_from([None, b"canary-value"]),
            retry_after=st.none() | st.integers(0, 10**6),
        ),
        max_size=6,
    ),
    st.sampled_from(["ok", "partial", "refused"]),
    st.sampled_from([None, *Code]),
    st.lists(st.sampled_from("abcd"), unique=True),
)
def test_any_reply_settles_every_name_and_no_error_shows_a_value(
    results: list[Result], status: str, code: Code | None, asked: list[str]
) -> None:
    """Whatever an authentic reply says: asked names are granted or refused, never both, and errors hold no value."""
    reply = Reply(ID, status, code, results=tuple(results))  # type: ignore[arg-type]  # drawn from the three
    answer = _settle(reply, *asked)
    assert sorted([*answer.secrets, *(refusal.name for refusal in answer.refusals)]) == sorted(asked)
    if answer.refusals:
        with pytest.raises(NotGranted) as caught:
            answer.raise_if_refused()
        assert "canary-value" not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
