"""Moves values from env files into the vault: vault first, then the operator's files, then the env file.

Nothing is remembered between runs. Whatever step a run ended in, the next one finds the plaintext still in the env
file, and in the vault, the registry and the policy what is done already; so it goes on there, and nothing is lost or
done twice.
"""

import hashlib
import hmac
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent_sdk.scan.errors import ScanError
from agent_sdk.scan.history import Repository
from agent_sdk.scan.reading import MAX_BYTES
from agent_sdk.scan.tree import Tally
from broker_worker.app.migration_plan import EnvPlan, Move
from broker_worker.app.operator_vault import OperatorVault, operator_vault
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import ConfigError, FailureKind, ProviderError, SetupError
from broker_worker.files.configuration import BROKER_FILE, POLICY_FILE, SECRETS_FILE, load_configuration
from broker_worker.files.env_backup import KEY, Backup, load_backup, store_backup
from broker_worker.files.keys import ensure_seed
from broker_worker.files.yaml_additions import YamlText
from broker_worker.private_files import make_private_folder, sync_folder
from broker_worker.settings import Settings

_SHORTEST: Final = 6
"""Shorter values are not looked for in git's history: they stand everywhere."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """What an operator's file becomes."""

    path: Path
    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class Additions:
    """What the operator's files say after a migration.

    Args:
        changes: the files that change, the registry's before the policy's.
        configuration: all files read together as they will be.
    """

    changes: tuple[FileChange, ...]
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Seen:
    """A value that git has.

    Args:
        variable: the variable.
        commit: the first commit that has it.
        path: the file there.
    """

    variable: str
    commit: str
    path: str


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


def plan_additions(settings: Settings, moves: Sequence[Move], agents: Sequence[str], held: Configuration) -> Additions:
    """Work out the lines that registry and policy need, and check the files as they will be.

    Args:
        settings: the installation.
        moves: what is moved.
        agents: who may have it.
        held: the operator's files as they are.

    Raises:
        ConfigError: if a file is written in a form that cannot be added to, or would not be valid.
    """
    folder = settings.config_dir
    texts: dict[Path, YamlText] = {}

    def text_of(own: str) -> YamlText:
        path = folder / own if (folder / own).exists() else folder / BROKER_FILE
        if path not in texts:
            texts[path] = YamlText(path.read_bytes(), str(path))
        return texts[path]

    references = {move.name: move.ref for move in moves if not move.is_registered}
    if references:
        text_of(SECRETS_FILE).add_references(references)
    for agent in agents:
        names = [name for name in dict.fromkeys(move.name for move in moves) if not _may_have(held, agent, name)]
        if agent not in held.policy.agents:
            path = folder / POLICY_FILE
            hint = "add the agent there first; what an unknown agent may have is not guessed"
            raise ConfigError(f"there is no agent `{agent}`", file=str(path), hint=hint)
        if names:
            text_of(POLICY_FILE).add_grants(agent, names)
    changes = [FileChange(path, path.read_bytes(), text.raw) for path, text in texts.items()]
    changes = [change for change in changes if change.before != change.after]
    candidate = _checked(settings, changes) if changes else held
    _refuse_side_effects(held, candidate, references)
    return Additions(tuple(changes), candidate)


def _may_have(held: Configuration, agent: str, name: str) -> bool:
    policy = held.policy.agents.get(agent)
    return policy is not None and any(g.pattern.matches(name) and "resolve" in g.actions for g in policy.grants)


def _checked(settings: Settings, changes: Sequence[FileChange]) -> Configuration:
    """Read the operator's files as they will be, in a folder beside them that is removed again."""
    staging = settings.home / f".migrate-{os.getpid()}-{os.urandom(4).hex()}"
    make_private_folder(staging)
    try:
        for file in settings.config_dir.glob("*.yaml"):
            shutil.copyfile(file, staging / file.name)
        for change in changes:
            (staging / change.path.name).write_bytes(change.after)
        return load_configuration(staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_side_effects(held: Configuration, candidate: Configuration, references: dict[str, str]) -> None:
    registry = {name: entry.ref for name, entry in held.registry.items()} | references
    if {name: entry.ref for name, entry in candidate.registry.items()} != registry:
        raise SetupError(
            "the registry cannot be added to safely", hint="add the names to secrets.yaml by hand, and try again"
        )
    before = {agent: [(g.pattern.text, g.actions) for g in rules.grants] for agent, rules in held.policy.agents.items()}
    after = {
        agent: [(g.pattern.text, g.actions) for g in rules.grants] for agent, rules in candidate.policy.agents.items()
    }
    if set(before) != set(after) or any(not set(before[agent]) <= set(after[agent]) for agent in before):
        raise SetupError(
            "the policy cannot be added to safely", hint="add the names to policy.yaml by hand, and try again"
        )


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
    async with operator_vault(settings, by, additions.configuration) as vault:
        await _store(vault, [move for plan in plans for move in plan.moves], outcome)
    for change in additions.changes:
        _refuse_changed(change.path, change.before)
        replace_file(change.path, change.after)
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


def seen_by_git(plans: Sequence[EnvPlan]) -> tuple[list[Seen], list[str]]:
    """Which of the values git has, in any commit that is still there.

    Args:
        plans: the env files.

    Returns:
        The values that it has, each with the first commit and file; and why a file's repository was not looked at.
    """
    seen: dict[str, Seen] = {}
    notes: list[str] = []
    wanted: dict[str, tuple[Repository, list[Move]]] = {}
    for plan in plans:
        try:
            repository = Repository(str(plan.path.parent))
        except ScanError as error:
            notes.append(f"{plan.path}: git's history was not looked at: {error}")
            continue
        wanted.setdefault(repository.top, (repository, []))[1].extend(plan.moves)
    for repository, moves in wanted.values():
        tally = Tally()
        try:
            for blob in repository.blobs(MAX_BYTES, tally):
                for move in moves:
                    if move.variable not in seen and _is_in(move, blob.content or b""):
                        seen[move.variable] = Seen(move.variable, blob.commit, blob.path)
        except ScanError as error:
            notes.append(f"{repository.top}: git's history was looked at in part: {error}")
        if tally.large or tally.unreadable:
            notes.append(
                f"{repository.top}: {tally.large + len(tally.unreadable)} contents of git's were not looked at"
            )
    return list(seen.values()), notes


def _is_in(move: Move, content: bytes) -> bool:
    return any(len(text) >= _SHORTEST and text in content for text in {move.value, move.written})


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
    backup = load_backup(path, ensure_seed(settings.keys_dir / KEY))
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
