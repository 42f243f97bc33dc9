"""The check of the sealed cache, where broker.yaml asks for one."""

from collections.abc import Iterator

from broker_worker.app.clock import SystemClock
from broker_worker.cli.doctor.check import Check, ok, warn
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import SetupError
from broker_worker.settings import Settings

_NAME = "sealed cache"


def check_sealed_cache(settings: Settings, configuration: Configuration) -> Iterator[Check]:
    """Whether it opens here; nothing is made or changed. The broker serves without it too."""
    sealed = configuration.cache.sealed
    if sealed is None:
        return
    from broker_worker.app.sealing import sealed_store  # noqa: PLC0415  # most installations never need it

    clock = SystemClock()
    try:
        found = sealed_store(sealed, settings, clock).examine()
    except SetupError as error:
        yield warn(_NAME, f"would not be used: {error}", error.hint)
        return
    if found is None:
        yield ok(_NAME, "there is none yet; a worker makes it when it starts")
        return
    current = sum(row.until > clock.now() for row in found.rows)
    yield ok(_NAME, f"opens; its key is wrapped by {found.kind}; values: {current}")
