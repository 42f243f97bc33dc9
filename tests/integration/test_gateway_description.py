"""The gateway is what its OpenAPI description says: every answer of it, to good requests and to bad ones."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_bench import HEADERS, Reached, serving
from jsonschema import Draft202012Validator

from agent_sdk.testing import FakeDesk
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import MAX_NAMES, MAX_PURPOSE, MAX_TTL_SECONDS
from broker_worker.gateway.app import description
from broker_worker.gateway.guards import MAX_BODY

SETTINGS = {
    "seed": 1,
    "base-url": "",
    "headers": {"Authorization": HEADERS["Authorization"]},
    "generation": {"deterministic": True, "max-examples": 6, "database": "none", "with-security-parameters": False},
    "phases": {"stateful": {"enabled": False}},
    "checks": {
        "positive_data_acceptance": {"enabled": False},  # a desk may deny whatever is asked well
        "ignored_auth": {"enabled": False},  # the desk, not the gateway, knows who is known
        "missing_required_header": {"enabled": False},  # it wants 406, which says something else (RFC 9110)
    },
}
"""What schemathesis does: the same requests each time, from the description's examples, limits and chance."""


class _OddNames(dict[str, str | bytes]):
    """A value for every name of an odd length; for some of them bytes."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and len(name) % 2 == 1

    def __missing__(self, name: str) -> str | bytes:
        return b"\xff" if len(name) == 1 else "value"


@pytest.fixture
def gateway() -> Iterator[Reached]:
    """A gateway in a thread of its own, as its client here is not asynchronous."""
    ready, ended = threading.Event(), threading.Event()
    reached: list[Reached] = []

    async def run() -> None:
        desk = FakeDesk()
        desk.values = _OddNames()
        async with serving(desk=desk) as one:
            reached.append(one)
            ready.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(20)
    yield reached[0]
    ended.set()
    thread.join(20)


def test_the_description_fits_the_code() -> None:
    """Its limits and codes are those of the contract, and its schemas are schemas."""
    schemas = description()["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    wanted = schemas["Wanted"]["properties"]
    assert wanted["secrets"]["maxItems"] == MAX_NAMES
    assert wanted["purpose"]["maxLength"] == MAX_PURPOSE
    assert wanted["ttl_seconds"]["maximum"] == MAX_TTL_SECONDS
    assert set(schemas["BrokerCode"]["enum"]) == {str(code) for code in Code}
    assert f"{MAX_BODY:,}" in description()["components"]["responses"]["TooLarge"]["description"]


async def test_the_description_is_served_with_its_own_address() -> None:
    """Who reads it knows where it was read."""
    async with serving() as reached:
        served = (await reached.send("GET", "/openapi.json")).json()
    servers = [{"url": reached.origin}, {"url": f"http://localhost:{reached.port}"}]
    assert served == {**description(), "servers": servers}


def test_what_is_answered_is_what_is_described(gateway: Reached) -> None:
    """Requests good and bad are made from the description, the same ones each time; each answer is one that it has."""
    import schemathesis  # noqa: PLC0415  # two seconds that the other tests do not pay
    from schemathesis.engine import events, from_schema  # noqa: PLC0415  # as above

    config = schemathesis.Config.from_dict({**SETTINGS, "base-url": gateway.origin})
    schema = schemathesis.openapi.from_dict(description(), config=config)
    statuses: list[int] = []
    problems: list[Any] = []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            problems.append(event)
        if isinstance(event, events.ScenarioFinished):
            statuses += [each.response.status_code for each in event.recorder.interactions.values() if each.response]
            problems += [
                (check.name, check.failure_info.failure)
                for checks in event.recorder.checks.values()
                for check in checks
                if check.failure_info is not None
            ]
    assert problems == []
    assert {200, 400, 403, 405} <= set(statuses), "it made only requests of one kind"
