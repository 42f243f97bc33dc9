"""An MCP server for models that use secrets and never have them (Model Context Protocol, 2025-11-25 and 2026-07-28).

    secret-agent mcp --allow-command 'gh pr *'

The modules: `serving` runs it over stdio or HTTP, `server` is the protocol's side, `tools` the table of tools, `access`
asks the broker, `commands`, `routes` and `storing` do the work, and `outlet` is the one way out: each message is
searched for every value that the process holds or once held (`held_values`).

It needs the package `mcp` (the extra `mcp`), so nothing else of `agent_sdk` imports it.
"""
