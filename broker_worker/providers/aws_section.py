"""The sections `aws-sm` and `aws-ssm` of `broker.yaml`: region, profile and address; credentials never stand there."""

import re
from typing import Final

from broker_worker.ports import Provider
from broker_worker.providers.aws_client import AwsSettings
from broker_worker.providers.aws_parameter_store import ParameterStoreProvider
from broker_worker.providers.aws_secrets_manager import SecretsManagerProvider
from broker_worker.providers.options import Options, Surroundings

OPTIONS: Final = ("region", "profile", "endpoint_url", "timeout_seconds")
_REGION = re.compile(r"[a-z]{2,8}(?:-[a-z]{2,16}){1,3}-[0-9]{1,2}", re.ASCII)
_PROFILE = re.compile(r"[A-Za-z0-9_./+@=,:-]{1,64}", re.ASCII)
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_ENDPOINT = re.compile(r"(https?)://([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[::1\])(?::([1-9][0-9]{0,4}))?", re.ASCII)


def make_secrets_manager(options: Options, around: Surroundings) -> Provider:
    """Make the provider of Secrets Manager; boto3 is not imported and AWS not contacted yet.

    Raises:
        ConfigError: for a wrong value.
    """
    return SecretsManagerProvider(_settings(options), around.monotonic)


def make_parameter_store(options: Options, _: Surroundings) -> Provider:
    """Make the provider of the Parameter Store; see `make_secrets_manager`."""
    return ParameterStoreProvider(_settings(options))


def _settings(options: Options) -> AwsSettings:
    return AwsSettings(
        region=options.matching("region", _REGION.fullmatch, "an AWS region", "write one such as eu-central-1"),
        profile=options.matching("profile", _PROFILE.fullmatch, "a profile's name", "see ~/.aws/config"),
        endpoint_url=options.matching(
            "endpoint_url",
            _is_endpoint,
            "https:// and a host, perhaps with a port, or http:// and this host",
            "leave it out for AWS itself",
        ),
        timeout_seconds=options.seconds("timeout_seconds", 10, 60),
    )


def _is_endpoint(url: str) -> bool:
    """Whether secrets may come from there: over TLS, or from this host; an address holds nothing else."""
    found = _ENDPOINT.fullmatch(url)
    return found is not None and int(found[3] or 1) < 65_536 and (found[1] == "https" or found[2] in _LOOPBACK)
