"""Both of AWS's vaults against the contract of all providers, on moto's server."""

import base64
from collections.abc import AsyncIterator

import pytest
from aws_server import Fault, aws_server
from provider_conformance import BINARY, CANARY, MAX_VALUE, ProviderConformance, Subject

from broker_worker.providers.aws_parameter_store import ParameterStoreProvider
from broker_worker.providers.aws_secret_writing import MAX_SECRET
from broker_worker.providers.aws_secrets_manager import SecretsManagerProvider

COUNT = 500
_BROKEN = Fault("UnrecognizedClientException")


class TestSecretsManager(ProviderConformance):
    """Secrets Manager: whole secrets, and fields of one."""

    @pytest.fixture
    async def subject(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Subject]:
        """A provider of an account with 403 secrets, of which one has a hundred fields."""
        with aws_server(monkeypatch, says=CANARY) as aws:
            values = {f"aws-sm://agents/entry-{i}": f"{CANARY}-{i}" for i in range(COUNT - 100)}
            for ref, value in values.items():
                aws.add_secret(ref.removeprefix("aws-sm://"), value)
            fields = {f"field {i}": f"{CANARY}-field-{i}" for i in range(100)}
            aws.add_secret("agents/fields", str(fields).replace("'", '"'))
            aws.add_secret("largest", "x" * MAX_SECRET)
            aws.add_secret("binary", binary=base64.b64encode(BINARY).decode())
            aws.add_secret("larger", "x" * (MAX_VALUE + 1))  # AWS takes none such, moto does
            values |= {f"aws-sm://agents/fields#{key}": value for key, value in fields.items()}
            provider = SecretsManagerProvider(aws.settings())
            yield Subject(
                provider,
                {ref: value.encode() for ref, value in values.items()},
                unknown="aws-sm://agents/nothing-here",
                malformed=(
                    "aws-sm://",
                    "aws-sm://a b",
                    "aws-sm://a//b",
                    "aws-sm://../a",
                    "aws-sm://a?version=1",
                    "aws-sm://a?stage=",
                    "aws-sm://a#",
                    "aws-ssm:///a",
                    "entry-1",
                ),
                largest="aws-sm://largest",
                largest_bytes=MAX_SECRET,
                too_large="aws-sm://larger",
                binary="aws-sm://binary",
                writable="aws-sm://agents/entry-0",
                creatable="aws-sm://agents/made/here",
                break_vault=lambda: aws.fail_always("*", _BROKEN),
            )
            await provider.close()


class TestParameterStore(ProviderConformance):
    """The Parameter Store."""

    @pytest.fixture
    async def subject(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Subject]:
        """A provider of an account with 502 parameters."""
        with aws_server(monkeypatch, says=CANARY) as aws:
            values = {f"aws-ssm:///agents/entry-{i}": f"{CANARY}-{i}" for i in range(COUNT)}
            for ref, value in values.items():
                aws.add_parameter(ref.removeprefix("aws-ssm://"), value)
            aws.add_parameter("largest", "x" * 8192)
            aws.add_parameter("larger", "x" * (MAX_VALUE + 1))  # AWS takes none such, moto does
            provider = ParameterStoreProvider(aws.settings())
            yield Subject(
                provider,
                {ref: value.encode() for ref, value in values.items()},
                unknown="aws-ssm:///agents/nothing-here",
                malformed=(
                    "aws-ssm://",
                    "aws-ssm:///",
                    "aws-ssm:///a b",
                    "aws-ssm:///a//b",
                    "aws-ssm:///a/../b",
                    "aws-ssm://a/b",
                    "aws-ssm:///a:0",
                    "aws-ssm:///a:1:2",
                    "aws-ssm:///aws/reference/secretsmanager/a",
                    "aws-sm://a",
                    "entry-1",
                ),
                largest="aws-ssm://largest",
                largest_bytes=8192,
                too_large="aws-ssm://larger",
                writable="aws-ssm:///agents/entry-0",
                creatable="aws-ssm:///agents/made/here",
                break_vault=lambda: aws.fail_always("*", _BROKEN),
            )
            await provider.close()
