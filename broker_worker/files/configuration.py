"""The operator's files, read and checked as one: a folder of four to six files, or a single file with all sections.

In the folder form each of `policies`, `secrets` and `issuers` stands either in its own file (`policy.yaml`,
`secrets.yaml`, `issuers.yaml`) or in `broker.yaml`, never in both. `approvers.yaml` and `tokens.yaml` are only ever
files of their own, needed where the policy asks for approvals and where static tokens were issued. Any other file that
is missing, or one that is empty, is an error, not an empty answer. A file that holds a policy and nothing else loads
too, to be checked and tested by itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from broker_worker.core.approvers import Approvers
from broker_worker.core.configuration import CacheSettings, Configuration, Dashboard, StaticToken
from broker_worker.core.digest import configuration_digest, policy_digest
from broker_worker.core.errors import ConfigError
from broker_worker.core.places import versioned_part
from broker_worker.core.references import check_for, is_built_in, nearest_type, type_of
from broker_worker.files import approvers, broker, policy, registry, tokens
from broker_worker.files.approvers import read_approvers
from broker_worker.files.broker import read_cache, read_dashboard, read_providers, read_server
from broker_worker.files.issuers import read_issuers
from broker_worker.files.notifications import read_notifications
from broker_worker.files.policy import read_policy
from broker_worker.files.registry import read_creation_rules, read_registry
from broker_worker.files.sections import Section, Value
from broker_worker.files.tokens import read_tokens
from broker_worker.files.yaml_reader import read_yaml

BROKER_FILE, POLICY_FILE, SECRETS_FILE, ISSUERS_FILE = "broker.yaml", "policy.yaml", "secrets.yaml", "issuers.yaml"
APPROVERS_FILE, TOKENS_FILE = "approvers.yaml", "tokens.yaml"

_ALL_KEYS = (*broker.KEYS, *registry.KEYS, *policy.KEYS, "issuers")


def load_configuration(path: Path) -> Configuration:
    """Read and check the operator's files.

    Args:
        path: the folder, or a single file.

    Returns:
        The configuration, valid as a whole.

    Raises:
        ConfigError: with file and line, for the first thing that cannot be meant.
    """
    if not path.exists():
        hint = "name the home with --home or SECRET_BROKER_HOME; `secret-broker init` makes one"
        if path.suffix in {".yaml", ".yml"}:  # somebody named it
            hint = f"is the path right? It stands for {path.absolute()}"
        raise ConfigError("does not exist", file=str(path), hint=hint)
    return _load_folder(path) if path.is_dir() else _load_file(path)


def _document(path: Path, *known: str) -> Section:
    section = Section(read_yaml(path), file=str(path), origin=path.name, what="top level")
    section.refuse_unknown(known)
    return section


def _load_file(path: Path) -> Configuration:
    document = _document(path, *_ALL_KEYS)
    if not {"agents", "policies"} & set(document):
        raise document.error("neither `agents` nor `policies` stands here", "default deny is written `agents: {}`")
    if set(document) <= set(policy.KEYS):
        alone = Configuration(read_policy(document), {}, CacheSettings(), (), (), digest="", policy_only=True)
        return _with_digests(alone)
    document.require("secrets", why="write `secrets:` with names and references")
    return _with_digests(_read(document, document, document, document.get("issuers"), without_maximum=None))


def _load_folder(folder: Path) -> Configuration:
    document = _document(folder / BROKER_FILE, *_ALL_KEYS)
    rules = _owner(document, folder / POLICY_FILE, policy.KEYS, ("agents", "policies"))
    secrets = _owner(document, folder / SECRETS_FILE, registry.KEYS, ("secrets",))
    issuers = _owner(document, folder / ISSUERS_FILE, ("issuers",), ("issuers",)).require("issuers")
    without_maximum = None if rules is document else CacheSettings().max_ttl_seconds
    read = _read(document, rules, secrets, issuers, without_maximum=without_maximum)
    people = load_approvers(folder, read.dashboard)
    return _with_digests(replace(read, approvers=people, static_tokens=load_tokens(folder)))


def load_approvers(folder: Path, dashboard: Dashboard) -> Approvers:
    """Read the people who may decide, from `approvers.yaml`; nobody if there is no such file.

    Args:
        folder: where the operator's files are.
        dashboard: its origin is the one that counts where the file names no others.

    Raises:
        ConfigError: with file and line.
    """
    path = folder / APPROVERS_FILE
    if not path.exists():
        return Approvers(origins=(dashboard.origin,))
    return read_approvers(_document(path, *approvers.KEYS), dashboard)


def load_tokens(folder: Path) -> Mapping[str, StaticToken]:
    """Read the static tokens, from `tokens.yaml`; none if there is no such file.

    Args:
        folder: where the operator's files are.

    Raises:
        ConfigError: with file and line.
    """
    path = folder / TOKENS_FILE
    return read_tokens(_document(path, *tokens.KEYS)) if path.exists() else {}


def _read(
    document: Section, rules: Section, names: Section, issuers: Value | None, *, without_maximum: int | None
) -> Configuration:
    """Read all parts, wherever each of them stands, and check them against each other."""
    in_force, providers = read_policy(rules), read_providers(document)
    check = check_for(providers)
    secrets = read_registry(names.require("secrets"), check)
    configuration = Configuration(
        policy=in_force,
        registry=secrets,
        create_in=read_creation_rules(names.get("create_in"), secrets, check),
        cache=read_cache(document.get("cache"), without_maximum=without_maximum),
        anchors=() if issuers is None else read_issuers(issuers, in_force.agents),
        providers=providers,
        digest="",
        server=read_server(document.get("server")),
        dashboard=read_dashboard(document.get("dashboard")),
        notifications=read_notifications(document.get("notifications", private=True)),
    )
    _check_providers(configuration, document)
    return configuration


def _owner(document: Section, own_file: Path, keys: Iterable[str], required: tuple[str, ...]) -> Section:
    """The document that holds a part: `broker.yaml` if it names one of the part's keys, else the part's own file."""
    here = [key for key in keys if key in document]
    if here and own_file.exists():
        hint = f"keep one: remove it from {BROKER_FILE}, or remove {own_file.name}"
        raise document.error(f"`{here[0]}` stands here, and {own_file.name} is there too", hint)
    section = document if here else _document(own_file, *keys)
    if not set(required) & set(section):
        raise section.error(f"the key `{required[0]}` is missing", f"write `{required[0]}:` and what belongs below it")
    return section


def _with_digests(configuration: Configuration) -> Configuration:
    rules = replace(configuration.policy, digest=policy_digest(configuration))
    configuration = replace(configuration, policy=rules)
    return replace(configuration, digest=configuration_digest(configuration))


def _check_providers(configuration: Configuration, document: Section) -> None:
    served = {provider.type: provider.origin.line for provider in configuration.providers}
    needed = [(entry.ref, f"secret `{entry.name}` ({entry.origin})") for entry in configuration.registry.values()]
    needed += [(rule.template, f"`create_in` ({rule.origin})") for rule in configuration.create_in]
    needed += [(ref, f"the draft of `{name}`") for ref, name in _checked_drafts(configuration, document)]
    for ref, whose in needed:
        kind = type_of(ref)
        if kind not in served:
            near = [other for other in served if not is_built_in(other) and nearest_type(other) == kind]
            near = near or get_close_matches(kind, served, 1)
            raise document.error(
                f"no provider of type `{kind}`, which {whose} needs",
                f"did you mean it by `{near[0]}`?" if near else f"write `provider:` and `type: {kind}` below it",
                served[near[0]] if near else 0,
            )


def _checked_drafts(configuration: Configuration, document: Section) -> list[tuple[str, str]]:
    """The places of drafts and whose they are; no name leads to one of them."""
    registry = configuration.registry.values()
    drafts = [(entry.rotation.draft, entry.name) for entry in registry if entry.rotation is not None]
    taken = {versioned_part(entry.ref).casefold(): entry.name for entry in registry}
    for draft, name in drafts:
        entry = configuration.registry[name]
        reached = [found for rule in configuration.create_in if (found := rule.name_at(draft)) is not None]
        part = versioned_part(draft).casefold()  # to write a draft must change nobody else's version
        other = taken.get(part) or next(iter(reached), None)
        if other is not None:
            raise document.error(
                f"the draft of `{name}` ({entry.origin}) would be kept in the place of `{other}`",
                "write `draft:` in its rotation, with a place of its own",
            )
        taken[part] = f"{name} (its draft)"
    return drafts
