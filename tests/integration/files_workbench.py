"""The operator's files as tests write them, and why they are refused."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from broker_worker.core.errors import ConfigError
from broker_worker.files.configuration import load_configuration

EXAMPLES = Path(__file__).parents[2] / "config"
ISSUERS = "issuers:\n  - {name: a, public_key: 3mxxo4lGY99I-1puMNFUsi8GGxX76FKNUAVLqv3vPP8, all_agents: true}\n"
FILES = {
    "broker.yaml": "provider: {type: local}\n",
    "policy.yaml": "agents:\n  codex: {allow: [one]}\n",
    "secrets.yaml": "secrets: {one: local://one}\n",
    "issuers.yaml": ISSUERS,
}
FIRST = """\
agents:
  claude:
    allow:
      - openai.api_key
      - anthropic.api_key
  codex:
    allow:
      - github.read_token
      - openai.api_key
  grok:
    allow:
      - openai.api_key
  random-script:
    allow: []

default: deny
"""
SECOND = """\
server:
  host: 127.0.0.1
  port: 7700

provider:
  type: onepassword
  token_env: OP_SERVICE_ACCOUNT_TOKEN

cache:
  default_ttl_seconds: 3600
  max_entries: 500

secrets:
  github_token:
    ref: "op://Agent-Orchestra-Secrets/GitHub-PAT/credential"
    ttl_seconds: 1800
  openai_key:
    ref: "op://Agent-Orchestra-Secrets/OpenAI-Key/credential"
    ttl_seconds: 3600
  vercel_token:
    ref: "op://Agent-Orchestra-Secrets/Vercel-Deploy/credential"
    ttl_seconds: 900

policies:
  agent-researcher:
    allow: [openai_key]
  agent-deployer:
    allow: [github_token, vercel_token]
  agent-orchestrator:
    allow: [openai_key, github_token]
"""


def folder(path: Path, **changes: str | None) -> Path:
    """A folder of four valid files, with some replaced or left out."""
    contents: Mapping[str, str | None] = FILES | {name.replace("_", "."): text for name, text in changes.items()}
    for name, text in contents.items():
        if text is not None:
            (path / name).write_text(text)
    return path


def refusal(path: Path) -> ConfigError:
    """The error that loading gives."""
    with pytest.raises(ConfigError) as caught:
        load_configuration(path)
    return caught.value
