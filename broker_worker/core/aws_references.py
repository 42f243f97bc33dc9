"""What references to AWS name: a secret of Secrets Manager, a parameter of the Systems Manager's Parameter Store.

`aws-sm://name[?version=id|?stage=label][#field]` is ordered like any URL, so that a field of a JSON object may hold any
character, `?` and `#` included. `aws-ssm:///path/to/name[:version|:label]` is AWS's own way to write a parameter.
Names are taken as they stand; ARNs are not taken, as a part of one may mean several secrets.
"""

import re
from dataclasses import dataclass

_NAME = r"/?[A-Za-z0-9_+=.@-]+(?:/[A-Za-z0-9_+=.@-]+)*"
_SECRET = re.compile(
    rf"(?P<name>{_NAME})(?:\?(?:version=(?P<version>[A-Za-z0-9-]{{32,64}})|stage=(?P<stage>[A-Za-z0-9_+=.@-]{{1,128}})))?"
    r"(?:#(?P<field>.{1,128}))?",
    re.ASCII,
)
_PARAMETER = re.compile(
    r"(?P<name>[A-Za-z0-9_.-]+|(?:/[A-Za-z0-9_.-]+){1,15})"
    r"(?::(?P<selector>[1-9][0-9]{0,18}|[A-Za-z_.-][A-Za-z0-9_.-]{0,99}))?",
    re.ASCII,
)
_RESERVED = ("aws", "ssm")
"""How no name and no label in the Parameter Store begins that a user gave."""


@dataclass(frozen=True, slots=True)
class SecretPlace:
    """A place in Secrets Manager.

    Args:
        name: the secret's name.
        version: the id of a version; None for the one that `stage` says.
        stage: the label of a version; None for `AWSCURRENT`, unless `version` says which.
        field: the key whose value is meant, of the JSON object that the secret then is; None for the whole secret.
    """

    name: str
    version: str | None = None
    stage: str | None = None
    field: str | None = None


@dataclass(frozen=True, slots=True)
class ParameterPlace:
    """A place in the Parameter Store.

    Args:
        name: the parameter's name, with its path.
        selector: the number or the label of a version; None for the newest.
    """

    name: str
    selector: str | None = None


def parse_secret(path: str) -> SecretPlace | None:
    """Read a reference's part behind `aws-sm://`; None if it has another form.

    The form is that of CreateSecret, `Name`; names with empty parts, `.` or `..` between slashes are not taken.
    """
    found = _SECRET.fullmatch(path)
    if found is None or not _is_plain(found["name"]):
        return None
    field = found["field"]
    if field is not None and (field != field.strip() or not field.isprintable()):
        return None
    return SecretPlace(found["name"], found["version"], found["stage"], field)


def parse_parameter(path: str) -> ParameterPlace | None:
    """Read a reference's part behind `aws-ssm://`; None if it has another form.

    The form is that of PutParameter, `Name`, and of GetParameters for the version. What begins with `aws` or `ssm` is
    AWS's own, such as the way into Secrets Manager below `/aws/reference`, and is not taken.
    """
    found = _PARAMETER.fullmatch(path)
    if found is None or not _is_plain(found["name"]):
        return None
    selector = found["selector"]
    if found["name"].lower().removeprefix("/").startswith(_RESERVED):
        return None
    if selector is not None and selector.lower().startswith(_RESERVED):
        return None
    return ParameterPlace(found["name"], selector)


def is_secret(path: str) -> bool:
    """Whether `path` has the form of a reference to a secret."""
    return parse_secret(path) is not None


def is_parameter(path: str) -> bool:
    """Whether `path` has the form of a reference to a parameter."""
    return parse_parameter(path) is not None


def _is_plain(name: str) -> bool:
    return not {".", ".."} & set(name.split("/"))
