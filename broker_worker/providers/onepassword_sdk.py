"""The only module that touches onepassword-sdk, with `onepassword_sdk_items`: sign in, resolve, list vaults, release.

The SDK is an optional part and takes a quarter of a second to import, so it is imported on first use, in a thread.
Its native core runs its requests on its own threads and does not hold up the event loop (there is a test).
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Protocol

from broker_worker.core.errors import ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.onepassword_errors import of_reference, unreadable_answer
from broker_worker.providers.onepassword_items import value_of
from broker_worker.providers.onepassword_sdk_items import SdkItems, versions_of
from broker_worker.providers.onepassword_writing import ItemStore


class OnePasswordClient(Protocol):
    """A signed-in client."""

    async def resolve(self, refs: Sequence[str], *, versions: bool) -> Mapping[str, Fetched | ProviderError]:
        """Ask for values in one request, and for versions in one more a vault; raises whatever the SDK raises."""
        ...

    def items(self) -> ItemStore:
        """Items, for the length of one write."""
        ...

    async def vaults(self) -> Mapping[str, str]:
        """The vaults that the service account sees: titles by id; raises whatever the SDK raises."""
        ...

    def release(self) -> None:
        """Make the native core forget the session and its keys."""
        ...


class SdkClient:
    """A signed-in client of the SDK.

    Args:
        client: the SDK's own.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    async def sign_in(cls, token: str) -> "SdkClient":
        """Sign in; raises whatever the SDK raises.

        Args:
            token: a service-account token whose server was checked.
        """
        client_class = await asyncio.to_thread(_import_client)
        return cls(
            await client_class.authenticate(
                auth=token, integration_name="secret-broker", integration_version=f"v{version('secret-broker')}"
            )
        )

    async def resolve(self, refs: Sequence[str], *, versions: bool) -> Mapping[str, Fetched | ProviderError]:
        """See `OnePasswordClient.resolve`."""
        responses = (await self._client.secrets.resolve_all(list(refs))).individual_responses
        answers = {ref: _answer(responses.get(ref)) for ref in refs}
        if versions:
            found = {ref: responses[ref].content for ref, answer in answers.items() if isinstance(answer, Fetched)}
            known = await versions_of(self._client, found)
            answers = {r: replace(a, version=known.get(r)) if isinstance(a, Fetched) else a for r, a in answers.items()}
        return answers

    def items(self) -> ItemStore:
        """See `OnePasswordClient.items`."""
        return SdkItems(self._client)

    async def vaults(self) -> Mapping[str, str]:
        """See `OnePasswordClient.vaults`."""
        return {vault.id: vault.title for vault in await self._client.vaults.list()}

    def release(self) -> None:
        """See `OnePasswordClient.release`. The SDK itself would do this only when the process ends."""
        with suppress(Exception):  # a session that the core does not know any more is what is wanted
            self._client._finalizer.detach()  # noqa: SLF001  # the SDK has no public way to close a client
            inner = self._client.secrets.inner_client
            inner.core.release_client(inner.client_id)


def _import_client() -> Any:
    from onepassword.client import (  # type: ignore[import-untyped]  # noqa: PLC0415  # it has no types; optional, slow
        Client,
    )

    return Client


def _answer(response: Any) -> Fetched | ProviderError:
    if response is not None and response.error is not None:
        return of_reference(response.error.type.value)
    if response is None or response.content is None:
        return unreadable_answer()
    try:
        return Fetched(value_of(response.content.secret))
    except ProviderError as error:
        return error
