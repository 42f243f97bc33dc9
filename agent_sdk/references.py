"""References to secrets in environments, env files, templates and command lines: `secret://openai.api_key`.

A reference names what the broker's registry names. It says nothing of the vault, so a file with references can be
committed.
"""

from typing import Final

from agent_sdk.errors import InvalidRequest
from agent_sdk.wire.names import is_secret_name

SCHEME: Final = "secret://"


def referenced_name(text: str) -> str | None:
    """The secret that a text refers to.

    Args:
        text: a value of an environment variable, an env file or an option.

    Returns:
        The name; None if the text is no reference but a value of its own.

    Raises:
        InvalidRequest: if it begins as a reference and what follows is no secret name.
    """
    if not text.startswith(SCHEME):
        return None
    name = text.removeprefix(SCHEME)
    if not is_secret_name(name):
        raise InvalidRequest(f"{SCHEME} is followed by something that is no secret name, such as openai.api_key")
    return name
