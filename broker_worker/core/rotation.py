"""Rotation: how a secret's next version is made, tried and put in force, and how far one of them is."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from agent_sdk.wire.messages import Name, Time, Version

Step = Literal["started", "drafted", "probed", "promoted", "retired"]
"""What was done last. `started`: the version to replace is known. `drafted`: the new value is in the draft's place.
`probed`: it was tried there. `promoted`: it is in force. `retired`: no lease of the old one and no draft is left."""
AGAIN_MS: Final = 24 * 3600 * 1000
"""How long a schedule waits after a failure before it tries again, ms, if it is not due more often anyway."""


@dataclass(frozen=True, slots=True)
class CommandProbe:
    """A command that tries a value and ends with 0 if it works.

    Args:
        arguments: the program, by its absolute path, and its arguments; never a shell.
        variable: the environment variable that holds the value; None for standard input.
        timeout_seconds: how long it may take.
    """

    arguments: tuple[str, ...]
    variable: str | None = None
    timeout_seconds: int = 30


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """A request that is answered with a certain status if a value works.

    Args:
        url: where, by https or on this host; redirections are not followed.
        header: the header that carries the value.
        prefix: what stands before the value in it.
        status: the answer of a value that works.
        timeout_seconds: how long it may take.
    """

    url: str
    header: str = "Authorization"
    prefix: str = "Bearer "
    status: int = 200
    timeout_seconds: int = 30


@dataclass(frozen=True, slots=True)
class RotationRule:
    """How one secret is rotated.

    Args:
        recipe: how its next value is made.
        probe: how it is tried before it is in force.
        draft: the place where it is kept until then.
        every_seconds: how often, by the schedule; None for only when asked.
        old_leases: whether open leases of the old version are waited for or revoked.
    """

    recipe: str
    probe: CommandProbe | HttpProbe
    draft: str
    every_seconds: int | None = None
    old_leases: Literal["wait", "revoke"] = "wait"


class RotationState(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """How far the rotation of a name is; it holds no value. Times are ms since the epoch.

    Args:
        name: the secret.
        step: what was done last.
        started_at: when it began.
        replaces: the version that was in force then.
        version: the new version, once it is promoted.
        promoted_at: when that was.
        lifetime_ms: the longest lifetime of a value, ms, that was in force since it began: a shorter one that the files
            say later ends no lease that is open.
        ended_at: when it was retired, or given up.
        fault: why it was given up; the version of before is then in force.
    """

    name: Name
    step: Step
    started_at: Time
    replaces: Version
    version: Version | None = None
    promoted_at: Time | None = None
    lifetime_ms: Time = 0
    ended_at: Time | None = None
    fault: Annotated[str, Meta(max_length=64)] = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.ended_at is not None


def due_at(rule: RotationRule, state: RotationState | None, first_seen: int) -> int | None:
    """When the schedule rotates a secret next, ms since the epoch; None if it has no schedule.

    Args:
        rule: how it is rotated.
        state: its last rotation, if there was one. One that did not end is gone on with at once.
        first_seen: since when the schedule knows of a secret that was never rotated.
    """
    if rule.every_seconds is None:
        return None
    pause = rule.every_seconds * 1000
    if state is None:
        return first_seen + pause
    if state.ended_at is None:
        return state.started_at
    return state.ended_at + (min(pause, AGAIN_MS) if state.fault else pause)
