"""Writes verified audit lines into the ledger: a transaction a batch, each line exactly once."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, delete, func, insert, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from agent_sdk.ledger import ChainFinding, ChainPosition, VerifiedLine
from broker_worker.ledger.folding import FOLDS, Fold, Key, Row, event_row, fitted, is_in_force, run_of_subject
from broker_worker.ledger.schema import CHAINS, EVENTS, FINDINGS, METADATA, REVOCATIONS, RUNS

MAX_FINDINGS: Final = 10_000
"""How many findings are kept; whoever can write to the queue could otherwise fill the disk."""
_KEYS_A_QUERY: Final = 300


class Projection:
    """The one writer of a ledger.

    Args:
        engine: opened for writing, its tables up to date.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def positions(self) -> Sequence[ChainPosition]:
        """How far each chain is projected."""
        with self._engine.connect() as connection:
            return [
                ChainPosition(row.chain, row.worker, row.next_sequence, row.prev or "")
                for row in connection.execute(select(CHAINS))
            ]

    def apply(
        self, lines: Sequence[VerifiedLine], findings: Iterable[ChainFinding], positions: Mapping[str, ChainPosition]
    ) -> int:
        """Project lines, findings and how far their chains are read, all or nothing.

        What was projected already, such as by a commit whose answer was lost, is skipped.

        Returns:
            How many lines were new.

        Raises:
            DBAPIError: if it did not happen.
        """
        with self._engine.begin() as connection:
            known = _known(connection, positions)
            if positions and all(known.get(chain, -1) >= at.next_sequence for chain, at in positions.items()):
                return 0
            fresh = [fitted(line) for line in lines if line.event.sequence >= known.get(line.event.chain, 0)]
            if fresh:
                connection.execute(insert(EVENTS), [event_row(line) for line in fresh])
                _fold_all(connection, fresh)
            _note_findings(connection, findings)
            _note_positions(connection, [at for at in positions.values() if at.next_sequence > known.get(at.chain, -1)])
        return len(fresh)

    def clear(self) -> None:
        """Empty all tables, to fill them again."""
        with self._engine.begin() as connection:
            for table in METADATA.sorted_tables:
                connection.execute(delete(table))


def _known(connection: Connection, positions: Mapping[str, ChainPosition]) -> dict[str, int]:
    found = connection.execute(select(CHAINS.c.chain, CHAINS.c.next_sequence).where(CHAINS.c.chain.in_(positions)))
    return {row.chain: row.next_sequence for row in found}


def _fold_all(connection: Connection, lines: Sequence[VerifiedLine]) -> None:
    rows: dict[str, dict[Key, Row]] = {}
    for fold in FOLDS:
        keyed = [(key, line) for line in lines if (key := fold.key(line)) is not None]
        rows[fold.table.name] = _folded(connection, fold, keyed)
    runs = rows[RUNS.name]
    for (subject,), revocation in rows[REVOCATIONS.name].items():
        run = run_of_subject(subject)
        if run is not None:
            runs[run]["revoked_at"] = revocation["revoked_at"] if is_in_force(revocation) else None
    for fold in FOLDS:
        _replace(connection, fold.table, list(rows[fold.table.name].values()))


def _folded(connection: Connection, fold: Fold, keyed: Sequence[tuple[Key, VerifiedLine]]) -> dict[Key, Row]:
    keys = list(dict.fromkeys(key for key, _ in keyed))
    rows: dict[Key, Row] = {}
    primary = list(fold.table.primary_key.columns)
    for start in range(0, len(keys), _KEYS_A_QUERY):
        wanted = keys[start : start + _KEYS_A_QUERY]
        query = select(fold.table).where(tuple_(*primary).in_(wanted))
        for found in connection.execute(query).mappings():
            rows[tuple(found[column.name] for column in primary)] = dict(found)
    for key, line in keyed:
        rows[key] = fold.fold(rows.get(key), line, key)
    return rows


def _replace(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    if not rows:
        return
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table)
    primary = [column.name for column in table.primary_key.columns]
    others = {name: statement.excluded[name] for name in rows[0] if name not in primary}
    connection.execute(statement.on_conflict_do_update(index_elements=primary, set_=others), rows)


def _note_findings(connection: Connection, findings: Iterable[ChainFinding]) -> None:
    noted = list(findings)
    if not noted:
        return
    room = MAX_FINDINGS - (connection.scalar(select(func.count()).select_from(FINDINGS)) or 0)
    now = _now()
    rows = [
        {
            "at": now,
            "fault": finding.fault.value,
            "chain": finding.chain,
            "sequence": finding.sequence,
            "detail": f"{finding.file}: {finding.detail}".replace("\x00", "\ufffd"),
        }
        for finding in noted[: max(0, room)]
    ]
    if rows:
        connection.execute(insert(FINDINGS), rows)


def _note_positions(connection: Connection, positions: Sequence[ChainPosition]) -> None:
    now = _now()
    rows = [
        {
            "chain": at.chain,
            "worker": at.worker,
            "next_sequence": at.next_sequence,
            "prev": at.prev,
            "updated_at": now,
        }
        for at in positions
    ]
    _replace(connection, CHAINS, rows)


def _now() -> int:
    return time.time_ns() // 1_000_000
