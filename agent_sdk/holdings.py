"""What a client's agent holds, so that the broker can take it back.

Loans are known weakly: nothing is kept alive for it, and what the agent dropped is forgotten here too.

A notice is authentic, but whoever owns the queue can withhold it, show it again, or show it years late. So an old one
must do nothing that it did not do when it was new: it ends what was received up to the time that it names, and leaves
alone what the broker released afterwards, knowing better. (A notice that is withheld is made up for by the broker's
next answer, and by the end of every loan.)
"""

from collections.abc import Callable, Iterable
from weakref import ref

from agent_sdk.channel import CLOCK_SKEW, REQUEST_SECONDS
from agent_sdk.loan import Loan
from agent_sdk.recent import Recent
from agent_sdk.secret import Secret
from agent_sdk.wire.messages import Notice, Result, lease_id

REACH = CLOCK_SKEW + int(REQUEST_SECONDS * 1000)
"""What was granted before a notice was written is here this much later at the latest, in ms: a request takes no longer,
and the clocks differ by no more."""


class Holdings:
    """The loans of one client.

    Args:
        clock: the time in ms since the epoch.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        # A WeakSet does the same in Python code; here a loan costs a reference and an entry.
        self._live: set[ref[Loan]] = set()
        self._forget = self._live.discard
        self._revoked: Recent[bytes] = Recent()

    def __len__(self) -> int:
        return len(self._live)

    def lend(self, result: Result, value: bytes, now: int, subject: str | None = None) -> Secret:
        """Hand out what was granted.

        Args:
            result: what the broker said of it.
            value: the value.
            now: the time, ms since the epoch.
            subject: the token of the run that it was asked for, if that is another one.
        """
        lease = result.lease
        loan = Loan(
            result.name, lambda: value, result.expires_at, result.version, lease, result.source, self._clock, now
        )
        loan.age, loan.subject = result.age_s, subject
        self._live.add(ref(loan, self._forget))
        if self._revoked and lease is not None and lease_id(lease) in self._revoked:
            loan.end("revoked")  # the queue brought the answer after the notice
        return Secret.of(loan)

    def take_notice(self, notice: Notice) -> None:
        """Do to the loans what a notice says."""
        if notice.event == "lease_revoked" and notice.lease_id is not None:
            self.revoke_lease(notice.lease_id)
        elif notice.event == "run_revoked":
            for loan in self._received_by(notice.at + REACH):
                loan.end("revoked")
        elif notice.event == "secret_rotated":
            for loan in self._received_by(notice.at + REACH):
                loan.rotated |= loan.name == notice.name

    def revoke_lease(self, revoked: bytes) -> None:
        """End every loan of a lease, now and later: a lease that was revoked never lives again."""
        if self._revoked.add(revoked):
            for loan in self._of_lease(revoked):
                loan.end("revoked")

    def revoke_all(self) -> None:
        """End every loan."""
        for loan in self._loans():
            loan.end("revoked")

    def revoke_of(self, subject: str) -> None:
        """End every loan that was asked for on behalf of a run.

        Args:
            subject: the run's token.
        """
        for loan in self._loans():
            if loan.subject == subject:
                loan.end("revoked")

    def revoke_secret(self, name: str) -> None:
        """End every loan of a secret, whatever its version."""
        for loan in self._loans():
            if loan.name == name:
                loan.end("revoked")

    def shares_lease(self, loan: Loan) -> bool:
        """Whether another loan of the same lease goes on."""
        return loan.lease is not None and any(
            other is not loan and not other.is_over for other in self._of_lease(lease_id(loan.lease))
        )

    def _of_lease(self, wanted: bytes) -> Iterable[Loan]:
        return (loan for loan in self._loans() if loan.lease is not None and lease_id(loan.lease) == wanted)

    def _received_by(self, time: int) -> Iterable[Loan]:
        return (loan for loan in self._loans() if loan.received_at <= time)

    def _loans(self) -> Iterable[Loan]:
        # A copy first: threads that hold secrets drop them meanwhile.
        return (loan for reference in list(self._live) if (loan := reference()) is not None)
