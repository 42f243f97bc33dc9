"""Telling vaults to take back the credentials that they made for us, until they have done so."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from broker_worker.core.errors import ProviderError
from broker_worker.jobs.functions import Doing, JobFailedError, JobFunction, RetryPlan, by_name
from broker_worker.jobs.payloads import REVOKE_UPSTREAM, UpstreamRevocation
from broker_worker.ports import DynamicProvider, Provider

PLAN = RetryPlan(first_seconds=2, most_seconds=900, tries=None)
"""A vault that is away for a day is still told: every quarter of an hour, for as long as it takes."""
DEADLINE_SECONDS = 60


class Revoking:
    """The function of the process that revokes upstream.

    Args:
        providers: the configured providers, by scheme.
        run: runs a provider's coroutine to its end, on the one loop of this process.
    """

    def __init__(self, providers: Mapping[str, Provider], run: Callable[[Awaitable[Any]], Any]) -> None:
        self._providers = providers
        self._run = run

    def functions(self) -> Mapping[str, JobFunction]:
        """What jobs of this process may name."""
        return by_name(JobFunction(REVOKE_UPSTREAM, self._revoke, _never_given_up, PLAN, DEADLINE_SECONDS))

    def _revoke(self, revocation: UpstreamRevocation, _doing: Doing) -> None:
        provider = self._providers.get(revocation.scheme)
        if not isinstance(provider, DynamicProvider):
            raise JobFailedError("no_such_provider")  # the operator may put it back; till then nobody can revoke it
        failed = None
        try:
            self._run(provider.revoke(revocation.upstream_lease))
        except ProviderError as error:
            failed = JobFailedError(error.kind, after=None if error.retry_after is None else error.retry_after / 1000)
        if failed is not None:
            raise failed


def _never_given_up(_payload: object, _reason: str) -> None:
    """Nothing to tell: this plan has no last try."""
