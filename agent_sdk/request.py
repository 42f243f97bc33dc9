"""What a caller asks, checked before anything is sent. No message repeats an argument: it may be a value by mistake."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import get_args

import msgspec
from msgspec import structs

from agent_sdk.errors import InvalidRequest
from agent_sdk.loan import Loan
from agent_sdk.secret import Secret, loan_of
from agent_sdk.wire.codec import explain
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import (
    MAX_CALLS,
    MAX_NAMES,
    MAX_PURPOSE,
    MAX_RECIPE,
    MAX_TTL_SECONDS,
    MAX_VALUE,
    MAX_VERSION,
    Call,
    Delivery,
    Generate,
    OwnDelivery,
    Put,
    Report,
    Resolve,
    Subject,
)
from agent_sdk.wire.names import check_secret_name, is_secret_name

Deliver = Delivery | Mapping[str, Delivery]
"""How values are wanted: all in one way, or each name in its own."""
_DELIVERIES: tuple[Delivery, ...] = get_args(Delivery)
_LONG = 10**15
"""Seconds beyond which one number is as good as another, and floats and texts still hold it."""


def checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names of a request; one that is named twice is asked for once.

    Raises:
        InvalidRequest: if it is a single name, or nothing that holds names.
    """
    if isinstance(names, str):
        raise InvalidRequest("get_many takes several names; for one name use get")
    if not isinstance(names, Iterable):
        raise InvalidRequest(f"get_many takes several names; got {type(names).__name__}")
    wanted = tuple(names)
    for name in wanted:
        _check_text(name, "name")
    return tuple(dict.fromkeys(wanted))


def checked_resolve(
    wanted: tuple[str, ...],
    purpose: str,
    ttl: timedelta | int | None,
    deliver: Deliver = "value",
    on_behalf_of: Subject | None = None,
) -> Resolve:
    """The request for some names.

    Args:
        wanted: the names, each once.
        purpose: what they are for.
        ttl: the shorter life that is asked for.
        deliver: how they are wanted: all in one way, or a mapping that says it for each name.
        on_behalf_of: the run that this is asked for, if not this one.

    Raises:
        InvalidRequest: names the argument, what was found and what is expected.
    """
    if not 1 <= len(wanted) <= MAX_NAMES:
        raise InvalidRequest(f"a request has 1 to {MAX_NAMES} names; got {len(wanted)}")
    for name in wanted:
        if type(name) is not str or not is_secret_name(name):
            _refuse_name(name)
    if type(purpose) is not str:
        _check_text(purpose, "purpose")
    if len(purpose) > MAX_PURPOSE:
        raise InvalidRequest(f"a purpose has at most {MAX_PURPOSE} characters; got {len(purpose)}")
    _check_whole(purpose, "purpose")
    way, ways = _ways_of(wanted, deliver)
    if on_behalf_of is not None:
        _check_fields(on_behalf_of, Subject, "subject")
        if ways:
            raise InvalidRequest("what is asked on behalf of a run goes one way; ask for each way by itself")
    return Resolve(wanted, purpose, None if ttl is None else _whole_seconds(ttl), way, on_behalf_of, ways)


def asked_again(body: Resolve, names: tuple[str, ...]) -> Resolve:
    """The same request for some of its names."""
    if not body.ways:
        return structs.replace(body, names=names)
    way_of = dict(zip(body.names, body.ways, strict=True))
    deliver, ways = _in_one_form([way_of[name] for name in names])
    return structs.replace(body, names=names, deliver=deliver, ways=ways)


def _ways_of(wanted: tuple[str, ...], deliver: Deliver) -> tuple[Delivery, tuple[OwnDelivery, ...]]:
    """`deliver` and `ways` as they stand in a request."""
    if isinstance(deliver, str) or not isinstance(deliver, Mapping):
        _check_delivery(deliver)
        return deliver, ()
    if deliver.keys() != set(wanted):
        raise InvalidRequest("ways to deliver are given for exactly the names that are asked for, or one way for all")
    for way in deliver.values():
        _check_delivery(way)
    return _in_one_form([deliver[name] for name in wanted])


def _check_delivery(way: object) -> None:
    if way not in _DELIVERIES:
        raise InvalidRequest(f"a way to deliver is one of {', '.join(map(repr, _DELIVERIES))}")


def _in_one_form(each: Sequence[Delivery]) -> tuple[Delivery, tuple[OwnDelivery, ...]]:
    """The way that all names go; or `value`, which stands for nothing then, and the way of each."""
    if len(set(each)) == 1:
        return each[0], ()
    own = tuple(way for way in each if way != "proxy")
    if len(own) != len(each):
        raise InvalidRequest("what goes to a proxy is asked for by itself, and not with what goes other ways")
    return "value", own


def checked_report(subject: Subject, calls: Sequence[Call]) -> Report:
    """The report of calls that were made for a run.

    Raises:
        InvalidRequest: names the call and what is expected of it, and nothing of what it says.
    """
    if not 1 <= len(calls) <= MAX_CALLS:
        raise InvalidRequest(f"a report has 1 to {MAX_CALLS} calls; got {len(calls)}")
    _check_fields(subject, Subject, "subject")
    for place, call in enumerate(calls):
        _check_fields(call, Call, f"calls[{place}]")
        if not is_secret_name(call.name):
            raise InvalidRequest(f"calls[{place}]: name is not a canonical secret name")
    return Report(subject, tuple(calls))


def checked_loan(secret: Secret) -> Loan:
    """What stands behind a secret that is to be renewed or given back.

    Raises:
        InvalidRequest: if it is anything else.
    """
    if not isinstance(secret, Secret):
        raise InvalidRequest(f"a secret is expected, as the client returned it; got {type(secret).__name__}")
    return loan_of(secret)


def _check_fields(given: object, kind: type[Subject | Call], what: str) -> None:
    """Check what the broker would not read: it answers nothing to what breaks the form."""
    problem = None
    try:
        if isinstance(given, kind):
            msgspec.convert(msgspec.to_builtins(given), kind)
        else:
            problem = f"expected a {kind.__name__}"
        msgspec.msgpack.encode(given)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        problem = explain(error, "not of its form")
    if problem is not None:  # out here, so that no context keeps what was given
        raise InvalidRequest(f"{what}: {problem}")


def checked_put(name: str, value: str | bytes, purpose: str, replaces: str | None) -> Put:
    """The request to store a value.

    Raises:
        InvalidRequest: names the argument, what was found and what is expected; it never shows the value.
    """
    raw = b""
    try:
        _check_written(name, purpose, replaces)
        if not isinstance(value, str | bytes):
            raise InvalidRequest(f"a value is a text or bytes; got {type(value).__name__}")
        with suppress(UnicodeEncodeError):
            raw = value.encode() if isinstance(value, str) else bytes(value)
        if not 1 <= len(raw) <= MAX_VALUE:
            raise InvalidRequest(f"a value has 1 to {MAX_VALUE} bytes, of whole characters if it is a text")
        return Put(name, raw, purpose, replaces)
    finally:
        del value, raw  # a traceback with local variables, as error trackers send it, does not have them


def checked_generate(name: str, recipe: str, purpose: str, replaces: str | None, *, reveal: bool) -> Generate:
    """The request to have a value made and stored.

    Raises:
        InvalidRequest: names the argument, what was found and what is expected.
    """
    _check_text(recipe, "recipe")
    _check_whole(recipe, "recipe")
    if not 1 <= len(recipe) <= MAX_RECIPE:
        raise InvalidRequest(f"a recipe is a text such as hex:32; this one has {len(recipe)} characters")
    _check_written(name, purpose, replaces)
    return Generate(name, recipe, purpose, replaces, bool(reveal))


def _check_written(name: str, purpose: str, replaces: str | None) -> None:
    checked_resolve((name,), purpose, None)
    if replaces is None:
        return
    _check_text(replaces, "version")
    _check_whole(replaces, "version")
    if not 1 <= len(replaces) <= MAX_VERSION:
        raise InvalidRequest("`replaces` is the version that is there, as a text; leave it out to create the name")


def checked_seconds(timeout: float) -> float:
    """A timeout.

    Raises:
        InvalidRequest: if it is no positive number.
    """
    if not isinstance(timeout, int | float):
        raise InvalidRequest(f"a timeout is a positive number of seconds; got {type(timeout).__name__}")
    if not timeout > 0:
        raise InvalidRequest(f"a timeout is a positive number of seconds; got {max(timeout, -_LONG):g}")
    return min(timeout, _LONG)


def _whole_seconds(ttl: timedelta | int) -> int:
    seconds = int(ttl.total_seconds()) if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise InvalidRequest(f"a ttl is a timedelta or whole seconds; got {type(ttl).__name__}")
    if not 1 <= seconds <= MAX_TTL_SECONDS:
        raise InvalidRequest(f"a ttl is 1 to {MAX_TTL_SECONDS} s; got {max(-_LONG, min(seconds, _LONG))}")
    return seconds


def _refuse_name(name: str) -> None:
    _check_text(name, "name")
    try:
        check_secret_name(name)
    except WireError as error:
        raise InvalidRequest(str(error)) from None


def _check_whole(text: str, what: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidRequest(f"a {what} is a text of whole characters; this one has half of a surrogate pair")


def _check_text(argument: str, what: str) -> None:
    if not isinstance(argument, str):
        raise InvalidRequest(f"a {what} is a text; got {type(argument).__name__}")
