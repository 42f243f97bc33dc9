"""What the proxy does with a request: every check in one order, and one record of what came of it."""

import asyncio
import time
from dataclasses import dataclass, field

from aiohttp import HttpVersion11
from aiohttp.web import BaseRequest, StreamResponse

from agent_sdk.wire.messages import Call
from broker_worker.core.egress import Route
from broker_worker.core.egress_path import Target, read_target
from broker_worker.core.limits import Rate
from broker_worker.egress.answering import Exchanged
from broker_worker.egress.connections import Connections, Line
from broker_worker.egress.forwarding import Passage, forward
from broker_worker.egress.headers import to_upstream
from broker_worker.egress.identity import Caller, identify
from broker_worker.egress.limits import Buckets, InFlight
from broker_worker.egress.problems import Refusal
from broker_worker.egress.recording import Recorder
from broker_worker.egress.values import Values

NO_PATTERN = "/(none)"
"""What the audit has in place of a path that no pattern of the route covers."""
_FAULTS_OF_ONE = Rate(60, 60_000, 20)
_FAULTS_OF_STRANGERS = Rate(60, 60_000, 20)
_FAULTS_OF_ALL = Rate(120, 60_000, 60)
"""How many calls that were refused here are recorded: junk must not fill the audit."""
_AFTER_MS = 30_000
"""How long a call may go on after its run's token has ended: the broker records it for a minute and no longer."""


@dataclass(slots=True)
class _Case:
    """One request, and what is known of it so far."""

    at: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    begun: float = field(default_factory=time.monotonic)
    line: Line | None = None
    pattern: str = NO_PATTERN
    caller: Caller | None = None
    has_left: bool = False
    exchanged: Exchanged = field(default_factory=Exchanged)

    def call(self, route: Route, method: str) -> Call:
        """The record of it."""
        found = self.exchanged
        return Call(
            at=self.at,
            route=route.name,
            name=route.secret,
            host=route.upstream.host,
            method=method[:16],
            path=self.pattern,
            status=found.status,
            fault=found.fault,
            sent=found.sent,
            received=found.received,
            elapsed=int((time.monotonic() - self.begun) * 1000),
        )


class Proxy:
    """Answers requests.

    Args:
        connections: the routes, and how each is reached.
        values: the values that go with calls.
        recorder: records them.
        in_flight: bounds how many are made at once.
        port: where it is listened; a request for any other host came by a name that somebody else chose.
    """

    def __init__(
        self, connections: Connections, values: Values, recorder: Recorder, in_flight: InFlight, port: int
    ) -> None:
        self._connections = connections
        self._values = values
        self._recorder = recorder
        self._in_flight = in_flight
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
        self._buckets = Buckets(lambda: time.monotonic_ns() // 1000)

    async def handle(self, request: BaseRequest) -> StreamResponse:
        """Answer one request (the handler of `aiohttp.web.Server`)."""
        case = _Case()
        try:
            return await self._serve(request, case)
        except Refusal as refusal:
            case.exchanged.fault = refusal.code
            if request.writer.output_size > 0:
                raise ConnectionError from None  # the answer has begun: all that is left is to end the connection
            return refusal.response()
        except asyncio.CancelledError:
            case.exchanged.fault = "caller_gone"
            raise
        except ConnectionError:
            case.exchanged.fault = "caller_gone"
            raise
        except Exception:
            case.exchanged.fault = "defect"
            raise
        finally:
            self._record(request, case)

    async def _serve(self, request: BaseRequest, case: _Case) -> StreamResponse:
        self._check_form(request)
        case.line, target = self._line(request)
        route = case.line.route
        case.caller = identify(request.headers, route, target.query)
        pattern = route.covers(request.method, target.segments)
        if pattern is None:
            raise Refusal(403, "not_allowed", "this route does not allow this method on this path")
        case.pattern = pattern.text
        headers = to_upstream(request.headers, route)
        token = case.caller.subject.token
        if any(token in text for text in (*target.segments, case.caller.query or "", *headers.values())):
            raise Refusal(400, "token_misplaced", "the identity token stands where it would go on to the service")
        if is_known := self._values.knows(token):
            self._count(token, route)
        if not self._recorder.keeps_up:
            raise Refusal(503, "audit_unavailable", "calls cannot be recorded now, so none is made", 2)
        self._in_flight.begin(token)
        try:
            async with asyncio.timeout(_seconds(route, case.caller)):
                loan = await self._values.lend(route, case.caller)
                if not is_known:  # now it is; made-up tokens are counted together, where the broker is asked
                    self._count(token, route)
                if not loan.is_ready:  # what cannot be kept out of answers is not sent
                    await asyncio.to_thread(loan.scrubber)
                case.has_left = True
                passage = Passage(request, case.line, token, target.segments, case.caller.query, headers, loan)
                return await forward(passage, case.exchanged)
        except TimeoutError:
            raise Refusal(504, "timeout", "the call took longer than this route allows, or than its run") from None
        finally:
            self._in_flight.end(token)

    def _count(self, token: str, route: Route) -> None:
        """Count a call of a run that the broker knows."""
        if wait := self._buckets.take((token, route.name), route.bounds.rate):
            raise Refusal(429, "rate_limited", "too many calls of this run on this route", 1 + wait // 1_000_000)

    def _check_form(self, request: BaseRequest) -> None:
        """Refuse what is no plain request of a program on this host.

        A browser that some page sends here names that page as `Origin`, or a host name that was made to lead here.
        """
        headers = request.headers
        if request.version != HttpVersion11:
            raise Refusal(505, "version_refused", "expected HTTP/1.1", close=True)
        if [coding.lower() for coding in headers.getall("Transfer-Encoding", ())] not in ([], ["chunked"]):
            raise Refusal(501, "coding_refused", "expected no transfer coding but chunked", close=True)
        if request.method == "CONNECT" or "Upgrade" in headers:
            raise Refusal(400, "upgrade_refused", "this proxy makes no tunnels and changes no protocols", close=True)
        if headers.getall("Host", ()) not in [[host] for host in self._hosts]:
            raise Refusal(421, "host_refused", "expected this proxy's own address as Host", close=True)
        if "Origin" in headers or "Sec-Fetch-Site" in headers:
            raise Refusal(403, "browser_refused", "this proxy serves programs, not pages in a browser", close=True)
        if headers.get("Expect", "100-continue").lower() != "100-continue":
            raise Refusal(417, "expectation_refused", "expected no other Expect than 100-continue", close=True)

    def _line(self, request: BaseRequest) -> tuple[Line, Target]:
        """The route that a request names, and what it wants there."""
        try:
            target = read_target(request.raw_path)
        except ValueError as error:
            raise Refusal(400, "path_refused", str(error)) from None
        line = self._connections.get(target.segments[0])
        if line is None or len(target.segments) == 1:
            raise Refusal(404, "no_route", "expected a path that begins with the name of a route and goes on")
        return line, Target(target.segments[1:], target.query)

    def _record(self, request: BaseRequest, case: _Case) -> None:
        """Have a call recorded; of those that were refused here, as many as are worth it."""
        if case.line is None or case.caller is None or case.exchanged.fault == "unauthenticated":
            return
        route, subject = case.line.route, case.caller.subject
        if case.has_left or self._is_worth_it(subject.token):
            self._recorder.note(subject, case.call(route, request.method))

    def _is_worth_it(self, token: str) -> bool:
        """Whether to record another call of a run that was refused here; whose token is made up is nobody."""
        if self._values.knows(token):
            is_within = not self._buckets.take((token, "faults"), _FAULTS_OF_ONE)
        else:
            is_within = not self._buckets.take("strangers", _FAULTS_OF_STRANGERS)
        return is_within and not self._buckets.take("faults", _FAULTS_OF_ALL)


def _seconds(route: Route, caller: Caller) -> float:
    """How long a call may take."""
    most = float(route.bounds.timeout_seconds)
    if caller.expires_at is None:
        return most
    return min(most, max(0.0, (caller.expires_at + _AFTER_MS) / 1000 - time.time()))
