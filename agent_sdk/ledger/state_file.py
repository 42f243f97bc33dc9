"""The file in which an `AuditReader` remembers how far it read each chain."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from agent_sdk.ledger.assembly import ChainPosition


class _State(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    chains: tuple[ChainPosition, ...]


_DECODER = msgspec.json.Decoder(_State)


def read_positions(path: Path) -> tuple[ChainPosition, ...]:
    """The positions in a file; none if there is no such file yet.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not such a file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    try:
        return _DECODER.decode(content).chains
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def write_positions(path: Path, positions: Iterable[ChainPosition]) -> None:
    """Replace the file at once, readable by its owner only.

    Raises:
        OSError: if it cannot be written; the old one is then still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(_State(1, tuple(positions))))
    temporary.replace(path)
