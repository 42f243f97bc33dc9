"""The tests' own judge of what goes to and comes from a Connect server: it must be able to say no."""

import json
from pathlib import Path
from typing import Any

import pytest
from connect_description import Description

ID = "ionaiwtdvgclrixbt6ztpqcxnq"
FILE = Path(__file__).parents[1] / "integration" / "connect.openapi.yaml"
ITEM = {"id": ID, "title": "t", "vault": {"id": ID}, "category": "LOGIN", "version": 1}
JSON = "application/json"
GOOD: dict[str, Any] = {
    "method": "PATCH",
    "target": f"/v1/vaults/{ID}/items/{ID}",
    "headers": {"authorization": "Bearer x", "content-type": JSON},
    "body": json.dumps([{"op": "replace", "path": "/fields/a/value", "value": "x"}]).encode(),
    "status": 200,
    "media_type": f"{JSON}; charset=utf-8",
    "answer": json.dumps(ITEM).encode(),
}
READ = {"method": "GET", "target": "/v1/vaults", "body": b"", "answer": b"[]"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        (READ, ""),
        ({**READ, "target": "/v1/vaults?filter=name%20eq%20%22a%22"}, ""),
        ({**READ, "target": "/v1/vaults?filter=name+eq+a"}, "does not match"),
        ({**READ, "target": "/v1/vaults?page=2"}, "parameter page"),
        ({**READ, "target": "/v2/vaults"}, "not described"),
        ({**READ, "body": b"{}"}, "there is a body"),
        ({**READ, "answer": b"[{}]"}, "required property"),
        ({**READ, "answer": b"["}, "no JSON"),
        ({**READ, "target": "/health", "answer": b'{"name": "n", "version": "1"}'}, "token is sent"),
        ({"target": f"/v1/vaults/{ID}/items/x"}, "does not match"),
        ({"headers": {"content-type": JSON}}, "token is missing"),
        ({"headers": {"authorization": "Bearer x", "content-type": "text/plain"}}, "media type"),
        ({"body": b"[]"}, "non-empty"),
        ({"body": json.dumps([{"op": "test", "path": "/a", "value": 1}]).encode()}, "not valid"),
        ({"status": 302}, "status 302"),
        ({"media_type": "text/html"}, "media type"),
        ({"answer": json.dumps({**ITEM, "version": "1"}).encode()}, "not of type 'integer'"),
        ({"answer": json.dumps({**ITEM, "more": 1}).encode()}, "Additional properties"),
        ({"method": "DELETE", "body": b"", "status": 204}, "there is a body"),
    ],
)
def test_what_is_not_described_is_a_problem(changes: dict[str, Any], problem: str) -> None:
    """One deviation each, on either side; and none where there is none."""
    problems = Description(FILE).problems_of(**(GOOD | changes))
    assert bool(problems) == bool(problem)
    assert problem in "".join(problems)
