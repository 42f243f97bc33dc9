"""What all workers of a home know together of one vault: the reads that it was asked for, and why it is not asked now.

A circuit breaker, as in Nygard, "Release It!": closed while the vault serves; open after failures, for a wait that
doubles; then one call tries (half-open), and its outcome closes or opens it again. A vault that refuses our credential
or limits our rate opens it at once and for long: a bad token that is tried again and again burns a day's quota for
everybody who shares it.

Everything here is a function of values. The time in a state is a count of its own: within one boot of the host it
follows a clock that cannot be set, so that setting the host's clock neither refills a budget nor blocks it.
"""

from typing import Final, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from broker_worker.core.budget import DAY_MS, Budget, affordable, count_reads, wait_for
from broker_worker.core.errors import FailureKind, ProviderError

FAILURES_TO_OPEN: Final = 5
"""So many failures in a row, of all workers together, and a vault is left alone for a while: more than one read that is
tried again has, so that a single reference which its vault chokes on does not stop the others."""
OUTAGE_MS: Final = (1_000, 60_000)
"""How long a vault that fails is not asked, first and at most, ms."""
REFUSAL_MS: Final = (60_000, 3_600_000)
"""How long a vault is not asked that refuses our credential, or limits our rate and does not say for how long, ms."""
PROBE_MS: Final = 15_000
"""After so long the call that tries a vault again counts as lost with its process; no call takes longer, ms."""
_PROBE_SOON_MS: Final = 1_000
_REFUSALS: Final = frozenset({FailureKind.UNAUTHENTICATED, FailureKind.RATE_LIMITED})
_OUTAGES: Final = frozenset({FailureKind.TIMEOUT, FailureKind.UNREACHABLE, FailureKind.UNKNOWN})

Breaker = Literal["closed", "open", "half-open"]


class Moment(NamedTuple):
    """What the host's clocks say.

    Args:
        wall: ms since the Unix epoch; people set it.
        monotonic: ms of a clock that only a restart of the host sets back.
        boot: what tells one boot of the host from the next; empty where nothing does.
    """

    wall: int
    monotonic: int
    boot: str


class Trouble(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Why a vault is in trouble, and until when it is left alone. Times are the state's own, but for `since`.

    Args:
        kind: why the newest call failed.
        message: the same for people, in our own words.
        hint: what to do about it.
        since: when the first call of this row failed, ms since the Unix epoch.
        failures: how many calls failed in a row.
        wait_ms: the wait that is on or was on last; 0 while there was none.
        open_until: when it is over.
        probe_until: until when a call that tries has its time.
        credential: tells the credential that was refused from others.
    """

    kind: FailureKind
    message: str
    hint: str
    since: int
    failures: int
    wait_ms: int = 0
    open_until: int = 0
    probe_until: int = 0
    credential: str = ""


class VaultState(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The state of one vault.

    Args:
        at: the state's own time when it was last changed, ms.
        clocks: what the host's clocks said then.
        salt: what fingerprints of credentials are made with, hexadecimal, random.
        reads: how many reads there were in each minute of the state's own time.
        trouble: None while it serves.
    """

    at: int
    clocks: Moment
    salt: str
    reads: dict[int, int] = {}
    trouble: Trouble | None = None


def new_state(moment: Moment, salt: bytes) -> VaultState:
    """The state of a vault that was never asked."""
    return VaultState(moment.wall, moment, salt.hex())


def time_in(state: VaultState, moment: Moment) -> int:
    """The state's own time at a moment, ms; it never goes back.

    After a restart of the host only its wall clock can say how long that took. Where nothing tells boots apart, the
    other clock alone would show less than has passed, never more.
    """
    before = state.clocks
    elapsed = moment.monotonic - before.monotonic
    if moment.boot != before.boot or elapsed < 0:
        elapsed = moment.wall - before.wall
    return state.at + max(0, elapsed)


def breaker_of(state: VaultState, moment: Moment) -> Breaker:
    """Where the circuit breaker stands."""
    if state.trouble is None or not state.trouble.wait_ms:
        return "closed"
    return "open" if time_in(state, moment) < state.trouble.open_until else "half-open"


def admit(
    state: VaultState,
    moment: Moment,
    costs: tuple[int, ...],
    *,
    budget: Budget | None = None,
    critical: bool = False,
    credential: str = "",
) -> tuple[VaultState, int | ProviderError]:
    """Let a call go to the vault, or say why not.

    Args:
        state: the state so far.
        moment: the time.
        costs: what the call costs with its first reference, its first two, and so on: reads, not decreasing.
        budget: what holds; None for no budget.
        critical: whether it may use the reserve.
        credential: the fingerprint of the credential that it would be made with; empty if unknown.

    Returns:
        The new state, and how many of the references may be asked for, at least one; or why none, with the time after
        which that changes.
    """
    now = time_in(state, moment)
    trouble = state.trouble
    if trouble is not None and trouble.credential and credential and credential != trouble.credential:
        trouble = None  # what was refused was another credential
    if trouble is not None and trouble.wait_ms:
        if now < trouble.open_until:
            return state, _still(trouble, trouble.open_until - now)
        if now < trouble.probe_until:
            return state, _still(trouble, min(_PROBE_SOON_MS, trouble.probe_until - now))
    count, reads = len(costs), state.reads
    if budget is not None:
        left = affordable(budget, reads, now, critical=critical)
        count = sum(cost <= left for cost in costs)
        if not count:
            return state, _over(budget, reads, now, costs[0], critical=critical)
        reads = count_reads(reads, now, costs[count - 1])
    if trouble is not None and trouble.wait_ms:
        trouble = replace(trouble, probe_until=now + PROBE_MS)
    if trouble is state.trouble and reads is state.reads:
        return state, count
    return replace(state, at=now, clocks=moment, reads=reads, trouble=trouble), count


def after_success(state: VaultState, moment: Moment) -> VaultState:
    """The vault answered: earlier failures are over."""
    return state if state.trouble is None else _changed(state, moment, None)


def after_failure(
    state: VaultState, moment: Moment, error: ProviderError, credential: str = "", *, is_rationed: bool = True
) -> VaultState:
    """A call failed.

    Args:
        state: the state so far.
        moment: the time.
        error: why; one that is about a name, or about a write, is the answer of a vault that serves.
        credential: the fingerprint of the credential that the call was made with; empty if unknown.
        is_rationed: whether a vault that refuses us is asked rarely: each time costs what others need. Elsewhere it is
            left alone for no longer than one that is down, so that a mended credential is noticed soon.
    """
    is_refusal = error.kind in _REFUSALS
    if not is_refusal and error.kind not in _OUTAGES:
        return after_success(state, moment)
    now, before = time_in(state, moment), state.trouble
    was_refusal = before is not None and before.kind in _REFUSALS
    if before is not None and now < before.open_until and (was_refusal or not is_refusal):
        return state  # a call that was under way: the wait that is on has its cause already
    failures = 1 if before is None else before.failures + 1
    waited = before.wait_ms if before is not None and was_refusal == is_refusal else 0
    first, most = REFUSAL_MS if is_refusal and is_rationed else OUTAGE_MS
    wait_ms = 0
    if error.kind is FailureKind.RATE_LIMITED and error.retry_after is not None:
        wait_ms = min(max(error.retry_after, 1), DAY_MS)
    elif is_refusal or waited or failures >= FAILURES_TO_OPEN:
        wait_ms = min(waited * 2 or first, most)
    trouble = Trouble(
        error.kind,
        str(error),
        error.hint,
        moment.wall if before is None else before.since,
        failures,
        wait_ms,
        now + wait_ms if wait_ms else 0,
        credential=credential if error.kind is FailureKind.UNAUTHENTICATED else "",
    )
    return _changed(state, moment, trouble)


def refuses_us(kind: FailureKind) -> bool:
    """Whether a vault that fails like this refuses us, and is asked rarely from then on."""
    return kind in _REFUSALS


def _changed(state: VaultState, moment: Moment, trouble: Trouble | None) -> VaultState:
    return replace(state, at=time_in(state, moment), clocks=moment, trouble=trouble)


def _still(trouble: Trouble, rest_ms: int) -> ProviderError:
    message = f"{trouble.message}; it is not asked again for {-(-rest_ms // 1000)} s"
    return ProviderError(trouble.kind, message, retry_after=rest_ms, hint=trouble.hint)


def _over(budget: Budget, reads: dict[int, int], now: int, cost: int, *, critical: bool) -> ProviderError:
    windows = budget.windows(critical=critical)
    limits = ", ".join(f"{limit} {'an' if name == 'hour' else 'a'} {name}" for name, _, limit in windows)
    kept = f", {budget.reserve_percent} % of the budget being kept for critical secrets" if not critical else ""
    return ProviderError(
        FailureKind.OVER_BUDGET,
        f"the budget of reads is used up: {limits}{kept}",
        retry_after=wait_for(budget, reads, now, cost, critical=critical),
        hint="a longer ttl_seconds costs fewer reads; `budget` in broker.yaml is what the vault's plan allows",
    )
