"""A value while it is lent: only as text that can be sent, and only together with what keeps it out of answers."""

import contextlib
import string

from agent_sdk.errors import LeaseExpired, NotText
from agent_sdk.secret import Secret
from broker_worker.egress.problems import Refusal
from broker_worker.egress.scrubbing import Scrubber, Scrubbers

_PRINTABLE = frozenset(string.ascii_letters + string.digits + string.punctuation + " ")


class LentValue:
    """What the broker lent for the calls of one run on one route.

    Args:
        secret: the secret.
        scrubbers: have what keeps its value out of answers.
    """

    __slots__ = ("_scrubber", "_scrubbers", "_secret")

    def __init__(self, secret: Secret, scrubbers: Scrubbers) -> None:
        self._secret = secret
        self._scrubbers = scrubbers
        self._scrubber: Scrubber | None = None
        with contextlib.suppress(LeaseExpired, NotText):
            self._scrubber = scrubbers.known(secret.name, secret.reveal())

    @property
    def name(self) -> str:
        """The secret's name."""
        return self._secret.name

    @property
    def is_over(self) -> bool:
        """Whether it may not be used for another call."""
        return self._secret.expired

    def check_revoked(self) -> None:
        """Make sure that the broker did not take it back, so that calls that are being made end as well.

        Raises:
            Refusal: if it did.
        """
        if self._secret.revoked:
            raise _taken_back()

    def value(self) -> str:
        """The value as text that may stand in a request.

        Raises:
            Refusal: if it is over, or could not be sent: a line break in it would be read as the next header.
        """
        try:
            value = self._secret.reveal()
        except LeaseExpired:
            raise _taken_back() from None
        except NotText:
            value = ""
        if not value or not _PRINTABLE.issuperset(value) or value != value.strip(" "):
            raise Refusal(502, "value_unusable", "the stored value is empty, or has characters that cannot be sent")
        return value

    @property
    def is_ready(self) -> bool:
        """Whether `scrubber` takes no time."""
        return self._scrubber is not None

    def scrubber(self) -> Scrubber:
        """What keeps it out of answers.

        Raises:
            Refusal: if the value is over, or cannot be kept out of answers.
        """
        if self._scrubber is None:
            self._scrubber = self._scrubbers.make(self.name, self.value())
        return self._scrubber


def _taken_back() -> Refusal:
    return Refusal(403, "revoked", "the secret of this route was taken back")
