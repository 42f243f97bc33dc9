"""The table of tools: what each is called, takes, returns and does, and which are offered."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from mcp_types import CallToolResult, Tool, ToolAnnotations
from msgspec import Struct

from agent_sdk.mcp_server import arguments, results
from agent_sdk.mcp_server.access import Access
from agent_sdk.mcp_server.asking import Asking
from agent_sdk.mcp_server.commands import Commands
from agent_sdk.mcp_server.results import RefusedNames, ToolRefused, refusal_of, result_of, schema_of, told
from agent_sdk.mcp_server.routes import Routes
from agent_sdk.mcp_server.storing import Storing
from agent_sdk.wire.errors import Code, SecretBrokerError

Work = Callable[[Any, Asking], Awaitable[Struct]]
_NO_VALUE: Final = "No value is ever returned. "


class OfferedTool(Struct, frozen=True):
    """One tool.

    Args:
        tool: as clients see it.
        takes: its arguments.
        work: what it does.
    """

    tool: Tool
    takes: type[Struct]
    work: Work

    async def call(self, raw: Mapping[str, Any], asking: Asking) -> CallToolResult:
        """Check the arguments, do the work, and tell what became of it.

        Raises:
            InputNeeded: if the client has to be asked by the call's result.
        """
        try:
            call = msgspec.convert(raw, self.takes)
        except msgspec.ValidationError as error:  # its text has types and places, and no argument
            return refusal_of(ToolRefused(Code.INVALID, f"{self.tool.name}: {error}"))
        try:
            result = await self.work(call, asking)
        except (ToolRefused, RefusedNames) as error:
            return refusal_of(error)
        except SecretBrokerError as error:
            return refusal_of(told(error))
        return result_of(result, is_error=_is_refusal(result))


def offered_tools(access: Access, commands: Commands, routes: Routes | None, storing: Storing) -> list[OfferedTool]:
    """The tools that can do something in this server.

    Args:
        access: the run's.
        commands: what may be run; without any, nothing needs secrets here, so none can be asked for.
        routes: the egress proxy, if there is one.
        storing: for new secrets.
    """

    async def list_secrets(_: arguments.Nothing, __: Asking) -> results.Names:
        return results.Names(list(await access.client.list_names()))

    async def request_access(call: arguments.RequestAccess, asking: Asking) -> results.Access:
        ways = dict.fromkeys(call.names, call.deliver)
        obtained = await access.obtain(ways, call.purpose, asking, call.wait_seconds)
        return results.Access(
            [results.granted(secret) for secret in obtained.secrets.values()],
            list(results.refused_names(obtained.refusals, asking.link).refusals),
        )

    tools = [
        _tool(
            "list_secrets",
            "Names of secrets",
            "Lists the names of the secrets that this run may use. " + _NO_VALUE + "Use a name in request_access or as "
            "secret://NAME in run_command. A name that is missing here is not allowed: tell the user rather than "
            "look for its value elsewhere.",
            (arguments.Nothing, results.Names, list_secrets),
            ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
        ),
        _tool(
            "generate_secret",
            "Make a secret",
            "Has the broker make a new random value and store it under a name, for whoever the policy lets use it. "
            + _NO_VALUE
            + "On conflict the name is taken.",
            (arguments.GenerateSecret, results.Stored, storing.generate),
            ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False),
        ),
        _tool(
            "store_secret",
            "Store a secret",
            "Stores what a file of the working folder holds, or what an allowed command prints, under a name. "
            + _NO_VALUE
            + "Give it the place of a value, never the value. The file stays: have it deleted.",
            (arguments.StoreSecret, results.Stored, storing.store),
            ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True),
        ),
    ]
    if commands.described:
        tools += [
            _tool(
                "request_access",
                "Ask for secrets",
                "Asks for secrets before they are used, so that people can approve. The values stay in this server, "
                "for run_command with the same purpose. "
                + _NO_VALUE
                + "approval_pending: give the user the link and call "
                "again with the same names and purpose. denied or approval_denied: stop and tell the user.",
                (arguments.RequestAccess, results.Access, request_access),
                ToolAnnotations(
                    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
                ),
            ),
            _tool(
                "run_command",
                "Run a command with secrets",
                "Runs an allowed program with secrets in its environment or in files. Where a value stood in the "
                "output it reads [masked NAME]. Write the program's own way to read a variable, not the value. "
                f"Allowed: {commands.described} (* is any text, a last ** any further arguments).",
                (arguments.RunCommand, results.CommandResult, commands.run),
                ToolAnnotations(
                    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
                ),
            ),
        ]
    if routes is not None:
        tools.append(
            _tool(
                "call_route",
                "Call a service",
                "Sends a request to a service through the egress proxy, which adds the credential. "
                + _NO_VALUE
                + "Send "
                "no key of your own. If `refused` is set, the proxy refused the call: do what `advice` says.",
                (arguments.CallRoute, results.RouteResult, routes.call),
                ToolAnnotations(
                    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
                ),
            )
        )
    return tools


def _tool(
    name: str,
    title: str,
    description: str,
    parts: tuple[type[Struct], type[Struct], Work],
    annotations: ToolAnnotations,
) -> OfferedTool:
    takes, gives, work = parts
    tool = Tool(
        name=name,
        title=title,
        description=description,
        input_schema=schema_of(takes),
        output_schema=schema_of(gives),
        annotations=annotations,
    )
    return OfferedTool(tool, takes, work)


def _is_refusal(result: Struct) -> bool:
    return isinstance(result, results.Access) and not result.granted
