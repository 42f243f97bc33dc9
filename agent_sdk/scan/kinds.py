"""What people call each kind of secret that can be found."""

from collections.abc import Mapping
from typing import Final

from agent_sdk.scan.key_formats import KEY_FORMATS

TITLES: Final[Mapping[str, str]] = {
    **{form.kind: form.title for form in reversed(KEY_FORMATS)},
    "atlassian-token": "Atlassian API token",
    "aws-secret-access-key": "AWS secret access key",
    "azure-key": "Azure key",
    "azure-sas": "Azure shared access signature",
    "azure-shared-access-key": "Azure shared access key",
    "azure-storage-key": "Azure storage account key",
    "basic-auth": "user and password of an HTTP header",
    "bearer-token": "bearer token of an HTTP header",
    "command-password": "password on a command line",
    "database-url": "database URL with a password",
    "datadog-key": "Datadog key",
    "discord-client-secret": "Discord client secret",
    "docker-auth": "login of a container registry",
    "generic-secret": "value of a name that is of a secret",
    "kubernetes-secret": "value of a Kubernetes secret",
    "netrc-password": "password in a netrc file",
    "password": "password",
    "pgpass-password": "password in a pgpass file",
    "private-key": "private key without a passphrase",
    "rails-master-key": "Rails master key",
    "twilio-auth-token": "Twilio auth token",
    "url-password": "URL with a password",
    "webhook-url": "webhook URL",
}
"""Every kind and its title."""
