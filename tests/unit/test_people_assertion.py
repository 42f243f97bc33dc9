"""Assertions of authenticators: what a real one signs counts, and nothing else does."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from software_authenticator import ORIGIN, SoftwareAuthenticator

from broker_worker.core.approvals import WebAuthnProof
from broker_worker.people.assertion import check_assertion

CHALLENGE = bytes(range(32))
ORIGINS = ("https://broker.example", ORIGIN)
DEVICE = SoftwareAuthenticator()
PROOF = DEVICE.sign(CHALLENGE)


def check(proof: WebAuthnProof, device: SoftwareAuthenticator = DEVICE) -> bool:
    """Whether the proof counts for the device's key."""
    return check_assertion(proof, device.key, CHALLENGE, ORIGINS)


def test_an_authenticator_s_signature_over_the_challenge_counts() -> None:
    """From any of the origins."""
    assert check(DEVICE.sign(CHALLENGE))
    assert check(DEVICE.sign(CHALLENGE, origin="https://broker.example"))


@pytest.mark.parametrize("count", [0, 1, 2**32 - 1])
def test_any_signature_counter_will_do(count: int) -> None:
    """Platform authenticators leave it at 0, others count."""
    device = SoftwareAuthenticator(sign_count=count)
    assert check(device.sign(CHALLENGE), device)


@pytest.mark.parametrize(
    "proof",
    [
        DEVICE.sign(bytes(32)),
        DEVICE.sign(CHALLENGE, flags=0x01),
        DEVICE.sign(CHALLENGE, flags=0x04),
        DEVICE.sign(CHALLENGE, origin="http://localhost:7711"),
        DEVICE.sign(CHALLENGE, origin="http://localhost:7710.evil.example"),
        DEVICE.sign(CHALLENGE, origin=None),
        DEVICE.sign(CHALLENGE, type="webauthn.create"),
        DEVICE.sign(CHALLENGE, type="payment.get"),
        DEVICE.sign(CHALLENGE, crossOrigin=True),
        DEVICE.sign(CHALLENGE, challenge=None),
        SoftwareAuthenticator(credential_id=DEVICE.credential_id).sign(CHALLENGE),
        SoftwareAuthenticator(private=DEVICE.private).sign(CHALLENGE),
        SoftwareAuthenticator("evil.example", 0, DEVICE.credential_id, DEVICE.private).sign(CHALLENGE),
        replace(DEVICE.sign(CHALLENGE), client_data_json=b"[]"),
        replace(DEVICE.sign(CHALLENGE), client_data_json=b"[" * 4000),
        replace(DEVICE.sign(CHALLENGE), client_data_json=b"\xff"),
        replace(DEVICE.sign(CHALLENGE), authenticator_data=bytes(37)),
        replace(DEVICE.sign(CHALLENGE), authenticator_data=b"\xff" * 4096),
        replace(DEVICE.sign(CHALLENGE), signature=b"0"),
    ],
    ids=[
        "another challenge",
        "the user was not verified",
        "the user was not present",
        "another port",
        "another host",
        "no origin",
        "a registration",
        "a payment",
        "in a foreign frame",
        "no challenge",
        "another key",
        "another credential",
        "another relying party",
        "no object",
        "nested too deeply",
        "not UTF-8",
        "empty authenticator data",
        "endless authenticator data",
        "no signature",
    ],
)
def test_whatever_is_not_such_a_signature_does_not_count(proof: WebAuthnProof) -> None:
    """It is refused and raises nothing."""
    assert check(proof) is False


@given(st.sampled_from(["authenticator_data", "client_data_json", "signature"]), st.data())
def test_a_changed_byte_anywhere_is_refused(field: str, data: st.DataObject) -> None:
    """All that a proof holds is signed or is the signature."""
    raw = bytearray(getattr(PROOF, field))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert not check(replace(PROOF, **{field: bytes(raw)}))


def test_without_origins_nothing_counts() -> None:
    """A configuration that names none lets nobody decide in a browser."""
    assert not check_assertion(DEVICE.sign(CHALLENGE), DEVICE.key, CHALLENGE, ())


def test_a_damaged_key_verifies_nothing() -> None:
    """approvers.yaml may hold any bytes."""
    for public in (b"\x04", b"\xa0", b"\xff", DEVICE.cose[:-1]):
        key = dataclasses.replace(DEVICE.key, public=public)
        assert not check_assertion(DEVICE.sign(CHALLENGE), key, CHALLENGE, ORIGINS)


def test_the_library_is_loaded_only_when_an_assertion_is_checked() -> None:
    """A worker without such approvers does not pay for it."""
    script = (
        "import sys, broker_worker.people.assertion; sys.exit(any(m in sys.modules for m in ('webauthn', 'cbor2')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
