"""Letting a person at the command line into the dashboard that runs; nothing of its pages is loaded for that."""

import time
from pathlib import Path

from filelock import FileLock, Timeout

from broker_worker.core.errors import SetupError
from broker_worker.dashboard.links import Links
from broker_worker.private_files import read_private
from broker_worker.settings import Settings

_MAX_ADDRESS = 1024


def shared_folder(settings: Settings) -> Path:
    """Where the dashboard and the command line leave each other word."""
    return settings.state_dir / "dashboard"


def make_link(settings: Settings) -> str:
    """A fresh one-time login link of the dashboard that runs.

    Raises:
        SetupError: if none runs on this installation.
    """
    folder = shared_folder(settings)
    if not folder.is_dir():
        raise _none_runs(settings)
    lock = FileLock(folder / "running.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        origin = read_private(folder / "address", "the dashboard's address", _MAX_ADDRESS, hint="is it starting?")
        return link_of(settings, origin.decode())
    lock.release()
    raise _none_runs(settings)


def _none_runs(settings: Settings) -> SetupError:
    hint = (
        "`secret-broker up` or `secret-broker dashboard` starts it; is it the right home (--home, SECRET_BROKER_HOME)?"
    )
    return SetupError(f"no dashboard of {settings.home} is running", hint=hint)


def link_of(settings: Settings, origin: str) -> str:
    """A fresh one-time login link of a dashboard that is visited at `origin`.

    Raises:
        SetupError: if it cannot be stored.
    """
    return f"{origin}/login?token={Links(shared_folder(settings)).make(time.time_ns() // 1_000_000)}"
