"""Credentials of the parts that act for others: as whose run they ask, and that they never run out."""

import stat
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import structlog
from desk_workbench import write_files

from agent_sdk.wire.messages import Way
from broker_worker.app.part_credentials import PartCredential, acting_agent
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import SetupError
from broker_worker.files.configuration import load_configuration

HOUR = 3_600_000


def policy(**agents: str) -> str:
    """A policy whose agents act for others by the ways that are named."""
    lines = [
        f"  {name}: {{allow: [], acts_for: {{all_agents: true, deliver: [{ways}]}}}}" for name, ways in agents.items()
    ]
    return "agents:\n  claude: {allow: []}\n" + "\n".join(lines) + "\n"


def configured(folder: Path, **agents: str) -> Configuration:
    """The configuration with that policy."""
    return load_configuration(write_files(folder, policy=policy(**agents)))


@dataclass
class Credential:
    """What is minted."""

    agent: str
    expires_at: int

    def to_json(self) -> str:
        return f"{self.agent} until {self.expires_at}"


class Issuer:
    """Mints for an hour, at a time that a test turns; or cannot."""

    def __init__(self) -> None:
        self.now = 0
        self.fault: SetupError | None = None

    def mint(self, configuration: Configuration, agent: str) -> Credential:
        if self.fault is not None:
            raise self.fault
        assert agent in configuration.policy.agents
        return Credential(agent, self.now + HOUR)

    def credential(self, folder: Path) -> PartCredential:
        return PartCredential(folder / "run", "gateway", "value", self.mint, lambda: self.now)


@pytest.mark.parametrize(
    ("agents", "way", "expected"),
    [
        ({"gateway": "value"}, "value", "gateway"),
        ({"door": "value"}, "value", "door"),
        ({"door": "value", "gateway": "value"}, "value", "gateway"),
        ({"door": "value", "egress": "proxy"}, "value", "door"),
        ({"gateway": "proxy", "door": "value"}, "value", "door"),
    ],
)
def test_a_part_asks_as_the_agent_that_is_meant(
    tmp_path: Path, agents: dict[str, str], way: Way, expected: str
) -> None:
    """The one that is called like the part, or else the only one that may do what the part does."""
    assert acting_agent(configured(tmp_path, **agents).policy, "gateway", way) == expected


def test_where_nobody_may_act_for_others_it_is_said_what_to_write(tmp_path: Path) -> None:
    """The hint is a line that the policy's reader takes."""
    with pytest.raises(SetupError, match="no agent in the policy may act for others") as caught:
        acting_agent(configured(tmp_path, egress="proxy").policy, "gateway", "value")
    line = caught.value.hint.partition("policy.yaml: ")[2]
    (tmp_path / "policy.yaml").write_text(f"agents:\n  {line}\n")
    assert acting_agent(load_configuration(tmp_path).policy, "gateway", "value") == "gateway"


def test_where_several_could_be_meant_nobody_is_chosen(tmp_path: Path) -> None:
    """Which of them acts is for the operator to say."""
    with pytest.raises(SetupError, match=r"several agents may act for others.*: door, gate"):
        acting_agent(configured(tmp_path, door="value", gate="value").policy, "gateway", "value")


def test_a_credential_is_minted_anew_before_it_ends(tmp_path: Path) -> None:
    """Half of its time remains for the part to read it; the file is closed to everybody else."""
    issuer, files = Issuer(), configured(tmp_path, gateway="value")
    credential = issuer.credential(tmp_path)
    assert credential.keep(files)
    assert stat.S_IMODE(credential.path.stat().st_mode) == 0o600
    issuer.now = HOUR // 2 - 1
    assert credential.keep(files)
    assert credential.path.read_text() == f"gateway until {HOUR}"
    issuer.now = HOUR // 2
    assert credential.keep(files)
    assert credential.path.read_text() == f"gateway until {HOUR // 2 + HOUR}"
    assert credential.environ == {"SECRET_BROKER_CREDENTIAL_FILE": str(credential.path)}
    credential.remove()
    assert not credential.path.exists()


def test_a_credential_of_another_agent_is_minted_at_once(tmp_path: Path) -> None:
    """When the policy says that somebody else acts for others."""
    issuer = Issuer()
    credential = issuer.credential(tmp_path)
    assert credential.keep(configured(tmp_path, door="value"))
    assert credential.keep(configured(tmp_path, gateway="value"))
    assert credential.path.read_text() == f"gateway until {HOUR}"


def test_what_stands_against_it_is_said_once_and_ends_nothing(tmp_path: Path) -> None:
    """Until it is another thing, or was put right meanwhile; a credential that is there stays."""
    issuer, files = Issuer(), configured(tmp_path, gateway="value")
    credential = issuer.credential(tmp_path)
    with structlog.testing.capture_logs() as logs:
        assert not credential.keep(configured(tmp_path / "other"))
        assert not credential.keep(configured(tmp_path / "other"))
        assert credential.keep(files)
        issuer.now, issuer.fault = HOUR, SetupError("no key", hint="make one")
        assert not credential.keep(files)
        assert not credential.keep(replace(files))
    assert [(log["event"], log["hint"][:5]) for log in logs] == [
        ("gateway_without_credential", "write"),
        ("gateway_without_credential", "make "),
    ]
    assert credential.path.exists()
