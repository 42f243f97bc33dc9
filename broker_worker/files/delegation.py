"""What `policy.yaml` says of agents that ask on behalf of others, and of how values reach the work."""

from urllib.parse import urlsplit

from agent_sdk.wire.messages import Way
from agent_sdk.wire.names import check_agent_id
from broker_worker.core.policy import WAYS, ActsFor
from broker_worker.files.sections import Value

_MAX_AUDIENCE = 256


def read_acts_for(value: Value) -> ActsFor:
    """Read `acts_for: {agents: [claude], deliver: [proxy], audience: URL}`, or `all_agents: true`.

    Raises:
        ConfigError: with file and line.
    """
    section = value.section(
        "agents", "all_agents", "deliver", "audience", hint="write `acts_for: {agents: [claude], deliver: [proxy]}`"
    )
    section.refuse_both("agents", "all_agents")
    everybody, audience = section.get("all_agents"), section.get("audience")
    if everybody is not None and not everybody.boolean():
        raise everybody.error("`all_agents: false` lets it act for nobody", "write `agents:` and a list")
    deliver = read_ways(section.require("deliver", why="write `deliver: [proxy]` for a proxy, `[value]` for a gateway"))
    return ActsFor(
        agents=None if everybody is not None else _agents(section.require("agents", why="or write `all_agents: true`")),
        deliver=deliver,
        audience=None if audience is None else _audience(audience),
    )


def read_ways(value: Value) -> tuple[Way, ...]:
    """Read a list of ways in which a value may reach the work.

    Raises:
        ConfigError: with file and line.
    """
    found: list[Way] = []
    for item in value.items(hint="write `deliver: [env, proxy]`"):
        word = item.choice(*WAYS)
        way = next(way for way in WAYS if way == word)
        if way in found:
            raise item.error(f"`{way}` stands twice", "keep one of the two")
        found.append(way)
    if not found:
        raise value.error("the list is empty, so nothing could be delivered", f"name some of {', '.join(WAYS)}")
    return tuple(found)


def _agents(value: Value) -> frozenset[str]:
    agents = frozenset(item.name(check_agent_id) for item in value.items(hint="write `agents: [claude]`"))
    if not agents:
        raise value.error("the list is empty, so it acts for nobody", "name the agents, or remove `acts_for`")
    return agents


def _audience(value: Value) -> str:
    text = value.text("the address where it is called, such as http://127.0.0.1:7700")
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.netloc) and not (parts.query or parts.fragment)
    except ValueError:  # such as a bracket that is not closed
        is_address = False
    if not is_address or len(text) > _MAX_AUDIENCE or not text.isprintable():
        raise value.expected("the address where it is called, such as http://127.0.0.1:7700")
    return text.rstrip("/")
