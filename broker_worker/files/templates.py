"""The first configuration of an installation, made from the examples in config/."""

import base64
import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from broker_worker.core.errors import SetupError

_EXAMPLE_KEY = re.compile(r"(?m)^(    public_key: )[A-Za-z0-9_-]{43}\b")
_EXAMPLE_NOTE = re.compile(r" The key below is an example:[^.]*\.\n", re.ASCII)
_LOCAL_TYPE = re.compile(r"(?m)^  type: local$")
_LOCAL_REF = re.compile(r'"local://([a-z0-9._-]+)"')

PROVIDER_SECTIONS: Mapping[str, str] = {
    "local": "  type: local",
    "onepassword": "  type: onepassword\n  token_env: OP_SERVICE_ACCOUNT_TOKEN # the variable's name, not the token",
    "env": "  type: env",
}
"""The provider types that a first configuration can be made for, and their section in broker.yaml."""


def render_configuration(provider: str, issuer_public_key: bytes) -> Mapping[str, str]:
    """Make the files of a new installation.

    Args:
        provider: a key of `PROVIDER_SECTIONS`.
        issuer_public_key: the Ed25519 public key of this installation's own issuer, 32 bytes.

    Returns:
        The texts by file name.

    Raises:
        SetupError: if the examples are missing from this installation of the package.
    """
    public = base64.urlsafe_b64encode(issuer_public_key).rstrip(b"=").decode("ascii")
    issuers = _EXAMPLE_NOTE.sub("\n", _replaced(_EXAMPLE_KEY, rf"\g<1>{public}", "issuers.yaml"))
    return {
        "broker.yaml": _replaced(_LOCAL_TYPE, PROVIDER_SECTIONS[provider], "broker.yaml"),
        "policy.yaml": _template("policy.yaml"),
        "secrets.yaml": _LOCAL_REF.sub(lambda found: f'"{_reference(provider, found[1])}"', _template("secrets.yaml")),
        "issuers.yaml": issuers,
        "approvers.yaml": _template("approvers.yaml"),
    }


def _reference(provider: str, name: str) -> str:
    if provider == "onepassword":
        return f"op://Agents/{name}/credential"
    if provider == "env":
        return f"env://{re.sub(r'[.-]', '_', name).upper()}"
    return f"local://{name}"


def _replaced(pattern: re.Pattern[str], replacement: str, name: str) -> str:
    text, count = pattern.subn(replacement, _template(name))
    if count != 1:
        raise SetupError(
            f"the example {name} does not have the form that is expected", hint="install the package again"
        )
    return text


def _template(name: str) -> str:
    """An example from the wheel, or from config/ in a checkout, whose wheel puts it there."""
    places: tuple[Traversable, ...] = (
        files("broker_worker") / "templates" / name,
        Path(__file__).parents[2] / "config" / name,
    )
    for place in places:
        if place.is_file():
            return place.read_text("utf-8")
    raise SetupError(f"the example {name} is missing from this installation", hint="install the package again")
