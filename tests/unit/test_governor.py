"""Whether a vault may be asked, with what all workers share, and without it when it is lost."""

import pytest
from structlog.testing import capture_logs
from vault_workbench import StateNotebook

from broker_worker.core.budget import Budget
from broker_worker.core.errors import FailureKind, ProviderError, SetupError
from broker_worker.core.vault_state import FAILURES_TO_OPEN
from broker_worker.providers.governor import Governor, NotAskedError

AWAY = ProviderError(FailureKind.UNREACHABLE, "away")
REFUSED = ProviderError(FailureKind.UNAUTHENTICATED, "refused", hint="new token")
FULL = SetupError("the state cannot be written: No space left on device", hint="free some space")


async def refusal(governor: Governor, *costs: int, critical: bool = False) -> NotAskedError:
    """Why the vault may not be asked."""
    with pytest.raises(NotAskedError) as caught:
        await governor.admit(costs or (1,), critical=critical)
    return caught.value


async def test_what_one_worker_finds_out_holds_for_all() -> None:
    """A refused token is tried by one of them, an hour's reads are spent by all together."""
    states = StateNotebook()
    one, other = (Governor("op", states, Budget(10, None, 10)) for _ in range(2))
    assert await one.admit((3, 6), critical=False) == 2
    assert await other.admit((3, 6), critical=False) == 1
    assert (await refusal(one)).kind is FailureKind.OVER_BUDGET
    assert await other.admit((1,), critical=True) == 1
    await one.failed(REFUSED)
    error = await refusal(other, critical=True)
    assert (error.kind, error.retry_after, error.hint) == (FailureKind.UNAUTHENTICATED, 60_000, "new token")
    told = await other.refusal()
    assert told is not None
    assert str(told) == "refused; it is not asked again for 60 s"


async def test_an_outage_is_no_refusal() -> None:
    """Whoever asks how the vault is gets an answer from the vault."""
    governor = Governor("op", StateNotebook())
    for _ in range(FAILURES_TO_OPEN):
        await governor.failed(AWAY)
    assert (await refusal(governor)).kind is FailureKind.UNREACHABLE
    assert await governor.refusal() is None


async def test_a_vault_without_budget_that_serves_costs_no_write() -> None:
    """Neither when it is asked nor when it answers."""
    states = StateNotebook()
    governor = Governor("local", states)
    for _ in range(5):
        assert await governor.admit((1, 2, 3), critical=False) == 3
        await governor.served()
    assert states.changes == 0


async def test_a_replaced_credential_is_tried_at_once() -> None:
    """By every worker, also one that starts later."""
    states, token = StateNotebook(), ["old"]
    governor = Governor("op", states, None, lambda salt: token[0] + salt.hex())
    await governor.failed(REFUSED)
    assert (await refusal(governor)).kind is FailureKind.UNAUTHENTICATED
    token[0] = "new"
    assert await governor.refusal() is None
    assert await Governor("op", states, None, lambda salt: token[0] + salt.hex()).admit((1,), critical=False) == 1


async def test_a_vault_that_nobody_rations_is_tried_again_soon() -> None:
    """Its key may have been put right, and nothing tells; trying costs nobody anything."""
    states = StateNotebook()
    governor = Governor("local", states)
    await governor.failed(REFUSED)
    assert (await refusal(governor)).retry_after == 1_000


async def test_a_credential_that_cannot_be_read_changes_nothing() -> None:
    """The wait goes on, and nothing is raised."""

    def unreadable(salt: bytes) -> str:
        raise OSError("stale file handle")

    governor = Governor("op", StateNotebook(), None, unreadable)
    await governor.failed(REFUSED)
    assert (await refusal(governor)).kind is FailureKind.UNAUTHENTICATED


async def test_without_its_state_a_rationed_vault_is_asked_for_critical_secrets_only() -> None:
    """By each process for itself, up to the reserve; the log says so once, and once when it is over."""
    states = StateNotebook()
    governor = Governor("op", states, Budget(20, None, 10))
    with capture_logs() as lines:
        states.broken = FULL
        for _ in range(2):
            error = await refusal(governor)
            assert error.kind is FailureKind.OVER_BUDGET
            assert "reads cannot be counted" in str(error)
            assert (error.hint, error.retry_after) == ("free some space", None)
        assert await governor.admit((1, 2, 3), critical=True) == 2
        assert "2 an hour" in str(await refusal(governor, critical=True))
        await governor.served()
        states.broken = None
        assert await governor.admit((1,), critical=False) == 1
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("vault_state_unusable", "error"),
        ("vault_state_usable_again", "info"),
    ]


async def test_without_a_reserve_nothing_is_asked_uncounted() -> None:
    """Fail closed, for critical secrets too."""
    states = StateNotebook(broken=FULL)
    governor = Governor("op", states, Budget(20, None, 0))
    assert (await refusal(governor, critical=True)).kind is FailureKind.OVER_BUDGET


async def test_without_its_state_a_vault_without_budget_is_asked_and_left_alone_as_ever() -> None:
    """The breaker is then each process's own."""
    governor = Governor("local", StateNotebook(broken=FULL))
    assert await governor.admit((1,), critical=False) == 1
    for _ in range(FAILURES_TO_OPEN):
        await governor.failed(AWAY)
    assert (await refusal(governor)).kind is FailureKind.UNREACHABLE
