"""Moves values from env files into the vault: vault first, then the operator's files, then the env file.

Nothing is remembered between runs. Whatever step a run ended in, the next one finds the plaintext still in the env
file, and in the vault, the registry and the policy what is done already; so it goes on there, and nothing is lost or
done twice.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from broker_worker.app.config_additions import Additions
from broker_worker.app.migration_plan import EnvPlan, Move
from broker_worker.app.operator_vault import OperatorVault, operator_vault
from broker_worker.core.errors import BrokerError, FailureKind, ProviderError, SetupError
from broker_worker.files.env_backup import KEY, Backup, load_backup, store_backup
from broker_worker.files.keys import ensure_seed, load_seed
from broker_worker.private_files import sync_folder
from broker_worker.settings import Settings


@dataclass(slots=True)
class Outcome:
    """What a migration did.

    Args:
        stored: names whose values were stored.
        found: names whose values were in the vault already.
        backups: where the env files are kept as they were.
    """

    stored: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    backups: list[Path] = field(default_factory=list)


async def migrate(settings: Settings, plans: Sequence[EnvPlan], additions: Additions, by: str) -> Outcome:
    """Do what was planned.

    Args:
        settings: the installation.
        plans: the env files.
        additions: the lines that the operator's files need.
        by: who orders it, for the audit.

    Raises:
        ProviderError: if the vault did not take a value, or holds another one under its name.
        SetupError: if a file cannot be written, or was changed meanwhile.
        AuditError: if a write cannot be recorded.
    """
    outcome = Outcome()
    key = ensure_seed(settings.keys_dir / KEY)
    for plan in plans:
        _refuse_changed(plan.path, plan.before)
        after = hashlib.sha256(plan.after).digest()
        outcome.backups.append(
            store_backup(settings.backups_dir, key, Backup(str(plan.path), plan.mode, plan.before, after))
        )
        _stage(
            plan.path, plan.after, plan.mode
        ).unlink()  # its folder takes a new file: known before the vault has anything
    try:
        async with operator_vault(settings, by, additions.configuration) as vault:
            await _store(vault, [move for plan in plans for move in plan.moves], outcome)
    except BrokerError:
        for backup in outcome.backups:  # the env files are as they were, and nobody is told of these copies
            backup.unlink(missing_ok=True)
        raise
    for change in additions.changes:
        _refuse_changed(change.path, change.before)
        replace_file(change.path.resolve(), change.after)  # a link to where the operator keeps it stays one
    for plan in plans:
        _refuse_changed(plan.path, plan.before)
        replace_file(plan.path, plan.after)
    return outcome


async def _store(vault: OperatorVault, moves: Sequence[Move], outcome: Outcome) -> None:
    """Store every value, and read every one back."""
    for move in {move.name: move for move in moves}.values():
        if await _holds(vault, move):
            outcome.found.append(move.name)
            continue
        await vault.write(move.name, move.value, replaces=None, action="put")
        if not await _holds(vault, move):
            message = f"{move.name} was stored, and the vault does not give it back"
            raise ProviderError(FailureKind.UNKNOWN, message, hint="nothing was removed from the env file; try again")
        outcome.stored.append(move.name)


async def _holds(vault: OperatorVault, move: Move) -> bool:
    found = await vault.fetch(move.ref)
    if isinstance(found, ProviderError):
        if found.kind is FailureKind.NOT_FOUND:
            return False
        raise found
    if not hmac.compare_digest(found.value, move.value):
        raise ProviderError(
            FailureKind.CONFLICT,
            f"the vault holds another value for {move.name} than {move.variable} has",
            hint=f"give it another name with --name {move.variable}=NAME, or leave it where it is with --exclude",
        )
    return True


def restore(settings: Settings, path: Path, *, force: bool) -> tuple[Path, bool]:
    """Put an env file back as it was before its migration. The vault, the registry and the policy stay.

    Args:
        settings: the installation.
        path: the backup.
        force: whether to replace a file that was changed since.

    Returns:
        The env file, and whether it was changed now.

    Raises:
        SetupError: if the backup cannot be opened, or the env file was changed since and `force` is not set.
    """
    backup = load_backup(path, load_seed(settings.keys_dir / KEY))
    target = Path(backup.path)
    there = target.read_bytes() if target.exists() else None
    if there == backup.content:
        return target, False
    if there is not None and hashlib.sha256(there).digest() != backup.after and not force:
        hint = "with --force it is replaced, and what was changed is lost"
        raise SetupError(f"{target} was changed since it was migrated", hint=hint)
    replace_file(target, backup.content, backup.mode)
    return target, True


def replace_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Put a file in the place of another one, whole or not at all, with its owner and mode.

    Args:
        path: the file.
        content: its new bytes.
        mode: its permission bits; those of the file that is there if left out.

    Raises:
        SetupError: if that is not possible; the old file is then still there.
    """
    temporary: Path | None = None
    try:
        status = path.stat() if path.exists() else None
        temporary = _stage(path, content, (status.st_mode & 0o777 if status else 0o600) if mode is None else mode)
        if status is not None and os.name == "posix" and (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(temporary, status.st_uid, status.st_gid)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise SetupError(
            f"{path} cannot be written: {error.strerror}", hint="check its owner and folder; try again"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _stage(path: Path, content: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(6).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.chmod(mode)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SetupError(
            f"{path} cannot be written: {error.strerror}", hint="check its folder's owner and mode"
        ) from error
    return temporary


def _refuse_changed(path: Path, before: bytes) -> None:
    try:
        is_same = path.read_bytes() == before
    except OSError as error:
        raise SetupError(f"{path} cannot be read any more: {error.strerror}", hint="run the command again") from error
    if not is_same:
        raise SetupError(f"{path} was changed meanwhile", hint="nothing of it was touched; run the command again")
