"""Keys on disk: each in a file of its own that only its owner can read, in a folder that only its owner can enter.

A seed file holds one line, `SECRET-BROKER-KEY-1:` and 32 bytes in base64url; an intake key's line also holds the time
at which it was made. The prefix is there for secret scanners. Rotation of the intake key is what ends the life of
requests that somebody recorded: the old key is destroyed once its overlap is over.
"""

import base64
import os
import re
import secrets
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import nacl.bindings as sodium
from filelock import FileLock

from agent_sdk.wire.sealing import KEY_BYTES, key_id, run_public_key
from broker_worker.core.errors import SetupError
from broker_worker.private_files import create_private, make_private_folder, read_private, write_private

IDENTITY, ISSUER, QUEUE, VAULT, INTAKE = "identity.key", "issuer.key", "queue.key", "vault.key", "intake"
CONTROL, JOBS = "control.key", "jobs.key"
"""`control.key` signs revocations; `jobs.key` seals what background jobs are about."""
PUBLIC_IDENTITY, PUBLIC_CONTROL = "identity.pub", "control.pub"
"""Public halves, for programs that check what the broker or its operator signed and hold none of their keys."""

_SEED = re.compile(rb"SECRET-BROKER-KEY-1:([A-Za-z0-9_-]{43})\n?")
_INTAKE = re.compile(rb"SECRET-BROKER-INTAKE-1:([0-9]{1,13}):([A-Za-z0-9_-]{43})\n?")
_PUBLIC = re.compile(rb"SECRET-BROKER-PUBLIC-1:([A-Za-z0-9_-]{43})\n?")
_MAX_FILE = 256
_LOCK_SECONDS = 10.0
_MISSING = "restore it from a backup, or name the right home with --home; `secret-broker init` makes a new installation"


@dataclass(frozen=True, slots=True)
class IntakeKey:
    """An X25519 key that requests are sealed to.

    Args:
        key_id: the 8 bytes that name it in envelopes.
        secret: its secret half, 32 bytes.
        public: its public half, 32 bytes.
        created_at: when it was made, ms since the epoch.
    """

    key_id: bytes
    secret: bytes = field(repr=False)
    public: bytes
    created_at: int


@dataclass(frozen=True, slots=True)
class BrokerKeys:
    """What a worker needs to open requests and to be believed.

    Args:
        identity_seed: the seed of the broker's Ed25519 identity key, 32 bytes.
        identity_public: its public half, which every run credential pins.
        intake: the intake keys that still count, the newest first.
    """

    identity_seed: bytes = field(repr=False)
    identity_public: bytes
    intake: tuple[IntakeKey, ...]


def create_seed(path: Path) -> bytes:
    """Make a random 32-byte seed and store it.

    Args:
        path: a file that does not exist yet, in a folder that does.

    Returns:
        The seed.

    Raises:
        SetupError: if the file exists or cannot be written.
    """
    seed = secrets.token_bytes(KEY_BYTES)
    create_private(path, _seed_line(seed))
    return seed


def load_seed(path: Path) -> bytes:
    """Read a 32-byte seed.

    Raises:
        SetupError: if the file is missing, readable for others, somebody else's, or not a seed.
    """
    found = _SEED.fullmatch(read_private(path, "the key", _MAX_FILE, hint=_MISSING))
    if found is None:
        raise _not_a_key(path)
    return base64.urlsafe_b64decode(found[1] + b"=")


def ensure_seed(path: Path) -> bytes:
    """Read a 32-byte seed; make it first where an older installation has none. Safe for several processes at once.

    Args:
        path: the file, in a folder that exists.

    Raises:
        SetupError: if the file cannot be used, or there is none and it cannot be made.
    """
    if path.exists():
        return load_seed(path)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS, mode=0o600):
            if not path.exists():
                write_private(path, _seed_line(secrets.token_bytes(KEY_BYTES)))  # nobody reads a part of it
            return load_seed(path)
    except OSError as error:
        raise SetupError(
            f"{path} does not exist and cannot be made: {error.strerror or 'another process holds its lock'}",
            hint="check the folder's owner and mode",
        ) from error


def ensure_control_seed(keys_dir: Path, orders: Path) -> bytes:
    """Read the key that signs revocations; make it first where nothing was ever signed with one.

    Args:
        keys_dir: the folder with the keys.
        orders: the file of signed revocations. If it has any and the key is gone, a new key would undo all of them.

    Raises:
        SetupError: if there is no installation, if the key is missing though there are orders, or if it cannot be used
            or made.
    """
    path = keys_dir / CONTROL
    if not keys_dir.is_dir():  # an order that nobody reads must not look as if it were in force
        raise SetupError(
            f"there is no installation in {keys_dir.parent}: it has no folder `keys`",
            hint="name the home with --home or SECRET_BROKER_HOME; `secret-broker init` makes one",
        )
    # Another process may be making all this: the key comes first, so it is looked for last.
    if (keys_dir / PUBLIC_CONTROL).exists() and not path.exists():
        raise SetupError(
            f"{path} does not exist: this home has only the public half, which checks orders and gives none",
            hint="give orders where the key is; if it was lost, restore it from a backup",
        )
    if orders.exists() and orders.stat().st_size and not path.exists():
        raise SetupError(
            f"{path} does not exist, but {orders} holds orders that were signed with it",
            hint="restore the key from a backup; or move the orders away, give every one again, and see the audit",
        )
    is_new = not path.exists()
    seed = ensure_seed(path)
    public = keys_dir / PUBLIC_CONTROL
    try:
        _write_public(public, run_public_key(seed))
    except SetupError:
        if is_new or public.exists():
            raise  # else the folder takes nothing, as in a container; an order needs the key alone
    return seed


def control_public(keys_dir: Path, orders: Path) -> bytes:
    """What workers check revocations with, 32 bytes: the control key's public half, which they need no more than.

    Args:
        keys_dir: the folder with the key, or with its public half alone.
        orders: as in `ensure_control_seed`, which makes both where there is neither.

    Raises:
        SetupError: if what is there cannot be used, or nothing can be made.
    """
    if (keys_dir / CONTROL).exists():
        return run_public_key(load_seed(keys_dir / CONTROL))
    if (keys_dir / PUBLIC_CONTROL).exists():
        return _load_public(keys_dir / PUBLIC_CONTROL, "restore it, or keys/control.key")
    return run_public_key(ensure_control_seed(keys_dir, orders))


def known_control_public(keys_dir: Path) -> bytes | None:
    """The control key's public half, 32 bytes, for a program that only reads; None where there is none.

    Raises:
        SetupError: if what is there cannot be used.
    """
    if (keys_dir / PUBLIC_CONTROL).exists():
        return _load_public(keys_dir / PUBLIC_CONTROL, "restore it, or keys/control.key")
    return run_public_key(load_seed(keys_dir / CONTROL)) if (keys_dir / CONTROL).exists() else None


def create_broker_keys(keys_dir: Path, now: int) -> BrokerKeys:
    """Make the identity key, the first intake key, and the keys of issuer, queue, revocations and jobs.

    Args:
        keys_dir: the folder; made with mode 0700 if it is missing.
        now: the time, ms since the epoch.

    Raises:
        SetupError: if one of the keys exists already; nothing is overwritten.
    """
    make_private_folder(keys_dir)
    make_private_folder(keys_dir / INTAKE)
    for name in (IDENTITY, ISSUER, QUEUE, CONTROL, JOBS):
        create_seed(keys_dir / name)
    write_public_identity(keys_dir)
    _write_public(keys_dir / PUBLIC_CONTROL, run_public_key(load_seed(keys_dir / CONTROL)))
    _create_intake(keys_dir / INTAKE, now)
    return load_broker_keys(keys_dir)


def write_public_identity(keys_dir: Path) -> bytes:
    """Write the public half of the identity beside it, if it does not stand there already.

    Returns:
        The public half, 32 bytes.

    Raises:
        SetupError: if the identity cannot be read, or the file cannot be written.
    """
    public = run_public_key(load_seed(keys_dir / IDENTITY))
    _write_public(keys_dir / PUBLIC_IDENTITY, public)
    return public


def load_public_identity(keys_dir: Path) -> bytes:
    """The public half of the broker's identity, 32 bytes, read without the secret half.

    Raises:
        SetupError: if the file is missing, open to others or damaged.
    """
    return _load_public(keys_dir / PUBLIC_IDENTITY, "`secret-broker keys show` writes it")


def load_broker_keys(keys_dir: Path) -> BrokerKeys:
    """Read the identity key and every intake key.

    Raises:
        SetupError: if a key is missing, readable for others or damaged.
    """
    seed = load_seed(keys_dir / IDENTITY)
    intake = _load_intake_keys(keys_dir / INTAKE)
    if not intake:
        raise SetupError(f"{keys_dir / INTAKE} holds no intake key", hint="run `secret-broker keys rotate`")
    return BrokerKeys(seed, run_public_key(seed), intake)


def rotate_intake(keys_dir: Path, overlap_seconds: int, now: int) -> BrokerKeys:
    """Make a new intake key and destroy those whose overlap is over.

    A key's overlap begins when the next one is made. It should be no shorter than the longest run, because a run
    keeps the intake key that it was launched with.

    Args:
        keys_dir: the folder with the keys.
        overlap_seconds: how long a replaced key still opens requests; 0 destroys all older ones at once.
        now: the time, ms since the epoch.

    Returns:
        The keys from now on.

    Raises:
        SetupError: if the folder cannot be read or written.
    """
    folder = keys_dir / INTAKE
    make_private_folder(folder)
    newest = max((key.created_at for key in _load_intake_keys(folder)), default=now - 1)
    now = max(now, newest + 1)  # the new key is the newest even if the clock went back
    _create_intake(folder, now)
    for newer, key in pairwise(_load_intake_keys(folder)):
        if now - newer.created_at >= overlap_seconds * 1000:
            _destroy(folder / f"{key.key_id.hex()}.key")
    return load_broker_keys(keys_dir)


def _create_intake(folder: Path, now: int) -> None:
    public, secret = sodium.crypto_box_keypair()
    line = b"SECRET-BROKER-INTAKE-1:%d:%s\n" % (now, _base64url(secret))
    create_private(folder / f"{key_id(public).hex()}.key", line)


def _load_intake_keys(folder: Path) -> tuple[IntakeKey, ...]:
    keys = [_load_intake(path) for path in folder.glob("*.key")]
    return tuple(sorted(keys, key=lambda key: (key.created_at, key.key_id), reverse=True))


def _load_intake(path: Path) -> IntakeKey:
    found = _INTAKE.fullmatch(read_private(path, "the key", _MAX_FILE, hint=_MISSING))
    if found is None:
        raise _not_a_key(path)
    secret = base64.urlsafe_b64decode(found[2] + b"=")
    public = sodium.crypto_scalarmult_base(secret)
    if path.stem != key_id(public).hex():
        raise SetupError(
            f"{path} holds the intake key {key_id(public).hex()}, not the one that its name says",
            hint="restore the file from a backup, or remove it and run `secret-broker keys rotate`",
        )
    return IntakeKey(key_id(public), secret, public, int(found[1]))


def _write_public(path: Path, public: bytes) -> None:
    content = b"SECRET-BROKER-PUBLIC-1:" + _base64url(public) + b"\n"
    if not path.exists() or read_private(path, "the public key", _MAX_FILE, hint=_MISSING) != content:
        write_private(path, content)


def _load_public(path: Path, hint: str) -> bytes:
    found = _PUBLIC.fullmatch(read_private(path, "the public key", _MAX_FILE, hint=hint))
    if found is None:
        raise SetupError(f"{path} does not hold the public half of a key", hint=hint)
    return base64.urlsafe_b64decode(found[1] + b"=")


def _seed_line(seed: bytes) -> bytes:
    return b"SECRET-BROKER-KEY-1:" + _base64url(seed) + b"\n"


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _not_a_key(path: Path) -> SetupError:
    return SetupError(f"{path} does not hold a key of the form that `secret-broker init` writes", hint="restore it")


def _destroy(path: Path) -> None:
    """Overwrite and remove a key; on journalling and flash storage the overwriting is best effort."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
