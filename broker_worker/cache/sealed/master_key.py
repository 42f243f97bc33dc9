"""The master key with what wraps it and what counts for it. Whoever uses it holds the store's lock."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from broker_worker.cache.sealed.counter import Counter, FileCounter
from broker_worker.cache.sealed.errors import RefusedError
from broker_worker.cache.sealed.format import Sealer
from broker_worker.cache.sealed.key_file import KeyFile, WrappedKey
from broker_worker.cache.sealed.wrapping import Wrapped, Wrappings
from broker_worker.core.errors import BrokerError, SetupError
from broker_worker.private_files import make_private_folder


@dataclass(frozen=True, slots=True)
class OpenKey:
    """A master key that is open.

    Args:
        wrapped: the key file's content that it came from.
        master: the key, 32 bytes.
        sealer: seals and opens with it.
        counter: what counts for it.
    """

    wrapped: WrappedKey
    master: bytes = field(repr=False)
    sealer: Sealer = field(repr=False)
    counter: Counter = field(repr=False)

    @property
    def kind(self) -> str:
        """What wraps it."""
        return self.wrapped.kind


class MasterKey:
    """Opens, makes, rewraps and removes the master key of one installation.

    Args:
        key_file: where it is kept, wrapped; its counter's file stands beside that.
        wrappings: what can wrap it.
    """

    def __init__(self, key_file: KeyFile, wrappings: Wrappings) -> None:
        self.key_file = key_file
        self._wrappings = wrappings
        self._count_file = key_file.path.with_suffix(".count")

    def open(self, known: OpenKey | None, *, is_any_kind: bool = False) -> OpenKey | None:
        """The key, opened; None if there is none.

        Args:
            known: a key that was opened before; it is returned if the file still holds that.
            is_any_kind: whether it may be wrapped in another way than the section says.

        Raises:
            RefusedError: if what there is cannot be used.
            UnavailableError: if what keeps it does not answer.
        """
        wrapped = self.key_file.read()
        if wrapped is None:
            return None
        if known is not None and known.wrapped.raw == wrapped.raw:
            return known
        if not is_any_kind and not self._wrappings.is_meant(wrapped.kind):
            raise RefusedError(
                f"the sealed cache's key is wrapped by {wrapped.kind}, and broker.yaml says otherwise",
                hint="`secret-broker cache rewrap` before a start keeps the values",
            )
        return self._opened(wrapped, self._wrappings.of(wrapped.kind).open(wrapped.parameters))

    def rehearse(self) -> None:
        """Find out whether a new key could be made, where nothing on the host is changed by that.

        Raises:
            UnavailableError: if not; says what is missing.
        """
        self._wrappings.rehearse()

    def make(self) -> OpenKey:
        """A new key in place of what is there, which stays if no new one can be made.

        Raises:
            UnavailableError: if this host cannot keep a key as it is meant to.
            SetupError: if it cannot be written.
        """
        kind, wrapped = self._wrappings.make()
        with self._forgetting(kind, wrapped):
            self.remove()
            self._start_counter(kind, wrapped)
            written = self.key_file.write(kind, wrapped)
        return self._opened(written, wrapped.key)

    @contextmanager
    def rewrapping(self, before: OpenKey) -> Iterator[OpenKey]:
        """Wrap a key anew; the new wrapping counts once the block ends well.

        Args:
            before: the key as it is wrapped.

        Yields:
            The key as it will be wrapped, with its counter.

        Raises:
            UnavailableError: if this host cannot keep a key as it is meant to.
            SetupError: if it cannot be written.
        """
        kind, wrapped = self._wrappings.make()
        with self._forgetting(kind, wrapped):
            self._start_counter(kind, wrapped)
            after = self.key_file.wrapped(kind, wrapped, before.master)
            yield self._opened(after, wrapped.key)
            self.key_file.store(after)
        self._wrappings.of(before.kind).forget(before.wrapped.parameters)

    def remove(self) -> None:
        """Remove the key, its counter, and what the host keeps for them.

        Raises:
            SetupError: if a file cannot be removed.
        """
        with suppress(BrokerError):  # what cannot be read names nothing that could be forgotten
            wrapped = self.key_file.read()
            if wrapped is not None:
                self._wrappings.of(wrapped.kind).forget(wrapped.parameters)
        try:
            self.key_file.path.unlink(missing_ok=True)
            self._count_file.unlink(missing_ok=True)
        except OSError as error:
            raise SetupError(
                f"{self.key_file.path} cannot be removed: {error.strerror}", hint="check its folder's owner and mode"
            ) from error

    def _opened(self, wrapped: WrappedKey, key: bytes) -> OpenKey:
        master = wrapped.unwrap(key)
        counter = self._wrappings.of(wrapped.kind).counter(wrapped.parameters, key)
        return OpenKey(wrapped, master, Sealer(master), counter or FileCounter(self._count_file, key))

    def _start_counter(self, kind: str, wrapped: Wrapped) -> None:
        """Make a counter's file if the host keeps no counter; else there must be none."""
        if self._wrappings.of(kind).counter(wrapped.parameters, wrapped.key) is not None:
            self._count_file.unlink(missing_ok=True)
            return
        make_private_folder(self._count_file.parent)
        FileCounter(self._count_file, wrapped.key).start()

    @contextmanager
    def _forgetting(self, kind: str, wrapped: Wrapped) -> Iterator[None]:
        """Have the host forget a new wrapping key that is not stored in the end."""
        try:
            yield
        except BaseException:
            self._wrappings.of(kind).forget(wrapped.parameters)
            raise
