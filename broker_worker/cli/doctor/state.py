"""Checks of the broker's own files: revocations in force, used approvals, and the keys that they rest on."""

import time
from collections.abc import Iterator
from pathlib import Path

from broker_worker.cli.doctor.check import Check, failed, ok, warn
from broker_worker.core.revocations import Revocations
from broker_worker.files.keys import CONTROL, JOBS, PUBLIC_CONTROL, control_public, load_seed
from broker_worker.settings import Settings
from broker_worker.state.revocation_file import RevocationFile
from broker_worker.state.used_approvals import UsedApprovals

_MADE_AT_START = "`secret-broker up` makes it at its next start; back it up then"


def check_state(settings: Settings) -> Iterator[Check]:
    """Whether revocations and used approvals can be read and believed; nothing is made or changed."""
    yield _check_revocations(settings)
    yield _check_used("used approvals", settings.used_approvals_file)
    yield _check_used("settled approvals", settings.settled_approvals_file)
    if (settings.keys_dir / JOBS).exists():
        load_seed(settings.keys_dir / JOBS)
        yield ok("jobs key", "loads")
    else:
        yield warn("jobs key", "an older home: there is none yet", _MADE_AT_START)


def _check_revocations(settings: Settings) -> Check:
    control, file = settings.keys_dir / CONTROL, settings.revocations_file
    if not control.exists() and not (settings.keys_dir / PUBLIC_CONTROL).exists():
        if file.exists() and file.stat().st_size:
            hint = "restore the key from a backup: workers do not start without it or its public half"
            return failed("revocations", f"{control} is gone, and with it the proof of every order in {file}", hint)
        return warn("revocations", f"an older home: there is no {control.name} yet", _MADE_AT_START)
    public = control_public(settings.keys_dir, file)
    faults: list[str] = []
    orders = Revocations()
    for revocation in RevocationFile(file, public, faults.append).poll():
        orders.apply(revocation)
    if faults:
        hint = "compare the file with the `revoked` events of the audit; remove the line, or restore the file"
        return failed("revocations", f"{faults[0]} ({len(faults)} such lines)", hint)
    given = "" if control.exists() else "; orders are given elsewhere: only the key's public half is here"
    return ok("revocations", f"in force: {len(list(orders))}; every line is signed{given}")


def _check_used(name: str, file: Path) -> Check:
    remembered = UsedApprovals(file, lambda: time.time_ns() // 1_000_000).check()
    return ok(name, f"remembered: {remembered}")
