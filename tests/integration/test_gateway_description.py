"""The gateway is what its OpenAPI description says: every answer of it, to good requests and to bad ones."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from gateway_bench import HEADERS, Reached, serving
from hypothesis import HealthCheck, Phase, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from agent_sdk.testing import FakeDesk
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import MAX_NAMES, MAX_PURPOSE, MAX_TTL_SECONDS
from broker_worker.gateway.app import description
from broker_worker.gateway.guards import MAX_BODY

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
STATUSES: set[int] = set()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Reached]:
    """A gateway in a thread of its own: its clients here are not asynchronous. Every name has a value or none."""
    ready, ended = threading.Event(), threading.Event()
    reached: list[Reached] = []

    async def run() -> None:
        async with serving(desk=EvenDesk()) as one:
            reached.append(one)
            ready.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(20)
    yield reached[0]
    ended.set()
    thread.join(20)


class _Even(dict[str, str | bytes]):
    """Values of half of all names; of some of them bytes."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and len(name) % 2 == 1

    def __missing__(self, name: str) -> str | bytes:
        return b"\xff" if len(name) == 3 else "value"


class EvenDesk(FakeDesk):
    """A desk that has a value for every name of an odd length."""

    def __init__(self) -> None:
        super().__init__()
        self.values = _Even()


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
    assert served == {
        **description(),
        "servers": [{"url": reached.origin}, {"url": f"http://localhost:{reached.port}"}],
    }


_SCHEMA = schemathesis.openapi.from_dict(description())


@_SCHEMA.parametrize()
@settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
def test_what_is_answered_is_what_is_described(case: "schemathesis.Case[Any]", gateway: Reached) -> None:
    """Requests good and bad are made from the description, the same ones each time; each answer is one that it has."""
    seen = case.call(base_url=gateway.origin, headers={"Authorization": HEADERS["Authorization"]})
    case.validate_response(seen, checks=CHECKS)
    STATUSES.add(seen.status_code)


def test_both_good_and_bad_requests_were_made() -> None:
    """Or the test before said nothing."""
    assert {200, 400, 403} <= STATUSES
