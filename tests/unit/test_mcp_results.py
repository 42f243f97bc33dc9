"""What a model is told when something was not granted."""

import pytest

from agent_sdk.errors import LeaseExpired, LeaseRevoked
from agent_sdk.mcp_server.results import ADVICE, told
from agent_sdk.wire.errors import Code, SecretBrokerError


def test_a_value_whose_time_is_over_is_asked_for_again() -> None:
    """It is no word about the run: the user need not start the server again."""
    refused = told(LeaseExpired("openai.api_key expired"))
    assert (refused.code, refused.advice) == (Code.EXPIRED, "call again with the same purpose")


@pytest.mark.parametrize(
    "error", [LeaseRevoked("it was taken back"), SecretBrokerError("the run is over", code=Code.EXPIRED)]
)
def test_other_ends_are_told_by_their_code(error: SecretBrokerError) -> None:
    """What was taken back is not asked for again, and a run that is over cannot ask."""
    assert told(error).advice == ADVICE[error.code]
