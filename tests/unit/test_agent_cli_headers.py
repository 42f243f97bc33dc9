"""`secret-agent headers`: what a run sends of itself, and a proof that its key is there."""

import time
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result

from agent_sdk.cli import main
from agent_sdk.credential import TEXT_VARIABLE, RunCredential
from agent_sdk.testing import FakeDesk
from agent_sdk.wire.proof import verify_proof

AUDIENCE = "http://127.0.0.1:7700"


@pytest.fixture
def credential() -> RunCredential:
    """What the run was handed."""
    return FakeDesk().credential("claude")


def run(credential: RunCredential, *arguments: str) -> Result:
    """`secret-agent headers ARGUMENTS`."""
    return CliRunner(env={TEXT_VARIABLE: credential.to_json()}).invoke(main, ["headers", *arguments])


def test_the_lines_are_what_the_gateway_reads(credential: RunCredential) -> None:
    """The token and whose it is; the proof is of this token, for this audience, and good for a minute."""
    plain = run(credential).stdout.splitlines()
    assert plain == [
        f"Authorization: Bearer {credential.token}",
        f"X-Agent-Id: {credential.agent_id}",
        f"X-Agent-Run-Id: {credential.run_id}",
    ]
    *same, last = run(credential, AUDIENCE).stdout.splitlines()
    assert same == plain
    proof = last.removeprefix("Workload-Proof-Token: ")
    now = time.time_ns() // 1_000_000
    claims = verify_proof(proof, credential.token, credential.run_public_key, [AUDIENCE], now)
    assert claims.expires_at - now <= timedelta(minutes=1) // timedelta(milliseconds=1)
    assert run(credential, AUDIENCE).stdout.splitlines()[-1] != last, "a proof serves one request"


def test_a_token_is_not_shown_on_a_terminal(credential: RunCredential, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stay in the terminal's history."""
    monkeypatch.setattr("agent_sdk.cli.headers.standard_output", _Terminal)
    result = run(credential)
    assert result.exit_code == 2
    assert "pipe it into what sends it" in result.stderr
    assert credential.token not in result.output


class _Terminal:
    @staticmethod
    def isatty() -> bool:
        return True


def test_an_audience_that_no_gateway_has_is_refused(credential: RunCredential) -> None:
    """The mistake shows where it is made."""
    result = run(credential, "a" * 513)
    assert (result.exit_code, "audience" in result.stderr.lower()) == (2, True)
