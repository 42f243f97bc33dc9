"""Environment variables as a provider: taken once, and never the broker's own."""

import pytest

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.env import EnvProvider


async def answer_of(provider: EnvProvider, name: str) -> Fetched | ProviderError:
    return (await provider.get_many([f"env://{name}"]))[f"env://{name}"]


async def test_environment_is_taken_when_the_provider_is_made() -> None:
    """A later change of the environment changes no value."""
    environ = {"TOKEN": "first"}
    provider = EnvProvider(environ)
    environ["TOKEN"] = "second"
    assert await answer_of(provider, "TOKEN") == Fetched(b"first")


@pytest.mark.parametrize(
    "name",
    [
        "SECRET_BROKER_VAULT_PASSPHRASE",
        "SECRET_BROKER_HOME",
        "OP_SERVICE_ACCOUNT_TOKEN",
        "OP_CONNECT_TOKEN",
        "VAULT_TOKEN",
        "VAULT_SECRET_ID",
        "REDIS_URL",
    ],
)
async def test_variables_of_the_broker_are_not_handed_out(name: str) -> None:
    """A registry entry that names the broker's own credentials gets an error, whether or not they are set."""
    for environ in ({name: "canary"}, {}):
        provider = EnvProvider(environ)
        answer = await answer_of(provider, name)
        assert isinstance(answer, ProviderError)
        assert answer.kind is FailureKind.BAD_REFERENCE
        assert "canary" not in repr(vars(provider))


@pytest.mark.parametrize(("environ", "says"), [({}, "is not set"), ({"A": ""}, "is empty")])
async def test_missing_and_empty_variables_are_told_apart(environ: dict[str, str], says: str) -> None:
    """Both are `NOT_FOUND`; the message says which it is."""
    answer = await answer_of(EnvProvider(environ), "A")
    assert isinstance(answer, ProviderError)
    assert answer.kind is FailureKind.NOT_FOUND
    assert says in str(answer)


async def test_credentials_that_nobody_needs_are_told() -> None:
    """Variables whose names look like one; neither what a reference names, nor the broker's own, nor any value."""
    names = ("GITHUB_TOKEN", "API_KEY", "DB_PASSWORD", "PATH", "KEYBOARD", "OP_SERVICE_ACCOUNT_TOKEN")
    provider = EnvProvider(dict.fromkeys(names, "canary"))
    scope = await provider.visible(["env://API_KEY"], ())
    assert scope is not None
    assert (scope.noun, scope.beyond) == ("variables", ("DB_PASSWORD", "GITHUB_TOKEN"))
    assert "canary" not in repr(scope)
