"""The egress proxy's routes, where there are any: whether they could be served."""

from collections.abc import Iterator
from importlib.util import find_spec

from broker_worker.app.part_credentials import acting_agent
from broker_worker.cli.doctor.check import Check, of_error, ok, warn
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import BrokerError
from broker_worker.files.egress import EGRESS_FILE, check_egress
from broker_worker.settings import Settings


def check_routes(settings: Settings, configuration: Configuration) -> Iterator[Check]:
    """Whether egress.yaml is valid and somebody may act for agents; nothing if there is no such file."""
    file = settings.config_dir / EGRESS_FILE
    if not file.exists():
        return
    try:
        routes = check_egress(file, configuration).routes
        agent = acting_agent(configuration.policy, "egress", "proxy")
    except BrokerError as error:
        yield of_error("egress", error)
        return
    if find_spec("aiohttp") is None:
        yield warn("egress", "the proxy needs aiohttp, which is not installed", "install the extra `egress`, or `all`")
        return
    yield ok("egress", f"routes: {len(routes)}, as the agent {agent}")
