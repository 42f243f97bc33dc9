"""Hot reload: valid files are swapped whole and recorded; invalid ones change nothing, and say why."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Never

import pytest
import watchfiles
from broker_home import Home
from desk_workbench import LONG, POLICY, SECRETS, until
from fake_vault import FakeVault

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import Denied, NotGranted, Unauthenticated, Unavailable
from broker_worker.files.keys import IDENTITY, rotate_intake

BOTH = "providers: [{type: local}, {type: env}]"


async def reloaded(home: Home, change: Callable[[], Any], event: str = "config_loaded") -> str | None:
    """Change something, wait until the worker has recorded it, and return the reason."""
    before = len(home.records(event))
    result = change()
    if isinstance(result, Awaitable):
        await result
    await until(lambda: len(home.records(event)) > before)
    return home.records(event)[-1].reason


async def refused(
    client: AsyncSecretBroker, name: str = "openai.api_key", *, seconds: float = LONG
) -> type[NotGranted] | None:
    """With which error a name is refused now; `Unavailable` if there is no answer for so many seconds."""
    try:
        await client.get(name, timeout=seconds)
    except NotGranted as error:
        return type(error)
    return None


async def test_a_valid_change_holds_at_once_and_is_recorded(home: Home) -> None:
    """Names are given and taken; every record says under which policy it was decided."""
    async with home.working(reloading=True), home.client() as claude:
        assert (await refused(claude), await refused(claude, "github.read_token")) == (None, Denied)
        await reloaded(home, lambda: home.write(policy="agents: {claude: {allow: [github.read_token]}}"))
        assert (await refused(claude), await refused(claude, "github.read_token")) == (Denied, None)
    digests = [record.policy for record in home.records("access")]
    assert digests[0] == digests[1] != digests[2] == digests[3]
    assert home.records("config_loaded")[0].policy == digests[2]
    home.check_audit()


async def test_values_that_may_not_be_kept_so_long_any_more_are_not(home: Home) -> None:
    """A value that is past its time stays in memory only for as long as the files let it be served."""
    stale = SECRETS.replace('"local://openai"', '{ref: "local://openai", max_stale: 1h}')
    home.write(registry=stale)
    async with home.working(reloading=True) as process, home.client() as claude:
        for registry, kept in ((stale.replace("1h", "2h"), 1), (stale, 0)):
            assert await refused(claude) is None
            await reloaded(home, partial(home.write, registry=registry))
            assert len(process.cache) == kept


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"policy": "agents:\n  claude:\n\tallow: []\n"}, "policy.yaml:3"),
        ({"policy": "agents:\n  claude: {allow: []}\n  claude: {allow: []}\n"}, "policy.yaml:3"),
        ({"policy": "agents:\n  claude:\n    alow: []\n"}, "policy.yaml:3"),
        ({"registry": "secrets:\n  openai.api_key: 'vault://x'\n"}, "secrets.yaml:2"),
        ({"broker": "provider:\n  type: locall\n"}, "broker.yaml:2"),
        ({"issuers": "issuers: []\n"}, "issuers.yaml:1"),
    ],
)
async def test_an_invalid_change_changes_nothing_and_says_where(
    home: Home, capsys: pytest.CaptureFixture[str], files: dict[str, str], where: str
) -> None:
    """The old files stay in force; audit and log name file and line, and a good change is taken afterwards."""
    async with home.working(reloading=True), home.client() as claude:
        assert await refused(claude) is None
        assert await reloaded(home, lambda: home.write(**files), "config_rejected") == where
        assert await refused(claude) is None
        assert f"{where}:" in "".join(capsys.readouterr())  # wherever the log goes by now
        await reloaded(home, lambda: home.write(policy=POLICY.replace("openai.api_key, anthropic", "anthropic")))
        assert await refused(claude) is Denied
    home.check_audit()


async def test_a_folder_that_was_exchanged_is_followed_by_its_name(home: Home, tmp_path: Path) -> None:
    """A deployment that moves a new folder into place is noticed, and so is every later edit in it."""
    config, aside = home.settings.config_dir, tmp_path / "aside"
    async with home.working(reloading=True), home.client() as claude:
        await reloaded(home, lambda: home.write(policy=POLICY + "      grok: {allow: []}\n"))
        config.rename(aside)
        await reloaded(home, lambda: home.write(policy="agents: {claude: {allow: [github.read_token]}}"))
        assert await refused(claude) is Denied
        await reloaded(home, lambda: home.write(policy="agents: {claude: {allow: [openai.api_key]}}"))
        assert await refused(claude) is None


async def test_files_behind_links_are_followed(home: Home, tmp_path: Path) -> None:
    """A link to a folder of another version, as orchestrators mount configuration, is a change of the files."""
    current, config = tmp_path / "current", home.settings.config_dir
    for version, policy in (("v1", POLICY), ("v2", "agents: {claude: {allow: [github.read_token]}}")):
        home.write(policy=policy)
        shutil.copytree(config, tmp_path / version)
    current.symlink_to("v1")
    for file in config.iterdir():
        file.unlink()
        file.symlink_to(current / file.name)

    def exchange() -> None:
        (tmp_path / "next").symlink_to("v2")
        (tmp_path / "next").replace(current)

    async with home.working(reloading=True), home.client() as claude:
        assert await refused(claude) is None
        await reloaded(home, exchange)
        assert await refused(claude) is Denied


async def test_changes_are_found_where_the_system_notifies_of_none(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more watches to be had costs half a second, not the reload."""

    def no_watches(*folders: Path, **options: object) -> Never:
        raise OSError(28, "OS file watch limit reached")

    monkeypatch.setattr(watchfiles, "watch", no_watches)
    async with home.working(reloading=True), home.client() as claude:
        assert await refused(claude) is None
        await reloaded(home, lambda: home.write(policy="agents: {claude: {allow: [github.read_token]}}"))
        assert await refused(claude) is Denied


async def test_a_file_that_is_missing_changes_nothing(home: Home) -> None:
    """A deleted policy is no empty policy."""
    async with home.working(reloading=True), home.client() as claude:
        missing = (home.settings.config_dir / "policy.yaml").unlink
        assert await reloaded(home, missing, "config_rejected") == "policy.yaml"
        assert await refused(claude) is None


async def test_files_that_are_put_back_as_they_were_are_in_order_again(home: Home) -> None:
    """Whoever looks at the audit after a mistake sees that it is over."""
    policy = home.settings.config_dir / "policy.yaml"
    before = policy.read_bytes()
    async with home.working(reloading=True):
        await reloaded(home, policy.unlink, "config_rejected")
        await reloaded(home, lambda: policy.write_bytes(before))


async def test_an_agent_that_is_added_is_served_and_one_that_is_removed_is_not(home: Home) -> None:
    """Without a restart."""
    more = POLICY + "      grok: {allow: [openai.api_key]}\n"
    async with home.working(reloading=True), home.client("codex") as codex:
        assert await refused(codex) is None
        await reloaded(home, lambda: home.write(policy=more))
        await home.set_users()
        async with home.client("grok") as grok:
            assert (await grok.get("openai.api_key")).reveal() == "value of openai"
        await reloaded(home, lambda: home.write(policy="agents: {grok: {allow: [openai.api_key]}}"))
        assert await refused(codex, seconds=0.4) in (Denied, Unauthenticated, Unavailable)
    assert [r.agent_id for r in home.records("access") if r.outcome == "granted"] == ["codex", "grok"]


async def test_tokens_of_an_issuer_that_is_removed_stop_at_once(home: Home) -> None:
    """Also those of runs that were verified before, and of requests that wait for a vault."""
    vault = FakeVault()
    async with home.working(vault, reloading=True), home.client() as claude:
        assert await refused(claude) is None
        vault.gate = asyncio.Event()
        waiting = asyncio.create_task(claude.get("anthropic.api_key"))
        await until(lambda: len(vault.calls) == 2)
        await reloaded(home, lambda: home.write(issuer_seed=bytes(32)))
        vault.gate.set()
        with pytest.raises(Unauthenticated):
            await waiting
        assert await refused(claude) is Unauthenticated


async def test_a_changed_vault_is_asked_anew(home: Home) -> None:
    """Nothing that came from the former one is handed out, cached or just being fetched."""
    vault = FakeVault()
    async with home.working(vault, reloading=True) as process, home.client() as claude:
        assert await refused(claude) is None
        vault.gate = asyncio.Event()
        waiting = asyncio.create_task(claude.get("anthropic.api_key"))
        await until(lambda: len(vault.calls) == 2)
        await reloaded(home, lambda: home.write(broker=BOTH))
        assert len(process.cache) == 0
        vault.gate.set()
        with pytest.raises(Unavailable):
            await waiting
        assert await refused(claude, seconds=0.4) is Unavailable


async def test_a_changed_policy_keeps_the_cache(home: Home) -> None:
    """Vaults are not asked again for a new line in the policy."""
    vault = FakeVault()
    async with home.working(vault, reloading=True), home.client() as claude:
        assert await refused(claude) is None
        await reloaded(home, lambda: home.write(policy=POLICY + "      grok: {allow: []}\n"))
        assert await refused(claude) is None
    assert len(vault.calls) == 1


async def test_a_reference_that_changes_is_fetched_from_its_new_place(home: Home) -> None:
    """The old value is not the secret any more."""
    async with home.working(reloading=True), home.client() as claude:
        await claude.get("openai.api_key")
        await reloaded(home, lambda: home.write(registry=SECRETS.replace("local://openai", "local://github")))
        assert (await claude.get("openai.api_key")).reveal() == "gh"


async def test_a_change_of_nothing_is_not_recorded(home: Home) -> None:
    """Comments, order and spelling do not make another policy."""
    async with home.working(reloading=True), home.client() as claude:
        home.write(policy="# a comment\n" + "\n".join(line[4:] for line in POLICY.splitlines()))
        await reloaded(home, lambda: home.write(policy="agents: {claude: {allow: [openai.api_key]}}"))
        assert await refused(claude) is None
    assert len(home.records("config_loaded")) == 1


async def test_an_intake_key_is_rotated_with_an_overlap(home: Home) -> None:
    """Runs that were launched before go on; when the overlap is over their requests are junk."""
    keys, now = home.settings.keys_dir, home.clock.now()
    async with home.working(reloading=True) as process, home.client() as old:
        assert await refused(old) is None
        intakes = process.desk.opener._intakes
        rotate_intake(keys, 3600, now)
        await until(lambda: process.desk.opener._intakes is not intakes and len(process.desk.opener._intakes) == 2)
        async with home.client() as new:
            assert (await refused(old), await refused(new)) == (None, None)
            rotate_intake(keys, 0, now + 1)
            await until(lambda: len(process.desk.opener._intakes) == 1)
            assert await refused(old, seconds=0.4) is Unavailable
        async with home.client() as newest:
            assert await refused(newest) is None
    assert {record.reason for record in home.records("unauthenticated")} == {"unknown_intake_key"}


async def test_a_key_that_others_may_read_is_refused_and_the_service_goes_on(home: Home) -> None:
    """What is in force stays; the audit knows that something is wrong."""
    async with home.working(reloading=True), home.client() as claude:
        identity = home.settings.keys_dir / IDENTITY
        assert await reloaded(home, lambda: identity.chmod(0o644), "config_rejected") == "setup_failed"
        assert await refused(claude) is None
