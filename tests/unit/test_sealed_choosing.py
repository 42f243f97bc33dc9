"""Which wrapping keeps the master key: `auto` takes the first that is there and stays with it."""

import builtins
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sealed_workbench import BINDING, CANARY, FIRST, REFS, Host, Keeper, record

from broker_worker.app.clock import SystemClock
from broker_worker.app.sealing import sealed_store
from broker_worker.cache.sealed.errors import UnavailableError
from broker_worker.cache.sealed.wrapping import ORDER, Wrapped, Wrapping, Wrappings
from broker_worker.core.configuration import MASTER_KEYS, SealedSettings
from broker_worker.settings import Settings


# Which one
def wrappings(master_key: str, **makers: Keeper) -> Wrappings:
    """Wrappings of which only some are there."""

    def away() -> Keeper:
        keeper = Keeper()
        keeper.is_there = False
        return keeper

    there: dict[str, Callable[[], Wrapping]] = dict.fromkeys(ORDER, away)
    for kind, keeper in makers.items():
        there[kind] = lambda keeper=keeper: keeper  # type: ignore[misc]  # bound now
    return Wrappings(SealedSettings(master_key=master_key), there)


def test_auto_takes_the_first_that_is_there() -> None:
    """TPM, DPAPI, keyring, systemd, passphrase: each beats those behind it."""
    assert ORDER == ("tpm", "dpapi", "keyring", "systemd", "passphrase")
    for at, kind in enumerate(ORDER):
        there = {other: Keeper() for other in ORDER[at:]}
        chosen, wrapped = wrappings("auto", **there).make()
        assert chosen == kind
        assert isinstance(wrapped, Wrapped)
        assert list(there[kind].kept) == [wrapped.parameters]


def test_auto_without_any_says_why_for_each() -> None:
    """And what is simplest."""
    with pytest.raises(UnavailableError, match=r"tpm: the double is away; dpapi: .*; passphrase: the double") as caught:
        wrappings("auto").make()
    assert "passphrase" in caught.value.hint


def test_what_was_chosen_is_the_only_one() -> None:
    """No other takes its place, however near."""
    for kind in ORDER:
        others = {other: Keeper() for other in ORDER if other != kind}
        with pytest.raises(UnavailableError, match="the double is away"):
            wrappings(kind, **others).make()
        assert not any(keeper.kept for keeper in others.values())


def test_auto_stays_with_what_it_chose(tmp_path: Path) -> None:
    """A stronger one that comes later needs `cache rewrap`; a chosen one that is away is waited for."""
    strong, weak = Keeper(), Keeper()
    strong.is_there = False
    host = Host(tmp_path / "home", master_key="auto", makers={kind: lambda: strong for kind in ORDER})
    host.makers["passphrase"] = lambda: weak
    host.keep(record())
    strong.is_there = True
    assert host.values() == {FIRST: CANARY}
    assert strong.kept == {}
    assert host.store().rewrap() == ("passphrase", "tpm")
    strong.is_there = False
    with pytest.raises(UnavailableError):
        host.store().open(REFS, BINDING)
    assert weak.kept == {}


@pytest.mark.parametrize("package", ["keyring", "tpm2_pytss"])
def test_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """With the command that installs it."""
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    kind = {"keyring": "keyring", "tpm2_pytss": "tpm"}[package]
    store = sealed_store(SealedSettings(master_key=kind), Settings(home=tmp_path), SystemClock(), {})
    with pytest.raises(UnavailableError, match="is not installed") as caught:
        store.open(REFS, BINDING)
    assert f"its extra `{kind}`" in caught.value.hint


def test_nothing_is_loaded_before_it_is_needed() -> None:
    """A worker without a sealed cache loads none of it; one with it only what its own kind needs."""
    script = """
import json, sys
import broker_worker.app.compose, broker_worker.app.serve, broker_worker.app.reloading
before = [name for name in sys.modules if name.startswith("broker_worker.cache.sealed")]
import broker_worker.app.sealing
print(json.dumps([before, [n for n in ("keyring", "tpm2_pytss", "jeepney") if n in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]


def test_kinds_are_those_that_the_files_know() -> None:
    """Neither side knows one more."""
    assert ("auto", *ORDER) == MASTER_KEYS
