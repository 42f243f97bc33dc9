"""Proofs that were shown to the gateway: each serves once, and memory is bounded."""

import pytest

from agent_sdk.wire.proof import MAX_LIFETIME
from broker_worker.app.compose import SKEW_MS
from broker_worker.gateway.problems import Problem
from broker_worker.gateway.used_proofs import KEPT_MS, UsedProofs


def test_a_proof_is_remembered_for_as_long_as_it_may_be_good() -> None:
    """Not a moment less, and not for ever."""
    now = 0
    proofs = UsedProofs(lambda: now)
    proofs.take("a.b.c")
    now = KEPT_MS - 1
    with pytest.raises(Problem) as caught:
        proofs.take("a.b.c")
    assert caught.value.status == 401
    now = KEPT_MS
    proofs.take("a.b.c")
    assert MAX_LIFETIME + 2 * SKEW_MS < KEPT_MS


def test_more_than_can_be_remembered_are_not_served() -> None:
    """Until some are over; to forget one early would let it serve twice."""
    now = 0
    proofs = UsedProofs(lambda: now, limit=2)
    proofs.take("a")
    proofs.take("b")
    with pytest.raises(Problem) as caught:
        proofs.take("c")
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    proofs.give_back("b")
    proofs.take("c")
    now = KEPT_MS
    proofs.take("d")
