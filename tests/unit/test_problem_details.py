"""What the gateway and the egress proxy answer when there is nothing: one form of problem details (RFC 9457)."""

import json

import pytest

from broker_worker.egress.problems import Refusal
from broker_worker.gateway.problems import Problem
from broker_worker.problem_details import members


@pytest.mark.parametrize(("status", "seconds"), [(403, None), (429, 7), (503, 0)])
def test_both_parts_answer_in_one_form(status: int, seconds: int | None) -> None:
    """The same members and header fields, whichever part is asked; what a part adds stands behind them."""
    of_gateway = Problem(status, "a_code", "what to do", retry_after=seconds).response("r-1")
    of_proxy = Refusal(status, "a_code", "what to do", seconds, approvals=["ab"]).response()
    common = members(status, "a_code", "what to do")
    assert list(common) == ["type", "title", "status", "detail", "code"]
    assert json.loads(bytes(of_gateway.body)) == {**common, "requestId": "r-1"}
    assert isinstance(of_proxy.body, bytes)
    assert json.loads(of_proxy.body) == {**common, "approvals": ["ab"]}
    for headers in (of_gateway.headers, of_proxy.headers):
        assert headers["content-type"] == "application/problem+json"
        assert headers.get("retry-after") == (None if seconds is None else str(seconds))
