"""The operator's command, `secret-broker`: every subcommand has a module of its own and is joined here."""

import sys
from importlib.util import find_spec

if find_spec("structlog") is None:  # pip makes the command also where only what an agent needs is installed
    print("error: this command needs the broker's packages; only those of an agent are installed", file=sys.stderr)
    print("hint: install secret-broker with its extra `broker`, or `all`", file=sys.stderr)
    sys.exit(7)

from agent_sdk.cli.command_table import CommandTable
from broker_worker.cli.root import main

main.commands = CommandTable(
    {
        "acl": "broker_worker.cli.acl:acl",
        "approvals": "broker_worker.cli.approvals:approvals",
        "approve": "broker_worker.cli.approvals:approve",
        "approvers": "broker_worker.cli.approvers:approvers",
        "audit": "broker_worker.cli.audit:audit",
        "cache": "broker_worker.cli.cache:cache",
        "completion": "broker_worker.cli.completion:completion",
        "dashboard": "broker_worker.cli.dashboard:dashboard",
        "demo": "broker_worker.cli.demo:demo",
        "deny": "broker_worker.cli.approvals:deny",
        "doctor": "broker_worker.cli.doctor:doctor",
        "egress": "broker_worker.cli.egress:egress",
        "exposure": "broker_worker.cli.exposure:exposure",
        "gateway": "broker_worker.cli.gateway:gateway",
        "generate": "broker_worker.cli.writing:generate",
        "init": "broker_worker.cli.init:init",
        "jobs": "broker_worker.cli.jobs:jobs",
        "keys": "broker_worker.cli.keys:keys",
        "launch": "broker_worker.cli.launch:launch",
        "leases": "broker_worker.cli.leases:leases",
        "ledger": "broker_worker.cli.ledger:ledger",
        "migrate": "broker_worker.cli.migrate:migrate_files",
        "policy": "broker_worker.cli.policy:policy",
        "providers": "broker_worker.cli.providers:providers",
        "put": "broker_worker.cli.writing:put",
        "reinstate": "broker_worker.cli.revoke:reinstate",
        "revocations": "broker_worker.cli.revoke:revocations",
        "revoke": "broker_worker.cli.revoke:revoke",
        "rotate": "broker_worker.cli.rotate:rotate",
        "runs": "broker_worker.cli.runs:runs",
        "tokens": "broker_worker.cli.tokens:tokens",
        "up": "broker_worker.cli.up:up",
        "vault": "broker_worker.cli.vault:vault",
        "worker": "broker_worker.cli.worker:worker",
    }
)

__all__ = ["main"]
