"""Orders to refuse or to serve again: who signed them, and which of them hold."""

from itertools import permutations

import nacl.bindings as sodium
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.errors import WireError
from broker_worker.core.revocations import (
    KINDS,
    Kind,
    Revocation,
    Revocations,
    check_subject,
    open_revocation,
    sign_revocation,
)

NOW = 1_800_000_000_000
PUBLIC, SECRET = sodium.crypto_sign_seed_keypair(bytes(range(32)))
SUBJECTS = ["claude/run-1", "claude", "db.root", "0" * 32, "token-1"]


def order(
    kind: Kind = "run", subject: str = "claude/run-1", what: str = "revoke", at: int = NOW, **more: object
) -> Revocation:
    fields = {"revocation_id": "0123456789abcdef", "reason": "laptop lost", "by": "maria", **more}
    return Revocation(order=what, kind=kind, subject=subject, at=at, **fields)  # type: ignore[arg-type]  # cases


orders = st.builds(
    Revocation,
    revocation_id=st.sampled_from(["0" * 16, "1" * 16, "f" * 16]),
    order=st.sampled_from(["revoke", "reinstate"]),
    kind=st.sampled_from(KINDS),
    subject=st.sampled_from(SUBJECTS),
    version=st.sampled_from([None, "7"]),
    at=st.integers(NOW, NOW + 3),
    reason=st.sampled_from(["a", "b"]),
    by=st.sampled_from(["maria", "tom"]),
)


def state(given: list[Revocation]) -> set[str]:
    revocations = Revocations()
    for each in given:
        revocations.apply(each)
    assert revocations.is_empty == (list(revocations) == [])
    return {repr(each) for each in revocations}


@given(st.lists(orders, max_size=12), st.randoms())
def test_orders_commute(given: list[Revocation], random: object) -> None:
    """Whichever way orders arrive, from the file or the queue, once or twice, the same are in force."""
    shuffled = [*given, *given]
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # a random.Random of Hypothesis
    assert state(given) == state(shuffled)


def test_newest_order_about_a_subject_holds() -> None:
    """Revoked, reinstated, revoked again: the last one counts in every order of arrival."""
    given = [order(), order(what="reinstate", at=NOW + 1), order(at=NOW + 2)]
    for arrival in permutations(given):
        assert state(list(arrival)) == {repr(given[2])}
    assert state(given[:2]) == set()


def test_of_two_orders_of_one_millisecond_the_one_to_refuse_holds() -> None:
    """When it cannot be told which came last, the subject is refused."""
    for arrival in permutations([order(revocation_id="0" * 16), order(what="reinstate", revocation_id="f" * 16)]):
        assert len(state(list(arrival))) == 1


def test_apply_says_whether_something_changed() -> None:
    """A copy, an older order and a repetition change nothing."""
    revocations = Revocations()
    assert not revocations.apply(order(what="reinstate", at=NOW - 1))
    assert revocations.apply(order())
    assert not revocations.apply(order())
    assert not revocations.apply(order(what="reinstate", at=NOW - 2))
    assert not revocations.apply(order(at=NOW + 1))
    assert revocations.apply(order(what="reinstate", at=NOW + 2))


@pytest.mark.parametrize(
    ("kind", "subject"), [("agent", "claude"), ("run", "claude/run-1"), ("token", "token-1"), ("run", "codex/run-1")]
)
def test_run_is_refused_by_any_order_about_it(kind: Kind, subject: str) -> None:
    """An order about the agent, the run or the token stops the run, one about another run does not."""
    revocations = Revocations()
    revocations.apply(order(kind, subject))
    found = revocations.of_run("claude", "run-1", "token-1")
    assert (found is None) == (subject == "codex/run-1")


def test_version_of_a_secret_is_refused_alone() -> None:
    """An order about one version leaves the others; one about the secret takes all."""
    revocations = Revocations()
    revocations.apply(order("secret", "db.root", version="7"))
    assert revocations.of_secret("db.root", "7") is not None
    assert revocations.of_secret("db.root", "8") is None
    assert revocations.of_secret("db.root") is None
    revocations.apply(order("secret", "db.root"))
    assert revocations.of_secret("db.root", "8") is not None


def test_kinds_do_not_mix() -> None:
    """A lease, a secret and an agent of one name are three subjects."""
    revocations = Revocations()
    revocations.apply(order("agent", "db.root"))
    assert revocations.of_secret("db.root") is None
    assert revocations.of_lease("db.root") is None


@given(orders)
def test_signed_order_reads_back(given: Revocation) -> None:
    """What the operator signed is what a worker takes."""
    assert open_revocation(sign_revocation(given, SECRET), PUBLIC) == given


@given(st.data())
def test_changed_bytes_are_no_order(data: st.DataObject) -> None:
    """No byte of a signed order can be changed."""
    signed = bytearray(sign_revocation(order(), SECRET))
    place = data.draw(st.integers(0, len(signed) - 1))
    signed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        open_revocation(bytes(signed), PUBLIC)


def test_order_of_another_key_is_forged() -> None:
    """Nothing but this broker's control key gives orders."""
    other, secret = sodium.crypto_sign_seed_keypair(bytes(32))
    with pytest.raises(WireError) as caught:
        open_revocation(sign_revocation(order(), secret), PUBLIC)
    assert caught.value.reason == "forged"
    assert open_revocation(sign_revocation(order(), secret), other) == order()


@pytest.mark.parametrize(
    ("kind", "subject", "version"),
    [
        ("run", "claude/run-1", None),
        ("agent", "claude", None),
        ("secret", "db.root", None),
        ("secret", "db.root", "7"),
        ("lease", "0123456789abcdef" * 2, None),
        ("token", "j" * 64, None),
    ],
)
def test_subject_of_its_kind_is_taken(kind: Kind, subject: str, version: str | None) -> None:
    """What there could be can be revoked."""
    check_subject(kind, subject, version)


@pytest.mark.parametrize(
    ("kind", "subject", "version", "expected"),
    [
        ("run", "run-1", None, "AGENT/RUN"),
        ("run", "claude/", None, "canonical"),
        ("run", "claude/run/1", None, "canonical"),
        ("run", "Claude/run-1", None, "canonical"),
        ("agent", "claude/run-1", None, "canonical"),
        ("agent", "", None, "canonical"),
        ("secret", "db..root", None, "canonical"),
        ("secret", "db.*", None, "canonical"),
        ("secret", "db.root", "", "version"),
        ("secret", "db.root", "v" * 129, "version"),
        ("run", "claude/run-1", "7", "only a secret"),
        ("lease", "0123", None, "32 hexadecimal"),
        ("lease", "A" * 32, None, "32 hexadecimal"),
        ("lease", "0" * 32 + "\n", None, "32 hexadecimal"),
        ("token", "", None, "jti"),
        ("token", "j" * 65, None, "jti"),
    ],
)
def test_subject_that_could_not_be_is_refused(kind: Kind, subject: str, version: str | None, expected: str) -> None:
    """An order with a slip in it would stop nothing, so it is not given."""
    with pytest.raises(WireError, match=expected):
        check_subject(kind, subject, version)


def test_label_names_kind_subject_and_version() -> None:
    """The audit calls a subject by one text."""
    assert order("secret", "db.root", version="7").label == "secret:db.root@7"
    assert order().label == "run:claude/run-1"
