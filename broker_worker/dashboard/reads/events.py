"""Which columns of an event the pages read."""

from typing import Any

from sqlalchemy import ColumnElement, case

from broker_worker.ledger.schema import EVENTS


def shown_columns() -> tuple[ColumnElement[Any], ...]:
    """Everything but the whole line; that one only of a call, whose fields have no columns, as `call_line`."""
    call_line = case((EVENTS.c.event == "call", EVENTS.c.line), else_=None).label("call_line")
    return (*(column for column in EVENTS.columns if column.name != "line"), call_line)
