"""Requests and decisions as bytes: one canonical form, and nothing of it can be changed after it was signed."""

import dataclasses

import nacl.bindings as sodium
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from people_workbench import ALICE, BOB, NOW, people, request
from software_authenticator import SoftwareAuthenticator

from agent_sdk.wire.errors import WireError
from broker_worker.core.approvals import (
    ApprovalRequest,
    Decision,
    decode_decision,
    encode_decision,
    open_request,
    sign_request,
)
from broker_worker.core.approvers import Approvers, Ed25519Key
from broker_worker.core.control import decision_message, decode_control, revocation_message
from broker_worker.people.assertion import check_assertion

PUBLIC, SECRET = sodium.crypto_sign_seed_keypair(bytes(32))
TEXT = st.text(max_size=32)
TIME = st.integers(0, 2**53 - 1)
REQUESTS = st.builds(
    ApprovalRequest,
    agent_id=TEXT,
    run_id=TEXT,
    run_key=st.binary(min_size=32, max_size=32),
    names=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4).map(tuple),
    action=st.sampled_from(["resolve", "put", "generate"]),
    purpose=TEXT,
    task=st.none() | TEXT,
    policy=TEXT,
    rule=TEXT,
    approvers=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    quorum=st.integers(1, 64),
    grant=st.sampled_from(["once", "run", "1s", "900s"]),
    asked_at=TIME,
    expires_at=TIME,
    request_id=st.binary(min_size=16, max_size=16),
    asked_today=st.integers(0, 9),
    worker=TEXT,
)
DEVICE = SoftwareAuthenticator()
ASKED = request()
EVERYBODY = people(ALICE, BOB)
TERMINAL = ALICE.decide(ASKED, "deny", reason="not at night")
BROWSER = DEVICE.decide(ASKED.digest(), "approve", "alice", NOW)


def fault(decision: Decision, approvers: Approvers = EVERYBODY, asked: ApprovalRequest = ASKED) -> str | None:
    """Why a decision does not count."""
    return approvers.fault_of(decision, asked, check_assertion)


@given(REQUESTS)
def test_a_signed_request_comes_back_as_it_was(asked: ApprovalRequest) -> None:
    """And its digest and id with it."""
    opened = open_request(sign_request(asked, SECRET), PUBLIC)
    assert (opened, opened.digest(), opened.approval_id) == (asked, asked.digest(), asked.digest().hex()[:16])


@given(REQUESTS, REQUESTS)
def test_different_requests_have_different_digests(one: ApprovalRequest, other: ApprovalRequest) -> None:
    """A digest stands for all of a request."""
    assert (one == other) == (one.digest() == other.digest())


@pytest.mark.parametrize(
    "changes",
    [
        {"agent_id": "codex"},
        {"run_id": "run-2"},
        {"run_key": bytes([1]) * 32},
        {"names": ("openai.api_key", "github.read_token")},
        {"action": "put"},
        {"purpose": "something else"},
        {"task": None},
        {"policy": "e" * 64},
        {"rule": "policy.yaml:6"},
        {"approvers": ("leads",)},
        {"quorum": 2},
        {"grant": "run"},
        {"asked_at": NOW + 1},
        {"expires_at": NOW + 1},
        {"request_id": bytes([1]) * 16},
        {"asked_today": 1},
        {"worker": "worker-2"},
    ],
)
def test_a_decision_is_about_every_field_of_its_request(changes: dict[str, object]) -> None:
    """What was approved is what is released: the same decision on anything else does not count."""
    assert fault(ALICE.decide(ASKED)) is None
    assert fault(ALICE.decide(ASKED), asked=request(**changes)) == "other_request"


@given(st.data())
def test_a_changed_byte_of_a_signed_request_never_opens(data: st.DataObject) -> None:
    """Nobody but the broker asks people."""
    raw = bytearray(sign_request(ASKED, SECRET))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        open_request(bytes(raw), PUBLIC)


def test_a_request_of_another_broker_is_forged() -> None:
    """By its signature."""
    _, secret = sodium.crypto_sign_seed_keypair(bytes([1]) * 32)
    with pytest.raises(WireError) as caught:
        open_request(sign_request(ASKED, secret), PUBLIC)
    assert caught.value.reason == "forged"


@pytest.mark.parametrize("decision", [TERMINAL, BROWSER])
def test_a_decision_comes_back_as_it_was(decision: Decision) -> None:
    """Of either kind, alone and as the queue carries it."""
    assert decode_decision(encode_decision(decision)) == decision
    message = decode_control(decision_message(decision))
    assert (message.kind, decode_decision(message.body)) == ("decision", decision)


def test_a_revocation_is_told_from_a_decision() -> None:
    """By its kind; its body is signed by itself."""
    message = decode_control(revocation_message(b"signed"))
    assert (message.kind, message.body) == ("revocation", b"signed")


@given(st.sampled_from([TERMINAL, BROWSER]), st.data())
def test_a_changed_byte_of_a_decision_never_counts(decision: Decision, data: st.DataObject) -> None:
    """Verdict, approver, time and reason are signed, and so is everything that a browser adds."""
    alice = EVERYBODY.people["alice"]
    known = Approvers({"alice": dataclasses.replace(alice, keys=(*alice.keys, DEVICE.key))}, EVERYBODY.origins)
    assert fault(decision, known) is None
    raw = bytearray(encode_decision(decision))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode_decision(bytes(raw))
    except WireError:
        return
    assert fault(changed, known) is not None


@given(st.binary(max_size=200))
def test_made_up_bytes_are_refused(raw: bytes) -> None:
    """With our own error, and no other."""
    for read in (decode_decision, decode_control, lambda raw: open_request(raw, PUBLIC)):
        with pytest.raises(WireError):
            read(raw)


@pytest.mark.parametrize(
    ("decision", "slug"),
    [
        (replace(ALICE.decide(ASKED), verdict="deny"), "bad_signature"),
        (replace(ALICE.decide(ASKED), approver="bob"), "bad_signature"),
        (replace(ALICE.decide(ASKED), decided_at=NOW + 1), "bad_signature"),
        (replace(ALICE.decide(ASKED), reason="fine"), "bad_signature"),
        (replace(ALICE.decide(ASKED), approver="mallory"), "unknown_approver"),
        (replace(ALICE.decide(ASKED), proof=BROWSER.proof), "bad_signature"),
        (BROWSER, "bad_signature"),
    ],
)
def test_a_decision_counts_only_as_it_was_signed(decision: Decision, slug: str) -> None:
    """By a key of the person's own, of the kind that approvers.yaml says."""
    assert fault(decision) == slug


def test_a_person_of_another_group_may_not_decide() -> None:
    """Even with a good signature."""
    assert fault(ALICE.decide(ASKED), asked=request(approvers=("leads",))) == "other_request"
    asked = request(approvers=("leads",))
    assert fault(ALICE.decide(asked), asked=asked) == "not_an_approver_of_this"
    assert fault(ALICE.decide(asked), asked=request(approvers=("leads",))) == "not_an_approver_of_this"


def test_a_person_may_be_named_in_place_of_a_group() -> None:
    """The policy may say `approvers: [alice]`."""
    asked = request(approvers=("alice",))
    assert fault(ALICE.decide(asked), asked=asked) is None
    assert fault(BOB.decide(asked), asked=asked) == "not_an_approver_of_this"


def test_a_key_of_the_wrong_length_verifies_nothing() -> None:
    """The binding would read past it."""
    short = Approvers({"alice": dataclasses.replace(EVERYBODY.people["alice"], keys=(Ed25519Key(b""),))})
    assert fault(ALICE.decide(ASKED), short) == "bad_signature"
