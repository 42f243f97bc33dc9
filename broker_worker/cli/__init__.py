"""The operator's command, `secret-broker`: every subcommand has a module of its own and is joined here."""

import sys
from importlib.util import find_spec

if find_spec("click") is None:  # pip makes the command also where only what an agent needs is installed
    print("error: this command needs the broker's packages; only those of an agent are installed", file=sys.stderr)
    print("hint: install secret-broker with its extra `broker`, or `all`", file=sys.stderr)
    sys.exit(7)

from broker_worker.cli.acl import acl
from broker_worker.cli.audit import audit
from broker_worker.cli.completion import completion
from broker_worker.cli.demo import demo
from broker_worker.cli.doctor import doctor
from broker_worker.cli.init import init
from broker_worker.cli.keys import keys
from broker_worker.cli.launch import launch
from broker_worker.cli.policy import policy
from broker_worker.cli.root import main
from broker_worker.cli.vault import vault
from broker_worker.cli.worker import up, worker

main.add_command(acl)
main.add_command(audit)
main.add_command(completion)
main.add_command(demo)
main.add_command(doctor)
main.add_command(init)
main.add_command(keys)
main.add_command(launch)
main.add_command(policy)
main.add_command(up)
main.add_command(vault)
main.add_command(worker)

__all__ = ["main"]
