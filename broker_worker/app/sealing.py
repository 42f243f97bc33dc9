"""The sealed cache of an installation, made of its parts as broker.yaml says; loaded only where it says so."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from broker_worker.cache.sealed.dpapi import DpapiWrapping
from broker_worker.cache.sealed.errors import UnavailableError
from broker_worker.cache.sealed.format import Record
from broker_worker.cache.sealed.key_file import KeyFile, host_id
from broker_worker.cache.sealed.os_keyring import KeyringWrapping
from broker_worker.cache.sealed.passphrase import PassphraseWrapping
from broker_worker.cache.sealed.store import SealedStore
from broker_worker.cache.sealed.systemd import SystemdWrapping
from broker_worker.cache.sealed.tpm import TpmWrapping
from broker_worker.cache.sealed.wrapping import Wrapping, Wrappings
from broker_worker.cache.sealed.write_behind import WriteBehind
from broker_worker.core.configuration import Configuration, SealedSettings, SecretEntry
from broker_worker.core.digest import providers_digest
from broker_worker.core.errors import SetupError
from broker_worker.core.revocations import Revocations
from broker_worker.ports import CachedValue, Clock, Fetched
from broker_worker.private_files import read_private
from broker_worker.settings import Settings

_MAX_PASSPHRASE = 4096


def sealed_store(
    sealed: SealedSettings,
    settings: Settings,
    clock: Clock,
    environ: Mapping[str, str] | None = None,
    new_passphrase: Callable[[], bytes] | None = None,
    kind: str | None = None,
) -> SealedStore:
    """The sealed cache's store; nothing is opened yet.

    Args:
        sealed: the operator's section.
        settings: where everything lives.
        clock: the time.
        environ: the environment; that of this process by default.
        new_passphrase: gives the passphrase of a new key; the one of the section by default.
        kind: what wraps a new key; as the section says by default.
    """
    around = dict(os.environ) if environ is None else environ
    makers: dict[str, Callable[[], Wrapping]] = {
        "tpm": lambda: TpmWrapping(sealed.tcti, sealed.pcrs),
        "dpapi": DpapiWrapping,
        "keyring": KeyringWrapping,
        "systemd": lambda: SystemdWrapping(sealed.credential, around),
        "passphrase": lambda: PassphraseWrapping(_passphrase(sealed, around), new_passphrase),
    }
    meant = sealed if kind is None else replace(sealed, master_key=kind)
    path = settings.sealed_cache_key if sealed.key_file is None else Path(sealed.key_file)
    return SealedStore(settings.sealed_cache_file, KeyFile(path, host_id()), Wrappings(meant, makers), clock.now)


def make_write_behind(
    sealed: SealedSettings, configuration: Configuration, settings: Settings, clock: Clock
) -> WriteBehind:
    """What writes values behind the memory cache; nothing is opened yet."""
    store = sealed_store(sealed, settings, clock)
    return WriteBehind(store, providers_digest(configuration), configuration.cache.max_entries)


def restored(
    records: Iterable[Record], registry: Mapping[str, SecretEntry], revocations: Revocations
) -> Iterator[tuple[str, CachedValue, int]]:
    """The records that may be served again, as a memory cache takes them.

    A secret about which an order was given since its value was fetched is asked for anew, also if it was reinstated.

    Args:
        records: what the sealed cache had.
        registry: names and references.
        revocations: every order that is known.
    """
    names: dict[str, list[str]] = {}
    for entry in registry.values():
        names.setdefault(entry.ref, []).append(entry.name)
    for record in records:
        orders = [
            order
            for name in names.get(record.ref, ())
            for version in {None, record.version}
            if (order := revocations.newest("secret", name, version)) is not None
        ]
        if all(order.at < record.fetched_at for order in orders):
            yield record.ref, CachedValue(Fetched(record.value, record.version), record.fetched_at), record.until


def _passphrase(sealed: SealedSettings, environ: Mapping[str, str]) -> Callable[[], bytes]:
    def read() -> bytes:
        if sealed.passphrase_file is not None:
            what, hint = "the sealed cache's passphrase file", "put the passphrase there"
            try:
                content = read_private(Path(sealed.passphrase_file), what, _MAX_PASSPHRASE, hint=hint)
            except SetupError as error:
                raise UnavailableError(str(error), hint=error.hint) from None
            return content.removesuffix(b"\n").removesuffix(b"\r")
        passphrase = environ.get(sealed.passphrase_env, "")
        if not passphrase:
            raise UnavailableError(
                "the sealed cache needs its passphrase",
                hint=f"set {sealed.passphrase_env}, or write passphrase_file in broker.yaml",
            )
        return passphrase.encode("utf-8", "surrogateescape")

    return read
