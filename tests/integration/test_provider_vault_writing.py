"""Writing to Vault: the other fields stay, nobody's write is lost, and what failed says why."""

from collections.abc import AsyncIterator

import pytest
from hashicorp_server import DENIED, Asked, Said
from hashicorp_workbench import PASSWORD, REF, Desk, open_desk
from provider_conformance import CANARY, everything_said, failure_of

from broker_worker.core.errors import FailureKind

K = FailureKind


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A provider that was asked nothing yet."""
    async with open_desk() as desk:
        yield desk


async def test_the_other_fields_stay(desk: Desk) -> None:
    """One field changes, in a new version."""
    assert await desk.provider.put(REF, b"new") == "2"
    assert desk.vault.versions["secret/app/db"][-1] == {"user": "reader", "password": "new"}


async def test_somebody_elses_field_is_not_lost(desk: Desk) -> None:
    """What was written between our reading and our writing is kept: the write is prepared anew."""

    def interfere(asked: Asked) -> None:
        if asked.method == "POST" and len(desk.vault.versions["secret/app/db"]) == 1:
            desk.vault.put("secret/app/db", user="changed", password="old")

    desk.break_at("secret/data", interfere)
    assert await desk.provider.put(REF, b"new") == "3"
    assert desk.vault.versions["secret/app/db"][-1] == {"user": "changed", "password": "new"}


async def test_a_place_that_never_rests_is_a_conflict(desk: Desk) -> None:
    """After four tries."""

    def interfere(asked: Asked) -> None:
        if asked.method == "POST":
            desk.vault.put("secret/app/db", user="changed")

    desk.break_at("secret/data", interfere)
    error = await failure_of(desk.provider.put(REF, CANARY.encode()))
    assert error.kind is K.CONFLICT
    assert CANARY not in everything_said(error)
    assert len(desk.vault.versions["secret/app/db"]) == 5


async def test_a_new_field_beside_others_is_created(desk: Desk) -> None:
    """Create-only looks at the field, not at its neighbours; a removed secret can be made anew."""
    assert await desk.provider.put("vault://secret/app/db#third", b"3", expected="") == "2"
    desk.vault.versions["secret/app/db"][-1] = None
    assert await desk.provider.put(REF, b"again", expected="") == "3"
    assert desk.vault.versions["secret/app/db"][-1] == {"password": "again"}


async def test_version_1_of_the_engine_checks_by_reading_first(desk: Desk) -> None:
    """Create-only works as far as nobody writes in between; a version cannot be expected of it."""
    ref = "vault://old/app#key"
    assert await desk.provider.put(ref, b"1", expected="") is None
    assert (await failure_of(desk.provider.put(ref, b"2", expected=""))).kind is K.CONFLICT
    assert (await failure_of(desk.provider.put(ref, b"2", expected="1"))).kind is K.CONFLICT
    assert await desk.provider.put("vault://old/app#other", b"3") is None
    assert desk.vault.stored["old/app"] == {"key": "1", "other": "3"}


@pytest.mark.parametrize(
    ("ref", "value", "kind"),
    [
        (PASSWORD, b"x", K.READ_ONLY),
        ("vault://secret/app/db#*", b"x", K.BAD_REFERENCE),
        ("vault://secret/app/db?version=1#password", b"x", K.BAD_REFERENCE),
        ("vault://secret/app", b"x", K.BAD_REFERENCE),
        (REF, b"", K.TOO_LARGE),
        (REF, b"x" * (128 * 1024 + 1), K.TOO_LARGE),
        (REF, CANARY.encode() + b"\xff", K.UNKNOWN),
    ],
)
async def test_what_cannot_be_written_is_refused(desk: Desk, ref: str, value: bytes, kind: FailureKind) -> None:
    """Before anything is sent that would change something."""
    error = await failure_of(desk.provider.put(ref, value))
    assert error.kind is kind
    assert CANARY not in everything_said(error)
    assert {asked.method for asked in desk.vault.asked} <= {"GET"}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("mount", ["secret", "old"])
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (Said(403, {"errors": [DENIED]}), K.FORBIDDEN),
        (Said(500, {"errors": [CANARY]}), K.UNKNOWN),
        (Said(503, {"errors": ["Vault is sealed"]}), K.UNREACHABLE),
        (Said(200, b"<html>"), K.UNKNOWN),
        (Said(404, b"<html>"), K.UNKNOWN),
    ],
)
async def test_a_write_that_fails_says_why(desk: Desk, method: str, mount: str, said: Said, kind: FailureKind) -> None:
    """While it reads what is there, and while it writes; nothing is written on an answer that is not understood."""
    desk.vault.stored["old/app/db"] = {"password": "1"}
    desk.break_at(f"{mount}/", lambda asked: said if asked.method == method else None)
    error = await failure_of(desk.provider.put(f"vault://{mount}/app/db#password", CANARY.encode()))
    assert error.kind is kind
    assert CANARY not in everything_said(error)
    assert len(desk.vault.versions["secret/app/db"]) == 1
    assert desk.vault.stored["old/app/db"] == {"password": "1"}
