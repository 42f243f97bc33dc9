"""How the person in front of the client is shown that an approval waits: by URL elicitation, or not at all.

Up to 2025-11-25 the server asks the client while the tool runs. From 2026-07-28 on it cannot: the call ends with what
it needs, and the client makes it again with the person's answer (SEP-2322). Both ways show a link to the dashboard.
What is decided there is signed by the person; nothing that the client answers counts as an approval.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import anyio
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    ElicitRequest,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from msgspec import UNSET, UnsetType

SHOWN_WAIT: Final = 50
"""Seconds to wait for a person who was shown the link, if the call does not say: clients give up after 60 or more."""
PROGRESS_SECONDS: Final = 5.0
_KEY: Final = "approval"
_NO: Final = ("decline", "cancel")
T = TypeVar("T")


class InputNeeded(Exception):  # noqa: N818  # an answer of the protocol, and no error
    """The call has to end with this result; the client makes it again when the person answered."""

    def __init__(self, result: InputRequiredResult) -> None:
        super().__init__("the client's user has to be shown a link")
        self.result = result


class Asking:
    """One call's way to the client's user.

    Args:
        context: the call's.
        params: the call.
        dashboard_url: where people decide; empty if nobody said so.
    """

    def __init__(
        self, context: ServerRequestContext[Any, Any], params: CallToolRequestParams, dashboard_url: str
    ) -> None:
        self._context = context
        self._dashboard_url = dashboard_url.rstrip("/")
        self._is_modern = context.protocol_version in MODERN_PROTOCOL_VERSIONS
        answer = (params.input_responses or {}).get(_KEY)
        self._answer = answer.action if isinstance(answer, ElicitResult) else "cancel"
        self._is_patient = False
        self._asked_again = params.input_responses is not None

    def seconds(self, wished: int | UnsetType) -> float:
        """How long to wait for people.

        Args:
            wished: what the call says; left out, it is not waited for whom nobody shows the link.
        """
        self._is_patient = wished is not UNSET
        if wished is not UNSET:
            return wished
        return SHOWN_WAIT if self.can_show else 0

    @property
    def can_show(self) -> bool:
        """Whether the client shows links to its user."""
        capabilities = self._context.session.client_capabilities
        elicitation = None if capabilities is None else capabilities.elicitation
        return bool(self._dashboard_url) and elicitation is not None and elicitation.url is not None

    def link(self, approvals: Sequence[str]) -> str:
        """Where people decide on some approvals; empty if nobody said where."""
        if not self._dashboard_url:
            return ""
        place = f"#matter-{approvals[0]}" if len(approvals) == 1 else ""
        return f"{self._dashboard_url}/approvals{place}"

    async def meanwhile(
        self, work: Callable[[], Awaitable[T]], approvals: Sequence[str], purpose: str, seconds: float
    ) -> T | None:
        """Do what waits for people, and show the client's user where to decide meanwhile.

        Args:
            work: ends when people have decided, or after `seconds`.
            approvals: the ids of what waits.
            purpose: what the model says that it is for.
            seconds: how long it may take.

        Returns:
            What the work returned; None if the user did not want to look, or could not be shown the link.

        Raises:
            InputNeeded: if the client has to be asked by the call's result.
        """
        if self.can_show and self._is_modern and self._ask_by_result(approvals, purpose) in _NO:
            return None
        ended: list[T] = []
        failed: list[Exception] = []
        async with anyio.create_task_group() as group:
            if self.can_show and not self._is_modern:
                group.start_soon(self._elicit, approvals, purpose, group.cancel_scope)
            group.start_soon(self._report, approvals, seconds)
            try:
                ended.append(await work())
            except Exception as error:  # noqa: BLE001  # raised below: a group would wrap it
                failed.append(error)
            group.cancel_scope.cancel()
        if ended and self.can_show and not self._is_modern:
            await self._context.session.send_elicit_complete(_id(approvals), self._context.request_id)
        if failed:
            raise failed[0]
        return ended[0] if ended else None

    def _ask_by_result(self, approvals: Sequence[str], purpose: str) -> str:
        if self._asked_again:
            return self._answer
        params = ElicitRequestURLParams(
            message=asked_of_a_person(approvals, purpose), url=self.link(approvals), elicitation_id=_id(approvals)
        )
        raise InputNeeded(InputRequiredResult(input_requests={_KEY: ElicitRequest(params=params)}))

    async def _elicit(self, approvals: Sequence[str], purpose: str, scope: anyio.CancelScope) -> None:
        session, request_id = self._context.session, self._context.request_id
        message, url = asked_of_a_person(approvals, purpose), self.link(approvals)
        try:
            answer = await session.elicit_url(message, url, _id(approvals), request_id)
        except MCPError:  # some clients say that they can, and then refuse: the model has to hand the link on
            if not self._is_patient:
                scope.cancel()
        else:
            if answer.action in _NO:
                scope.cancel()

    async def _report(self, approvals: Sequence[str], seconds: float) -> None:
        """Tell the client that the call goes on; nothing happens if it did not ask for that."""
        started = anyio.current_time()
        while True:
            passed = anyio.current_time() - started
            message = f"waiting for people to approve {', '.join(approvals) or 'it'}"
            await self._context.session.report_progress(passed, seconds, message)
            await anyio.sleep(PROGRESS_SECONDS)


def asked_of_a_person(approvals: Sequence[str], purpose: str) -> str:
    """What the client's user reads: one line, in which the agent's words cannot be taken for ours.

    Args:
        approvals: the ids of what waits.
        purpose: what the agent says that it is for; it may have been talked into that.
    """
    ids = f" ({', '.join(approvals)})" if approvals else ""
    words = "".join(c if c.isprintable() else " " for c in purpose.replace('"', "'"))
    said = f' The agent says that it is for: "{words}"' if words else ""
    return f"A secret needs a person's approval{ids}.{said}"


def _id(approvals: Sequence[str]) -> str:
    return f"approval-{'-'.join(approvals)}"
