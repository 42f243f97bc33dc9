"""Reading and writing with one token: which secrets engine serves a path, and how that one is asked.

KV v2 has a path of its own for data, so the engine must be known first. Vault is asked, as `vault kv` does, once for
each mount. What has no KV engine is read as it is; if the answer carries a lease, Vault made the credential for us.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.vault.answers import Answer, VaultApi
from broker_worker.providers.vault.failures import of_answer, unreadable_answer
from broker_worker.providers.vault.place import WHOLE, Place

_TRIES: Final = 4
"""How often a write is prepared anew because somebody else changed another field meanwhile."""
_NOT_SERVED: Final = frozenset({"system", "token", "identity", "cubbyhole"})
_CHANGED = "the secret has another version by now"
_READ_AGAIN = "read its version, and write only if that is still meant"


@dataclass(frozen=True, slots=True)
class Secret:
    """What stands at a path.

    Args:
        fields: its content; never shown by `repr`.
        version: of a KV v2 secret its version, of a credential a digest of its lease.
        lease_id: Vault's name for the lease of a credential that it made; None for what is stored.
        lasts_seconds: how long such a credential lives from now on.
    """

    fields: Mapping[str, Any] = field(repr=False)
    version: str | None = None
    lease_id: str | None = None
    lasts_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a secrets engine is mounted.

    Args:
        path: its path, without a slash at the end.
        kv: which KV engine it is, 1 or 2; 0 for every other engine.
    """

    path: str
    kv: int

    def below(self, path: str) -> str:
        """The part of a path that lies below the mount."""
        return path.removeprefix(f"{self.path}/")

    def data(self, below: str) -> str:
        """The path of the API at which a secret is read and written."""
        return f"{self.path}/data/{below}" if self.kv == 2 else f"{self.path}/{below}"

    def metadata(self, below: str) -> str:
        """The path of KV version 2 at which a folder is listed, and a secret removed with all its versions."""
        return f"{self.path}/metadata/{below}".rstrip("/")


class Engines:
    """The secrets engines, as one token sees them. Every call blocks; it may be made in several threads.

    Args:
        api: a client with the token.
        lease_seconds: how long a credential should live; a shorter lease that can be renewed is.
    """

    def __init__(self, api: VaultApi, lease_seconds: int) -> None:
        self.api = api
        self._lease_seconds = lease_seconds
        self._mounts: dict[str, Mount] = {}

    def read(self, path: str, version: int | None) -> Secret:
        """What stands at a path; a credential is made for it, if that is what its engine does.

        Args:
            path: as in `Place`.
            version: of a KV v2 secret; None for the current one.

        Raises:
            ProviderError: if there is none, or Vault does not give it.
        """
        mount = self.mount_of(path)
        if mount.kv == 2:
            return self._read_version(mount, path, version)
        if version is not None:
            raise ProviderError(
                FailureKind.BAD_REFERENCE,
                "this secrets engine keeps no versions",
                hint="leave `?version=` out: only KV version 2 has them",
            )
        answer = self.api.read(path)
        fields = answer.body.get("data")
        if not answer.is_good:
            raise of_answer(answer)
        if not isinstance(fields, dict):
            raise unreadable_answer()
        lease_id = answer.body.get("lease_id")
        return self._lent(fields, lease_id, answer) if isinstance(lease_id, str) and lease_id else Secret(fields)

    def write(self, place: Place, text: str, expected: str | None) -> str | None:
        """Store a field and leave the others as they are.

        Args:
            place: the field.
            text: its new content.
            expected: see `ports.Provider.put`.

        Returns:
            The new version, if the engine has versions.

        Raises:
            ProviderError: if it was not stored.
        """
        if place.field == WHOLE or place.version is not None:
            raise ProviderError(
                FailureKind.BAD_REFERENCE,
                "a single field of the current version can be written, nothing else",
                hint="write the reference without `?version=`, with the field's name behind `#`",
            )
        mount = self.mount_of(place.path)
        if not mount.kv:
            raise ProviderError(
                FailureKind.READ_ONLY, "only KV engines of Vault can be written", hint="choose a path of one"
            )
        for _ in range(_TRIES):
            fields, current = self._current(mount, place.path)
            _check_expected(expected, place.field in fields, current)
            changed = {**fields, place.field: text}
            if current is None:
                answer = self.api.write(mount.path, mount.below(place.path), changed)
                if answer.is_good:
                    return None
                raise of_answer(answer)
            answer = self.api.write_version(mount.path, mount.below(place.path), changed, current)
            failure = None if answer.is_good else of_answer(answer)
            if failure is None:
                return _version_of(answer.part("data"))
            if failure.kind is not FailureKind.CONFLICT:
                raise failure
        raise ProviderError(FailureKind.CONFLICT, _CHANGED, hint=_READ_AGAIN)

    def give_back(self, lease_id: str) -> None:
        """Have Vault take a credential back; one that is gone already is no error.

        Raises:
            ProviderError: if Vault did not confirm it.
        """
        answer = self.api.revoke_lease(lease_id)
        if not answer.is_good:
            failure = of_answer(answer)
            if failure.kind is not FailureKind.NOT_FOUND:
                raise failure

    def mount_of(self, path: str) -> Mount:
        """The secrets engine that serves a path.

        Raises:
            ProviderError: if there is none that could be meant, or Vault does not tell.
        """
        parts = path.split("/")
        for end in range(1, len(parts)):
            known = self._mounts.get("/".join(parts[:end]))
            if known is not None:
                return known
        answer = self.api.mount_of(path)
        if not answer.is_good:
            raise of_answer(answer)
        data = answer.part("data")
        mounted, kind, options = data.get("path"), data.get("type"), data.get("options")
        if not isinstance(mounted, str) or not isinstance(kind, str):
            raise unreadable_answer()
        if kind in _NOT_SERVED or kind.startswith("ns_") or not path.startswith(mounted) or not mounted.endswith("/"):
            raise ProviderError(
                FailureKind.BAD_REFERENCE,
                "the path belongs to Vault itself, not to a secrets engine",
                hint="write the path of a secret; `namespace` in broker.yaml chooses the namespace",
            )
        is_second = isinstance(options, dict) and options.get("version") == "2"
        mount = Mount(mounted.rstrip("/"), (2 if is_second else 1) if kind in ("kv", "generic") else 0)
        self._mounts[mount.path] = mount
        return mount

    def _read_version(self, mount: Mount, path: str, version: int | None) -> Secret:
        answer = self.api.read_version(mount.path, mount.below(path), version)
        data = answer.part("data")
        fields, metadata = data.get("data"), data.get("metadata")
        if answer.status == 404 and isinstance(metadata, dict):
            raise _removed(metadata)
        if not answer.is_good:
            raise of_answer(answer)
        if not isinstance(fields, dict) or not isinstance(metadata, dict):
            raise unreadable_answer()
        return Secret(fields, _version_of(metadata))

    def _lent(self, fields: Mapping[str, Any], lease_id: str, made: Answer) -> Secret:
        """A credential that Vault made, with a lease that is as long as can be had."""
        lasts = _seconds(made.body.get("lease_duration"))
        if lasts < self._lease_seconds and made.body.get("renewable") is True:
            renewed = self.api.renew_lease(lease_id, self._lease_seconds)
            if renewed.is_good:
                lasts = max(lasts, _seconds(renewed.body.get("lease_duration")))
        digest = hashlib.blake2b(lease_id.encode(errors="replace"), digest_size=8).hexdigest()
        return Secret(fields, digest, lease_id, lasts or None)

    def _current(self, mount: Mount, path: str) -> tuple[Mapping[str, Any], int | None]:
        """The content that a write would change, and its version; 0 if there is none, None if the engine has none."""
        if mount.kv == 1:
            answer = self.api.read(path)
            if answer.status == 404 and answer.trouble is None:
                return {}, None
            fields = answer.body.get("data")
            if answer.is_good and isinstance(fields, dict):
                return fields, None
            raise unreadable_answer() if answer.is_good else of_answer(answer)
        answer = self.api.read_version(mount.path, mount.below(path), None)
        data = answer.part("data")
        fields, metadata = data.get("data"), data.get("metadata")
        if answer.status == 404 and answer.trouble is None:
            return {}, int(_version_of(metadata)) if isinstance(metadata, dict) else 0
        if not answer.is_good:
            raise of_answer(answer)
        if not isinstance(fields, dict) or not isinstance(metadata, dict):
            raise unreadable_answer()
        return fields, int(_version_of(metadata))


def _check_expected(expected: str | None, is_there: bool, current: int | None) -> None:
    if expected is None:
        return
    if expected == "" and is_there:
        found, hint = "the secret has this field already", _READ_AGAIN
    elif expected != "" and current is None:
        found, hint = "KV version 1 keeps no versions, and one was expected", "mount KV version 2, or expect none"
    elif expected != "" and (not is_there or expected != str(current)):
        found, hint = _CHANGED if is_there else "there is no such field, and one was expected", _READ_AGAIN
    else:
        return
    raise ProviderError(FailureKind.CONFLICT, found, hint=hint)


def _removed(metadata: Mapping[str, Any]) -> ProviderError:
    if metadata.get("destroyed") is True:
        return ProviderError(
            FailureKind.NOT_FOUND, "this version of the secret was destroyed", hint="write a new version"
        )
    return ProviderError(
        FailureKind.NOT_FOUND,
        "this version of the secret was deleted",
        hint="`vault kv undelete` brings it back, or write a new version",
    )


def _version_of(metadata: Mapping[str, Any]) -> str:
    version = metadata.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise unreadable_answer()
    return str(version)


def _seconds(found: object) -> int:
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0
