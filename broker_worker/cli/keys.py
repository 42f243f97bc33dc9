"""`secret-broker keys`: what the keys are called, and the rotation of the intake key."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta

import click

from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.errors import ConfigError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import (
    ISSUER,
    BrokerKeys,
    load_broker_keys,
    load_seed,
    rotate_intake,
    write_public_identity,
)
from broker_worker.files.quantities import parse_duration
from broker_worker.settings import Settings


def _duration(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group()
def keys() -> None:
    """Show public halves, rotate the intake key."""


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def show(settings: Settings, as_json: bool) -> None:
    """Show the public halves: what an orchestrator needs to mint runs. Never a private one.

    Also writes keys/identity.pub if it is missing: what checks the broker's signatures needs no more than that.
    """
    broker = load_broker_keys(settings.keys_dir)
    write_public_identity(settings.keys_dir)
    shown = {
        "broker": _b64(broker.identity_public),
        "intake": _b64(broker.intake[0].public),
        "issuer": _b64(run_public_key(load_seed(settings.keys_dir / ISSUER))),
    }
    if as_json:
        click.echo(json.dumps(shown))
        return
    for name, public in shown.items():
        click.echo(f"{name:7} {public}")
    click.echo(_intake_line(broker))


@keys.command()
@click.option(
    "--overlap",
    callback=_duration,
    metavar="DURATION",
    help="How long the old key still opens requests; the longest life of a run if left out.",
)
@click.option("--destroy-old", is_flag=True, help="Destroy the older keys at once: running agents lose the broker.")
@click.pass_obj
def rotate(settings: Settings, overlap: int | None, destroy_old: bool) -> None:
    """Make a new intake key and destroy those whose overlap is over.

    Runs keep the intake key that they were launched with, so the overlap should not be shorter than they live.
    A running broker takes the new key at once; runs that are launched from now on use it.
    """
    if destroy_old and overlap is not None:
        raise click.UsageError("--destroy-old leaves no overlap")
    seconds = 0 if destroy_old else _longest_run(settings) if overlap is None else overlap
    broker = rotate_intake(settings.keys_dir, seconds, time.time_ns() // 1_000_000)
    click.echo(_intake_line(broker))
    if not destroy_old:
        click.echo(f"a replaced key is destroyed by the first rotation after {timedelta(seconds=seconds)}")


def _longest_run(settings: Settings) -> int:
    anchors = load_configuration(settings.config_dir).anchors
    if not anchors:
        raise ConfigError(
            "no issuer says how long a run may be", file=str(settings.config_dir), hint="give --overlap, such as 8h"
        )
    return max(anchor.max_lifetime for anchor in anchors)


def _intake_line(broker: BrokerKeys) -> str:
    made = datetime.fromtimestamp(broker.intake[0].created_at / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"intake key {broker.intake[0].key_id.hex()} of {made}; {len(broker.intake) - 1} older still open requests"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
