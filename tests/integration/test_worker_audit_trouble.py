"""No record, no release: what agents see while the audit cannot be written, and that it heals by itself."""

import errno
import os
from typing import Any

import pytest
from broker_home import Home
from desk_workbench import until

from agent_sdk.errors import Unavailable
from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code
from broker_worker.audit import journal, write_ahead
from broker_worker.files.keys import JOBS, ensure_seed
from broker_worker.jobs.reports import encode_report, make_report, report_key
from broker_worker.worker import control_tail


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT], ids=errno.errorcode.get)
async def test_a_disk_that_refuses_releases_nothing_and_heals(
    home: Home, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Cached or not, one name or several: `audit_unavailable`; when the disk is back so is the service."""

    def refuse(_: int) -> None:
        raise OSError(error, os.strerror(error))

    async with home.working(), home.client() as claude:
        await claude.get("openai.api_key")
        with monkeypatch.context() as broken:
            for place in (journal, write_ahead):
                broken.setattr(place, "sync_data", refuse)
            for names in (["openai.api_key"], ["anthropic.api_key"], ["openai.api_key", "anthropic.api_key"]):
                with pytest.raises(Unavailable) as caught:
                    await claude.get_many(names)
                assert caught.value.code == Code.AUDIT_UNAVAILABLE
            with pytest.raises(Unavailable):
                await claude.list_names()
        assert (await claude.get("openai.api_key")).reveal() == "value of openai"
    assert [record.outcome for record in home.records("access")] == ["granted", "granted"]
    home.check_audit()


async def test_an_audit_folder_that_is_away_releases_nothing(home: Home) -> None:
    """Until it is back; then a new chain goes on where the last good line was."""
    away = home.settings.home / "away"
    async with home.working(), home.client() as claude:
        await claude.get("openai.api_key")
        home.settings.audit_dir.rename(away)
        with pytest.raises(Unavailable) as caught:
            await claude.get("openai.api_key")
        assert caught.value.code == Code.AUDIT_UNAVAILABLE
        away.rename(home.settings.audit_dir)
        assert (await claude.get("openai.api_key")).reveal() == "value of openai"
    home.check_audit()


async def test_junk_while_the_disk_is_full_does_not_end_the_worker(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped as ever, and in the counts when they can be written."""
    run = home.run()

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with home.working() as process, home.client() as claude:
        with monkeypatch.context() as broken:
            for place in (journal, write_ahead):
                broken.setattr(place, "sync_data", refuse)
            with run.connect() as redis:
                run.write(redis, *[b"junk"] * 30)
            with pytest.raises(Unavailable):
                await claude.get("openai.api_key")
            home.clock.shift = 20_000
            with pytest.raises(Exception, match="cannot write the audit"):
                process.desk.tick()
        assert (await claude.get("openai.api_key")).reveal() == "value of openai"
    records: list[Any] = home.records("unauthenticated")
    assert sum(record.count or 1 for record in records) == 30
    home.check_audit()


async def test_a_full_disk_is_no_defect_and_loses_no_report(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the job process reports meanwhile is recorded when there is room, and the log says what is wrong."""
    monkeypatch.setattr(control_tail, "_CLAIM_EVERY", 1)
    monkeypatch.setattr(control_tail, "_CLAIM_IDLE_MS", 1)
    key = report_key(ensure_seed(home.settings.keys_dir / JOBS))
    raw = encode_report(make_report("notified", home.clock.now(), reason="bell", outcome="granted"), key)
    said = ""

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def says(word: str) -> bool:
        nonlocal said
        said += "".join(capfd.readouterr())
        return word in said

    async with home.working():
        with monkeypatch.context() as broken:
            for place in (journal, write_ahead):
                broken.setattr(place, "sync_data", refuse)
            with home.redis() as redis:
                redis.xadd(keynames.REPORTS, {keynames.MESSAGE_FIELD: raw})
            await until(lambda: says("audit_unavailable"))
        await until(lambda: home.records("notified"))
    assert [record.reason for record in home.records("notified")] == ["bell"]
    assert not says("defect")
