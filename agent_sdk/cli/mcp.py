"""`secret-agent mcp`: an MCP server that lets models use secrets and never have them."""

import asyncio
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import click

from agent_sdk.credential import RunCredential
from agent_sdk.errors import InvalidRequest

DASHBOARD = "http://localhost:7710"
"""Where `secret-broker up` has its dashboard."""


@click.command()
@click.option(
    "--allow-command",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="A command that may be run with secrets, such as 'GH_TOKEN=secret://github.* gh pr **': * is any text within "
    "one argument, a last ** any further arguments; NAME=secret://PATTERN before the program says which secrets it may "
    "have, and where. May be given several times; without it nothing can be run.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="The folder that commands run in, or below. [default: this one]",
)
@click.option(
    "--pass-env", multiple=True, metavar="NAME", help="A variable of this environment that commands get as well."
)
@click.option("--egress-url", default="", metavar="URL", help="The egress proxy, such as http://127.0.0.1:7720.")
@click.option(
    "--egress-audience",
    default="",
    metavar="URL",
    help="Send the proxy a proof of possession with each call, made out to this audience (policy.yaml, acts_for).",
)
@click.option(
    "--dashboard-url",
    default=DASHBOARD,
    show_default=True,
    envvar="SECRET_BROKER_DASHBOARD_URL",
    metavar="URL",
    help="Where people approve; users are shown links to it. Empty for no links.",
)
@click.option("--http", is_flag=True, help="Serve streamable HTTP on 127.0.0.1 rather than standard input and output.")
@click.option("--port", type=click.IntRange(0, 65535), default=7730, show_default=True, help="With --http.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="With --http: the bearer token that clients must show. Made, readable for you alone, if there is none.",
)
def mcp(
    patterns: tuple[str, ...],
    root: Path,
    pass_env: tuple[str, ...],
    egress_url: str,
    egress_audience: str,
    dashboard_url: str,
    http: bool,
    port: int,
    token_file: Path | None,
) -> None:
    """Serve MCP clients (Claude Code, Codex, VS Code, Cursor) with tools that use secrets and never show them."""
    if http and token_file is None:
        raise InvalidRequest("--http needs --token-file PATH: other users of this host could use the server otherwise")
    if token_file is not None and not http:
        raise InvalidRequest("--token-file goes with --http")
    if egress_audience and not egress_url:
        raise InvalidRequest("--egress-audience goes with --egress-url")
    _check_url("--egress-url", egress_url)
    _check_url("--dashboard-url", dashboard_url)
    if find_spec("mcp") is None:
        raise InvalidRequest("this needs the package mcp: install secret-broker with its extra `mcp`")
    from agent_sdk.mcp_server.allowed_commands import AllowedCommands  # noqa: PLC0415  # only where it is installed
    from agent_sdk.mcp_server.hardening import harden  # noqa: PLC0415  # the extra `mcp` may be missing
    from agent_sdk.mcp_server.serving import Offer, serve_http, serve_stdio  # noqa: PLC0415  # as above
    from agent_sdk.mcp_server.token_file import load_or_create  # noqa: PLC0415  # as above

    offer = Offer(AllowedCommands(patterns), root, pass_env, dashboard_url, egress_url, egress_audience)
    credential = RunCredential.load()
    harden()
    if token_file is None:
        asyncio.run(serve_stdio(credential, offer))
        return
    token = load_or_create(token_file)

    def announce(url: str) -> None:
        click.echo(f"listening on {url}; clients show the token in {token_file}")

    asyncio.run(serve_http(credential, offer, port, token, announce))


def _check_url(option: str, url: str) -> None:
    """An address without credentials; in the clear only to this host."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        is_local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        is_fit = parts.hostname and not parts.username and not parts.query and not parts.fragment
    except ValueError:
        is_local = is_fit = False
    if not is_fit or not (parts.scheme == "https" or (parts.scheme == "http" and is_local)):
        raise InvalidRequest(f"{option} must be https://HOST, or http:// on this host, without user, query or fragment")
