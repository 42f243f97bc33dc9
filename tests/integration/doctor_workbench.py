"""An installation for doctor to look at, and what it says of it."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker_worker.cli.doctor import examine
from broker_worker.cli.doctor.check import Check
from broker_worker.cli.doctor.queue import check_queue
from broker_worker.cli.init import create_installation
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import QUEUE, load_seed
from broker_worker.queue.embedded import EmbeddedServer
from broker_worker.settings import Settings

NOW = 1_800_000_000_000
VARIABLES = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GITHUB_READ_TOKEN")


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A new installation whose secrets come from variables that are set; its path is short enough for a socket."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    for name in VARIABLES:
        monkeypatch.setenv(name, "sk-canary")
    home = Path(tempfile.mkdtemp(prefix="sb-"))
    settings = Settings.load(home)
    create_installation(settings, "env", NOW)
    yield settings
    shutil.rmtree(home)


def agents_of(settings: Settings) -> Iterable[str]:
    """The agents of the installation's policy."""
    return load_configuration(settings.config_dir).policy.agents


def server_of(settings: Settings) -> EmbeddedServer:
    """The installation's own server, to be started."""
    return EmbeddedServer(settings.run_dir, load_seed(settings.keys_dir / QUEUE), agents_of(settings))


def found(settings: Settings, name: str) -> Check:
    """The check of that name."""
    return next(check for check in examine(settings) if check.name == name)


def queue_checks(settings: Settings) -> dict[str, Check]:
    """The checks of the queue by name."""
    queue_key = load_seed(settings.keys_dir / QUEUE)
    return {check.name: check for check in check_queue(settings, queue_key, agents_of(settings))}
