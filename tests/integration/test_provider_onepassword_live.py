"""1Password itself. Runs where OP_SERVICE_ACCOUNT_TOKEN and OP_TEST_REF (a reference that it may read) are set."""

import os

import pytest
from provider_conformance import failure_of

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.onepassword import OnePasswordProvider
from broker_worker.providers.onepassword_sdk import SdkClient
from broker_worker.providers.onepassword_session import OnePasswordSession

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        not {"OP_SERVICE_ACCOUNT_TOKEN", "OP_TEST_REF"} <= set(os.environ),
        reason="needs OP_SERVICE_ACCOUNT_TOKEN and OP_TEST_REF, a reference that it may read",
    ),
]


async def test_real_account_serves_and_tells_failures_apart() -> None:
    """A real value arrives; unknown vault, item and field are `NOT_FOUND`; after closing nothing is served."""
    session = OnePasswordSession(lambda: os.environ["OP_SERVICE_ACCOUNT_TOKEN"], SdkClient.sign_in, timeout_seconds=20)
    provider = OnePasswordProvider(session, 20)
    ref = os.environ["OP_TEST_REF"]
    vault, item, _ = ref.removeprefix("op://").split("/", 2)
    wrong = [
        "op://no-such-vault-7c1e/x/y",
        f"op://{vault}/no-such-item-7c1e/y",
        f"op://{vault}/{item}/no-such-field-7c1e",
    ]
    assert (await provider.health()).ok
    answers = await provider.get_many([ref, *wrong])
    assert isinstance(answers[ref], Fetched)
    assert [a.kind for w in wrong if isinstance(a := answers[w], ProviderError)] == [FailureKind.NOT_FOUND] * 3
    await provider.close()
    assert (await failure_of(provider.get_many([ref]))).kind is FailureKind.UNREACHABLE
