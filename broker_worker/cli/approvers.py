"""`secret-broker approvers`: who may approve and deny, and the keys with which they do."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from agent_sdk.wire.errors import WireError
from broker_worker.cli.approvals import PASSPHRASE_VARIABLE
from broker_worker.core.approvers import Approver, Ed25519Key
from broker_worker.core.configuration import Dashboard
from broker_worker.core.errors import SetupError
from broker_worker.files.approvers import check_person_name, decode_ed25519
from broker_worker.files.configuration import load_configuration
from broker_worker.files.list_lines import NotChangedError
from broker_worker.people.approver_key import create_approver_key, default_key_path, load_approver_key
from broker_worker.people.approvers_file import ApproversFile, base64url
from broker_worker.settings import Settings

_GROUPS = click.option("--group", "groups", multiple=True, metavar="GROUP", help="A group; may be given several times.")
_ENROL_MINUTES = 10


def _name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        return check_person_name(value)
    except WireError as error:
        raise click.BadParameter(str(error)) from None


@click.group()
def approvers() -> None:
    """Say who may approve, and make the keys with which they do."""


@approvers.command("new-key")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--no-passphrase", is_flag=True, help="Whoever can read the file can approve in your name.")
def new_key(file: Path | None, no_passphrase: bool) -> None:
    """Make your Ed25519 key for approving in the terminal, and show its public half.

    FILE is approver.key in your configuration folder if left out. Make it where you approve, and give only the public
    half to whoever keeps approvers.yaml. The passphrase is asked for, or read from SECRET_BROKER_APPROVER_PASSPHRASE.
    """
    path = file or default_key_path()
    if path.exists():
        raise SetupError(f"{path} exists already", hint="nothing was changed; name another file")
    passphrase = None if no_passphrase else _new_passphrase()
    public = base64url(create_approver_key(path, passphrase).public)
    click.echo(f"made {path}; its public half is\n\n  {public}\n")
    if no_passphrase:
        click.echo("whoever can read that file can approve in your name: nothing asks for a passphrase")
    click.echo(f"next, at the broker: secret-broker approvers add NAME --group GROUP --key {public}")


def _new_passphrase() -> str:
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    if not passphrase:
        if not sys.stdin.isatty():
            raise SetupError(
                "a key has a passphrase, and there is no terminal to ask for it",
                hint=f"set {PASSPHRASE_VARIABLE}, or give --no-passphrase",
            )
        prompt = "A passphrase for your key"
        passphrase = str(click.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True))
    if len(passphrase) < 8:
        raise click.UsageError("a passphrase has at least 8 characters")
    return passphrase


@approvers.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_command(settings: Settings, as_json: bool) -> None:
    """List who may approve, in which groups, with which keys."""
    people = _file(settings)[0].people()
    if as_json:
        click.echo(json.dumps([_as_json(person) for person in people.values()], indent=2))
        return
    for person in people.values():
        groups = f", in {', '.join(person.groups)}" if person.groups else ""
        click.echo(f"{person.name}{groups} ({person.origin})")
        for key in person.keys:
            kind = "ed25519 " if isinstance(key, Ed25519Key) else f"webauthn at {key.rp_id}"
            identifier = key.public if isinstance(key, Ed25519Key) else key.credential_id
            click.echo(f"  {kind} {base64url(identifier)}")
    if not people:
        click.echo("nobody may approve: `secret-broker approvers enrol NAME --group GROUP` adds somebody", err=True)


def _as_json(person: Approver) -> dict[str, object]:
    keys = [
        {"kind": "ed25519", "public_key": base64url(key.public)}
        if isinstance(key, Ed25519Key)
        else {"kind": "webauthn", "credential_id": base64url(key.credential_id), "rp_id": key.rp_id}
        for key in person.keys
    ]
    return {"name": person.name, "groups": list(person.groups), "keys": keys, "line": person.origin.line}


@approvers.command("add")
@click.argument("name", callback=_name)
@_GROUPS
@click.option("--key", "public", metavar="PUBLIC", help="The public half that `approvers new-key` showed.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A key's file on this host, in place of --key; only its public half is read.",
)
@click.pass_obj
def add(settings: Settings, name: str, groups: tuple[str, ...], public: str | None, key_file: Path | None) -> None:
    """Let NAME approve with an Ed25519 key; a second key if NAME is there already."""
    if (public is None) == (key_file is None):
        raise click.UsageError("give --key PUBLIC or --key-file FILE")
    raw = load_approver_key(key_file).public if key_file is not None else decode_ed25519(public or "")
    if raw is None:
        raise click.BadParameter("expected an Ed25519 public key: 43 characters of base64url", param_hint="--key")
    file, _ = _file(settings)
    with _by_hand(file):
        file.add(name, _checked(groups), Ed25519Key(raw))
    click.echo(f"{name} may approve from now on, with the key {base64url(raw)}; see {file.path}")


@approvers.command("remove")
@click.argument("name", callback=_name)
@click.pass_obj
def remove(settings: Settings, name: str) -> None:
    """Take the right to approve from NAME; what NAME decided on waiting requests counts no more."""
    file, _ = _file(settings)
    with _by_hand(file):
        file.remove(name)
    click.echo(f"{name} may approve no more; see {file.path}")


@approvers.command("enrol")
@click.argument("name", callback=_name)
@_GROUPS
@click.pass_obj
def enrol(settings: Settings, name: str, groups: tuple[str, ...]) -> None:
    """Let NAME approve in the browser, with Windows Hello, Touch ID or a security key.

    Prints a link that works once, for ten minutes, in a browser on this host. This process, not the dashboard, writes
    approvers.yaml.
    """
    try:
        from broker_worker.people.enrolment import Enrolment, serve_enrolment  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        hint = "install secret-broker with its extra `dashboard`, or `all`"
        raise SetupError(f"enrolling needs the package {error.name}", hint=hint) from None
    file, dashboard = _file(settings)
    wanted = _checked(groups)
    known = file.check(name, wanted)
    enrolment = Enrolment(name, dashboard, known[name].keys if name in known else ())

    def show(link: str) -> None:
        click.echo(f"open within {_ENROL_MINUTES} minutes, in a browser on this host:\n\n  {link}\n")

    key = asyncio.run(serve_enrolment(enrolment, show, seconds=_ENROL_MINUTES * 60))
    with _by_hand(file):
        file.add(name, wanted, key)
    click.echo(f"{name} may approve from now on, at {dashboard.origin}; see {file.path}")


def _checked(groups: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(check_person_name(group) for group in groups))
    except WireError as error:
        raise click.BadParameter(str(error), param_hint="--group") from None


def _file(settings: Settings) -> tuple[ApproversFile, Dashboard]:
    dashboard = load_configuration(settings.config_dir).dashboard
    return ApproversFile(settings.config_dir, dashboard), dashboard


@contextmanager
def _by_hand(file: ApproversFile) -> Iterator[None]:
    """Show the lines that a person must write, if the program does not dare to."""
    try:
        yield
    except NotChangedError as error:
        click.echo(f"{file.path} should say, {error.by_hand}")
        raise
