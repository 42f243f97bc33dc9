"""What the job process tells: a stream of authenticated reports, which a worker writes into the audit.

The job process has no audit chain and no key to sign one; it proves with a MAC under its own key that a report is its
own. Whoever owns the queue can withhold or repeat a report, but make none; a repeated one has the same `report_id`.
"""

import hashlib
import secrets
from hmac import compare_digest
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from agent_sdk.wire.audit import AuditRecord, format_time
from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import Time

MAX_REPORT: Final = 1024
"""Largest report, bytes."""
_PERSON_KEY = b"sb1 job rep key"
_PERSON = b"sb1 job report"
_MAC_BYTES = 32


class Report(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One thing that happened in a job process.

    Args:
        event: `notified` (delivered, or given up) or `job_refused`.
        report_id: 16 random bytes.
        at: when, ms since the epoch.
        approval_id: what the notification was about.
        outcome: `granted` if it was delivered, `refused` if it was given up.
        reason: the target and, if it was given up, why; or why jobs were refused.
        count: how many jobs were refused for that reason.
    """

    event: Literal["notified", "job_refused"]
    report_id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    at: Time
    approval_id: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")] | None = None
    outcome: Literal["granted", "refused"] | None = None
    reason: Annotated[str, Meta(max_length=128)] | None = None
    count: Annotated[int, Meta(ge=1)] | None = None

    def record(self) -> AuditRecord:
        """The audit record that says so."""
        return AuditRecord(
            v=1,
            event=self.event,
            timestamp=format_time(self.at),
            approval_id=self.approval_id,
            outcome=self.outcome,
            reason=self.reason,
            count=self.count,
        )


class _Signed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: Annotated[bytes, Meta(max_length=MAX_REPORT)]
    mac: Annotated[bytes, Meta(min_length=_MAC_BYTES, max_length=_MAC_BYTES)]


_REPORT = Codec(Report, "report", MAX_REPORT)
_SIGNED = Codec(_Signed, "signed report", MAX_REPORT + 64)


def report_key(jobs_key: bytes) -> bytes:
    """The key that authenticates reports, derived from the 32 bytes of keys/jobs.key."""
    return hashlib.blake2b(b"", digest_size=32, key=jobs_key, person=_PERSON_KEY).digest()


def make_report(event: Literal["notified", "job_refused"], now: int, **fields: Any) -> Report:
    """A new report; `fields` are those of `Report`."""
    return Report(event, secrets.token_bytes(16), now, **fields)


def encode_report(report: Report, key: bytes) -> bytes:
    """The bytes that go onto `sb:reports`.

    Args:
        report: what happened.
        key: from `report_key`.
    """
    body = _REPORT.encode(report)
    return _SIGNED.encode(_Signed(body, _mac(body, key)))


def decode_report(raw: bytes, key: bytes) -> Report:
    """Read what stands on `sb:reports`.

    Args:
        raw: an entry's bytes.
        key: from `report_key`.

    Raises:
        WireError: if it is not canonical; reason `forged` if our job process did not write it.
    """
    signed = _SIGNED.decode(raw)
    if not compare_digest(_mac(signed.body, key), signed.mac):
        raise WireError("report: not written by our job process", reason="forged")
    return _REPORT.decode(signed.body)


def _mac(body: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_MAC_BYTES, key=key, person=_PERSON).digest()
