"""Rotating one secret, a step at a time; whichever step a process died in, the next one goes on from there.

    started → drafted → probed → promoted → retired

Each step is recorded in the audit and then noted in the name's file. A step that was done and not noted is done again,
and may be: the draft is written anew, the probe tries it once more, and a promotion finds its own value in force.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hmac import compare_digest

from msgspec import structs

from broker_worker.app.operator_vault import OperatorVault, operator_vault
from broker_worker.app.probing import probe
from broker_worker.core.configuration import SecretEntry
from broker_worker.core.errors import BrokerError, FailureKind, ProviderError, SetupError
from broker_worker.core.recipes import parse_recipe
from broker_worker.core.rotation import CommandProbe, HttpProbe, RotationRule, RotationState
from broker_worker.people.revoking import revoke
from broker_worker.pipeline.generating import generate
from broker_worker.ports import Fetched
from broker_worker.settings import Settings
from broker_worker.state.rotation_file import RotationFile

HEARD_MS = 5_000
"""How much longer than their lifetime old leases are waited for, ms: every worker has then heard of the new version."""
_BLANK = b"-"
"""What a draft's place holds when there is no draft: no port can remove a value."""

Probe = Callable[[CommandProbe | HttpProbe, bytes], Awaitable[str]]


class RotationFailedError(BrokerError):
    """A rotation that was given up; the version of before is in force.

    Args:
        name: the secret.
        fault: why, as a slug.
    """

    code = "rotation_failed"

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(f"{name} was not rotated: {fault}", hint="the version of before is in force; see the audit")
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a rotation stands: over, or waiting until `wait_until` (ms since the epoch) for old leases to end."""

    state: RotationState
    wait_until: int | None = None


class Rotation:
    """The rotation of one name.

    Args:
        vault: reads and writes places, and records.
        file: how far it is.
        entry: the registry's entry; it has a rotation rule.
        revoke_old: revokes a version of the name, with the leases of it.
        try_value: tries a value.
    """

    def __init__(
        self,
        vault: OperatorVault,
        file: RotationFile,
        entry: SecretEntry,
        revoke_old: Callable[[str], Awaitable[object]],
        try_value: Probe = probe,
    ) -> None:
        assert entry.rotation is not None
        self._vault = vault
        self._file = file
        self._entry = entry
        self._rule: RotationRule = entry.rotation
        self._revoke_old = revoke_old
        self._try = try_value
        self._tried: bytes | None = None

    async def run(self) -> Progress:
        """Go on from wherever it is, to its end or until old leases must be waited for.

        Raises:
            RotationFailedError: if it was given up.
            BrokerError: if a step failed that is to be tried again: run it once more later.
        """
        state = self._file.load()
        if state is None or state.is_over:
            state = await self._start()
        while not state.is_over:
            if state.step == "started":
                state = await self._draft(state)
            elif state.step == "drafted":
                state = await self._probe(state)
            elif state.step == "probed":
                state = await self._promote(state)
            else:
                until = self._leases_end(state)
                if until > self._vault.clock.now():
                    return Progress(state, until)
                state = await self._retire(state)
        return Progress(state)

    async def _start(self) -> RotationState:
        current = await self._current()
        if current.version is None:
            message = f"the vault of {self._entry.name} tells no versions, so a rotation could replace another's value"
            raise SetupError(message, hint="keep the secret in a vault that has versions, or `secret-broker put` it")
        now = self._vault.clock.now()
        state = RotationState(name=self._entry.name, step="started", started_at=now, replaces=current.version)
        state = structs.replace(state, lifetime_ms=self._lifetime_ms())
        return self._noted(state, version=current.version)

    async def _draft(self, state: RotationState) -> RotationState:
        value = await asyncio.to_thread(generate, parse_recipe(self._rule.recipe))
        await self._vault.put(self._rule.draft, value, None)
        return self._noted(structs.replace(state, step="drafted"))

    async def _probe(self, state: RotationState) -> RotationState:
        value = await self._drafted()
        if value is None:  # somebody removed it
            return self._noted(structs.replace(state, step="started"))
        fault = await self._try(self._rule.probe, value)
        if fault:
            await self._give_up(state, f"probe_{fault}")
        self._tried = value
        return self._noted(structs.replace(state, step="probed"))

    async def _promote(self, state: RotationState) -> RotationState:
        value, current = await self._drafted(), await self._current()
        if value is None:
            return self._noted(structs.replace(state, step="started"))
        version = current.version
        if compare_digest(value, current.value):  # a process died after it had promoted it
            self._vault.note_written(state.name, version)
        else:
            if version != state.replaces:
                await self._give_up(state, "place_differs")
            if self._tried is None or not compare_digest(value, self._tried):  # only what was tried is put in force
                return self._noted(structs.replace(state, step="drafted"))
            try:
                version = await self._vault.write(state.name, value, replaces=state.replaces, action="generate")
            except ProviderError as error:
                if error.kind is not FailureKind.CONFLICT:
                    raise
                current = await self._current()  # an earlier promotion, whose answer was lost, may have landed now
                if not compare_digest(value, current.value):
                    await self._give_up(state, "place_differs")
                version = current.version
                self._vault.note_written(state.name, version)
        await self._vault.announce_all()
        now = self._vault.clock.now()
        promoted = structs.replace(state, step="promoted", version=version, promoted_at=now)
        longest = max(state.lifetime_ms, self._lifetime_ms())
        return self._noted(structs.replace(promoted, lifetime_ms=longest), version=version)

    def _leases_end(self, state: RotationState) -> int:
        """Until when a lease of the old version can be open: none is renewed once the new one is known."""
        if self._rule.old_leases == "revoke":
            return 0
        return (state.promoted_at or 0) + max(state.lifetime_ms, self._lifetime_ms()) + HEARD_MS

    def _lifetime_ms(self) -> int:
        return self._vault.configuration.ttl_of(self._entry) * 1000

    async def _retire(self, state: RotationState) -> RotationState:
        if self._rule.old_leases == "revoke":
            if (await self._current()).version == state.replaces:  # somebody put the old version back in force
                await self._give_up(state, "put_back")
            await self._revoke_old(state.replaces)
        await self._vault.put(self._rule.draft, _BLANK, None)
        ended = structs.replace(state, step="retired", ended_at=self._vault.clock.now())
        return self._noted(ended, version=state.replaces)

    async def _give_up(self, state: RotationState, fault: str) -> None:
        await self._vault.put(self._rule.draft, _BLANK, None)
        self._vault.record(state.name, fault, refused=True, version=state.replaces)
        self._file.store(structs.replace(state, ended_at=self._vault.clock.now(), fault=fault[:64]))
        raise RotationFailedError(state.name, fault)

    def _noted(self, state: RotationState, version: str | None = None) -> RotationState:
        """Record a step, then note it: one that was not recorded is done again."""
        self._vault.record(state.name, state.step, version=version)
        self._file.store(state)
        return state

    async def _current(self) -> Fetched:
        found = await self._vault.fetch(self._entry.ref)
        if isinstance(found, ProviderError):
            raise found
        return found

    async def _drafted(self) -> bytes | None:
        found = await self._vault.fetch(self._rule.draft)
        if isinstance(found, ProviderError):
            if found.kind is FailureKind.NOT_FOUND:
                return None
            raise found
        return None if found.value == _BLANK else found.value


async def rotate(settings: Settings, name: str, by: str) -> Progress:
    """Rotate a secret as its entry in `secrets.yaml` says, from wherever a rotation of it is.

    Args:
        settings: the installation.
        name: a canonical secret name.
        by: who orders it, for the audit.

    Raises:
        RotationFailedError: if it was given up; the version of before is in force.
        BrokerError: if a step failed that is to be tried again.
    """
    file = RotationFile(settings.rotations_dir, name)
    with file.held():
        return await _go_on(settings, name, by, file)


async def rotate_if_due(
    settings: Settings, name: str, by: str, is_due: Callable[[RotationState | None], bool]
) -> Progress | None:
    """Rotate a secret if it is still due, looked at while no other process can rotate it; otherwise like `rotate`.

    Args:
        settings: the installation.
        name: a canonical secret name.
        by: who orders it, for the audit.
        is_due: says so of its last rotation, None if there was none.

    Returns:
        Where it stands; None if it is not due.
    """
    file = RotationFile(settings.rotations_dir, name)
    with file.held():
        return await _go_on(settings, name, by, file) if is_due(file.load()) else None


async def _go_on(settings: Settings, name: str, by: str, file: RotationFile) -> Progress:
    async with operator_vault(settings, by) as vault:
        entry = vault.entry_of(name)
        if entry.rotation is None:
            hint = "write under its entry how the next version is made (`recipe`) and tried (`probe`)"
            raise SetupError(f"{name} has no `rotation` in secrets.yaml", hint=hint)

        async def revoke_old(version: str) -> None:
            await revoke(settings, "secret", name, version=version, reason="rotated", by=by)

        return await Rotation(vault, file, entry, revoke_old).run()
