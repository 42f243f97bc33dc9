"""Problem details (RFC 9457): what the HTTP parts answer in place of what was asked for, with a stable code."""

from http import HTTPStatus
from typing import Final

MEDIA_TYPE: Final = "application/problem+json"


def members(status: int, code: str, detail: str) -> dict[str, object]:
    """The members that every problem has; a part may add its own behind them.

    Args:
        status: the HTTP status of the answer.
        code: a slug that stays the same: what programs decide by.
        detail: a sentence for people, that repeats nothing of the request.
    """
    title = HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}


def retry_header(seconds: int | None) -> dict[str, str]:
    """The header field that says after how many seconds asking again may help (RFC 9110, section 10.2.3), if it may."""
    return {} if seconds is None else {"Retry-After": str(seconds)}
