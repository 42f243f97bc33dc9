"""Requests in flight: sealed, sent, and matched with their answers by request id. One a run and process."""

import asyncio
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

from agent_sdk.approvals import SettledApprovals
from agent_sdk.channel import RunChannel
from agent_sdk.credential import RunCredential
from agent_sdk.errors import BrokerNotTrusted, ClientClosed, Expired, InvalidRequest, Unavailable
from agent_sdk.holdings import Holdings
from agent_sdk.outcome import Answer, settle
from agent_sdk.recent import Recent
from agent_sdk.secret import Secret
from agent_sdk.transport import Transport
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import Notice, Operation, Request, Result

WINDOW = 512
"""How many requests are in flight at most; more wait. The broker keeps more replies than that for a run."""

_LOG = logging.getLogger(__name__)
_ANOTHER_LOOP = (
    "this client belongs to the event loop that used it first, and this is another one: make one client in each "
    "asyncio.run(), or use SecretBroker, which may be used from any thread"
)
_NO_ANSWER = (
    "the request is on the queue, but no worker answered; `secret-broker doctor` on the broker's host says more"
)


class _Pending:
    """A request that waits for its answer.

    Args:
        answer: what its caller waits for.
        body: what it asks.
        names: the names that it asks for.
        deadline: the loop's time at which its caller ceases to wait.
    """

    __slots__ = ("answer", "body", "deadline", "names", "out_of_date", "untrusted")

    def __init__(
        self, answer: asyncio.Future[Answer], body: Operation, names: tuple[str, ...], deadline: float
    ) -> None:
        self.answer = answer
        self.body = body
        self.names = names
        self.deadline = deadline
        self.untrusted = 0
        """How many answers of strangers had been seen when it was sent."""
        self.out_of_date = 0
        """How many answers under certificates out of date had been seen when it was sent."""

    def fail(self, error: Exception) -> None:
        """End the wait, unless it has ended."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Exchange:
    """Asks the broker in the name of one run; the `Receiver` of a transport.

    Args:
        credential: the run's.
        channel: seals and opens with the run's key.
        transport: how envelopes travel.
        on_notice: called for each notice.
        clock: the time in ms since the epoch.
    """

    def __init__(
        self,
        credential: RunCredential,
        channel: RunChannel,
        transport: Transport,
        on_notice: Callable[[Notice], None] | None,
        clock: Callable[[], int],
    ) -> None:
        self._token = credential.token
        self._expires_at = credential.expires_at
        self._channel = channel
        self._transport = transport
        self._on_notice = on_notice
        self._clock = clock
        self._heard: Recent[Notice] = Recent()
        self.holdings = Holdings(clock)
        """What the run holds."""
        self.settled = SettledApprovals()
        """What people decided."""
        self._pending: dict[bytes, _Pending] = {}
        self._waiting: OrderedDict[bytes, _Pending] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._state: Literal["new", "open", "closed"] = "new"
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to connect, if that was not done.

        Raises:
            ClientClosed: after `close`.
        """
        if self._state == "new":
            self._state = "open"
            self._loop = asyncio.get_running_loop()
            self._transport.start(self)
        elif self._state == "closed":
            raise ClientClosed("the client was closed: make a new one")

    async def close(self) -> None:
        """End the requests in flight with `ClientClosed` and close the transport.

        Raises:
            InvalidRequest: if another event loop than ours calls it while ours is there.
        """
        was_open = self._state == "open"
        if was_open and self._loop is not None and self._loop.is_closed():
            self._state = "closed"
            return  # whatever waited or was connected went with it
        if was_open and self._loop is not asyncio.get_running_loop():
            raise InvalidRequest(_ANOTHER_LOOP)
        self._state = "closed"
        for pending in (*self._pending.values(), *self._waiting.values()):
            pending.fail(ClientClosed("the client was closed while the request was in flight"))
        self._waiting.clear()
        self.settled.wake_all()
        if self._timer is not None:
            self._timer.cancel()
        if was_open:
            await self._transport.close()

    async def ask(self, body: Operation, names: tuple[str, ...], seconds: float) -> Answer:
        """Send one request and wait for its answer, for at most `seconds`.

        Args:
            body: what it asks.
            names: the names that it asks for; none if it is about something else.
            seconds: how long; the request is good for as long.

        Raises:
            NotGranted: if there is no answer.
            ClientClosed: if the client is closed, or is closed meanwhile.
            InvalidRequest: if another event loop than ours calls it.
        """
        if self._state != "open":
            self.start()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            raise InvalidRequest(_ANOTHER_LOOP)
        deadline = loop.time() + seconds
        pending = _Pending(loop.create_future(), body, names, deadline)
        request_id = os.urandom(16)
        if len(self._pending) < WINDOW:
            self._send(request_id, pending, seconds)
        else:
            self._waiting[request_id] = pending
        if deadline < self._timer_at:
            self._wake_at(deadline)
        try:
            return await pending.answer
        finally:
            if self._pending.pop(request_id, None) is not None:
                self._transport.forget(request_id)
                self._send_waiting()
            elif self._waiting:
                self._waiting.pop(request_id, None)

    def _send(self, request_id: bytes, pending: _Pending, seconds: float) -> None:
        now = self._clock()
        if now >= self._expires_at:
            raise Expired("this run's token is over: start the run again with a new credential")
        problem = None
        try:
            request = Request(request_id, now, now + max(1, int(seconds * 1000)), self._token, pending.body)
            envelope = self._channel.seal(request)
        except WireError as error:
            problem, code = str(error), error.code
        if problem is not None:  # out here, away from the frames that held the plaintext
            raise InvalidRequest(problem, code=code)
        ignored = self._channel.ignored
        pending.untrusted, pending.out_of_date = ignored.untrusted, ignored.out_of_date
        self._pending[request_id] = pending
        self._transport.send(request_id, envelope)

    def _send_waiting(self) -> None:
        """Send what waited for room, as far as there is room."""
        while self._waiting and len(self._pending) < WINDOW:
            request_id, pending = self._waiting.popitem(last=False)
            if pending.answer.done():
                continue
            try:
                left = pending.deadline - asyncio.get_running_loop().time()
                self._send(request_id, pending, left)
            except (Expired, InvalidRequest) as error:
                pending.fail(error)

    def _wake_at(self, deadline: float) -> None:
        """Keep one timer for all requests: a timer each costs more than looking through them when it fires."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._end_overdue)

    def _end_overdue(self) -> None:
        now = asyncio.get_running_loop().time()
        self._timer, self._timer_at = None, math.inf
        for pending in self._waiting.values():
            if pending.deadline <= now:
                pending.fail(Unavailable(f"{WINDOW} requests were in flight until the deadline: nothing was sent"))
        for pending in self._pending.values():
            if pending.deadline <= now:
                self._expire(pending)
        unanswered = [
            pending.deadline
            for pending in (*self._pending.values(), *self._waiting.values())
            if not pending.answer.done()
        ]
        if unanswered:
            self._wake_at(min(unanswered))

    def _expire(self, pending: _Pending) -> None:
        """End a wait at its deadline, with the likeliest reason."""
        ignored = self._channel.ignored
        if ignored.untrusted > pending.untrusted:
            error: Unavailable = BrokerNotTrusted(
                "the only answers in time were not signed by the broker that this run's credential pins: somebody else "
                "writes to the queue, or the broker has a new identity and the run needs a new credential"
            )
        elif ignored.out_of_date > pending.out_of_date:
            error = Unavailable(
                "the answers' certificate is outside its validity: compare this host's clock with the broker's"
            )
        else:
            error = Unavailable(f"no answer in time: {self._transport.problem or _NO_ANSWER}")
        pending.fail(error)

    def deliver(self, envelopes: Sequence[bytes]) -> None:
        """Take what the transport found on the run's reply stream; an answer counts once."""
        now = self._clock()
        for envelope in envelopes:
            message = self._channel.open(envelope, now)
            if message is None:
                continue
            if isinstance(message, Notice):
                self._tell(message)
                continue
            pending = self._pending.pop(message.request_id, None)
            if pending is not None and not pending.answer.done():
                subject = getattr(pending.body, "subject", None)
                token = None if subject is None else subject.token
                pending.answer.set_result(settle(message, pending.names, self.holdings, now, token))
        if self._waiting:
            self._send_waiting()

    def lend(self, result: Result) -> Secret | None:
        """Hand out the value that came with a granted write; None if none did."""
        return None if result.value is None else self.holdings.lend(result, result.value, self._clock())

    def refuse(self, request_ids: Sequence[bytes], problem: str) -> None:
        """Learn that requests will not reach the broker."""
        for request_id in request_ids:
            pending = self._pending.get(request_id)
            if pending is not None:
                pending.fail(Unavailable(problem))

    def _tell(self, notice: Notice) -> None:
        """Do what a notice says, then tell the user; once, however often the queue shows it."""
        if not self._heard.add(notice):
            return
        if notice.approval is not None and notice.event == "approval_settled":
            self.settled.note(notice.approval.hex())
        self.holdings.take_notice(notice)
        if notice.event == "run_revoked":
            self.settled.wake_all()
        if self._on_notice is None:
            return
        try:
            self._on_notice(notice)
        except Exception:  # noqa: BLE001  # the user's own code must not stop the reader
            _LOG.exception("on_notice failed for %s", notice.event)
