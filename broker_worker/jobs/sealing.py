"""What a job is about, sealed and authenticated: whoever owns the queue reads nothing and can write no job.

XChaCha20-Poly1305 with a key derived from keys/jobs.key. The associated data names the queue and the job's id, so a
job that is moved to another queue, or copied under another id, does not open. rq would unpickle; it is handed a
serializer that refuses, so that no path of it reads what stands on the queue.
"""

import hashlib
import secrets
from typing import Annotated, Final, Literal, NoReturn

from msgspec import Meta, Struct

from agent_sdk.wire import aead
from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import Time
from broker_worker.jobs.payloads import MAX_PAYLOAD

MAX_SEALED: Final = MAX_PAYLOAD + 1024
"""Largest sealed job, bytes."""
_VERSION = b"\x01"
_TAG = b"secret-broker job v1\x00"
_PERSON = b"sb1 job"


class SealedCall(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a job says once it is open.

    Args:
        version: of this layout.
        name: the kind of job.
        issued_at: when it was handed over, ms since the epoch.
        payload: canonical bytes of what it is about.
    """

    version: Literal[1]
    name: Annotated[str, Meta(max_length=64)]
    issued_at: Time
    payload: Annotated[bytes, Meta(max_length=MAX_PAYLOAD)]


_CALL = Codec(SealedCall, "job", MAX_PAYLOAD + 256)


class JobSealer:
    """Seals and opens jobs.

    Args:
        jobs_key: the 32 bytes of keys/jobs.key.
    """

    def __init__(self, jobs_key: bytes) -> None:
        self._key = hashlib.blake2b(b"", digest_size=aead.KEY_BYTES, key=jobs_key, person=_PERSON).digest()

    def seal(self, name: str, payload: bytes, *, queue: str, job_id: str, now: int) -> bytes:
        """Seal a job.

        Args:
            name: the kind of job.
            payload: canonical bytes of what it is about.
            queue: the rq queue that it goes to.
            job_id: the id that it has there.
            now: the time, ms since the epoch.

        Returns:
            A version, a random nonce and the ciphertext.
        """
        call = _CALL.encode(SealedCall(1, name, now, payload))
        nonce = secrets.token_bytes(aead.NONCE_BYTES)
        return _VERSION + nonce + aead.encrypt(call, _aad(queue, job_id), nonce, self._key)

    def open(self, sealed: bytes, *, queue: str, job_id: str) -> SealedCall:
        """Open a job that was found on a queue.

        Raises:
            WireError: `too_large`, `not_sealed` if it is nothing that `seal` made (a pickle, for example), `forged` if
                the broker did not write it, or not for this queue and id.
        """
        if len(sealed) > MAX_SEALED:
            raise WireError(f"job of {len(sealed)} bytes", code=Code.TOO_LARGE, reason="too_large")
        start = len(_VERSION) + aead.NONCE_BYTES
        if sealed[: len(_VERSION)] != _VERSION or len(sealed) < start + aead.TAG_BYTES:
            raise WireError("job: not sealed", reason="not_sealed")
        call = aead.decrypt(sealed[start:], _aad(queue, job_id), sealed[len(_VERSION) : start], self._key)
        if call is None:
            raise WireError("job: not written by this broker for this queue and id", reason="forged")
        return _CALL.decode(call)


def _aad(queue: str, job_id: str) -> bytes:
    return _TAG + queue.encode() + b"\x00" + job_id.encode()


class RefusingSerializer:
    """The serializer that rq is given: it neither reads nor writes anything."""

    @staticmethod
    def dumps(_value: object, /) -> NoReturn:
        """Refuse.

        Raises:
            WireError: always.
        """
        raise WireError("only the broker's own sealing writes jobs", reason="not_sealed")

    @staticmethod
    def loads(_raw: bytes, /) -> NoReturn:
        """Refuse.

        Raises:
            WireError: always.
        """
        raise WireError("only the broker's own sealing reads jobs", reason="not_sealed")
