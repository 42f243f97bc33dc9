"""A proof of possession counts once wherever it is shown."""

from agent_sdk.wire.errors import Code
from broker_worker.core.shown_proofs import KEPT_MS, ShownProofs

NOW = 1_800_000_000_000


def test_a_proof_counts_once_until_it_could_be_good_no_longer() -> None:
    """Whatever its signature is: it is what was signed that counts."""
    proofs = ShownProofs()
    assert proofs.take("head.claims.signature", NOW)
    assert not proofs.take("head.claims.signature", NOW + KEPT_MS - 1)
    assert not proofs.take("head.claims.another", NOW + KEPT_MS - 1)
    assert proofs.take("head.others.signature", NOW)
    assert proofs.take("head.claims.signature", NOW + KEPT_MS)


def test_junk_is_forgotten_and_what_was_used_is_not() -> None:
    """A proof that served nothing may come again; a full memory takes no more."""
    proofs = ShownProofs(limit=2)
    for code in (Code.UNAUTHENTICATED, Code.EXPIRED, Code.RATE_LIMITED):
        assert proofs.take("junk.junk.junk", NOW)
        proofs.give_back("junk.junk.junk", code)
    assert proofs.take("a.b.c", NOW)
    proofs.give_back("a.b.c", Code.DENIED)
    assert not proofs.take("a.b.c", NOW)
    assert proofs.take("d.e.f", NOW)
    assert not proofs.take("g.h.i", NOW)
