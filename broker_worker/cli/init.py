"""`secret-broker init`: a new installation, whole or not at all; nothing that exists is overwritten."""

import os
import shlex
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.errors import SetupError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import ISSUER, VAULT, create_broker_keys, create_seed, load_seed
from broker_worker.files.templates import PROVIDER_SECTIONS, render_configuration
from broker_worker.private_files import create_private, make_private_folder, sync_folder
from broker_worker.providers.local_vault import LocalVault, VaultKeys
from broker_worker.providers.vault_format import KeyParameters
from broker_worker.settings import Settings

_FIRST_AGENT = "from agent_sdk import SecretBroker as B; print(B().get('openai.api_key'))"
_SHARED_WRITE = stat.S_IWGRP | stat.S_IWOTH


@click.command()
@click.option(
    "--provider",
    type=click.Choice(tuple(PROVIDER_SECTIONS)),
    default="local",
    show_default=True,
    help="The vault that the first configuration uses.",
)
@click.pass_obj
def init(settings: Settings, provider: str) -> None:
    """Make keys, a first configuration and, for the local provider, an empty encrypted vault.

    Nothing is overwritten: if one of the folders is there already, nothing is done.
    """
    create_installation(settings, provider, now=time.time_ns() // 1_000_000)
    for line in _next_steps(settings, provider):
        click.echo(line)


def create_installation(settings: Settings, provider: str, now: int) -> None:
    """Make an installation's folders beside their places, check them, and only then move them there.

    Args:
        settings: where.
        provider: `local`, `onepassword` or `env`.
        now: the time, ms since the epoch.

    Raises:
        SetupError: if something is in the way or cannot be written; nothing of the installation is then left.
    """
    places = [settings.config_dir, settings.keys_dir]
    if provider == "local":
        places.append(settings.vault_file.parent)
    _refuse_to_overwrite(places)
    _prepare_home(settings.home)
    with _staging(settings.home) as staging:
        staged = Settings.load(staging)
        create_broker_keys(staged.keys_dir, now)
        make_private_folder(staged.config_dir)
        public = run_public_key(load_seed(staged.keys_dir / ISSUER))
        for name, text in render_configuration(provider, public).items():
            create_private(staged.config_dir / name, text.encode())
        if provider == "local":
            _create_vault(staged)
        load_configuration(staged.config_dir)
        _move([(staging / place.name, place) for place in places])
    sync_folder(settings.home)


def _refuse_to_overwrite(places: list[Path]) -> None:
    occupied = [str(place) for place in places if place.exists() and (not place.is_dir() or any(place.iterdir()))]
    if occupied:
        raise SetupError(
            f"in the way: {', '.join(occupied)}",
            hint="nothing was changed; move these away, or choose another --home",
        )


def _prepare_home(home: Path) -> None:
    """Make the home, or check that nobody else could exchange what is put into it."""
    if not home.exists():
        make_private_folder(home)
    status = home.stat()
    if not home.is_dir():
        raise SetupError(f"{home} is not a folder", hint="choose another --home")
    if os.name == "posix" and status.st_mode & _SHARED_WRITE:
        raise SetupError(
            f"others may write to {home} (mode {stat.S_IMODE(status.st_mode):04o}) and could exchange the keys",
            hint=f"chmod 700 {shlex.quote(str(home))}, or choose another --home",
        )


@contextmanager
def _staging(home: Path) -> Iterator[Path]:
    staging = home / f".init-{os.getpid()}-{os.urandom(4).hex()}"
    make_private_folder(staging)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _create_vault(staged: Settings) -> None:
    key_file = staged.keys_dir / VAULT
    create_seed(key_file)
    make_private_folder(staged.vault_file.parent)
    LocalVault(staged.vault_file, VaultKeys(lambda: load_seed(key_file), lambda: None)).create(
        KeyParameters.of_key_file()
    )


def _move(pairs: list[tuple[Path, Path]]) -> None:
    moved: list[tuple[Path, Path]] = []
    try:
        for source, target in pairs:
            if target.exists():
                target.rmdir()  # empty, as was checked; Windows does not replace it
            source.rename(target)
            moved.append((source, target))
    except OSError as error:
        for source, target in reversed(moved):
            target.rename(source)
        raise SetupError(f"{error.filename} cannot be put in its place: {error.strerror}", hint="try again") from error


def _next_steps(settings: Settings, provider: str) -> Iterator[str]:
    yield f"made {settings.home}:"
    yield "  config/  policy, registry, provider, issuers and approvers: plain YAML, yours to edit"
    yield "  keys/    of the broker, this installation's issuer and the queue: back them up, show them to nobody"
    if provider == "local":
        yield "  vault/   an empty encrypted vault; keys/vault.key opens it"
    yield ""
    yield "next:"
    if Settings.load().home != settings.home:
        yield f"  export SECRET_BROKER_HOME={shlex.quote(str(settings.home))}"
    yield {
        "local": "  secret-broker vault set openai.api_key        # reads the value from a hidden prompt or stdin",
        "onepassword": "  export OP_SERVICE_ACCOUNT_TOKEN=…             # and edit the references in secrets.yaml",
        "env": "  export OPENAI_API_KEY=…                       # the variables named in secrets.yaml",
    }[provider]
    yield f"  $EDITOR {shlex.quote(str(settings.config_dir / 'policy.yaml'))}"
    yield "  secret-broker policy check                    # is it valid, and what you mean?"
    yield "  secret-broker doctor                          # what is still missing"
    yield "  secret-broker up                              # and in another terminal:"
    yield f'  secret-broker launch --agent claude -- python -c "{_FIRST_AGENT}"'
