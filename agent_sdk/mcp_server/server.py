"""The protocol's side of the server: lists tools, and calls them. Nothing else is offered."""

import logging
from importlib.metadata import version
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
)

from agent_sdk.mcp_server.asking import Asking, InputNeeded
from agent_sdk.mcp_server.held_values import HeldValues
from agent_sdk.mcp_server.instructions import INSTRUCTIONS
from agent_sdk.mcp_server.results import ToolRefused, refusal_of
from agent_sdk.mcp_server.tools import OfferedTool
from agent_sdk.wire.errors import Code

_log = logging.getLogger(__name__)
Context = ServerRequestContext[Any, Any]


def make_server(tools: list[OfferedTool], held: HeldValues, dashboard_url: str) -> Server[dict[str, Any]]:
    """The server for some tools.

    Args:
        tools: what is offered.
        held: what no result may hold.
        dashboard_url: where people approve; empty if nobody said so.
    """
    by_name = {each.tool.name: each for each in tools}

    async def list_tools(_: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[each.tool for each in tools], ttl_ms=0, cache_scope="private")

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
        tool = by_name.get(params.name)
        if tool is None:
            raise MCPError(code=INVALID_PARAMS, message="there is no such tool: see tools/list")
        try:
            result = await tool.call(params.arguments or {}, Asking(context, params, dashboard_url))
        except InputNeeded as needed:
            return needed.result
        except Exception as error:  # noqa: BLE001  # its text, and its traceback's, may hold a value
            _log.error("%s failed: unexpected %s", params.name, type(error).__name__)
            result = refusal_of(
                ToolRefused(Code.UNAVAILABLE, f"unexpected {type(error).__name__}", "this is a defect: tell the user")
            )
        return _masked(result, held)

    server = Server[dict[str, Any]](
        "secret-broker",
        version=version("secret-broker"),
        title="Secret Broker",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    server.middleware.clear()  # traces of calls would be one more way out of the process
    return server


def _masked(result: CallToolResult, held: HeldValues) -> CallToolResult:
    plain = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    fit = held.mask_tree(plain)
    return result if fit is plain else CallToolResult.model_validate(fit)
