"""How our own processes log in: with a password of their own where they are given one, else with a derived one.

Every password can be derived from keys/queue.key, so whoever holds that may be anybody. A process that is run apart,
in a container or as another user, is given the password of its own user alone: keys/queue-<user>.password.
"""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from broker_worker.core.errors import SetupError
from broker_worker.private_files import read_private
from broker_worker.queue.acl import url_with_password, user_url

_PASSWORD = re.compile(rb"([0-9a-f]{64})\n?")


def password_file(keys_dir: Path, user: str) -> Path:
    """Where the password of one of our own users stands, if it was written there."""
    return keys_dir / f"queue-{user}.password"


def process_url(address: str, keys_dir: Path, user: str, load_key: Callable[[Path], bytes]) -> str:
    """The queue's URL for one of our own processes.

    Args:
        address: the queue's URL; if it names this very user it is used as it stands.
        keys_dir: the folder with the process's keys.
        user: `console`, `ledger` or `jobs`.
        load_key: reads keys/queue.key, where there is no password of the user's own.

    Raises:
        SetupError: if neither the password nor the key can be used.
    """
    if urlsplit(address).username == user:
        return address
    path = password_file(keys_dir, user)
    if not path.exists():
        return user_url(address, load_key(keys_dir / "queue.key"), user)
    found = _PASSWORD.fullmatch(read_private(path, "the password", 128, hint="write it anew"))
    if found is None:
        hint = f"write it anew: `secret-broker acl --password {user}`"
        raise SetupError(f"{path} does not hold a password of the queue", hint=hint)
    return url_with_password(address, user, found[1].decode("ascii"))
