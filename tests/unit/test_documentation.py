"""The documentation says what there is: its links lead somewhere, its commands exist, its YAML is valid."""

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from broker_worker.cli import main
from broker_worker.files.configuration import load_configuration
from broker_worker.providers.options import Surroundings
from broker_worker.providers.schemes import make_providers

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda page: page.relative_to(ROOT).as_posix())
_LINK = re.compile(r"(?<!\!)\[[^]]*\]\(([^)\s]+)\)|\!\[[^]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
_COMMAND = re.compile(r"(?<!-u )secret-broker(?: --[a-z-]+(?: [^\s-]\S*)?)*((?: [a-z][a-z-]*)+)")
_TAG = re.compile(r"`secret-broker [a-z ]+ v[0-9]+`")
"""What is signed begins with such words; they are no command."""
_ISSUERS = "issuers: [{name: a, public_key: 3mxxo4lGY99I-1puMNFUsi8GGxX76FKNUAVLqv3vPP8, all_agents: true}]\n"
_HOLE = re.compile(r"```.*?```", re.DOTALL)


def named(page: Path) -> str:
    """A page as pytest shows it."""
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The places of a page that a link can name, as forges make them of its headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", _HOLE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[tuple[str, ...]]:
    """The words behind `secret-broker` wherever a page shows code."""
    for code in _CODE.findall(page.read_text()):
        if _TAG.fullmatch(code):
            continue
        for found in _COMMAND.finditer(code.replace("\n", " ") if not code.startswith("```") else code):
            yield tuple(found[1].split())


def blocks(page: str) -> list[str]:
    """The YAML of a page, in its order."""
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    for text, image in _LINK.findall(_HOLE.sub("", page.read_text())):
        target, _, place = (text or image).partition("#")
        if "://" in target:
            continue
        file = page if not target else page.parent / target
        assert file.exists(), f"{text or image} of {named(page)}"
        assert not place or place in anchors(file), f"{text} of {named(page)}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page: Path) -> None:
    """Whoever types what a page shows is not told that there is no such command."""
    for words in commands(page):
        command: click.Command = main
        for word in words:
            if not isinstance(command, click.Group):
                break
            is_known = word in command.commands or (command is not main and command.invoke_without_command)
            assert is_known, f"secret-broker {' '.join(words)} of {named(page)}"
            command = command.commands.get(word, click.Command(word))


def test_there_is_something_to_check() -> None:
    """A pattern that finds nothing would let everything pass."""
    assert len(PAGES) > 20
    assert sum(1 for page in PAGES for _ in commands(page)) > 100
    assert sum(len(_LINK.findall(page.read_text())) for page in PAGES) > 100


def test_what_the_page_on_approvals_shows_is_valid(tmp_path: Path) -> None:
    """The YAML of docs/approvals.md: a policy that asks people, the people, and whom to tell."""
    policy, approvers, notifications = blocks("approvals.md")
    (tmp_path / "policy.yaml").write_text(policy)
    (tmp_path / "secrets.yaml").write_text('secrets: {prod.deploy_key: "local://prod.deploy_key"}\n')
    (tmp_path / "issuers.yaml").write_text(_ISSUERS)
    (tmp_path / "approvers.yaml").write_text(approvers)
    (tmp_path / "broker.yaml").write_text("provider: {type: local}\n" + notifications)
    configuration = load_configuration(tmp_path)
    (grant,) = configuration.policy.agents["codex"].grants
    assert grant.approval is not None
    assert [person.name for person in configuration.approvers.who_may(grant.approval.approvers)] == ["alice"]
    assert [target.kind for target in configuration.notifications] == ["slack", "webhook", "command"]


def test_what_the_page_on_the_dashboard_shows_is_valid(tmp_path: Path) -> None:
    """The YAML of docs/dashboard.md: another address behind a proxy, which is then the one that counts."""
    (section,) = blocks("dashboard.md")
    (tmp_path / "broker.yaml").write_text("provider: {type: local}\n" + section)
    (tmp_path / "policy.yaml").write_text("agents: {claude: {allow: []}}\n")
    (tmp_path / "secrets.yaml").write_text('secrets: {one: "local://one"}\n')
    (tmp_path / "issuers.yaml").write_text(_ISSUERS)
    configuration = load_configuration(tmp_path)
    assert configuration.approvers.origins == (configuration.dashboard.origin,) == ("https://broker.example.org",)


def test_what_the_page_on_vaults_shows_of_aws_is_valid(tmp_path: Path) -> None:
    """The YAML of docs/providers.md on AWS: two sections, and references of every form; its IAM policy is JSON."""
    sections, references = (textwrap.dedent(block) for block in blocks("providers.md") if "aws-" in block)
    (tmp_path / "broker.yaml").write_text(sections)
    (tmp_path / "policy.yaml").write_text("agents: {claude: {allow: []}}\n")
    (tmp_path / "secrets.yaml").write_text(references)
    (tmp_path / "issuers.yaml").write_text(_ISSUERS)
    configuration = load_configuration(tmp_path)
    around = Surroundings(tmp_path, tmp_path, lambda path: b"", {}, lambda: 0)
    assert list(make_providers(configuration.providers, around)) == ["aws-sm", "aws-ssm"]
    assert len(configuration.registry) == 5
    (policy,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "providers.md").read_text(), re.DOTALL)
    assert len(json.loads(policy)["Statement"]) == 3


def test_what_the_page_on_vaults_shows_of_commands_is_valid(tmp_path: Path) -> None:
    """The YAML of docs/providers.md: commands, and references that they serve; the example provider's section."""
    shown = blocks("providers.md")
    (section,) = [block for block in shown if "type: exec" in block]
    (secrets,) = [block for block in shown if "exec://" in block]
    (tmp_path / "broker.yaml").write_text(section)
    (tmp_path / "policy.yaml").write_text("agents: {claude: {allow: []}}\n")
    (tmp_path / "secrets.yaml").write_text(secrets)
    (tmp_path / "issuers.yaml").write_text(_ISSUERS)
    configuration = load_configuration(tmp_path)
    (provider,) = configuration.providers
    assert {"op", "gcloud", "pass", "aws"} < set(provider.commands)
    assert len(configuration.registry) == 4


def test_the_page_on_other_programs_names_the_versions_that_are_run() -> None:
    """Whatever `.ci/install-programs` pins: who changes a version there sees the page's lines work, and says so."""
    page = (ROOT / "docs/conventions.md").read_text()
    pinned = json.loads((ROOT / ".ci/programs/package.json").read_text())["dependencies"]
    pinned |= re.findall(r'"(pre-commit)==([^"]+)"', (ROOT / ".ci/install-programs").read_text())
    assert len(pinned) == 4
    for name, version in pinned.items():
        assert version in page, name
