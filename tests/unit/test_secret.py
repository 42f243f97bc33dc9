"""A secret shows itself to nobody who did not call `reveal()`."""

import copy
import dataclasses
import inspect
import io
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable

import msgspec
import pytest

from agent_sdk import LeaseExpired, NotText, Secret
from agent_sdk.holdings import Holdings
from agent_sdk.secret import loan_of
from agent_sdk.wire.messages import Result

VALUE = "canary-7c1f0e"
SHOWN = "[secret openai.api_key]"


@pytest.fixture
def secret() -> Secret:
    return Secret("openai.api_key", VALUE.encode())


@dataclasses.dataclass
class Holder:
    token: Secret


def _logged(secret: Secret) -> str:
    stream = io.StringIO()
    logger = logging.getLogger("test_secret")
    logger.addHandler(logging.StreamHandler(stream))
    logger.warning("%s %r %s", secret, secret, {"key": secret})
    return stream.getvalue()


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda s: f"{s}",
        lambda s: f"{s!r:>40}",
        lambda s: "%s %r" % (s, s),  # noqa: UP031  # the old way of formatting is what is tested
        lambda s: str([s, {"a": s}, (s,)]),
        lambda s: repr(Holder(s)),
        pprint.pformat,
        _logged,
        lambda s: json.dumps({"key": s}, default=str),
        lambda s: str(ValueError(s)),
    ],
)
def test_whatever_turns_a_secret_into_text_gets_its_name(secret: Secret, show: Callable[[Secret], str]) -> None:
    """Formatting, logging and containers show the label and not the value."""
    shown = show(secret)
    assert SHOWN in shown
    assert VALUE not in shown


@pytest.mark.parametrize(
    "store",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        json.dumps,
        lambda s: dataclasses.asdict(Holder(s)),
        vars,
        bytes,
        len,
        list,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        lambda s: "prefix" + s,
    ],
)
def test_whatever_would_store_a_secret_fails_without_showing_it(
    secret: Secret, store: Callable[[Secret], object]
) -> None:
    """Pickle, copy, JSON and the like raise TypeError, and the error does not hold the value."""
    with pytest.raises(TypeError) as caught:
        store(secret)
    assert VALUE not in "".join(traceback.format_exception(caught.value))


def test_pickling_says_what_to_do_instead(secret: Secret) -> None:
    """The error names the secret and the way out."""
    with pytest.raises(TypeError, match=r"pass the name 'openai\.api_key' on and ask for it there"):
        pickle.dumps(secret)


def test_no_attribute_shows_the_value(secret: Secret) -> None:
    """What walks over attributes, as debuggers and error trackers do, finds nothing."""
    assert VALUE not in repr(inspect.getmembers(secret))


def test_what_stands_behind_a_secret_does_not_show_the_value(secret: Secret) -> None:
    """The client's own record of it, should it be printed, logged or looked at in a debugger, names it and no more."""
    loan = loan_of(secret)
    assert (repr(loan), loan.__rich_repr__()) == ("Loan('openai.api_key')", [("name", "openai.api_key")])
    assert VALUE not in repr(inspect.getmembers(loan))
    with pytest.raises(TypeError) as caught:
        msgspec.json.encode(loan)
    assert VALUE not in "".join(traceback.format_exception(caught.value))


def test_a_traceback_with_local_variables_does_not_show_the_value(secret: Secret) -> None:
    """An error tracker that prints each frame's variables sees the label."""

    def fails(token: Secret) -> None:
        raise RuntimeError(f"no luck with {token}")

    with pytest.raises(RuntimeError) as caught:
        fails(secret)
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    text = "".join(report.format())
    assert SHOWN in text
    assert VALUE not in text


def test_reveal_gives_the_text_and_the_bytes(secret: Secret) -> None:
    """The one way out works."""
    assert secret.reveal() == VALUE
    assert secret.reveal_bytes() == VALUE.encode()


def test_a_value_that_is_no_text_is_not_in_the_error() -> None:
    """Decoding errors hold what they could not decode; ours does not, nor anything it is chained to."""
    secret = Secret("tls.key", b"\xff" + VALUE.encode())
    with pytest.raises(NotText, match=r"tls\.key is not UTF-8 text: use reveal_bytes") as caught:
        secret.reveal()
    assert caught.value.__context__ is None
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert VALUE not in "".join(report.format())


def test_an_expired_secret_is_not_revealed() -> None:
    """After its end every way to the value raises, and says when it ended."""
    now = 1_700_000_000_000
    secret = Secret("a.key", b"x", expires_at=now + 1000, clock=lambda: now)
    assert secret.reveal() == "x"
    now += 1000
    assert secret.expired
    for use in (secret.reveal, secret.reveal_bytes, lambda: secret.matches("x")):
        with pytest.raises(LeaseExpired, match=r"a\.key expired at 2023-11-14T22:13:21Z: ask the broker for it again"):
            use()


def test_an_end_beyond_the_calendar_is_shown_as_its_last_second() -> None:
    """The largest time on the wire is no reason to fail."""
    ends = Secret("a", b"x", expires_at=2**53 - 1).expires_at
    assert ends is not None
    assert ends.year == 9999


def test_equality_is_identity(secret: Secret) -> None:
    """Two secrets with one value are different, so a comparison never tells about a value."""
    assert secret == secret  # that is the question
    assert secret != Secret("openai.api_key", VALUE.encode())
    text: object = VALUE
    assert secret != text
    assert {secret: 1}[secret] == 1


def test_matches_compares_values(secret: Secret) -> None:
    """Text, bytes and other secrets can be compared on purpose."""
    assert secret.matches(VALUE)
    assert secret.matches(VALUE.encode())
    assert secret.matches(Secret("other", VALUE.encode()))
    assert not secret.matches("something else")
    assert not secret.matches("half of a pair: \ud800")


@pytest.mark.parametrize("is_over", [0, 1])
def test_comparing_with_what_is_over_does_not_show_the_other(secret: Secret, is_over: int) -> None:
    """The variables of the frames that refuse it hold secrets, and no values."""
    pair = [secret, Secret("other", VALUE.encode())]
    pair[is_over] = Secret("over", b"x", expires_at=0)
    with pytest.raises(LeaseExpired) as caught:
        pair[0].matches(pair[1])
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert VALUE not in "".join(report.format())


def test_what_the_broker_said_beside_the_value_is_there() -> None:
    """Version, lease, source and end are plain attributes."""
    secret = Secret("a", b"x", expires_at=0, version="7", lease=bytes(17), source="cache")
    assert (secret.name, secret.version, secret.lease_id, secret.source) == ("a", "7", bytes(16), "cache")
    assert secret.expires_at is not None
    assert secret.expires_at.year == 1970
    assert Secret("a", b"x").expires_at is None


def test_a_secret_says_where_its_value_came_from_and_how_old_it_was() -> None:
    """So that an agent can tell a value that is past its time, because its vault could not be asked."""
    result = Result("a", "granted", value=b"v", source="stale", age_s=4000)
    secret = Holdings(lambda: 0).lend(result, b"v", 0)
    assert (secret.source, secret.age) == ("stale", 4000)
    assert Secret("a", b"v", source="provider").age is None
