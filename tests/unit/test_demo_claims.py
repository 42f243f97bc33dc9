"""What the demo's claims rest on: the search for values, the agents' reports, the count of what held."""

import base64
from pathlib import Path
from typing import Any

import click.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.cli import main
from broker_worker.cli.demo.forging import last_request
from broker_worker.cli.demo.house import CANARY, POLICY, House
from broker_worker.cli.demo.serving import GIVEN
from broker_worker.cli.demo.stage import WIDTH, Stage
from broker_worker.cli.demo.traces import SHORTEST, Search, forms_of
from broker_worker.core.errors import QueueError
from broker_worker.files.configuration import load_configuration

VALUES = st.binary(min_size=SHORTEST, max_size=60)
NEIGHBOURS = st.binary(max_size=7)


def found(value: bytes, data: bytes) -> set[str]:
    """The forms in which a value was found."""
    search = Search([value])
    search.look(data)
    return set(search.found)


@given(VALUES, NEIGHBOURS, NEIGHBOURS)
def test_value_is_found_as_it_is(value: bytes, before: bytes, after: bytes) -> None:
    """A value inside something longer is found."""
    assert "as it is" in found(value, before + value + after)


@given(VALUES, NEIGHBOURS, NEIGHBOURS)
def test_value_is_found_in_base64_at_any_place(value: bytes, before: bytes, after: bytes) -> None:
    """A value that was encoded together with its neighbours is found, in both alphabets."""
    assert "base64" in found(value, base64.b64encode(before + value + after))
    assert "base64" in found(value, base64.urlsafe_b64encode(before + value + after))


@given(VALUES)
def test_value_is_found_in_hexadecimal(value: bytes) -> None:
    """Lower and upper case digits are found."""
    assert "hexadecimal" in found(value, b"x" + value.hex().encode())
    assert "hexadecimal" in found(value, b"x" + value.hex().upper().encode())


@given(st.text(min_size=SHORTEST, max_size=40, alphabet=st.characters(min_codepoint=33, max_codepoint=126)))
def test_text_is_found_in_utf16(value: str) -> None:
    """Text in two bytes a character is found in either byte order."""
    assert "UTF-16" in found(value.encode(), value.encode("utf-16-le"))
    assert "UTF-16" in found(value.encode(), value.encode("utf-16-be"))


@given(VALUES, st.data())
def test_other_bytes_are_no_trace(value: bytes, data: st.DataObject) -> None:
    """A value of which one byte is different is not found as it is."""
    place = data.draw(st.integers(0, len(value) - 1))
    other = value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
    assert other[::-1] == value or "as it is" not in found(value, other)


def test_search_counts_bytes_and_occurrences() -> None:
    """A search says how much it saw and how often it found something."""
    search = Search([b"a value to look for"])
    search.look(b"a value to look for, a value to look for")
    search.look(b"nothing")
    assert (search.found["as it is"], search.size) == (2, 47)


def test_short_value_is_refused() -> None:
    """A value that would be found by chance is not searched for."""
    with pytest.raises(ValueError, match="at least 12 bytes; this one has 11"):
        forms_of(bytes(11))


def test_canary_can_be_searched_for() -> None:
    """The part that all values of the demo share is long enough."""
    assert forms_of(CANARY.encode())


def test_every_value_has_the_canary(tmp_path: Path) -> None:
    """Each value of the demo contains it, so one search finds any of them."""
    values = House(tmp_path).values.values()
    assert len(values) == 5
    assert all(CANARY.encode() in value for value in values)


def test_house_does_not_show_values(tmp_path: Path) -> None:
    """The representation of the installation holds no value."""
    assert CANARY not in repr(House(tmp_path))


def test_policy_is_that_of_the_example() -> None:
    """The demo's policy is the one that config/policy.yaml shows and `init` writes."""
    example = Path(__file__).parents[2] / "config" / "policy.yaml"
    assert POLICY in example.read_text()


def test_expectations_agree_with_the_policy(tmp_path: Path) -> None:
    """What act 1 expects to be granted is what the policy that it writes says."""
    house = House(tmp_path / "home")
    house.furnish()
    agents = load_configuration(house.settings.config_dir).policy.agents
    assert {name: {g.pattern.text for g in agent.grants} for name, agent in agents.items()} == GIVEN


def test_last_request_is_taken_from_the_log(tmp_path: Path) -> None:
    """The newest envelope of the agent is found in an append-only log, whatever bytes it has."""
    house = House(tmp_path)
    log = house.settings.run_dir / "valkey" / "log.aof"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"".join(_xadd(b"claude", text) for text in (b"old", b"new\r\n$1\r\nm")) + _xadd(b"grok", b"other"))
    assert last_request(house, "claude") == b"new\r\n$1\r\nm"


def test_missing_request_is_an_error(tmp_path: Path) -> None:
    """A log without a request of the agent is said to be one."""
    with pytest.raises(QueueError, match="holds no request of claude"):
        last_request(House(tmp_path), "claude")


def _xadd(agent: bytes, envelope: bytes) -> bytes:
    parts = [b"XADD", b"sb:req:{" + agent + b"}", b"1-1", b"m", envelope]
    return b"*5\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def test_claims_are_counted_and_stated(capsys: pytest.CaptureFixture[str]) -> None:
    """A claim that does not hold is counted, marked and explained; one that holds is not explained."""
    stage = Stage()
    stage.check(True, "the sky is up", "it fell")
    stage.check(False, "the sky is blue", "it is grey")
    assert (stage.held, stage.failed) == (1, 1)
    assert capsys.readouterr().out == "   ok      the sky is up\n   FAILED  the sky is blue (it is grey)\n"


def test_long_texts_are_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is told, no line is longer than the width."""
    stage = Stage()
    for tell in (stage.note, stage.text, lambda text: stage.check(True, text)):
        tell("word " * 60)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= WIDTH


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (False, 1)])
def test_exit_code_says_whether_all_held(monkeypatch: pytest.MonkeyPatch, holds: bool, code: int) -> None:
    """The demo exits with 1 if one claim did not hold."""

    async def play(stage: Stage, _house: House, *, wait: bool) -> None:
        assert not wait
        stage.check(holds, "something")

    monkeypatch.setitem(_globals(), "_play", play)
    assert click.testing.CliRunner().invoke(main, ["demo"]).exit_code == code


def test_kept_home_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --keep the home stays, and the summary says where it is."""
    homes: list[Path] = []

    async def play(_stage: Stage, house: House, **_: bool) -> None:
        homes.append(house.settings.home)

    monkeypatch.setitem(_globals(), "_play", play)
    result = click.testing.CliRunner().invoke(main, ["demo", "--keep"])
    assert homes[0].is_dir()
    homes[0].rmdir()
    assert f"--home {homes[0]} audit tail" in result.output


def _globals() -> dict[str, Any]:
    """The names of the module that has the command; the package's own name stands for the command."""
    callback = main.commands["demo"].callback
    assert callback is not None
    return callback.__globals__
