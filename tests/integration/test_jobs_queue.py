"""Handing jobs over: at once, in any trouble, and to the worker that does them."""

import time
from collections.abc import Iterator

import pytest
from jobs_workbench import JOBS_KEY, NOTICE, Bench
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from broker_worker.jobs import queue as queue_module
from broker_worker.jobs import sealed_job
from broker_worker.jobs.payloads import NOTIFICATIONS, REVOKE_UPSTREAM, UPSTREAM
from broker_worker.jobs.queue import RqJobQueue
from broker_worker.jobs.sealed_job import SealedQueue
from broker_worker.ports import JobQueue


@pytest.fixture
def bench(valkey_url: str) -> Iterator[Bench]:
    """An empty queue."""
    made = Bench(valkey_url)
    yield made
    made.redis.close()


def test_what_is_handed_over_is_done(bench: Bench) -> None:
    """By the process that serves that kind of job."""
    jobs: JobQueue = RqJobQueue(bench.url, JOBS_KEY, bench.now)
    jobs.enqueue("notify_approval", NOTICE)
    jobs.enqueue("revoke_upstream", {"scheme": "db", "upstream_lease": "lease/1"})
    assert isinstance(jobs, RqJobQueue)
    jobs.close()
    assert bench.redis.llen(f"rq:queue:{UPSTREAM}") == 1
    bench.work()
    assert len(bench.ran) == 1
    upstream = Bench(bench.url)
    upstream.queue = SealedQueue(UPSTREAM, upstream.redis)
    upstream.work(upstream.function(REVOKE_UPSTREAM))
    assert [each.upstream_lease for each in upstream.ran] == ["lease/1"]
    assert bench.refused() == {}
    upstream.redis.close()


@pytest.mark.parametrize(("job", "payload"), [("os.system", {}), ("notify_approval", {"value": "hunter2hunter2"})])
def test_a_job_that_nobody_would_do_is_dropped_and_logged(
    bench: Bench, job: str, payload: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is raised into the pipeline, and the payload is not repeated."""
    jobs = RqJobQueue(bench.url, JOBS_KEY, bench.now)
    jobs.enqueue(job, payload)
    jobs.close()
    assert bench.left() == []
    logged = capsys.readouterr()
    assert "job_dropped" in logged.out + logged.err
    assert "hunter2" not in logged.out + logged.err


def test_a_queue_that_is_away_neither_holds_up_nor_loses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller goes on at once; the job is handed over when the queue is back."""
    add, away = SealedQueue.add, [RedisConnectionError("away")] * 3

    def sometimes(self: SealedQueue, *arguments: object) -> None:
        if away:
            raise away.pop()
        add(self, *arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(SealedQueue, "add", sometimes)
    monkeypatch.setattr(queue_module, "_PAUSES", (0.01,))
    jobs = RqJobQueue(bench.url, JOBS_KEY, bench.now)
    jobs.enqueue("notify_approval", NOTICE)
    jobs.close()
    assert bench.redis.llen(f"rq:queue:{NOTIFICATIONS}") == 1


def test_a_reply_that_was_lost_does_not_double_a_job(bench: Bench) -> None:
    """Handed over again under its id, it stands there once."""
    bench.add()
    bench.add()
    bench.work()
    assert len(bench.ran) == 1
    assert bench.refused() == {}


def test_too_many_waiting_jobs_are_dropped_and_logged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory is bounded while the queue is away, and the end says what was lost."""

    def away(self: SealedQueue, *_arguments: object) -> None:
        raise RedisConnectionError("away")

    monkeypatch.setattr(SealedQueue, "add", away)
    monkeypatch.setattr(queue_module, "MAX_WAITING", 4)
    jobs = RqJobQueue(bench.url, JOBS_KEY, bench.now)
    for _ in range(10):
        jobs.enqueue("notify_approval", NOTICE)
    jobs.close(0.05)
    logged = capsys.readouterr()
    assert "too_many_wait" in logged.out + logged.err
    assert "until the end" in logged.out + logged.err


def test_a_job_that_nobody_does_ends_by_itself(bench: Bench) -> None:
    """A notification has a time to live, a revocation stays until it is done."""
    jobs = RqJobQueue(bench.url, JOBS_KEY, bench.now)
    jobs.enqueue("notify_approval", NOTICE)
    jobs.enqueue("revoke_upstream", {"scheme": "db", "upstream_lease": "lease/1"})
    jobs.close()
    lives = sorted(bench.redis.ttl(key) for key in bench.redis.keys("rq:job:*"))
    assert lives[0] == -1
    assert 80_000 < lives[1] <= 86_400


def test_a_queue_that_nobody_serves_does_not_grow_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest notifications go first; a revocation is never dropped."""
    monkeypatch.setattr(sealed_job, "MAX_QUEUED", 2)
    for number in range(4):
        bench.add(f"job-{number}")
        SealedQueue(UPSTREAM, bench.redis).add(b"sealed", f"job-up-{number}", None)
    assert bench.redis.lrange(bench.queue.key, 0, -1) == [b"job-2", b"job-3"]
    assert bench.redis.llen(f"rq:queue:{UPSTREAM}") == 4


def test_the_end_is_reached_when_the_queue_never_was(tmp_path: object) -> None:
    """Closing takes no longer than it is given."""
    jobs = RqJobQueue(f"unix://{tmp_path}/no.sock", JOBS_KEY, lambda: time.time_ns() // 1_000_000)
    jobs.enqueue("notify_approval", NOTICE)
    jobs.close(0.05)
    assert not jobs._thread.is_alive()
    assert isinstance(jobs._connection, Redis)
