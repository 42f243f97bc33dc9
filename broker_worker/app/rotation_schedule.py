"""The process that rotates secrets when their time has come: by rq, a job each."""

import asyncio
import gc
import hashlib
from collections.abc import Callable, Iterator
from functools import partial

import structlog

from broker_worker.app.clock import SystemClock
from broker_worker.app.hardening import harden
from broker_worker.app.rotating import Progress, RotationFailedError, rotate_if_due
from broker_worker.core.errors import BrokerError
from broker_worker.core.rotation import RotationRule, RotationState, due_at
from broker_worker.files.configuration import load_configuration
from broker_worker.jobs.payloads import ROTATE, ROTATIONS
from broker_worker.jobs.rotating import Rotating
from broker_worker.jobs.serving import JobProcess
from broker_worker.settings import Settings
from broker_worker.state.rotation_file import FirstSeen, RotationFile

LOOK_EVERY_MS = 30_000
"""How often the schedule is looked at, ms."""
BY = "schedule"
"""Who orders a rotation that nobody ordered, for the audit."""
_log = structlog.get_logger(__name__)


class Schedule:
    """Says which secrets are due.

    Args:
        settings: the installation.
        now: the time, ms since the epoch.
    """

    def __init__(self, settings: Settings, now: Callable[[], int]) -> None:
        self._settings = settings
        self._now = now
        self._first_seen = FirstSeen(settings.rotations_dir)
        self._look_at = 0

    def is_due(self, name: str, state: RotationState | None) -> bool:
        """Whether a rotation is to be gone on with, or the next one to begin.

        A job that waited for old leases may find that somebody else retired them: then nothing is due any more.

        Raises:
            BrokerError: if the files cannot be read.
        """
        rules = self._rules()
        rule = rules.get(name)
        if rule is None:
            return False
        if state is not None and not state.is_over:
            return True
        now = self._now()
        at = due_at(rule, state, self._seen(rules, now).get(name, now))
        return at is not None and at <= now

    def due(self) -> Iterator[tuple[str, int]]:
        """The names that are due, and since when (ms since the epoch); nothing if it was looked a moment ago."""
        now = self._now()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_MS
        try:
            rules = self._rules()
        except BrokerError:
            return  # the workers say so
        try:
            seen = self._seen(rules, now)
        except BrokerError as error:
            _log.error("rotation_file", error=str(error), hint=error.hint)
            seen = {}
        for name, rule in rules.items():
            try:
                state = RotationFile(self._settings.rotations_dir, name).load()
            except BrokerError as error:
                _log.error("rotation_file", error=str(error), hint=error.hint)
                continue
            at = due_at(rule, state, seen.get(name, now))
            if at is not None and at <= now:
                yield name, at

    async def rotate(self, name: str) -> Progress | None:
        """Rotate a secret, or go on with that, if it is still due.

        Raises:
            BrokerError: as `rotate_if_due` does.
        """
        return await rotate_if_due(self._settings, name, BY, partial(self.is_due, name))

    def _rules(self) -> dict[str, RotationRule]:
        entries = load_configuration(self._settings.config_dir).registry
        return {name: entry.rotation for name, entry in entries.items() if entry.rotation is not None}

    def _seen(self, rules: dict[str, RotationRule], now: int) -> dict[str, int]:
        """Since when each secret with a schedule is known."""
        return self._first_seen.keep((name for name, rule in rules.items() if rule.every_seconds), now)


def serve_rotations(settings: Settings, url: str, jobs_key: bytes, *, until_stdin_ends: bool = False) -> None:
    """Rotate what is due until SIGTERM or SIGINT.

    Args:
        settings: where everything lives.
        url: the queue, with the user `jobs`.
        jobs_key: the 32 bytes of keys/jobs.key.
        until_stdin_ends: end as well when standard input does.

    Raises:
        BrokerError: if the queue is away.
    """
    harden()
    clock = SystemClock()
    schedule = Schedule(settings, clock.now)
    process = JobProcess(url, jobs_key, ROTATIONS, clock.now)
    loop = asyncio.new_event_loop()

    def go_on(name: str) -> float | None:
        try:
            progress = loop.run_until_complete(schedule.rotate(name))
        except RotationFailedError as error:
            _log.error("rotation_failed", secret_name=name, fault=error.fault)
            return None
        until = None if progress is None else progress.wait_until
        return None if until is None else max(1.0, (until - clock.now()) / 1000)

    def hand_over() -> None:
        for name, at in schedule.due():
            job_id = hashlib.sha256(f"rotate {name} {at}".encode()).hexdigest()[:32]  # found due again: the same job
            process.hand_over(ROTATE, {"name": name}, job_id)

    try:
        process.work(Rotating(go_on).functions(), until_stdin_ends=until_stdin_ends, each_turn=hand_over)
    finally:
        loop.close()
        gc.collect()  # what a provider's library left open ends with the loop, not at exit
