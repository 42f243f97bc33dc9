"""A provider whose vault is a program, and scripts for it to run."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from provider_conformance import CANARY, everything_said

from broker_worker.core.commands import Command
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.command import CommandProvider

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/home/broker", "TOKEN": f"{CANARY}-token", "OTHER": f"{CANARY}-other"}
MakeScript = Callable[[str], str]


@pytest.fixture
def script(tmp_path: Path) -> MakeScript:
    """Makes an executable script and gives its path."""
    made: list[Path] = []

    def make(text: str) -> str:
        path = tmp_path / f"program-{len(made)}"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o700)
        made.append(path)
        return str(path)

    return make


def provider_of(*argv: str, environ: Mapping[str, str] = ENVIRON, **settings: object) -> CommandProvider:
    """A provider with one command, `it`."""
    return CommandProvider({"it": Command(argv, **settings)}, environ)  # type: ignore[arg-type]  # of any setting


async def answer_of(provider: CommandProvider, ref: str = "exec://it") -> Fetched | ProviderError:
    """What one reference is answered with, whether returned or raised; nothing of it shows a value."""
    try:
        answer = (await provider.get_many([ref]))[ref]
    except ProviderError as error:
        answer = error
    assert CANARY not in everything_said(answer)
    return answer


async def kind_of(provider: CommandProvider, ref: str = "exec://it") -> FailureKind:
    """Why there is no value."""
    answer = await answer_of(provider, ref)
    assert isinstance(answer, ProviderError)
    assert answer.hint
    return answer.kind


def processes_of(marker: str) -> list[int]:
    """The processes with a word among their arguments."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has ended meanwhile
                continue
            if marker.encode() in arguments:
                found.append(int(folder.name))
    return found
