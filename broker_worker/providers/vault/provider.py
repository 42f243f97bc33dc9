"""The provider: `vault://mount/path[?version=N]#field`, stored secrets and credentials that Vault makes."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched, Health, Scope
from broker_worker.providers.vault.engines import Engines, Secret
from broker_worker.providers.vault.failures import OUTAGES, of_answer
from broker_worker.providers.vault.place import Place, read_place
from broker_worker.providers.vault.reach import scope_of
from broker_worker.providers.vault.session import VaultSession
from broker_worker.providers.vault.threads import Threads
from broker_worker.providers.vault.values import text_of, value_of

CONCURRENCY: Final = 4
"""Requests under way at once, all callers together."""
_ATTEMPTS: Final = 3
"""How often a call may find that its token has ended meanwhile."""
_WHOLE_VAULT: Final = OUTAGES | {FailureKind.UNAUTHENTICATED}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was read of one path, with which token, and for how many seconds from now on it lives; None without end."""

    secret: Secret
    engines: Engines
    lasts: float | None


class VaultProvider:
    """Fetches values from Vault, each path once a call however many of its fields are asked for.

    Args:
        session: logs in.
        threads: where blocking calls are made.
    """

    def __init__(self, session: VaultSession, threads: Threads) -> None:
        self._session = session
        self._threads = threads

    @property
    def name(self) -> str:
        """`vault`."""
        return "vault"

    def reads_of(self, refs: Sequence[str]) -> int:
        """The requests of a call; see `ports.MeteredProvider`.

        Each path is one, and perhaps another to find out which engine serves it, or to renew a short lease.
        """
        return 2 * len({ref.partition("#")[0] for ref in refs})

    @property
    def is_refused_for_good(self) -> bool:
        """Yes; see `ports.CredentialedProvider`."""
        return True

    def fingerprint(self, salt: bytes) -> str:
        """Tells the credentials of a login from others; see `ports.CredentialedProvider`."""
        return self._session.fingerprint(salt)

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Fetch values; see `ports.Provider.get_many`.

        The fields of one path come from one reading. Of a path where Vault makes credentials they belong to one
        credential, and share its upstream lease and its version.
        """
        answers: dict[str, Fetched | ProviderError] = {}
        wanted: dict[tuple[str, int | None], dict[str, Place]] = {}
        for ref in refs:
            try:
                place = read_place(ref)
                wanted.setdefault((place.path, place.version), {})[ref] = place
            except ProviderError as error:
                answers[ref] = error
        if wanted:
            await self._session.signed_in()  # without a token there is nothing for anybody
        readings = [asyncio.ensure_future(self._read(*each)) for each in wanted]
        try:
            outcomes = await asyncio.gather(*readings)
        except asyncio.CancelledError:
            for each in readings:
                if not each.cancelled() and isinstance(made := each.result(), _Reading):
                    self._give_back(made)
            raise
        failures = [outcome for outcome in outcomes if isinstance(outcome, ProviderError)]
        if failures and len(failures) == len(outcomes) and all(failure.kind in _WHOLE_VAULT for failure in failures):
            raise failures[0]
        for places, outcome in zip(wanted.values(), outcomes, strict=True):
            answers |= self._values(places, outcome)
        return answers

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Store a field; see `ports.Provider.put`.

        The other fields of its path stay as they are. KV v2 checks and writes in one step. KV v1 cannot: there the
        field is read first, and what somebody else writes in between is overwritten.
        """
        place, text = read_place(ref), text_of(value)
        return (await self._call(lambda engines: engines.write(place, text, expected)))[0]

    async def revoke(self, upstream_lease: str) -> None:
        """Take a credential back; see `ports.DynamicProvider.revoke`."""
        await self._call(lambda engines: engines.give_back(upstream_lease))

    async def health(self) -> Health:
        """Whether Vault lets us in; see `ports.Provider.health`."""
        try:
            _, _, rest = await self._call(_look_up_self)
        except ProviderError as error:
            return Health(False, str(error), error.hint)
        lasts = "its token has no end" if rest is None else f"its token ends in {max(rest, 0):.0f} s"
        return Health(True, f"Vault lets the broker in; {lasts}")

    async def visible(self, refs: Sequence[str], written: Collection[str]) -> Scope | None:
        """What the token can do that nothing needs; see `ports.ScopeReporter`."""
        return (await self._call(lambda engines: scope_of(engines, refs, written)))[0]

    async def close(self) -> None:
        """Forget token and credentials; see `ports.Provider.close`."""
        await self._session.close()
        self._threads.close()

    async def _read(self, path: str, version: int | None) -> _Reading | ProviderError:
        began = self._session.monotonic()
        try:
            secret, engines, rest = await self._call(lambda engines: engines.read(path, version), _undo)
        except ProviderError as error:
            return error
        took = self._session.monotonic() - began
        ends = [rest, None if secret.lasts_seconds is None else secret.lasts_seconds - took]
        return _Reading(secret, engines, min((seconds for seconds in ends if seconds is not None), default=None))

    async def _call(
        self, call: Callable[[Engines], T], undo: Callable[[Engines, T], object] | None = None
    ) -> tuple[T, Engines, float | None]:
        """Make a call with a token that Vault accepts.

        Args:
            call: raises nothing but `ProviderError`.
            undo: what becomes of a result that comes when nobody waits for it any more.

        Returns:
            Its result, with what it was had, and how many seconds that token lives yet; None without an end.
        """
        attempts = 0
        while True:
            current = await self._session.signed_in()
            engines = current.engines
            try:
                found = await self._threads.run(partial(call, engines), undo and partial(undo, engines))
            except ProviderError as error:
                failure = error
            else:
                self._session.served()
                return found, engines, current.rest(self._session.monotonic())
            attempts += 1
            meaning = await self._session.failed(current, failure)
            if meaning is not None or attempts == _ATTEMPTS:
                raise meaning or failure

    def _values(
        self, places: Mapping[str, Place], outcome: _Reading | ProviderError
    ) -> Mapping[str, Fetched | ProviderError]:
        if isinstance(outcome, ProviderError):
            return dict.fromkeys(places, outcome)
        values = {ref: value_of(outcome.secret, place.field, outcome.lasts) for ref, place in places.items()}
        if not any(isinstance(value, Fetched) for value in values.values()):
            self._give_back(outcome)
        return values

    def _give_back(self, reading: _Reading) -> None:
        """Have a credential taken back that nobody gets; if that fails, Vault ends it when its own time is over."""
        if reading.secret.lease_id is not None:
            self._threads.start(partial(reading.engines.give_back, reading.secret.lease_id))


def _undo(engines: Engines, secret: Secret) -> None:
    if secret.lease_id is not None:
        engines.give_back(secret.lease_id)


def _look_up_self(engines: Engines) -> None:
    answer = engines.api.look_up_self()
    failure = None if answer.is_good else of_answer(answer)
    if failure is not None and failure.kind is not FailureKind.FORBIDDEN:  # which only says what the token may not
        raise failure
