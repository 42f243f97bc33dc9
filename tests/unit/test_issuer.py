"""An issuer mints runs that the broker's verifier accepts, and refuses what it would refuse."""

import copy
import pickle
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from agent_sdk import InvalidRequest, RunIssuer
from agent_sdk.wire.names import check_run_id
from agent_sdk.wire.sealing import run_public_key
from agent_sdk.wire.tokens import TokenVerifier, TrustAnchor

NOW = 1_760_000_000_123
SEED = bytes(range(32))
WHERE: dict[str, Any] = {"broker": run_public_key(bytes(32)), "intake": bytes(31) + b"\x09", "queue_url": "unix:///q"}


@pytest.fixture
def issuer() -> RunIssuer:
    return RunIssuer(SEED, "orchestrator", trust_domain="example.org", clock=lambda: NOW)


@pytest.fixture
def verifier() -> TokenVerifier:
    anchor = TrustAnchor("orchestrator", run_public_key(SEED), frozenset({"claude"}), 3600, "example.org")
    return TokenVerifier([anchor])


def test_a_minted_run_is_what_the_broker_believes(issuer: RunIssuer, verifier: TokenVerifier) -> None:
    """The token verifies, and is bound to the key in the credential."""
    run = issuer.mint("claude", run_id="run-7", ttl=timedelta(minutes=5), task="ticket 12", scope=["github.*"], **WHERE)
    identity = verifier.verify(run.token, NOW)
    assert (identity.agent_id, identity.run_id, identity.task) == ("claude", "run-7", "ticket 12")
    assert identity.run_public_key == run.run_public_key
    assert identity.in_scope("github.read_token")
    assert not identity.in_scope("openai.api_key")
    assert identity.expires_at == run.expires_at == NOW // 1000 * 1000 + 300_000


def test_each_run_has_a_key_and_an_id_of_its_own(issuer: RunIssuer, verifier: TokenVerifier) -> None:
    """Nothing of one run serves another."""
    one, other = issuer.mint("claude", **WHERE), issuer.mint("claude", **WHERE)
    assert one.seed != other.seed
    assert check_run_id(one.run_id) != check_run_id(other.run_id)
    assert verifier.verify(one.token, NOW).token_id != verifier.verify(other.token, NOW).token_id


def test_an_empty_scope_covers_nothing(issuer: RunIssuer, verifier: TokenVerifier) -> None:
    """No patterns is not the same as no scope."""
    run = issuer.mint("claude", scope=[], **WHERE)
    assert not verifier.verify(run.token, NOW).in_scope("openai.api_key")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"agent_id": "Claude"}, "agent id 'Claude' is not in canonical form"),
        ({"run_id": "static-site"}, "ids of runs and of tokens that begin with `static-` are those of static tokens"),
        ({"run_id": ""}, "run id '' is not in canonical form"),
        ({"run_id": "Run"}, "run id 'Run' is not in canonical form"),
        ({"ttl": timedelta(0)}, "ttl is at least a second"),
        ({"ttl": timedelta(seconds=-5)}, "ttl is at least a second"),
        ({"task": ""}, "a task is a printable text of 1 to 128 characters"),
        ({"task": "x" * 129}, "a task is a printable text"),
        ({"task": "a\x1b[31m"}, "a task is a printable text"),
        ({"scope": ["Open AI"]}, "this secret-name pattern is not valid"),
        ({"scope": ["a"] * 65}, "a scope has at most 64 patterns; got 65"),
        ({"scope": "openai"}, "a scope is a list of patterns; got str"),
        ({"scope": [None]}, "a scope is a list of patterns; got NoneType in it"),
        ({"scope": ["x" * 120] * 60}, r"a token of \d+ characters; at most 4096 fit"),
        ({"agent_id": None}, "an agent id is a text; got NoneType"),
        ({"run_id": 7}, "a run id is a text; got int"),
        ({"task": b"x"}, "a task is a text; got bytes"),
        ({"ttl": 3600}, "a run's ttl is a timedelta; got int"),
    ],
)
def test_a_wrong_argument_is_refused_before_it_is_signed(
    issuer: RunIssuer, arguments: dict[str, Any], expected: str
) -> None:
    """What the broker would refuse later is refused here, in words."""
    with pytest.raises(InvalidRequest, match=expected):
        issuer.mint(**{"agent_id": "claude", **WHERE, **arguments})


def test_an_issuer_neither_shows_its_seed_nor_takes_a_short_one() -> None:
    """repr has the name only; a seed of the wrong length is refused by its length."""
    seed = secrets.token_bytes(32)
    assert repr(RunIssuer(seed, "ci")) == "RunIssuer('ci')"
    with pytest.raises(InvalidRequest, match="an issuer's seed has 32 bytes; this one has 31"):
        RunIssuer(seed[:31], "ci")
    with pytest.raises(InvalidRequest, match="an issuer's seed has 32 bytes; got str"):
        RunIssuer(seed.hex(), "ci")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InvalidRequest, match="an issuer's name is a text; got NoneType"):
        RunIssuer(seed, None)  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("store", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_issuer_is_not_stored_by_accident(issuer: RunIssuer, store: Callable[[RunIssuer], object]) -> None:
    """Pickling and copying fail: its key speaks for all its agents."""
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        store(issuer)
