"""Programs as a vault: the contract, on real processes; what they print, and what their exit codes and names mean."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from command_workbench import ENVIRON, MakeScript, answer_of, kind_of, provider_of
from provider_conformance import BINARY, CANARY, MAX_VALUE, ProviderConformance, Subject

from broker_worker.core.commands import Command
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.command import CommandProvider

COUNT = 500


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 503 files."""
    folder = tmp_path_factory.mktemp("stored")
    values = {f"entry-{i}": f"{CANARY}-{i}".encode() for i in range(COUNT)}
    values |= {"largest": b"x" * MAX_VALUE + b"\n", "larger": b"x" * (MAX_VALUE + 1), "binary": BINARY}
    for name, value in values.items():
        (folder / name).write_bytes(value)
    return folder


class TestCommand(ProviderConformance):
    """`cat` as the program, and a file for each name."""

    @pytest.fixture
    async def subject(self, stored: Path, tmp_path: Path) -> AsyncIterator[Subject]:
        """A provider over a folder with 503 files, named from the root on."""
        where = f"exec://cat{stored}"
        program = tmp_path / "cat"
        program.symlink_to("/bin/cat")
        provider = CommandProvider({"cat": Command((str(program), "{name}"), not_found_exit=1)}, ENVIRON)
        yield Subject(
            provider,
            {f"{where}/entry-{i}": f"{CANARY}-{i}".encode() for i in range(COUNT)},
            unknown=f"{where}/nothing",
            malformed=(
                "exec://",
                "exec://cat",
                "exec://cat/",
                "exec://other/x",
                "exec://CAT/x",
                "exec://cat/-x",
                "cat",
            ),
            largest=f"{where}/largest",
            too_large=f"{where}/larger",
            binary=f"{where}/binary",
            break_vault=program.unlink,
        )
        await provider.close()


@pytest.mark.parametrize(
    ("printed", "keep", "value"),
    [("x", False, b"x"), ("x\\n", False, b"x"), ("x\\n\\n", False, b"x\n"), ("x\\n", True, b"x\n"), (" ", False, b" ")],
)
async def test_one_line_feed_at_the_end_is_dropped(printed: str, keep: bool, value: bytes) -> None:
    """And nothing else; `keep_newline` keeps it."""
    assert await answer_of(provider_of("printf", printed, keep_newline=keep)) == Fetched(value)


@pytest.mark.parametrize("printed", ["", "\\n"])
async def test_nothing_printed_is_no_value(printed: str) -> None:
    """An empty value is never served."""
    assert await kind_of(provider_of("printf", printed)) is FailureKind.NOT_FOUND


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (f"echo {CANARY}; echo {CANARY} >&2; exit 3", FailureKind.UNKNOWN, "exit code 3; its 14 bytes of messages"),
        ("exit 4", FailureKind.NOT_FOUND, "there is no such secret"),
        ("kill -9 $$", FailureKind.UNKNOWN, "by signal 9"),
        ("exit 127", FailureKind.UNKNOWN, "exit code 127"),
    ],
)
async def test_an_exit_code_says_no(script: MakeScript, text: str, kind: FailureKind, says: str) -> None:
    """Whatever was printed; only the code that the operator names means that there is no such secret."""
    answer = await answer_of(provider_of(script(text), not_found_exit=4))
    assert isinstance(answer, ProviderError)
    assert answer.kind is kind
    assert says in str(answer)


async def test_messages_do_not_spoil_a_value(script: MakeScript) -> None:
    """What a program that succeeds writes to standard error, however much, is read and dropped."""
    noisy = script(f"head -c 300000 /dev/zero >&2; echo {CANARY}")
    assert await answer_of(provider_of(noisy)) == Fetched(CANARY.encode())


async def test_output_without_an_end_is_cut_off(script: MakeScript) -> None:
    """The program is ended as soon as it printed too much, not at its deadline."""
    async with asyncio.timeout(45):
        assert await kind_of(provider_of(script("exec cat /dev/zero"), timeout_seconds=90)) is FailureKind.TOO_LARGE


BAD_NAMES = (
    "a b",
    "a;id",
    "$(id)",
    "`id`",
    "a\nb",
    "--flag",
    "-x",
    "a/-x",
    "../x",
    "a/../b",
    "a/./b",
    ".hidden",
    "/etc/passwd",
    "a//b",
    "a/",
    "@file",
    "a=b",
    "a'b",
    'a"b',
    "a\\b",
    "a|b",
    "a&b",
    "a>b",
    "~root",
    "a*",
    "a%00b",
    "a\x00b",
    "é",
    "op://-x",
    "op://a//b",
    "",
)


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_that_is_not_plain_starts_nothing(name: str, script: MakeScript, tmp_path: Path) -> None:
    """No shell, no option, no path upwards; refused before a program is started, and not repeated."""
    provider = provider_of(script(f"touch {tmp_path}/started; echo x"), "{name}")
    answer = await answer_of(provider, f"exec://it/{name}")
    assert isinstance(answer, ProviderError)
    assert answer.kind is FailureKind.BAD_REFERENCE
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "name", ["x", "Team/GitHub", "op://Agents/OpenAI/credential", "user@host", "a:b:c", "v1.2_x+y"]
)
async def test_a_name_is_one_argument(name: str, script: MakeScript) -> None:
    """As it stands in the reference, in its own place, whatever else there is."""
    provider = provider_of(script('printf "%s|" "$@"'), "get", "{name}", "--raw", "{.data}")
    assert await answer_of(provider, f"exec://it/{name}") == Fetched(f"get|{name}|--raw|{{.data}}|".encode())
