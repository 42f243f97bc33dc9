"""Logs on stderr: for people, or one JSON object a line. Exceptions are logged without their messages.

Another library's exception may repeat what it was given, so of a foreign exception only its type and place are
logged; our own messages are written to hold no value.
"""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog

from agent_sdk.wire.errors import SecretBrokerError
from broker_worker.core.errors import BrokerError

_OURS = (BrokerError, SecretBrokerError)


def configure_logging(*, as_json: bool = False, level: str = "info") -> None:
    """Set up structlog for this process.

    Args:
        as_json: one JSON object a line instead of text.
        level: the least severe level that is logged: `debug`, `info`, `warning` or `error`.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            exceptions_without_messages,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # whatever stderr is when a line is written
        cache_logger_on_first_use=False,
    )


def exceptions_without_messages(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace `exc_info` by the types and places of the exception and its causes (a structlog processor)."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()[1]
    elif isinstance(info, tuple):
        info = info[1]
    if isinstance(info, BaseException):
        event["error"] = " < ".join(_describe(link) for link in _chain(info))
    return event


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in links:
        links.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return links


def _describe(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    message = f": {error}" if isinstance(error, _OURS) else ""
    return f"{type(error).__name__}{message}{place}"
