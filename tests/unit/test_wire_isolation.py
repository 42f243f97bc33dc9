"""The contract stands alone: importing it loads nothing else of ours, and nothing that does I/O."""

import subprocess
import sys

import pytest

ISOLATED = [
    "audit",
    "audit_chain",
    "certificate",
    "codec",
    "errors",
    "keynames",
    "messages",
    "names",
    "proof",
    "sealing",
    "static_tokens",
    "tokens",
]


@pytest.mark.parametrize("module", ISOLATED)
def test_the_contract_loads_nothing_else_of_the_agents_package(module: str) -> None:
    """Whoever imports the contract gets the contract: no client, no transport, no broker, no event loop."""
    script = (
        f"import sys, agent_sdk.wire.{module}\n"
        "loaded = {name for name in sys.modules if name.startswith(('agent_sdk', 'broker_worker'))}\n"
        "print(sorted(name for name in loaded if not name.startswith('agent_sdk.wire') and name != 'agent_sdk'))\n"
        "print(sorted({'asyncio', 'redis', 'yaml', 'logging.config'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]
