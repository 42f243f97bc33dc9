"""Checks of this host: folders and modes, keys, the operator's files, the audit's disk, memory protection."""

import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from agent_sdk.wire.sealing import run_public_key
from broker_worker.cli.doctor.check import Check, failed, ok, warn
from broker_worker.core.configuration import Configuration
from broker_worker.core.lint import lint
from broker_worker.files.keys import ISSUER, QUEUE, load_broker_keys, load_seed
from broker_worker.private_files import sync_folder
from broker_worker.queue.embedded import server_binary
from broker_worker.settings import Settings

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SHARED_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FEW_BYTES, _NO_BYTES = 1024**3, 64 * 1024**2
_OLD_INTAKE_DAYS = 90
_DAY_MS = 86_400_000
_SLOW_SYNC_MS = 50
_SYNCS = 5

# A process of its own says what a worker's protection really does on this system.
_PROBE = """
import ctypes, resource, sys
from broker_worker.app.hardening import harden
harden()
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) if sys.platform == "linux" else 0
sys.exit(0 if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) and dumpable == 0 else 3)
"""


def check_version(_settings: Settings) -> Iterator[Check]:
    """Which version runs."""
    yield ok("version", f"secret-broker {version('secret-broker')}, Python {platform.python_version()}")


def check_server(settings: Settings) -> Iterator[Check]:
    """Whether there is a server to embed, where none is given."""
    if settings.redis_url is None:
        binary = server_binary()
        shown = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603  # the binary that `up` starts
        words = [word for word in shown.stdout.split() if word.startswith("v=")]
        yield ok("server", f"embedded: {binary.name} {words[0][2:] if words else 'of unknown version'}")


def check_home(settings: Settings) -> Iterator[Check]:
    """Whether there is an installation, and nobody else can exchange or read what is in it."""
    home = settings.home
    if not settings.keys_dir.is_dir():
        yield failed("home", f"there is no installation in {home}", "run `secret-broker init`, or give --home")
        return
    yield ok("home", str(home))
    if os.name != "posix":
        yield warn("file modes", "this system has no POSIX modes", "see that only the broker's user can read the home")
        return
    yield from _check_modes(settings)


def _check_modes(settings: Settings) -> Iterator[Check]:
    private = (settings.keys_dir, settings.vault_file.parent, settings.audit_dir, settings.state_dir, settings.run_dir)
    paths = [path for folder in private if folder.exists() for path in (folder, *folder.rglob("*"))]
    wrong = [path for path in paths if not path.is_symlink() and path.stat().st_mode & _OTHERS]
    readable = (settings.home, settings.config_dir, *settings.config_dir.glob("*.yaml"))
    wrong += [path for path in readable if path.exists() and path.stat().st_mode & _SHARED_WRITE]
    strangers = [path for path in paths if path.lstat().st_uid not in {os.geteuid(), 0}]
    if wrong:
        hint = f"chmod -R go-rwx '{wrong[0] if wrong[0].is_file() else settings.home}'"
        yield failed("file modes", f"open to other users: {_some(wrong)}", hint)
    elif strangers:
        yield failed("file modes", f"belongs to another user: {_some(strangers)}", "run as the broker's own user")
    else:
        yield ok("file modes", f"{len(paths)} files and folders are closed to other users")


def _some(paths: list[Path]) -> str:
    more = f" and {len(paths) - 2} more" if len(paths) > 2 else ""
    return ", ".join(str(path) for path in paths[:2]) + more


def check_keys(settings: Settings, configuration: Configuration | None) -> Iterator[Check]:
    """Whether every key loads, the intake key is not old, and this installation's issuer is believed."""
    keys = load_broker_keys(settings.keys_dir)
    load_seed(settings.keys_dir / QUEUE)
    age = (time.time_ns() // 1_000_000 - keys.intake[0].created_at) // _DAY_MS
    detail = f"identity and queue keys load; the intake key is {age} days old, {len(keys.intake) - 1} older ones count"
    if age > _OLD_INTAKE_DAYS:
        yield warn("keys", detail, "rotate it: `secret-broker keys rotate`")
    else:
        yield ok("keys", detail)
    issuer = settings.keys_dir / ISSUER
    if not issuer.exists():
        yield ok("issuer", "no issuer key here: runs are launched elsewhere")
    elif configuration is not None:
        yield _check_issuer(run_public_key(load_seed(issuer)), configuration)


def _check_issuer(public: bytes, configuration: Configuration) -> Check:
    anchor = next((anchor for anchor in configuration.anchors if anchor.public_key == public), None)
    if anchor is None:
        hint = "put its public half (`secret-broker keys show`) there, or remove keys/issuer.key"
        return warn("issuer", "issuers.yaml does not list keys/issuer.key, so `launch` mints runs in vain", hint)
    return ok(
        "issuer", f"{anchor.issuer}, for {len(anchor.agents)} agents, at most {anchor.max_lifetime // 60} min a run"
    )


def check_policy(configuration: Configuration) -> Iterator[Check]:
    """What the linter says of the files, which are valid."""
    found = lint(configuration, time.time_ns() // 1_000_000)
    size = f"agents: {len(configuration.policy.agents)}, secrets: {len(configuration.registry)}"
    if found:
        where = f"{found[0].origin}: " if found[0].origin else ""
        detail = f"{size}, warnings: {len(found)}, the first: {where}{found[0].message}"
        yield warn("configuration", detail, "all of them: `secret-broker policy check`")
    else:
        yield ok("configuration", f"{size}, policy {configuration.policy.digest[:16]}")


def check_audit(settings: Settings) -> Iterator[Check]:
    """Whether a record can be written and synced, how long that takes, and whether there is room."""
    folder = settings.audit_dir if settings.audit_dir.exists() else settings.home
    if not folder.is_dir():
        yield failed("audit", f"{folder} does not exist", "run `secret-broker init`")
        return
    probe = folder / f".doctor-{os.getpid()}"
    times = []
    try:
        with probe.open("xb", buffering=0) as file:
            for _ in range(_SYNCS):
                began = time.monotonic()
                file.write(b"x" * 512)
                os.fsync(file.fileno())
                times.append((time.monotonic() - began) * 1000)
        sync_folder(folder)
    except OSError as error:
        hint = "check its owner, mode and free space: without an audit record nothing is released"
        yield failed("audit", f"{folder} takes no records: {error.strerror}", hint)
        return
    finally:
        probe.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    median = sorted(times)[_SYNCS // 2]
    detail = f"{folder} takes records; a sync takes {median:.1f} ms; {free / 1024**3:.1f} GiB free"
    if free < _NO_BYTES:
        yield failed("audit", detail, "free some space: without an audit record nothing is released")
    elif free < _FEW_BYTES:
        yield warn("audit", detail, "free some space: without an audit record nothing is released")
    elif median > _SLOW_SYNC_MS:
        yield warn("audit", detail, "every batch waits for a sync: use a faster disk")
    else:
        yield ok("audit", detail)


def check_memory(_settings: Settings) -> Iterator[Check]:
    """Whether the protection that a worker gives itself works here."""
    if sys.platform == "win32":
        yield warn("memory", "Windows lets this user's other programs read a worker's memory", "use an own user")
        return
    probe = subprocess.run([sys.executable, "-c", _PROBE], stderr=subprocess.DEVNULL, timeout=30, check=False)  # noqa: S603  # our own interpreter
    if probe.returncode != 0:
        yield failed(
            "memory", "a worker cannot switch off its core dumps", "see `ulimit -H -c` and the sandbox's rules"
        )
    elif sys.platform == "linux":
        yield ok("memory", "workers switch off core dumps and tracing for themselves")
    else:
        yield ok("memory", "workers switch off core dumps for themselves")
