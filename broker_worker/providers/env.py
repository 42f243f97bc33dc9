"""Environment variables as a provider, for CI and development: `env://NAME`.

The variables are those of the moment at which the provider was made. Whoever can read the broker's environment
can read these values, so this is no place for production secrets (docs/providers.md).
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.own_variables import OWN
from broker_worker.ports import Fetched, Health, Scope
from broker_worker.providers.reference import place_of

SCHEME: Final = "env"
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,127}", re.ASCII)
_CREDENTIAL = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_|$)", re.ASCII)


class EnvProvider:
    """Serves environment variables.

    Args:
        environ: the environment; what is not a possible reference is not kept.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {
            name: os.fsencode(text)
            for name, text in environ.items()
            if _NAME.fullmatch(name) and not name.startswith(OWN)
        }

    @property
    def name(self) -> str:
        """`env`."""
        return SCHEME

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Look variables up; see `ports.Provider.get_many`."""
        return {ref: self._get(ref) for ref in refs}

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Refuse; see `ports.Provider.put`."""
        raise ProviderError(
            FailureKind.READ_ONLY, "environment variables cannot be written", hint="use the local vault or 1Password"
        )

    async def health(self) -> Health:
        """Always well; see `ports.Provider.health`."""
        return Health(True, f"{len(self._values)} environment variables were read at start")

    async def visible(self, refs: Sequence[str], written: Collection[str]) -> Scope | None:
        """Variables that look like credentials and that no reference names; see `ports.ScopeReporter`."""
        needed = {ref.removeprefix(f"{SCHEME}://") for ref in refs}
        beyond = sorted(name for name in self._values if _CREDENTIAL.search(name) and name not in needed)
        return Scope("variables", tuple(beyond), "start the broker without what it does not need")

    async def close(self) -> None:
        """Forget the values; see `ports.Provider.close`."""
        self._values = {}

    def _get(self, ref: str) -> Fetched | ProviderError:
        try:
            name = place_of(ref, SCHEME)
        except ProviderError as error:
            return error
        if name.startswith(OWN):
            return ProviderError(
                FailureKind.BAD_REFERENCE,
                f"{name} belongs to the broker itself and is never handed out",
                hint="put the value into a variable of another name",
            )
        value = self._values.get(name)
        if not value:
            state = "is not set" if value is None else "is empty"
            hint = "set it before the broker starts: the environment is read once"
            return ProviderError(FailureKind.NOT_FOUND, f"the environment variable {name} {state}", hint=hint)
        if len(value) > MAX_VALUE:
            return ProviderError(
                FailureKind.TOO_LARGE, f"{name} has {len(value)} bytes; at most {MAX_VALUE} are allowed"
            )
        return Fetched(value)
