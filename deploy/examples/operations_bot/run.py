"""Runs the whole example in a temporary home: services, broker, proxy, the bot, and somebody who approves.

    python deploy/examples/operations_bot/run.py [--yes]

With `--yes`, or without a terminal, a key that this script makes approves; otherwise you are asked.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import services

HERE = Path(__file__).parent
NAMES = ("model.api_key", "tickets.token", "licences.key", "hypervisor.reader", "hypervisor.admin")
BROKER = (sys.executable, "-m", "broker_worker.cli")
SECONDS = 60.0
PASSPHRASE = "SECRET_BROKER_APPROVER_PASSPHRASE"  # noqa: S105  # a variable's name


class Installation:
    """An installation of its own.

    Args:
        home: its folder.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.approver_key = home / "alice.key"
        own = ("SECRET_BROKER", "REDIS_URL", "OP_")
        self.environment = {name: text for name, text in os.environ.items() if not name.startswith(own)}
        self.environment[PASSPHRASE] = secrets.token_urlsafe(16)

    def broker(self, *arguments: str, given: str = "") -> str:
        """Run a command of `secret-broker`; returns what it printed."""
        command = (*BROKER, "--home", str(self.home / "broker"), *arguments)
        done = subprocess.run(  # noqa: S603  # our own program
            command, env=self.environment, input=given, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"`secret-broker {' '.join(arguments[:2])}` failed: {done.stderr.strip()}")
        return done.stdout

    def furnish(self, values: dict[str, str], ports: dict[str, str]) -> None:
        """Make the installation, put the keys into its vault, and write who may use them for what."""
        self.broker("init")
        config = self.home / "broker" / "config"
        for name in ("policy.yaml", "secrets.yaml", "egress.yaml"):
            text = (HERE / "config" / name).read_text()
            (config / name).write_text(string.Template(text).substitute(ports) if name == "egress.yaml" else text)
            (config / name).chmod(0o600)
        with (config / "broker.yaml").open("a") as file:
            file.write(f"\ndashboard:\n  port: {free_port()}\n")
        for name, value in values.items():
            self.broker("vault", "set", name, given=value)
        made = self.broker("approvers", "new-key", str(self.approver_key))
        public = next(line.strip() for line in made.splitlines() if len(line.strip()) == 43)
        (config / "approvers.yaml").write_text(
            f"approvers:\n  - {{name: alice, groups: [ops], keys: [{{kind: ed25519, public_key: {public}}}]}}\n"
        )

    @contextlib.contextmanager
    def up(self, port: str) -> Iterator[None]:
        """`secret-broker up`, which runs the proxy as well, until the end."""
        with (self.home / "up.log").open("w") as log:
            command = (*BROKER, "--home", str(self.home / "broker"), "up", "--until-stdin-ends")
            process = subprocess.Popen(  # noqa: S603  # our own program
                command, env=self.environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
            try:
                end = time.monotonic() + SECONDS
                while not is_listening(port) or "worker_ready" not in (self.home / "up.log").read_text():
                    if process.poll() is not None or time.monotonic() > end:
                        raise SystemExit("the broker did not start:\n" + (self.home / "up.log").read_text())
                    time.sleep(0.1)
                yield
            finally:
                process.terminate()
                process.wait()

    def waiting(self) -> list[str]:
        """What waits for a decision, by id."""
        return [item["approval_id"] for item in json.loads(self.broker("approvals", "list", "--json") or "[]")]

    def decide(self, approval: str, *, allow: bool) -> str:
        """Approve or deny as alice."""
        verdict = ("approve", approval) if allow else ("deny", approval, "--reason", "not now")
        return self.broker(*verdict, "--as", "alice", "--key", str(self.approver_key))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def is_listening(port: str) -> bool:
    """Whether somebody answers there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 0.2):
        return True
    return False


def watch(installation: Installation, bot: "subprocess.Popen[str]", *, is_asked: bool) -> None:
    """Decide whatever waits until the bot is done."""
    decided: set[str] = set()
    while bot.poll() is None and not decided:  # the policy asks for one approval
        for approval in set(installation.waiting()) - decided:
            allow = True
            if is_asked:
                print(installation.broker("approvals", "show", approval))
                allow = input("Allow it? [y/N] ").strip().lower() == "y"
            print(f"--- alice {'approves' if allow else 'denies'} {approval}", flush=True)
            installation.decide(approval, allow=allow)
            decided.add(approval)
        time.sleep(0.5)
    bot.wait(SECONDS)


def tell(transcript: Path) -> None:
    """Show what the model said and was told, a line each."""
    for line in transcript.read_text().splitlines():
        message = json.loads(line)
        for call in message.get("tool_calls") or ():
            print(f"model: {call['function']['name']} {call['function']['arguments']}")
        if message.get("content"):
            print(f"{message['role']}: {message['content']}")


def main(arguments: Sequence[str]) -> int:
    """Run it; 0 if the ticket was answered and no key was found where none may be."""
    values = {name: f"EXAMPLE-{secrets.token_urlsafe(24)}" for name in NAMES}
    home = Path(tempfile.mkdtemp(prefix="sb-ops-"))
    running = {
        "MODEL": services.chat_model(values["model.api_key"]),
        "TICKETS": services.ticket_system(values["tickets.token"]),
        "LICENCES": services.licence_api(values["licences.key"]),
        "HYPERVISOR": services.hypervisor(values["hypervisor.reader"], values["hypervisor.admin"]),
    }
    try:
        port = str(free_port())
        installation = Installation(home)
        installation.furnish(values, {name: service.url for name, service in running.items()} | {"PORT": port})
        transcript, errors = home / "transcript.jsonl", home / "bot.log"
        with installation.up(port), transcript.open("w") as out, errors.open("w") as err:
            launch = ("launch", "--agent", "ops-bot", "--task", "answer ticket 4711", "--")
            command = (*BROKER, "--home", str(home / "broker"), *launch, sys.executable, str(HERE / "bot.py"))
            told = {**installation.environment, "EGRESS_URL": f"http://127.0.0.1:{port}"}
            bot = subprocess.Popen(command, env=told, stdout=out, stderr=err, text=True)  # noqa: S603  # our own program
            try:
                watch(installation, bot, is_asked=sys.stdin.isatty() and "--yes" not in arguments)
            finally:
                bot.kill()
            audit = installation.broker("audit", "query", "--event", "call")
        tell(transcript)
        print("\nWhat the audit has of the bot's calls:\n" + audit)
        print(errors.read_text(), file=sys.stderr, end="")
        searched = (transcript, errors, home / "up.log", *(home / "broker" / "audit").glob("*.jsonl"))
        found = [path.name for path in searched if any(value in path.read_text() for value in values.values())]
        accepted = {service.name: service.accepted for service in running.values()}
        print(f"calls that showed the right key: {accepted}; files in which a key was found: {found or 'none'}")
        return int(bool(found) or bot.returncode != 0 or not all(accepted.values()))
    finally:
        for service in running.values():
            service.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
