"""`secret-broker revoke`, `reinstate`, `revocations` on a host whose broker does not run."""

import json
from pathlib import Path

import nacl.bindings
import pytest
from click.testing import CliRunner, Result
from msgspec import structs

from broker_worker.cli import main
from broker_worker.cli.init import create_installation
from broker_worker.core.revocations import MAX_AT, sign_revocation
from broker_worker.files.keys import CONTROL, PUBLIC_CONTROL, ensure_control_seed, ensure_seed, load_seed
from broker_worker.people.revoking import orders_of
from broker_worker.settings import Settings
from broker_worker.state.revocation_file import RevocationFile

NOW = 1_800_000_000_000
WHY = ("--reason", "laptop lost", "--by", "maria")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A new installation."""
    settings = Settings(home=tmp_path / "home", redis_url=None)
    create_installation(settings, "local", NOW)
    return settings


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(settings.home), *arguments])


def forget_control_key(settings: Settings) -> None:
    for name in (CONTROL, PUBLIC_CONTROL):
        (settings.keys_dir / name).unlink()


def in_force(settings: Settings) -> list[str]:
    return [each.label for each in orders_of(settings)]


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        (("run", "claude/run-1"), "run:claude/run-1"),
        (("agent", "claude"), "agent:claude"),
        (("secret", "openai.api_key"), "secret:openai.api_key"),
        (("secret", "openai.api_key", "--version", "7"), "secret:openai.api_key@7"),
        (("lease", "0123456789abcdef" * 2), "lease:0123456789abcdef0123456789abcdef"),
        (("token", "token-1"), "token:token-1"),
    ],
)
def test_each_kind_can_be_revoked_and_reinstated(settings: Settings, arguments: tuple[str, ...], label: str) -> None:
    """An order is in force when the command ends, also if no queue runs, and until it is taken back."""
    result = run(settings, "revoke", *arguments, *WHY)
    assert result.exit_code == 0, result.output
    assert f"revoked {label}\n  " in result.stdout
    assert "the embedded queue does not run" in result.stderr
    assert in_force(settings) == [label]
    again = run(settings, "reinstate", *arguments, *WHY)
    assert again.exit_code == 0, again.output
    assert again.stdout.startswith(f"reinstated {label}\n  the policy decides again")
    assert in_force(settings) == []


def test_what_it_means_is_said(settings: Settings) -> None:
    """Whoever revokes a secret learns what ends, and that the value itself goes on working."""
    result = run(settings, "revoke", "secret", "openai.api_key", *WHY)
    assert "its open leases end within a second" in result.stdout
    assert "change it in the vault" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "doubt"),
    [(("agent", "cluade"), "the policy has no agent cluade"), (("secret", "openai.apikey"), "no secret of that name")],
)
def test_slip_of_the_pen_is_pointed_out(settings: Settings, arguments: tuple[str, ...], doubt: str) -> None:
    """A name that the files do not know is revoked all the same, with a note."""
    result = run(settings, "revoke", *arguments, *WHY)
    assert result.exit_code == 0
    assert doubt in result.stderr
    assert len(in_force(settings)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("revoke", "run", "run-1", *WHY), "expected AGENT/RUN"),
        (("revoke", "lease", "abc", *WHY), "32 hexadecimal digits"),
        (("revoke", "agent", "claude"), "--reason"),
        (("revoke", "agent", "claude", "--reason", " "), "expected 1 to 256 characters"),
        (("revoke", "agent", "claude", "--reason", "x", "--version", "7"), "--version"),
        (("reinstate", "agent", "claude", "--version", "7", *WHY), "only a secret has a version"),
        (("reinstate", "everything", "claude", *WHY), "everything"),
    ],
)
def test_order_that_is_not_understood_is_not_given(settings: Settings, arguments: tuple[str, ...], said: str) -> None:
    """A usage error writes nothing."""
    result = run(settings, *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not settings.revocations_file.exists()


def test_what_is_not_revoked_cannot_be_reinstated(settings: Settings) -> None:
    """Reinstating the wrong thing is an error that says where to look, not a quiet success."""
    run(settings, "revoke", "secret", "openai.api_key", *WHY)
    result = run(settings, "reinstate", "secret", "openai.api_key", "--version", "7", *WHY)
    assert result.exit_code == 1
    assert "secret openai.api_key, version 7, is not revoked" in result.stderr
    assert "secret-broker revocations" in result.stderr
    assert in_force(settings) == ["secret:openai.api_key"]


@pytest.mark.parametrize("reason", ["", "x" * 257])
def test_reason_has_a_length(settings: Settings, reason: str) -> None:
    """An order without a reason, or with a novel, is refused."""
    result = run(settings, "revoke", "agent", "claude", "--reason", reason)
    assert result.exit_code == 2
    assert f"expected 1 to 256 characters, found {len(reason)}" in result.stderr


def test_who_ordered_it_is_the_user_unless_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit names somebody."""
    monkeypatch.setattr("getpass.getuser", lambda: "tom")
    run(settings, "revoke", "agent", "claude", "--reason", "gone mad")
    assert [each.by for each in orders_of(settings)] == ["tom"]


def test_account_without_a_name_can_revoke(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container without a passwd entry the order is given by nobody known."""

    def nobody() -> str:
        raise OSError("no username set in the environment")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert run(settings, "revoke", "agent", "claude", "--reason", "gone mad").exit_code == 0
    assert [each.by for each in orders_of(settings)] == ["unknown"]


def test_list_shows_what_is_in_force(settings: Settings) -> None:
    """The newest first, each with who and why; nothing that was reinstated."""
    assert run(settings, "revocations").stdout == "nothing is revoked\n"
    run(settings, "revoke", "agent", "claude", *WHY)
    run(settings, "revoke", "agent", "codex", *WHY)
    run(settings, "revoke", "run", "claude/run-1", "--reason", "two\nlines\x1b[31m", "--by", "tom")
    run(settings, "reinstate", "agent", "codex", *WHY)
    lines = run(settings, "revocations").stdout.splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [
        "run:claude/run-1  by tom: two\\nlines\\x1b[31m",
        "agent:claude  by maria: laptop lost",
    ]


def test_json_is_for_scripts(settings: Settings) -> None:
    """An order and the list as JSON, with whether the queue took the order."""
    given = json.loads(run(settings, "revoke", "secret", "openai.api_key", "--version", "7", *WHY, "--json").stdout)
    assert given.pop("announced") is False
    (listed,) = json.loads(run(settings, "revocations", "--json").stdout)
    assert listed == given
    assert (given["kind"], given["subject"], given["version"], given["by"]) == (
        "secret",
        "openai.api_key",
        "7",
        "maria",
    )


def test_order_holds_though_the_clock_went_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order is newer than the one before it, whatever the clock shows."""
    run(settings, "revoke", "agent", "claude", *WHY)
    monkeypatch.setattr("time.time_ns", lambda: NOW * 1000)
    assert run(settings, "reinstate", "agent", "claude", *WHY).exit_code == 0
    assert in_force(settings) == []
    run(settings, "revoke", "agent", "claude", *WHY)
    assert in_force(settings) == ["agent:claude"]


def test_order_holds_against_one_of_the_last_time_that_there_is(settings: Settings) -> None:
    """Whoever had the control key for a while cannot have made anything irrevocable."""
    run(settings, "revoke", "agent", "claude", *WHY)
    public, secret = nacl.bindings.crypto_sign_seed_keypair(load_seed(settings.keys_dir / CONTROL))
    last = structs.replace(next(iter(orders_of(settings))), order="reinstate", at=MAX_AT)
    RevocationFile(settings.revocations_file, public).append(sign_revocation(last, secret))
    assert in_force(settings) == []
    assert run(settings, "revoke", "agent", "claude", *WHY).exit_code == 0
    assert in_force(settings) == ["agent:claude"]


def test_external_queue_that_is_away_is_an_error(settings: Settings, tmp_path: Path) -> None:
    """Workers on other hosts were not told: the exit code says so, and the order holds here."""
    away = f"unix://{tmp_path}/none.sock"
    result = CliRunner(env={"REDIS_URL": away}).invoke(
        main, ["--home", str(settings.home), "revoke", "agent", "claude", *WHY]
    )
    assert result.exit_code == 4
    assert "revoked agent:claude" in result.stdout
    assert "in force on this host, but the queue did not take it" in result.stderr
    assert in_force(settings) == ["agent:claude"]


def test_older_home_gets_a_control_key(settings: Settings) -> None:
    """A home from before there were revocations needs no step by hand."""
    forget_control_key(settings)
    assert run(settings, "revoke", "agent", "claude", *WHY).exit_code == 0
    assert in_force(settings) == ["agent:claude"]


def test_lost_control_key_is_not_replaced_where_there_are_orders(settings: Settings) -> None:
    """A new key would serve again all that was revoked, so nothing goes on without the old one."""
    run(settings, "revoke", "agent", "claude", *WHY)
    forget_control_key(settings)
    result = run(settings, "revocations")
    assert result.exit_code == 7
    assert "holds orders that were signed with it" in result.stderr
    assert not (settings.keys_dir / CONTROL).exists()


def test_exchanged_control_key_is_refused(settings: Settings) -> None:
    """Orders of another key are not quietly taken for none."""
    run(settings, "revoke", "agent", "claude", *WHY)
    forget_control_key(settings)
    ensure_seed(settings.keys_dir / CONTROL)
    result = run(settings, "revocations")
    assert result.exit_code == 7
    assert "not one order of this control key" in result.stderr


def test_key_made_on_demand_stays(settings: Settings) -> None:
    """The second process reads what the first one made."""
    forget_control_key(settings)
    made = ensure_control_seed(settings.keys_dir, settings.revocations_file)
    assert ensure_control_seed(settings.keys_dir, settings.revocations_file) == made
    assert load_seed(settings.keys_dir / CONTROL) == made


def test_no_key_is_shown(settings: Settings) -> None:
    """Nothing of the control key reaches a terminal or the file."""
    secret = (settings.keys_dir / CONTROL).read_text().split(":")[-1].strip()
    shown = run(settings, "revoke", "agent", "claude", *WHY, "--json").output + run(settings, "revocations").output
    assert secret not in shown + settings.revocations_file.read_text()


def test_home_with_the_public_half_alone_lists_orders_and_gives_none(settings: Settings) -> None:
    """Orders are given where the key is, and the error says so."""
    run(settings, "revoke", "agent", "claude", *WHY)
    (settings.keys_dir / CONTROL).unlink()
    assert "agent:claude" in run(settings, "revocations").stdout
    refused = run(settings, "revoke", "agent", "codex", *WHY)
    assert refused.exit_code == 7
    assert "give orders where the key is" in refused.stderr


def test_an_order_in_a_home_that_is_none_is_an_error(tmp_path: Path) -> None:
    """Nobody would read it; and nothing is made there."""
    result = CliRunner().invoke(main, ["--home", str(tmp_path / "x"), "revoke", "run", "a/b", "--reason", "leaked"])
    assert result.exit_code == 7
    assert "there is no installation in" in result.output
    assert not (tmp_path / "x").exists()
