"""Revocations in force, as the ledger has read them."""

from sqlalchemy import Connection, RowMapping, select

from broker_worker.ledger.schema import REVOCATIONS


def order_about(connection: Connection, subject: str) -> RowMapping | None:
    """The order that refuses a subject now.

    Args:
        connection: to the ledger.
        subject: as the audit names it: `kind:id`.

    Returns:
        None if there is none, or it was reinstated.
    """
    found = connection.execute(select(REVOCATIONS).where(REVOCATIONS.c.subject == subject)).mappings().one_or_none()
    if found is None or found["revoked_at"] is None:
        return None
    return found if found["revoked_at"] > (found["reinstated_at"] or 0) else None
