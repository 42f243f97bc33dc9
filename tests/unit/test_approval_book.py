"""The book of requests and decisions: what has come of each, whoever answers in whichever order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from people_workbench import ALICE, BOB, CAROL, MINUTE, NOW, Person, people, request

from broker_worker.core.approval_book import KEPT_MS, SKEW_MS, ApprovalBook, key_of
from broker_worker.core.approvals import ApprovalRequest, Decision
from broker_worker.core.approvers import Approvers, Ed25519Key
from broker_worker.people.assertion import check_assertion

POLICY = "f" * 64
EVERYBODY = people(ALICE, BOB, CAROL)


def book_of(*requests: ApprovalRequest, limit: int = 100) -> ApprovalBook:
    """A book with those requests."""
    book = ApprovalBook(check_assertion, limit)
    for each in requests:
        book.add(each)
    return book


def state(
    book: ApprovalBook, asked: ApprovalRequest, now: int = NOW, approvers: Approvers = EVERYBODY, policy: str = POLICY
) -> str:
    """What has come of a request."""
    matter = book.get(asked.digest())
    assert matter is not None
    return matter.state(approvers, policy, now)


def decided(asked: ApprovalRequest, *decisions: Decision, approvers: Approvers = EVERYBODY) -> ApprovalBook:
    """A book with a request and decisions, all of which count."""
    book = book_of(asked)
    assert [book.decide(decision, approvers, NOW) for decision in decisions] == [None] * len(decisions)
    return book


def test_a_request_waits_until_it_expires() -> None:
    """Nobody decides."""
    asked = request()
    book = book_of(asked)
    assert state(book, asked, asked.expires_at - 1) == "waiting"
    assert state(book, asked, asked.expires_at) == "expired"


def test_one_approval_is_enough_for_a_quorum_of_one() -> None:
    """It is good until the request expires, for one use."""
    asked = request()
    book = decided(asked, ALICE.decide(asked))
    assert state(book, asked, asked.expires_at - 1) == "approved"
    assert state(book, asked, asked.expires_at) == "expired"


def test_a_quorum_of_two_needs_two_people() -> None:
    """The same person twice is one."""
    asked = request(quorum=2)
    book = decided(asked, ALICE.decide(asked))
    assert book.decide(ALICE.decide(asked, at=NOW + 1), EVERYBODY, NOW) == "decided_already"
    assert state(book, asked) == "waiting"
    assert book.decide(BOB.decide(asked), EVERYBODY, NOW) is None
    assert state(book, asked) == "approved"


@pytest.mark.parametrize("order", [0, 1])
def test_one_denial_wins_in_either_order(order: int) -> None:
    """Two people at once: who denies is heard, however many approve."""
    asked = request()
    decisions = [ALICE.decide(asked, "approve"), BOB.decide(asked, "deny", reason="no")]
    book = decided(asked, *(decisions if order else reversed(decisions)))
    assert state(book, asked) == "denied"


def test_who_approved_may_still_deny_and_not_the_other_way_round() -> None:
    """A replayed approval cannot undo a denial."""
    asked = request()
    approval = ALICE.decide(asked)
    book = decided(asked, approval, ALICE.decide(asked, "deny"))
    assert book.decide(approval, EVERYBODY, NOW) == "decided_already"
    assert state(book, asked) == "denied"


def test_a_duplicated_decision_changes_nothing() -> None:
    """It is a second decision of the same person."""
    asked = request(quorum=2)
    book = decided(asked, ALICE.decide(asked))
    assert book.decide(ALICE.decide(asked), EVERYBODY, NOW) == "decided_already"
    assert state(book, asked) == "waiting"


def test_a_decision_on_one_request_does_not_count_for_another() -> None:
    """Not even for the same names in the same run."""
    asked, again = request(), request(request_id=bytes([1]) * 16)
    book = book_of(asked, again)
    book.decide(ALICE.decide(asked), EVERYBODY, NOW)
    assert (state(book, asked), state(book, again)) == ("approved", "waiting")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda asked: ALICE.decide(asked, at=asked.expires_at), "too_late"),
        (lambda asked: ALICE.decide(asked, at=NOW + SKEW_MS + 1), "from_the_future"),
        (lambda asked: CAROL.decide(asked), "not_an_approver_of_this"),
        (lambda asked: Person("mallory").decide(asked), "unknown_approver"),
        (lambda _: ALICE.decide(request(run_id="run-9")), "unknown_request"),
    ],
)
def test_a_decision_that_does_not_count_changes_nothing(
    make: Callable[[ApprovalRequest], Decision], fault: str
) -> None:
    """Late, ahead of its time, by somebody else, about something else."""
    asked = request()
    book = book_of(asked)
    assert book.fault_of(make(asked), EVERYBODY, NOW) == fault
    assert book.decide(make(asked), EVERYBODY, NOW) == fault
    assert state(book, asked) == "waiting"


def test_a_clock_may_be_ahead_by_a_minute() -> None:
    """And no more."""
    asked = request(expires_at=NOW + 2 * SKEW_MS)
    assert book_of(asked).decide(ALICE.decide(asked, at=NOW + SKEW_MS), EVERYBODY, NOW) is None


def test_asking_whether_a_decision_counts_notes_nothing() -> None:
    """It can then still be made."""
    asked = request()
    book = book_of(asked)
    assert book.fault_of(ALICE.decide(asked), EVERYBODY, NOW) is None
    assert state(book, asked) == "waiting"


def test_a_person_who_is_removed_while_a_request_waits_counts_no_more() -> None:
    """Neither the approval nor the denial."""
    asked = request(quorum=2)
    book = decided(asked, ALICE.decide(asked), BOB.decide(asked))
    assert state(book, asked) == "approved"
    assert state(book, asked, approvers=people(ALICE)) == "waiting"
    asked = request()
    book = decided(asked, BOB.decide(asked, "deny"))
    assert state(book, asked, approvers=people(ALICE)) == "waiting"


def test_a_person_who_leaves_the_group_counts_no_more() -> None:
    """Groups are those of now."""
    asked = request()
    book = decided(asked, ALICE.decide(asked))
    assert state(book, asked, approvers=people(Person("alice", "leads"))) == "waiting"


def test_a_decision_counts_no_more_when_its_key_is_replaced() -> None:
    """Whoever stole the old key has decided nothing; the person may decide again with the new one."""
    asked = request()
    book = decided(asked, ALICE.decide(asked))
    alice = EVERYBODY.people["alice"]
    renewed = Person("alice2")
    changed = Approvers({"alice": replace(alice, keys=(Ed25519Key(renewed.public),))})
    assert state(book, asked, approvers=changed) == "waiting"
    renewed.name = "alice"
    assert book.decide(renewed.decide(asked), changed, NOW) is None
    assert state(book, asked, approvers=changed) == "approved"


def test_another_policy_voids_a_request_whatever_was_decided() -> None:
    """What was approved is what is released."""
    asked = request()
    book = decided(asked, ALICE.decide(asked))
    assert state(book, asked, policy="e" * 64) == "void"


def test_a_timed_grant_begins_with_the_approval_that_fills_the_quorum() -> None:
    """And outlives the time to decide."""
    asked = request(quorum=2, grant="900s", expires_at=NOW + MINUTE)
    book = decided(asked, BOB.decide(asked, at=NOW + 30_000), ALICE.decide(asked, at=NOW + 10_000))
    ends = NOW + 30_000 + 900_000
    assert (state(book, asked, ends - 1), state(book, asked, ends)) == ("approved", "expired")


def test_who_approves_what_is_approved_already_does_not_prolong_it() -> None:
    """The grant began with the approval that was needed."""
    asked = request(grant="900s")
    book = decided(asked, ALICE.decide(asked), BOB.decide(asked, at=NOW + 10_000))
    assert (state(book, asked, NOW + 899_999), state(book, asked, NOW + 900_000)) == ("approved", "expired")


def test_a_clock_that_is_behind_does_not_shorten_a_grant() -> None:
    """Nobody decides before it is asked."""
    asked = request(grant="60s")
    book = decided(asked, ALICE.decide(asked, at=NOW - 3_600_000))
    assert (state(book, asked, NOW + 59_999), state(book, asked, NOW + 60_000)) == ("approved", "expired")


def test_a_run_grant_does_not_end_by_the_clock() -> None:
    """It ends with the run's token."""
    asked = request(grant="run")
    book = decided(asked, ALICE.decide(asked))
    assert state(book, asked, NOW + 10 * KEPT_MS) == "approved"


@pytest.mark.parametrize(
    "changes",
    [
        {"agent_id": "codex"},
        {"run_id": "run-2"},
        {"run_key": bytes([1]) * 32},
        {"names": ("github.read_token",)},
        {"action": "put"},
        {"purpose": "other"},
        {"rule": "policy.yaml:6"},
        {"policy": "e" * 64},
    ],
)
def test_an_approval_is_found_for_exactly_what_was_approved(changes: dict[str, Any]) -> None:
    """Whatever differs needs another approval."""
    asked = request()
    book = decided(asked, ALICE.decide(asked))
    assert book.matter_for(key_of(asked), EVERYBODY, NOW, frozenset()) is book.get(asked.digest())
    assert book.matter_for(key_of(request(**changes)), EVERYBODY, NOW, frozenset()) is None


def test_a_used_approval_is_not_found_again_unless_it_is_a_grant() -> None:
    """`once` means once."""
    once, grant = request(), request(grant="run", run_id="run-2")
    book = book_of(once, grant)
    used = frozenset({once.approval_id, grant.approval_id})
    assert book.matter_for(key_of(once), EVERYBODY, NOW, used) is None
    assert book.matter_for(key_of(grant), EVERYBODY, NOW, used) is book.get(grant.digest())


def test_an_approved_request_goes_before_a_waiting_and_that_before_a_refused_one() -> None:
    """Whichever was asked last."""
    approved, waiting, denied = (request(request_id=bytes([n]) * 16) for n in range(3))
    book = book_of(approved, waiting, denied)
    book.decide(ALICE.decide(denied, "deny"), EVERYBODY, NOW)
    assert book.matter_for(key_of(waiting), EVERYBODY, NOW, frozenset()) is book.get(waiting.digest())
    book.decide(ALICE.decide(approved), EVERYBODY, NOW)
    assert book.matter_for(key_of(waiting), EVERYBODY, NOW, frozenset()) is book.get(approved.digest())


def test_open_requests_of_a_run_and_of_a_day_are_counted() -> None:
    """Only those that wait are open; a day has 24 hours."""
    mine = [request(request_id=bytes([n]) * 16) for n in range(3)]
    old = request(asked_at=NOW - 24 * 60 * MINUTE, expires_at=NOW - 1)
    book = book_of(*mine, old, request(run_id="run-2"), request(agent_id="codex"))
    book.decide(ALICE.decide(mine[0]), EVERYBODY, NOW)
    assert len(book.waiting_of_run("claude", "run-1", EVERYBODY, POLICY, NOW)) == 2
    assert book.asked_today("claude", NOW) == 4


def test_what_is_long_over_is_forgotten_but_not_a_run_s_grant() -> None:
    """A day after its end."""
    once, run, ignored = request(), request(grant="run", run_id="run-2"), request(grant="run", run_id="run-3")
    book = decided(run, ALICE.decide(run))
    book.add(once)
    book.add(ignored)
    book.purge(once.expires_at + KEPT_MS - 1)
    assert len(list(book)) == 3
    book.purge(once.expires_at + KEPT_MS)
    assert [matter.request for matter in book] == [run]
    assert book.matter_for(key_of(once), EVERYBODY, NOW, frozenset()) is None


def test_a_full_book_forgets_the_oldest() -> None:
    """It has a bound."""
    asked = [request(request_id=bytes([n]) * 16) for n in range(4)]
    assert [matter.request for matter in book_of(*asked, limit=2)] == asked[2:]


def test_a_withdrawn_request_was_never_asked() -> None:
    """And a second withdrawal is no error."""
    asked = request()
    book = book_of(asked)
    book.withdraw(asked)
    book.withdraw(asked)
    assert (list(book), book.decide(ALICE.decide(asked), EVERYBODY, NOW)) == ([], "unknown_request")


class Deciding(RuleBasedStateMachine):
    """Any order of decisions by anybody, against a model that only counts who said what."""

    @initialize(quorum=st.integers(1, 3), grant=st.sampled_from(["once", "run", "120s"]))
    def begin(self, quorum: int, grant: str) -> None:
        """One request."""
        self.asked = request(quorum=quorum, grant=grant)
        self.book = book_of(self.asked)
        self.now = NOW
        self.said: dict[str, str] = {}
        self.at: dict[str, int] = {}
        self.persons = {person.name: person for person in (ALICE, BOB, CAROL, Person("dave"))}
        self.present = {"alice", "bob", "carol"}

    @property
    def approvers(self) -> Approvers:
        """Who may decide now."""
        return people(*(self.persons[name] for name in sorted(self.present)))

    @rule(name=st.sampled_from(["alice", "bob", "carol", "dave"]), verdict=st.sampled_from(["approve", "deny"]))
    def decide(self, name: str, verdict: Literal["approve", "deny"]) -> None:
        """Somebody decides, now."""
        may = name in self.present and name != "carol"
        repeated = self.said.get(name) == "deny" or (name in self.said and verdict == "approve")
        fault = self.book.decide(self.persons[name].decide(self.asked, verdict, self.now), self.approvers, self.now)
        assert (fault is None) == (may and not repeated and self.now < self.asked.expires_at)
        if fault is None:
            self.said[name], self.at[name] = verdict, self.now

    @rule(name=st.sampled_from(["alice", "bob", "dave"]))
    def come_or_go(self, name: str) -> None:
        """A person is added to or removed from approvers.yaml."""
        self.present ^= {name}

    @rule(milliseconds=st.integers(1, 4 * MINUTE))
    def wait(self, milliseconds: int) -> None:
        """Time passes."""
        self.now += milliseconds

    @invariant()
    def what_came_of_it_is_what_those_present_said(self) -> None:
        """Never approved with fewer than the quorum, with a denial, or past its end."""
        counting = {name: verdict for name, verdict in self.said.items() if name in self.present}
        found = state(self.book, self.asked, self.now, self.approvers)
        if "deny" in counting.values():
            assert found == "denied"
        elif len(counting) >= self.asked.quorum:
            since = sorted(self.at[name] for name in counting)[self.asked.quorum - 1]
            ends = {"once": self.asked.expires_at, "run": self.now + 1, "120s": since + 120_000}[self.asked.grant]
            assert found == ("approved" if self.now < ends else "expired")
        else:
            assert found == ("waiting" if self.now < self.asked.expires_at else "expired")


TestDeciding = Deciding.TestCase
TestDeciding.settings = settings(max_examples=60, stateful_step_count=20)
