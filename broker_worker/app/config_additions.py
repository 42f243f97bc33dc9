"""What the operator's files say after a migration: worked out and checked whole before one of them is changed."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from broker_worker.app.migration_plan import Move
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import ConfigError, SetupError
from broker_worker.files.configuration import BROKER_FILE, POLICY_FILE, SECRETS_FILE, load_configuration
from broker_worker.files.yaml_additions import YamlText
from broker_worker.private_files import make_private_folder
from broker_worker.settings import Settings


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
