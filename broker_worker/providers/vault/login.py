"""Getting a token: one that the operator gives, or one that Vault gives for a role's credentials."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.vault.answers import Answer, VaultApi
from broker_worker.providers.vault.failures import of_answer, of_login, unreadable_answer

MAX_CREDENTIAL: Final = 16 * 1024
"""Longest token, secret id or JWT, in bytes."""
_PRINTED = re.compile(r"[!-~]+", re.ASCII)  # what a header and a JSON text can hold without being something else


@dataclass(frozen=True, slots=True)
class Token:
    """A token that Vault accepts.

    Args:
        text: the token; never shown by `repr`.
        seconds: how long it lives from now on; None without an end.
        is_renewable: whether Vault would have it live longer.
    """

    text: str = field(repr=False)
    seconds: int | None
    is_renewable: bool


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a login was read from, at the moment of the login.

    Args:
        texts: what Vault is shown, such as `role` and `jwt`; never shown by `repr`.
        digest: tells whether it is another one than before.
    """

    texts: Mapping[str, str] = field(repr=False)
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Login:
    """How a token is had.

    Args:
        method: `token`, `approle`, `kubernetes` or `jwt`.
        mount: where that method is mounted in Vault; of no meaning for `token`.
        readers: read what Vault is shown, by its name there; called for every login, so that a replaced file counts.
    """

    method: str
    mount: str
    readers: Mapping[str, Callable[[], str]] = field(repr=False)

    def read(self) -> Credentials:
        """Read the credentials.

        Raises:
            BrokerError: if one is missing, or is not one.
        """
        texts = {name: reader().strip() for name, reader in self.readers.items()}
        for name, text in texts.items():
            if len(text) > MAX_CREDENTIAL or _PRINTED.fullmatch(text) is None:
                raise ProviderError(
                    FailureKind.UNAUTHENTICATED,
                    f"the Vault {name.replace('_', ' ')} is empty, too long or not one line of printable characters",
                    hint="copy it again, whole and alone",
                )
        joined = "\x00".join(texts.values()).encode()
        return Credentials(texts, hashlib.blake2b(joined, digest_size=16).digest())

    def token(self, api: VaultApi, credentials: Credentials) -> Token:
        """Log in.

        Args:
            api: a client without a token.
            credentials: what `read` gave.

        Raises:
            ProviderError: if Vault does not let us in.
        """
        if self.method != "token":
            answer = api.log_in(self.method, self.mount, credentials.texts)
            if not answer.is_good:
                raise of_login(answer)
            return token_of(answer)
        text = credentials.texts["token"]
        answer = api.with_token(text).look_up_self()
        failure = None if answer.is_good else of_answer(answer)
        if failure is not None and failure.kind is FailureKind.FORBIDDEN:
            return Token(text, None, False)  # it is one, although it may not look itself up
        if failure is not None:
            raise failure
        found = answer.part("data")
        return Token(text, _lifetime(found.get("ttl")), found.get("renewable") is True)


def token_of(answer: Answer) -> Token:
    """The token that a login or a renewal gave.

    Raises:
        ProviderError: if there is none.
    """
    auth = answer.part("auth")
    text = auth.get("client_token")
    if not isinstance(text, str) or len(text) > MAX_CREDENTIAL or _PRINTED.fullmatch(text) is None:
        raise unreadable_answer()
    return Token(text, _lifetime(auth.get("lease_duration")), auth.get("renewable") is True)


def _lifetime(found: object) -> int | None:
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise unreadable_answer()
    return found or None
