"""Values meet the cases that may have them: from the cache, or as a vault gave them, each under a lease."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Resolve
from broker_worker.core.configuration import Configuration, SecretEntry
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.policy import Decision
from broker_worker.pipeline.affairs import Affairs
from broker_worker.pipeline.batch import Ask, Case
from broker_worker.ports import Answer, Cache, CachedValue, Clock, Fetched

NOT_FOUND_MS = 10_000
"""How long a failure that is about the name is remembered, ms."""
UNAVAILABLE_MS = 1_000
"""How long a failure that may pass is remembered at most, ms: its provider knows by itself when to ask again."""


@dataclass(slots=True)
class Waiting:
    """An ask that waits for values which are not in the cache.

    Args:
        ask: the request.
        refs: the missing references, and for how many ms each value may be kept, past its time included.
        known: what was in the cache of the others; meanwhile it may have to make room there.
        found: what has come of the missing ones so far.
    """

    ask: Ask
    refs: Mapping[str, int]
    known: dict[str, CachedValue | ProviderError] = field(default_factory=dict)
    found: dict[str, Fetched | ProviderError] = field(default_factory=dict)


@dataclass(slots=True)
class Served:
    """What became of a batch: sealed replies to send, asks that wait for the vault, and asks that write to it."""

    answers: list[Answer] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    writes: list[Ask] = field(default_factory=list)


class Settler:
    """Gives values and ends to cases, or says why there is none.

    Args:
        cache: values between two uses.
        affairs: what was revoked, and what runs hold.
        clock: the time.
        provider_of: the name of the provider that serves a reference, for the audit.
    """

    def __init__(self, cache: Cache, affairs: Affairs, clock: Clock, provider_of: Callable[[str], str]) -> None:
        self.provider_of = provider_of
        self._clock = clock
        self._cache = cache
        self._leases = affairs.leases
        self._revocations = affairs.revocations

    def keep(self, ref: str, result: Fetched | ProviderError, ttl_ms: int) -> None:
        """Put what a vault gave into the cache: a value for `ttl_ms`, a failure briefly."""
        now = self._clock.now()
        if isinstance(result, Fetched):
            self._cache.put(ref, result, ttl_ms, now)
        else:
            brief = (
                NOT_FOUND_MS if result.is_about_the_name else min(result.retry_after or UNAVAILABLE_MS, UNAVAILABLE_MS)
            )
            self._cache.put_failure(ref, result, brief, now)

    def fill(
        self, ask: Ask, configuration: Configuration, now: int
    ) -> tuple[dict[str, int], dict[str, CachedValue | ProviderError]]:
        """Give cached values to the cases that may have them.

        Returns:
            What is missing and for how many ms it may be kept; and what was there.
        """
        missing: dict[str, int] = {}
        there: dict[str, CachedValue | ProviderError] = {}
        if ask.action in ("renew", "release"):
            self._settle_lease(ask, configuration, now)
            return missing, there
        for case in ask.cases:
            if case.code is None:
                entry = case.entry
                assert entry is not None
                ttl_ms = configuration.ttl_of(entry) * 1000
                known = self._cache.get(entry.ref, ttl_ms, now)
                if known is None:
                    missing[entry.ref] = max(configuration.stale_ms_of(entry), missing.get(entry.ref, 0))
                else:
                    there[entry.ref] = known
                    case.source = "cache"
                    self._settle(ask, case, known, configuration, ttl_ms, now)
        return missing, there

    def _settle_lease(self, ask: Ask, configuration: Configuration, now: int) -> None:
        (case,) = ask.cases
        ttl_ms = 0 if case.entry is None else configuration.ttl_of(case.entry) * 1000
        known = None if case.entry is None else self._cache.get(case.entry.ref, ttl_ms, now)
        current = known if isinstance(known, CachedValue) else None
        self._leases.settle(ask, configuration, current, now)

    def settle_all_fetched(self, waiting: Sequence[Waiting], configuration: Configuration, now: int) -> None:
        """Give cases that nothing has refused what the vault gave for them, or say why there is nothing."""
        for each in waiting:
            for case in each.ask.cases:
                if case.code is None:
                    self.settle_fetched(each, case, configuration, now)

    def settle_fetched(self, waiting: Waiting, case: Case, configuration: Configuration, now: int) -> None:
        """Give a case what the vault gave for it, or say why there is nothing."""
        assert case.entry is not None
        ref, ttl_ms = case.entry.ref, configuration.ttl_of(case.entry) * 1000
        result = waiting.found.get(ref)
        case.source = "cache" if result is None else "provider"
        if isinstance(result, Fetched):
            self._settle(waiting.ask, case, CachedValue(result, now), configuration, ttl_ms, now)
        elif result is not None:
            self._settle(waiting.ask, case, result, configuration, ttl_ms, now)
        else:
            gone = ProviderError(FailureKind.UNKNOWN, "no longer known")
            known = self._cache.get(ref, ttl_ms, now) or waiting.known.get(ref, gone)
            self._settle(waiting.ask, case, known, configuration, ttl_ms, now)

    def reveal(
        self,
        ask: Ask,
        case: Case,
        fetched: Fetched,
        reading: Decision,
        configuration: Configuration,
        ttl_ms: int,
        now: int,
    ) -> None:
        """Give a case the value that was made for it, as if it had been read."""
        writing, case.decision = case.decision, reading
        self._settle(ask, case, CachedValue(fetched, now), configuration, ttl_ms, now)
        case.decision = writing

    def _settle(
        self,
        ask: Ask,
        case: Case,
        known: CachedValue | ProviderError,
        configuration: Configuration,
        ttl_ms: int,
        now: int,
    ) -> None:
        """Give a case its value and its end, or say why there is none."""
        entry = case.entry
        assert entry is not None
        case.provider = self.provider_of(entry.ref)
        if isinstance(known, ProviderError) and entry.is_created and known.kind is FailureKind.NOT_FOUND:
            case.refuse(Code.DENIED, "unknown_secret")  # nobody created it, as if the registry did not have it
            return
        if isinstance(known, ProviderError):
            stale = self._stale(entry, known, configuration, now)
            if stale is None:
                case.refuse(Code.UNAVAILABLE, f"provider_{known.kind}", known.retry_after)
                return
            known, case.source = stale, "stale"
            ends = min(known.fetched_at + configuration.stale_ms_of(entry), now + ttl_ms, ask.identity.expires_at)
        else:
            ends = min(known.fetched_at + ttl_ms, ask.identity.expires_at)
        if known.lent_until is not None:
            ends = min(ends, known.lent_until)
        grant, body = case.decision.grant, ask.request.body
        if grant is not None and grant.max_ttl is not None:
            ends = min(ends, now + grant.max_ttl * 1000)
        if isinstance(body, Resolve) and body.ttl is not None:
            ends = min(ends, now + body.ttl * 1000)
        if ends <= now:  # the token's end, within the skew, or that of a value while its request waited
            case.refuse(Code.EXPIRED, "expired_already")
            return
        revocations = self._revocations
        if not revocations.is_empty and revocations.of_secret(case.name, known.fetched.version):
            case.refuse(Code.REVOKED, "version_revoked")
            return
        fetched = known.fetched
        case.value, case.version = fetched.value, fetched.version
        self._leases.open(ask, case, known, ends, now, renewable=case.source != "stale")
        case.expires_at = ends
        case.age_s = None if case.source == "provider" else max(0, now - known.fetched_at) // 1000
        case.reason = None

    def _stale(
        self, entry: SecretEntry, error: ProviderError, configuration: Configuration, now: int
    ) -> CachedValue | None:
        """What may be served in place of a value that the vault does not give now.

        A vault that says no to the name has said no; one that does not answer has not.
        """
        if error.is_about_the_name:
            return None
        return self._cache.get_stale(entry.ref, configuration.stale_ms_of(entry), now)
