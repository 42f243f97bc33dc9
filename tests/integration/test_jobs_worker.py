"""Jobs on a real server, with rq's own worker loop: what runs, what is tried again, and what is refused."""

import json
import os
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_workbench import JOBS_KEY, NOTICE, Bench
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue

from broker_worker.jobs.functions import Doing, JobFailedError, RetryPlan
from broker_worker.jobs.payloads import DELIVER, UPSTREAM
from broker_worker.jobs.sealing import MAX_SEALED, JobSealer
from broker_worker.queue.acl import user_url, users_of


@pytest.fixture
def bench(valkey_url: str) -> Iterator[Bench]:
    """An empty queue."""
    made = Bench(valkey_url)
    yield made
    made.redis.close()


class Exploit:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_job_runs_once_and_leaves_nothing_behind(bench: Bench) -> None:
    """It gets the payload that was handed over; its hash, its place and its result are gone."""
    bench.add()
    bench.work()
    assert [each.approval_id for each in bench.ran] == [NOTICE["approval_id"]]
    assert bench.left() == []
    bench.work()
    assert len(bench.ran) == 1


def test_what_stands_on_the_queue_says_nothing(bench: Bench) -> None:
    """Neither the kind of job nor a word of its payload can be read there."""
    bench.add()
    everything = str([bench.redis.hgetall(key) for key in bench.redis.keys("rq:job:*")])
    assert "data" in everything
    for word in ("claude", "stripe", "refund", "notify_", "run-7"):
        assert word not in everything


def test_a_failed_job_is_tried_again_after_growing_pauses(bench: Bench) -> None:
    """One second, then two; not before, and not once it is done."""
    bench.failures = [JobFailedError("http_500"), JobFailedError("http_500")]
    bench.add()
    bench.work()
    bench.work()
    assert len(bench.ran) == 1
    bench.shift = 1_100
    bench.work()
    assert len(bench.ran) == 2
    bench.shift = 2_500
    bench.work()
    assert len(bench.ran) == 2
    bench.shift = 3_500
    bench.work()
    assert len(bench.ran) == 3
    assert bench.left() == []
    assert bench.gave_up == []


def test_a_job_is_given_up_after_its_last_try(bench: Bench) -> None:
    """Its function is told why, and nothing of it stays."""
    bench.failures = [JobFailedError("http_500"), JobFailedError("http_503")]
    bench.add()
    for bench.shift in (0, 10_000, 20_000):
        bench.work(bench.function(plan=RetryPlan(1, 60, 2)))
    assert len(bench.ran) == 2
    assert bench.gave_up == ["http_503"]
    assert bench.left() == []


def test_a_failure_that_will_not_pass_is_not_tried_again(bench: Bench) -> None:
    """`again=False` gives up at once."""
    bench.failures = [JobFailedError("expired", again=False)]
    bench.add()
    bench.work()
    assert bench.gave_up == ["expired"]
    assert bench.left() == []


def test_a_plan_without_a_last_try_goes_on(bench: Bench) -> None:
    """The pause stops growing; the job is still there after a day of failures."""
    plan = RetryPlan(5, 3600, None)
    bench.failures = [JobFailedError("unreachable") for _ in range(40)]
    bench.add()
    for _ in range(40):
        bench.work(bench.function(plan=plan))
        bench.shift += 3_600_000
    bench.work(bench.function(plan=plan))
    assert len(bench.ran) == 41
    assert bench.gave_up == []


def test_a_defect_is_logged_by_its_type_and_stored_nowhere(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """What an exception says may be what a vault said: it reaches neither a log nor the queue."""
    bench.failures = [RuntimeError("the value is hunter2hunter2")]
    bench.add()
    bench.work()
    stored = [bench.redis.hgetall(key) for key in bench.redis.keys("rq:job:*")]
    assert "hunter2" not in str(stored)
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err
    assert "RuntimeError" in captured.out + captured.err


def test_a_job_that_takes_too_long_is_ended(bench: Bench) -> None:
    """The deadline interrupts it, and it is tried again."""

    def hang(_payload: object, _doing: Doing) -> None:
        bench.ran.append(1)
        while True:
            pass

    bench.add()
    bench.work(bench.function(run=hang, deadline_seconds=1))
    assert bench.ran == [1]
    assert bench.redis.zcard("rq:scheduled:notifications") == 1


def test_a_job_whose_process_dies_comes_back(bench: Bench) -> None:
    """While it is done it stands among the scheduled ones, due when it should long be over."""
    bench.add()
    bench.failures = [KeyboardInterrupt()]  # type: ignore[list-item]  # as abrupt as a process can end in a test
    bench.work()
    assert bench.ran
    assert bench.left() != []
    bench.work()
    assert len(bench.ran) == 1
    bench.shift = 60_000
    bench.work()
    assert len(bench.ran) == 2
    assert bench.left() == []


def test_a_job_taken_by_a_process_that_died_before_it_began_comes_back(bench: Bench) -> None:
    """It stands on rq's intermediate queue; after a minute there it is queued again."""
    bench.add()
    bench.redis.lmove(bench.queue.key, bench.queue.intermediate_queue_key)
    worker = bench.worker()
    bench.work(worker=worker)
    assert bench.ran == []
    bench.shift = 61_000
    bench.work(worker=worker)
    assert len(bench.ran) == 1
    assert bench.left() == []


def test_a_pickled_job_of_plain_rq_is_refused_unread(bench: Bench, tmp_path: Path) -> None:
    """rq's own client may put one there; it is removed, counted, and not one field of it is unpickled."""
    target = tmp_path / "made-by-pickle"
    Queue("notifications", connection=bench.redis).enqueue(os.mkdir, str(target), job_id="plain")
    evil = pickle.dumps(Exploit(target))
    bench.push("evil", {"data": evil, "meta": evil, "result": evil})
    bench.push("zipped", {"data": zlib.compress(evil), "meta": evil, "exc_info": zlib.compress(evil)})
    bench.work()
    assert not target.exists()
    assert bench.ran == []
    assert bench.refused() == {"not_sealed": 3}
    assert bench.left() == []


def test_fields_beside_a_true_job_change_nothing(bench: Bench, tmp_path: Path) -> None:
    """Callbacks, webhooks, groups, repeats and limits that rq would act on stand there unread."""
    target = tmp_path / "made-by-field"
    bench.add()
    evil = pickle.dumps(Exploit(target))
    hooks = json.dumps([{"url": "http://127.0.0.1:1/x", "job_status": "finished", "method": "GET"}])
    fields: dict[Any, Any] = {"meta": evil, "result": evil, "webhooks": hooks, "group_id": "g", "repeats_left": "5"}
    fields |= {"repeat_intervals": "[0]", "rate_limit_key": "k", "rate_limit_concurrency": "1", "timeout": "1"}
    for name in ("success", "failure", "stopped"):
        fields[f"{name}_callback_name"] = "os.abort"
    bench.redis.hset("rq:job:job-1", mapping=fields)
    bench.failures = [JobFailedError("http_500")]
    bench.work()
    bench.shift = 2_000
    bench.work()
    assert len(bench.ran) == 2
    assert not target.exists()
    assert bench.left() == []
    assert bench.refused() == {}


def test_forged_tampered_and_moved_jobs_are_refused(bench: Bench) -> None:
    """Another key, a flipped bit, another id, another queue: none of them opens."""
    sealed = bench.seal("honest")
    bench.push("copied", {"data": sealed})
    bench.push("flipped", {"data": sealed[:-1] + bytes([sealed[-1] ^ 1])})
    bench.push("elsewhere", {"data": bench.seal("elsewhere", queue=UPSTREAM)})
    bench.sealer = JobSealer(bytes(32))
    bench.push("other-key", {"data": bench.seal("other-key")})
    bench.sealer = JobSealer(JOBS_KEY)
    bench.work()
    assert bench.ran == []
    assert bench.refused() == {"forged": 4}
    assert bench.left() == []


def test_a_job_that_names_no_registered_function_is_refused(bench: Bench) -> None:
    """Even one that the broker sealed: what this process may do is not for a job to say."""
    bench.add("unknown", name="os.system")
    bench.add("not-here", name=DELIVER.name)
    bench.work()
    assert bench.refused() == {"unknown_function": 2}
    assert bench.left() == []


def test_a_payload_that_its_function_does_not_take_is_refused(bench: Bench) -> None:
    """A sealed job with another kind's payload does not reach the function."""
    bench.add("odd", name=DELIVER.name)
    bench.work(bench.function(DELIVER))
    assert bench.ran == []
    assert bench.refused() == {"malformed": 1}


def test_a_job_that_was_done_does_not_run_again(bench: Bench) -> None:
    """The same bytes under the same id, put back by whoever kept them."""
    sealed = bench.add()
    worker = bench.worker()
    bench.work(worker=worker)
    bench.push("job-1", {"data": sealed})
    again = bench.worker()
    again._done = worker._done  # the same process, going on: rq wants another name for a worker that signed off
    bench.work(worker=again)
    assert len(bench.ran) == 1
    assert bench.refused() == {"replayed": 1}
    assert bench.left() == []


@pytest.mark.parametrize("raw_id", [b"../etc", b"\xff\xfe", b"", b"x" * 5000, b"a b", b"job:1:2"], ids=repr)
def test_an_id_that_rq_never_makes_is_refused(bench: Bench, raw_id: bytes) -> None:
    """The worker goes on with the job behind it."""
    bench.redis.rpush(bench.queue.key, raw_id)
    bench.add()
    bench.work()
    assert len(bench.ran) == 1
    assert bench.refused() == {"malformed": 1}
    assert bench.left() == []


def test_what_is_no_hash_or_has_no_data_is_refused(bench: Bench) -> None:
    """A text in a job's place, and a hash with other fields only."""
    bench.redis.set("rq:job:text", "x")
    bench.push("text", {})
    bench.push("empty", {"status": "queued"})
    bench.push("gone", {})
    bench.work()
    assert bench.refused() == {"malformed": 2}
    assert bench.left() == []


def test_an_inflated_or_endless_job_is_refused(bench: Bench) -> None:
    """rq would inflate it; here it is too large, or not sealed."""
    bench.push("large", {"data": b"\x01" * (MAX_SEALED + 1)})
    bench.push("bomb", {"data": zlib.compress(bytes(50_000_000))})
    bench.work()
    assert bench.refused() == {"too_large": 2} or bench.refused() == {"too_large": 1, "not_sealed": 1}
    assert bench.left() == []


@pytest.mark.parametrize("attempts", [b"-5", b"nan", b"9" * 400, b"\xff"], ids=repr)
def test_a_forged_number_of_tries_cannot_stop_the_worker(bench: Bench, attempts: bytes) -> None:
    """It counts as none, or as the most that there can be."""
    bench.add()
    bench.redis.hset("rq:job:job-1", "number_of_retries", attempts)
    bench.work()
    assert len(bench.ran) == 1


def test_a_command_on_rq_s_channel_is_not_heard(bench: Bench) -> None:
    """rq's workers can be shut down by a message; nobody listens here."""
    bench.add()
    worker = bench.worker()
    heard: list[int] = []

    def publish(_payload: object, _doing: Doing) -> None:
        heard.append(bench.redis.publish(worker.pubsub_channel_name, json.dumps({"command": "shutdown"})))

    worker._functions = {"notify_approval": bench.function(run=publish)}
    bench.work(worker=worker)
    assert heard == [0]


def test_a_worker_needs_only_the_rights_of_the_jobs_user(bench: Bench, valkey_url: str) -> None:
    """It takes, does, retries and refuses jobs, and reports, as the queue user `jobs`; agents' streams stay closed."""
    admin: Any = bench.redis
    admin.execute_command("ACL", "SETUSER", "jobs", "reset", "on", *users_of(JOBS_KEY, [])["jobs"])
    try:
        limited = Bench(user_url(valkey_url, JOBS_KEY, "jobs"))
        limited.failures = [JobFailedError("http_500")]
        limited.add()
        limited.push("forged", {"data": b"x"})
        limited.work()
        limited.shift = 2_000
        limited.work()
        assert len(limited.ran) == 2
        assert bench.refused() == {"not_sealed": 1}
        assert bench.left() == []
        limited.redis.close()
    finally:
        admin.execute_command("ACL", "DELUSER", "jobs")


def test_a_server_that_goes_away_ends_the_worker_without_a_crash(bench: Bench) -> None:
    """Its supervisor starts it again; the job that it had comes back."""
    bench.add()

    def cut(_payload: object, _doing: Doing) -> None:
        raise RedisConnectionError("gone")

    bench.work(bench.function(run=cut))
    assert bench.redis.zcard("rq:scheduled:notifications") == 1
