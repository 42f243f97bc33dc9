"""The smallest agent: asks for one secret by name and says what became of it, without showing it."""

import sys

from agent_sdk import SecretBroker
from agent_sdk.wire.errors import SecretBrokerError


def main(name: str) -> int:
    """Ask for a secret.

    Args:
        name: its name in the registry.

    Returns:
        The exit code: 0 if it was released.
    """
    try:
        with SecretBroker() as broker:
            secret = broker.get(name, purpose="show that this installation works")
            sys.stdout.write(f"{secret}: {len(secret.reveal())} characters, from the {secret.source}\n")
    except SecretBrokerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "openai.api_key"))
