"""What one run is handed at launch: its identity token, its private key and where the broker is.

It comes, in this order of preference, through an inherited file descriptor (read once, then closed), a file that
only this user can read, or the environment. The broker's identity is pinned in it, so whoever hands it over decides
whom the run trusts.
"""

import base64
import os
import re
import select
import stat
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Annotated, Literal, NoReturn, Self, final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from agent_sdk.errors import CredentialInvalid, CredentialMissing
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import MAX_TOKEN, Time
from agent_sdk.wire.names import check_agent_id, check_run_id
from agent_sdk.wire.sealing import KEY_BYTES, run_exchange_public, run_public_key

DESCRIPTOR_VARIABLE = "SECRET_BROKER_CREDENTIAL_FD"
FILE_VARIABLE = "SECRET_BROKER_CREDENTIAL_FILE"
TEXT_VARIABLE = "SECRET_BROKER_CREDENTIAL"
MAX_BYTES = 64 * 1024
"""Longest credential that is read, in bytes."""
DESCRIPTOR_SECONDS = 5.0
"""How long a descriptor may keep us waiting."""

_STANDARD_ERROR = 2
_KEY = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$")]
_PASSWORD_OPTION = re.compile(r"([?&]\w*password=)[^&]*", re.IGNORECASE)
_PASSWORD_OF_USER = re.compile(r"(//[^:?#]*):.*@", re.DOTALL)
"""Up to the last `@`, as URLs are read, and over slashes too: a password that should have been escaped has them."""


class _Document(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JSON form."""

    v: Literal[1]
    agent_id: str
    run_id: str
    token: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN)]
    seed: _KEY
    broker: _KEY
    intake: _KEY
    queue_url: Annotated[str, Meta(min_length=1, max_length=2048)]
    expires_at: Time

    def __repr__(self) -> str:
        return "<credential document>"


_DECODER = msgspec.json.Decoder(_Document)


@final
class RunCredential:
    """All that one run needs to ask for secrets. `repr` shows neither its key, nor its token, nor a password.

    Args:
        agent_id: the agent, canonical.
        run_id: the run, canonical.
        token: the identity token, signed by an issuer that the broker trusts.
        seed: the run's Ed25519 seed, 32 bytes.
        broker: the broker's Ed25519 identity key, 32 bytes: only its answers count.
        intake: the broker's X25519 intake key, 32 bytes: requests are sealed to it.
        queue_url: `redis://`, `rediss://` or `unix://`, with the agent's user and password.
        expires_at: when the token is over, ms since the epoch.

    Raises:
        CredentialInvalid: if one of them cannot be used; the message names it and never shows it.
    """

    __slots__ = ("agent_id", "broker", "expires_at", "intake", "queue_url", "run_id", "seed", "token")

    def __init__(
        self,
        *,
        agent_id: str,
        run_id: str,
        token: str,
        seed: bytes,
        broker: bytes,
        intake: bytes,
        queue_url: str,
        expires_at: int,
    ) -> None:
        _check_types({"agent_id": agent_id, "run_id": run_id, "token": token, "queue_url": queue_url}, str, "a text")
        _check_types({"seed": seed, "broker": broker, "intake": intake}, bytes, "bytes")
        _check_types({"expires_at": expires_at}, int, "a number of ms")
        try:
            self.agent_id = check_agent_id(agent_id)
            self.run_id = check_run_id(run_id)
        except WireError as error:
            raise CredentialInvalid(f"run credential: {error}") from None
        for name, key in (("seed", seed), ("broker", broker), ("intake", intake)):
            if len(key) != KEY_BYTES:
                raise CredentialInvalid(f"run credential: {name} has {len(key)} bytes; expected {KEY_BYTES}")
        if _scheme(queue_url) not in ("redis", "rediss", "unix"):
            raise CredentialInvalid("run credential: queue_url must begin with redis://, rediss:// or unix://")
        self.token = token
        self.seed = seed
        self.broker = broker
        self.intake = intake
        self.queue_url = queue_url
        self.expires_at = expires_at

    @property
    def run_public_key(self) -> bytes:
        """The Ed25519 public key that the token is bound to."""
        return run_public_key(self.seed)

    @property
    def shown_queue_url(self) -> str:
        """The queue's URL with its password masked, fit for messages."""
        return _PASSWORD_OF_USER.sub(r"\1:***@", _PASSWORD_OPTION.sub(r"\1***", self.queue_url))

    def __repr__(self) -> str:
        return f"RunCredential(agent_id={self.agent_id!r}, run_id={self.run_id!r}, queue_url={self.shown_queue_url!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a run credential cannot be pickled or copied: hand it over with to_json()")

    def to_json(self) -> str:
        """The form in which it is handed over. It holds the run's private key."""
        document = _Document(
            v=1,
            agent_id=self.agent_id,
            run_id=self.run_id,
            token=self.token,
            seed=_b64(self.seed),
            broker=_b64(self.broker),
            intake=_b64(self.intake),
            queue_url=self.queue_url,
            expires_at=self.expires_at,
        )
        return msgspec.json.encode(document).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the form of `to_json`, strictly.

        Args:
            text: the JSON document, UTF-8 if bytes; at most 64 KiB.

        Raises:
            CredentialInvalid: if anything is missing, unknown or malformed.
        """
        document = _parse(text)
        credential = cls(
            agent_id=document.agent_id,
            run_id=document.run_id,
            token=document.token,
            seed=_unb64(document.seed),
            broker=_unb64(document.broker),
            intake=_unb64(document.intake),
            queue_url=document.queue_url,
            expires_at=document.expires_at,
        )
        try:
            run_exchange_public(credential.broker)
        except WireError:
            raise CredentialInvalid("run credential: broker is not an Ed25519 public key") from None
        return credential

    @classmethod
    def load(cls, environ: MutableMapping[str, str] | None = None) -> Self:
        """Take the credential that this run was handed.

        A descriptor is read once and closed; its variable, and a variable that holds the credential itself, are
        removed from the environment, so that child processes do not inherit them. Keep the result: a second call
        finds nothing more to take, unless it came from a file.

        Args:
            environ: where to look; `os.environ` if not given.

        Raises:
            CredentialMissing: if the run was handed none.
            CredentialInvalid: if what it was handed cannot be used, or others could have read it.
        """
        environ = os.environ if environ is None else environ
        text = environ.pop(TEXT_VARIABLE, None)
        if (number := environ.pop(DESCRIPTOR_VARIABLE, None)) is not None:
            return cls.from_json(_read_descriptor(number))
        if (path := environ.get(FILE_VARIABLE)) is not None:
            return cls.from_json(_read_file(path))
        if text is not None:
            return cls.from_json(text)
        raise CredentialMissing(
            "this run was handed no credential: start it with `secret-broker launch --agent NAME -- command`, "
            f"or set {FILE_VARIABLE}. A descriptor or variable is taken once: keep what RunCredential.load() returned"
        )


def _check_types(given: Mapping[str, object], kind: type, words: str) -> None:
    for name, value in given.items():
        if not isinstance(value, kind):
            raise CredentialInvalid(f"run credential: {name} is {words}; got {type(value).__name__}")


def _scheme(url: str) -> str:
    """The scheme of a URL. What urlsplit says of one that it refuses can repeat the password, so it ends here."""
    try:
        return urlsplit(url).scheme
    except ValueError:
        pass
    raise CredentialInvalid("run credential: queue_url cannot be understood; escape its password's special characters")


def _parse(text: str | bytes) -> _Document:
    if not isinstance(text, str | bytes):
        raise CredentialInvalid(f"run credential: expected its JSON text; got {type(text).__name__}")
    if len(text) > MAX_BYTES:
        raise CredentialInvalid(f"run credential: longer than {MAX_BYTES} bytes")
    try:
        return _DECODER.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        detail = str(error) if isinstance(error, msgspec.ValidationError) else "not valid JSON"
    # Raised out here because the error above may hold the text, which holds the key.
    raise CredentialInvalid(f"run credential: {detail}")


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=")


def _read_all(descriptor: int) -> bytes:
    """Read to the end, but no more than one byte over the limit, which is then refused."""
    end = time.monotonic() + DESCRIPTOR_SECONDS
    chunks: list[bytes] = []
    room = MAX_BYTES + 1
    while room and _readable(descriptor, end - time.monotonic()) and (chunk := os.read(descriptor, room)):
        chunks.append(chunk)
        room -= len(chunk)
    return b"".join(chunks)


def _readable(descriptor: int, seconds: float) -> bool:
    """Wait until a read would not block.

    Raises:
        TimeoutError: if that takes longer.
    """
    if sys.platform == "win32":
        return True  # has no poll; descriptors are not handed over there
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(max(0.0, seconds) * 1000):
        raise TimeoutError
    return True


def _read_descriptor(number: str) -> bytes:
    if not re.fullmatch(r"[0-9]{1,6}", number):
        raise CredentialInvalid(f"{DESCRIPTOR_VARIABLE} must be the number of an open descriptor")
    descriptor = int(number)
    try:
        text = _read_all(descriptor)
    except TimeoutError:
        raise CredentialInvalid(
            f"descriptor {number} was not written and closed at its other end within {DESCRIPTOR_SECONDS:g} s"
        ) from None
    except OSError as error:
        raise CredentialInvalid(
            f"descriptor {number} cannot be read ({error.strerror}): a process between the launcher and this one "
            "closed it; use `secret-broker launch --credential-file`"
        ) from None
    finally:
        if descriptor > _STANDARD_ERROR:  # the standard streams stay open, whatever the variable says
            _close(descriptor)
    if not text:
        raise CredentialInvalid(
            f"descriptor {number} holds nothing any more: another process of this run took the credential; "
            "where several ask, use `secret-broker launch --credential-file`"
        )
    return text


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        return  # it was not open; the read has said so


def _read_file(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise CredentialInvalid(f"credential file {path}: {error.strerror}") from None
    try:
        _check_private(path, os.fstat(descriptor))
        return _read_all(descriptor)
    except OSError as error:
        raise CredentialInvalid(f"credential file {path}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _check_private(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CredentialInvalid(f"credential file {path} is not a regular file")
    if os.name == "nt":
        return  # access lists, not modes, decide there
    if status.st_uid != os.geteuid():
        raise CredentialInvalid(f"credential file {path} belongs to user {status.st_uid}, not to {os.geteuid()}")
    if status.st_mode & 0o077:
        raise CredentialInvalid(
            f"credential file {path} has mode {stat.S_IMODE(status.st_mode):04o}, so others can read it: "
            f"mint a new one and keep it 0600"
        )
