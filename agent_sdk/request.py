"""What a caller asks, checked before anything is sent. No message repeats an argument: it may be a value by mistake."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import get_args

import msgspec

from agent_sdk.errors import InvalidRequest
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
    Generate,
    Put,
    Report,
    Resolve,
    Subject,
    Way,
)
from agent_sdk.wire.names import check_secret_name, is_secret_name

_WAYS = get_args(Way)


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
    deliver: Way = "value",
    on_behalf_of: Subject | None = None,
) -> Resolve:
    """The request for some names.

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
    if not purpose.isascii() and any("\ud800" <= character <= "\udfff" for character in purpose):
        raise InvalidRequest("a purpose is a text of whole characters; this one has half of a surrogate pair")
    if deliver not in _WAYS:
        raise InvalidRequest(f"a way to deliver is one of {', '.join(_WAYS)}")
    if on_behalf_of is not None:
        _check_fields(on_behalf_of, Subject, "subject")
    return Resolve(wanted, purpose, None if ttl is None else _whole_seconds(ttl), deliver, on_behalf_of)


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
    if not isinstance(value, str | bytes):
        raise InvalidRequest(f"a value is a text or bytes; got {type(value).__name__}")
    try:
        raw = value.encode() if isinstance(value, str) else bytes(value)
    except UnicodeEncodeError:
        raw = b""
    if not 1 <= len(raw) <= MAX_VALUE:
        raise InvalidRequest(f"a value has 1 to {MAX_VALUE} bytes, of whole characters if it is a text")
    _check_written(name, purpose, replaces)
    return Put(name, raw, purpose, replaces)


def checked_generate(name: str, recipe: str, purpose: str, replaces: str | None, *, reveal: bool) -> Generate:
    """The request to have a value made and stored.

    Raises:
        InvalidRequest: names the argument, what was found and what is expected.
    """
    _check_text(recipe, "recipe")
    if not 1 <= len(recipe) <= MAX_RECIPE:
        raise InvalidRequest(f"a recipe is a text such as hex:32; this one has {len(recipe)} characters")
    _check_written(name, purpose, replaces)
    return Generate(name, recipe, purpose, replaces, bool(reveal))


def _check_written(name: str, purpose: str, replaces: str | None) -> None:
    checked_resolve((name,), purpose, None)
    if replaces is None:
        return
    _check_text(replaces, "version")
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
        raise InvalidRequest(f"a timeout is a positive number of seconds; got {timeout:g}")
    return timeout


def _whole_seconds(ttl: timedelta | int) -> int:
    seconds = int(ttl.total_seconds()) if isinstance(ttl, timedelta) else ttl
    if not isinstance(seconds, int):
        raise InvalidRequest(f"a ttl is a timedelta or whole seconds; got {type(ttl).__name__}")
    if not 1 <= seconds <= MAX_TTL_SECONDS:
        raise InvalidRequest(f"a ttl is 1 to {MAX_TTL_SECONDS} s; got {seconds}")
    return seconds


def _refuse_name(name: str) -> None:
    _check_text(name, "name")
    try:
        check_secret_name(name)
    except WireError as error:
        raise InvalidRequest(str(error)) from None


def _check_text(argument: str, what: str) -> None:
    if not isinstance(argument, str):
        raise InvalidRequest(f"a {what} is a text; got {type(argument).__name__}")
