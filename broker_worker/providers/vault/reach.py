"""What the token can do beyond what is needed, as `secret-broker doctor` tells: read elsewhere, write, administer.

Vault is asked what the token may do at a path (`sys/capabilities-self`, which its `default` policy allows), and never
for a value. A path with a made-up name in it tells whether a rule covers everything there; folders of KV engines that
the token may list tell what is really there.
"""

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Scope
from broker_worker.providers.vault.engines import Engines, Mount
from broker_worker.providers.vault.failures import OUTAGES, of_answer
from broker_worker.providers.vault.place import read_place

MOST_FOLDERS: Final = 20
"""So many folders are listed at most."""
MOST_PATHS: Final = 1000
"""About so many paths Vault is asked at most."""
_READ: Final = frozenset({"read", "root"})
_WRITE: Final = frozenset({"create", "update", "patch", "delete", "sudo", "root"})
_ANYTHING: Final = "do everything, as a root token may"
_HINT: Final = "narrow the policies of the broker's token or role to what docs/providers.md names"
_MAY_NOT_ASK: Final = (
    "what else it may do is not told: the token may not ask sys/capabilities-self, "
    "which Vault's `default` policy allows"
)
_Capabilities = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class _Needed:
    """One path that references name."""

    mount: Mount
    below: str
    is_written: bool

    @property
    def data(self) -> str:
        """The path that is read and written."""
        return self.mount.data(self.below)


@dataclass(slots=True)
class _Question:
    """What Vault is asked.

    Args:
        readable: names for people, by the path that would have to be readable.
        writable: by path, what is needed there of what changes something.
    """

    readable: dict[str, str] = field(default_factory=dict)
    writable: dict[str, frozenset[str]] = field(default_factory=dict)


def scope_of(engines: Engines, refs: Sequence[str], written: Collection[str]) -> Scope:
    """Compare what the token can do with what is needed; see `ports.ScopeReporter`. It blocks.

    Raises:
        ProviderError: if Vault cannot be asked.
    """
    needed, made_up = _needed(engines, refs, written), f"secret-broker-doctor-{secrets.token_hex(8)}"
    question = _Question()
    for each in needed:
        question.writable[each.data] = frozenset({"create", "update"}) if each.is_written else frozenset()
        if each.mount.kv == 2:
            question.writable[each.mount.metadata(each.below)] = frozenset()
    question.readable |= _elsewhere(engines, needed, made_up)
    governing = [f"{path}/{made_up}" for path in ("sys/policies/acl", "sys/auth", "sys/mounts")]
    governing.append("auth/token/create")
    answer = engines.api.capabilities([*governing, *question.writable, *question.readable][:MOST_PATHS])
    if not answer.is_good:
        failure = of_answer(answer)
        if failure.kind is not FailureKind.FORBIDDEN:
            raise failure
        return Scope("places", (), _HINT, untold=(_MAY_NOT_ASK,))
    said = answer.part("data") or answer.body
    found = {path: _texts(said.get(path)) for path in (*question.readable, *question.writable, *governing)}
    return _scope(question, governing, found, made_up)


def _scope(question: _Question, governing: Sequence[str], found: _Capabilities, made_up: str) -> Scope:
    is_root = any("root" in capabilities for capabilities in found.values())
    writes = [
        f"{path} ({', '.join(sorted(more))})"
        for path, allowed in question.writable.items()
        if (more := (found[path] & _WRITE) - allowed) and not is_root
    ]
    administers = [path.removesuffix(f"/{made_up}") for path in governing if found[path] & _WRITE]
    powers = (_ANYTHING,) if is_root else (f"administer Vault: {', '.join(administers)}",) if administers else ()
    beyond = dict.fromkeys(name for path, name in question.readable.items() if found[path] & _READ)
    return Scope("places", tuple(beyond), _HINT, tuple(writes), powers)


def _needed(engines: Engines, refs: Sequence[str], written: Collection[str]) -> list[_Needed]:
    """The paths of references; those that no engine serves are left out: that they have no value is told elsewhere."""
    paths: dict[str, bool] = {}
    for ref in refs:
        try:
            path = read_place(ref).path
        except ProviderError:
            continue
        paths[path] = paths.get(path, False) or ref in written
    found: list[_Needed] = []
    for path, is_written in paths.items():
        try:
            mount = engines.mount_of(path)
        except ProviderError as error:
            if error.kind in OUTAGES or error.kind is FailureKind.UNAUTHENTICATED:
                raise
            continue
        found.append(_Needed(mount, mount.below(path), is_written))
    return found


def _elsewhere(engines: Engines, needed: Sequence[_Needed], made_up: str) -> Mapping[str, str]:
    """Paths that nothing needs, with the names that people know them by."""
    paths = {f"{made_up}/data/{made_up}": "any secrets engine"}
    folders: dict[tuple[str, str], Mount] = {
        (each.mount.path, folder): each.mount for each in needed if each.mount.kv for folder in _folders_of(each.below)
    }
    known = {(each.mount.path, each.below) for each in needed}
    direct = {(each.mount.path, each.below.rpartition("/")[0]) for each in needed}
    for listed, ((path, folder), mount) in enumerate(folders.items()):
        inside = f"{folder}/" if folder else ""
        if (path, folder) not in direct:
            paths[mount.data(f"{inside}{made_up}")] = f"{path}/{inside}*"
        for name in _listed(engines, mount, folder) if listed < MOST_FOLDERS else ():
            below = f"{inside}{name}"
            if name.endswith("/"):
                if (path, below.rstrip("/")) not in folders:
                    paths[mount.data(f"{below}{made_up}")] = f"{path}/{below}*"
            elif (path, below) not in known:
                paths[mount.data(below)] = f"{path}/{below}"
    return dict(list(paths.items())[: MOST_PATHS // 2])


def _folders_of(below: str) -> Iterator[str]:
    """The folders that lead to a secret, from the engine's root on."""
    parts = below.split("/")
    return ("/".join(parts[:count]) for count in range(len(parts)))


def _listed(engines: Engines, mount: Mount, folder: str) -> Collection[str]:
    """What a folder holds, if the token may list it."""
    answer = engines.api.list(mount.metadata(folder) if mount.kv == 2 else f"{mount.path}/{folder}".rstrip("/"))
    return _texts(answer.part("data").get("keys")) if answer.is_good else frozenset()


def _texts(found: object) -> frozenset[str]:
    return frozenset(text for text in found if isinstance(text, str)) if isinstance(found, list) else frozenset()
