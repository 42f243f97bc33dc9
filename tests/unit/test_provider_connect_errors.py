"""The one table of what a Connect server's failures mean."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.errors import FailureKind
from broker_worker.providers.connect_errors import (
    MOST_WAIT,
    answer_too_long,
    no_item,
    no_vault,
    of_answer,
    of_exception,
    unreadable_answer,
)

K = FailureKind
ID = "ionaiwtdvgclrixbt6ztpqcxnq"


@pytest.mark.parametrize(
    ("status", "message", "kind", "says"),
    [
        # Texts of the API's documentation and of public reports; an empty one stands for what is not Connect's answer.
        (400, "Invalid Vault UUID", K.BAD_REFERENCE, "an id"),
        (400, "Invalid Item UUID", K.BAD_REFERENCE, "an id"),
        (400, "Invalid item category", K.UNKNOWN, "refuses the request"),
        (401, "Invalid token signature", K.UNAUTHENTICATED, "access token"),
        (401, "Unauthorized Request, token does not have write access to the Vault", K.FORBIDDEN, "this access"),
        (401, "", K.UNAUTHENTICATED, "access token"),
        (403, f"vault {ID} is not in scope", K.FORBIDDEN, "this access"),
        (403, "Authorization: token does not have access to vault", K.FORBIDDEN, "this access"),
        (403, "", K.FORBIDDEN, "this access"),
        (404, f"vault {ID} not found", K.NOT_FOUND, "no vault"),
        (404, f"item {ID} not found", K.NOT_FOUND, "no item"),
        (404, f"file {ID} not found", K.NOT_FOUND, "no file"),
        (404, "", K.UNKNOWN, "not Connect"),
        (404, "page not found", K.UNKNOWN, "not Connect"),
        (408, "", K.TIMEOUT, "in time"),
        (409, "Internal server conflict", K.CONFLICT, "somebody else"),
        (413, "File is too large to inline in request.", K.TOO_LARGE, "too large"),
        (429, "", K.RATE_LIMITED, "wait"),
        (500, "", K.UNREACHABLE, "out of order"),
        (502, "", K.UNREACHABLE, "out of order"),
        (503, "", K.UNREACHABLE, "out of order"),
        (504, "", K.TIMEOUT, "in time"),
        (301, "", K.UNKNOWN, "redirects"),
        (304, "", K.UNKNOWN, "redirects"),
        (100, "", K.UNKNOWN, "not known"),
        (405, "", K.UNKNOWN, "not known"),
        (418, "I'm a teapot", K.UNKNOWN, "not known"),
    ],
)
def test_answers_are_told_apart(status: int, message: str, kind: FailureKind, says: str) -> None:
    """Each status, with Connect's text where it has several meanings, in either case of letters."""
    for text in (message, message.upper()):
        error = of_answer(status, text, "")
        assert error.kind is kind
        assert says in str(error)


@given(st.integers(100, 999), st.text(max_size=30), st.text(max_size=12))
def test_any_answer_has_a_meaning(status: int, message: str, retry_after: str) -> None:
    """Whatever a server says, it is an error of a known kind with a bounded wait, and nothing of it is repeated."""
    error = of_answer(status, f"c4nary {message}", retry_after)
    assert error.kind in K
    assert "c4nary" not in f"{error!r}{error.hint}"
    assert error.retry_after is None or 0 <= error.retry_after <= MOST_WAIT * 1000


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("0", 0),
        ("7", 7000),
        ("99999999", MOST_WAIT * 1000),
        ("999999999", None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("", None),
    ],
)
def test_the_wait_that_is_asked_for_counts(text: str, wait: int | None) -> None:
    """Seconds, at most an hour; anything else is no wait that could be told."""
    assert of_answer(429, "", text).retry_after == wait


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (TimeoutError(), K.TIMEOUT, "in time"),
        (httpx.ReadTimeout("x"), K.TIMEOUT, "in time"),
        (httpx.ConnectTimeout("x"), K.TIMEOUT, "in time"),
        (
            httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
            K.UNREACHABLE,
            "certificate",
        ),
        (httpx.ConnectError("All connection attempts failed"), K.UNREACHABLE, "cannot be reached"),
        (httpx.ReadError("x"), K.UNREACHABLE, "cannot be reached"),
        (httpx.RemoteProtocolError("x"), K.UNREACHABLE, "cannot be reached"),
        (OSError("x"), K.UNREACHABLE, "cannot be reached"),
        (httpx.InvalidURL("x"), K.UNKNOWN, "not known"),
        (RuntimeError("x"), K.UNKNOWN, "not known"),
    ],
)
def test_exceptions_are_told_apart(error: Exception, kind: FailureKind, says: str) -> None:
    """By their type, and TLS that nobody vouches for by its text."""
    assert of_exception(error).kind is kind
    assert says in str(of_exception(error))


def test_what_the_broker_finds_itself_has_a_kind() -> None:
    """Answers of the wrong form or length, and names of nothing."""
    kinds = [error.kind for error in (unreadable_answer(), answer_too_long(5), no_vault(), no_item())]
    assert kinds == [K.UNKNOWN, K.TOO_LARGE, K.NOT_FOUND, K.NOT_FOUND]
