"""Leases: what a run holds, until when, and how it proves that it does.

A lease's token is authenticated with a key of the broker's and bound to the run's key, so that any worker, also after
a restart, can tell a true one without having stored it. Its first 16 bytes are the lease's id.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from itertools import count
from typing import Final

from msgspec import Struct

from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import Name, Time, Version, lease_id
from agent_sdk.wire.names import is_secret_name

MAX_LEASE_MS: Final = 3600 * 1000
"""How long a lease can be renewed at most, unless the policy entry's `max_ttl` says otherwise."""
_PERSON_KEY = b"sb1 lease key"
_PERSON = b"sb1 lease"
_OWN, _FOR_OTHERS = b"\x00", b"\x01"
_Place = tuple[bytes, str, str | None]
"""Under which the book keeps a lease: the run's key (and that of who acts for it), the secret, its version."""


class _Body(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    name: Name
    version: Version | None
    issued_at: Time
    ends_at: Time
    serial: Time


_BODY = Codec(_Body, "lease", 496)


@dataclass(frozen=True, slots=True)
class Lease:
    """One holding of one version of one secret by one run. Times are ms since the epoch.

    Args:
        token: what the run shows.
        name: the secret.
        version: the vault's own version, if it has one.
        issued_at: when it began.
        ends_at: its hard end: renewing leads no further.
        for_others: whether who has it asked on behalf of another run.
        lease_id: 32 hexadecimal digits: what people and the audit call it.
    """

    token: bytes
    name: str
    version: str | None
    issued_at: int
    ends_at: int
    for_others: bool = False
    lease_id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lease_id", lease_id(self.token).hex())


def lease_key(identity_seed: bytes) -> bytes:
    """The key that authenticates leases: keyed BLAKE2b-256 (RFC 7693) of nothing but its purpose."""
    return hashlib.blake2b(b"", digest_size=32, key=identity_seed, person=_PERSON_KEY).digest()


class LeaseMint:
    """Makes leases and tells true ones.

    Args:
        key: 32 bytes, from `lease_key`.
        first_serial: where the mint's count begins; random, so that two workers never issue one lease twice.
    """

    def __init__(self, key: bytes, first_serial: int = 0) -> None:
        self._key = key
        self._serials = count(first_serial)

    def issue(
        self,
        agent_id: str,
        run_key: bytes,
        name: str,
        version: str | None,
        now: int,
        ends_at: int,
        *,
        for_others: bool = False,
    ) -> Lease:
        """Begin a lease; no two are alike, also if a run gives one back and asks again within the same millisecond.

        Args:
            agent_id: of the verified token.
            run_key: the run's Ed25519 public key; only it can renew or give back the lease.
            name: the secret.
            version: the vault's own version, if it has one; at most 128 bytes of UTF-8.
            now: the time, ms since the epoch.
            ends_at: its hard end, ms since the epoch.
            for_others: whether the run asks on behalf of another one.
        """
        body = _BODY.encode(_Body(name, version, now, ends_at, next(self._serials)))
        mac = self._mac(agent_id, run_key, body, _FOR_OTHERS if for_others else _OWN)
        return Lease(mac + body, name, version, now, ends_at, for_others)

    def read(self, token: bytes, agent_id: str, run_key: bytes) -> Lease:
        """The lease that a run shows.

        Raises:
            WireError: reason `unknown_lease` if the broker did not issue it to this run.
        """
        is_own = compare_digest(self._mac(agent_id, run_key, token[16:], _OWN), token[:16])
        if not is_own and not compare_digest(self._mac(agent_id, run_key, token[16:], _FOR_OTHERS), token[:16]):
            raise WireError("no lease of this run", reason="unknown_lease")
        body = _BODY.decode(token[16:])
        if not is_secret_name(body.name):
            raise WireError("no lease of this run", reason="unknown_lease")
        return Lease(token, body.name, body.version, body.issued_at, body.ends_at, not is_own)

    def _mac(self, agent_id: str, run_key: bytes, body: bytes, kept: bytes) -> bytes:
        data = run_key + agent_id.encode() + kept + body
        return hashlib.blake2b(data, digest_size=16, key=self._key, person=_PERSON).digest()


@dataclass(slots=True)
class Holding:
    """An open lease as this worker knows it: who holds it, until when.

    Args:
        agent_id: the agent.
        run_id: its run.
        token_id: the token that it was opened with.
        run_key: the run's Ed25519 public key.
        lease: the lease.
        expires_at: until when the value may be used, ms since the epoch; renewing moves it.
        uses: how often the value was handed out under it.
        upstream: what the vault calls its own lease, if it made the value for us and takes it back.
        scheme: of the reference that the value came from: it says which vault that is, whatever becomes of the name.
        actor: agent and run key of who asked for it on the run's behalf, has the value and is told; None for the run.
        actor_run: the run of that agent.
        actor_token: the token that it asked with.
        is_inherited: whether a worker that is gone issued it. It can end, and counts no further use.
    """

    agent_id: str
    run_id: str
    token_id: str
    run_key: bytes
    lease: Lease
    expires_at: int
    uses: int = 1
    upstream: str | None = None
    scheme: str = ""
    actor: tuple[str, bytes] | None = None
    actor_run: str = ""
    actor_token: str = ""
    is_inherited: bool = False

    @property
    def keeper(self) -> tuple[str, bytes]:
        """Agent and run key of who has the value."""
        return self.actor or (self.agent_id, self.run_key)


class LeaseBook:
    """The open leases that this worker issued, or inherited: to count uses, and to tell whoever holds one when it ends.

    Leases can share an upstream lease: those of the fields of one credential, and those of runs that were given the
    same one. The book knows when the last of them has ended (docs/adr/0020).

    Args:
        limit: how many are remembered; the least recently used are forgotten first, and end by themselves.
    """

    def __init__(self, limit: int = 32_768) -> None:
        self.news: deque[Holding | str] = deque(maxlen=limit)
        """What is to be noted for whoever inherits: leases that began, and the ids of leases that ended early."""
        self.on_news: Callable[[], object] = lambda: None
        """Called when there is something to note."""
        self._limit = limit
        self._open: OrderedDict[_Place, Holding] = OrderedDict()
        self._sharing: dict[str, dict[_Place, Holding]] = {}
        self._over: dict[str, Holding] = {}
        self._for_others: dict[str, Holding] = {}

    def __iter__(self) -> Iterator[Holding]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def held(
        self, run_key: bytes, name: str, version: str | None, now: int, actor: tuple[str, bytes] | None = None
    ) -> Holding | None:
        """The lease under which a run, or an actor on its behalf, has this version already."""
        holding = self._open.get((run_key if actor is None else run_key + actor[1], name, version))
        return holding if holding is not None and now < holding.expires_at else None

    def inherited(self, run_key: bytes, lease: Lease) -> Holding | None:
        """What is known of a run's lease that another worker issued."""
        return self._open.get((run_key + lease_id(lease.token), lease.name, lease.version))

    def held_for_others(self, lease: Lease) -> Holding | None:
        """Whose lease it is that an actor shows."""
        return self._for_others.get(lease.lease_id)

    def sharing(self, upstream: str) -> list[Holding]:
        """The open leases of one upstream lease."""
        return list(self._sharing.get(upstream, {}).values())

    def note(self, holding: Holding) -> None:
        """Remember a lease that was issued, used or renewed."""
        place = _place_of(holding)
        before = self._open.get(place)
        self._open[place] = holding
        self._open.move_to_end(place)
        if before is not holding:
            if holding.upstream is not None:
                self._sharing.setdefault(holding.upstream, {})[place] = holding
            if before is not None:
                self._leave(before)
            if not holding.is_inherited:
                self._tell(holding)
        if holding.actor is not None:
            self._for_others[holding.lease.lease_id] = holding
        if len(self._open) > self._limit:
            self._leave(self._open.popitem(last=False)[1])

    def use(self, holding: Holding, expires_at: int) -> None:
        """Count one more use of a lease."""
        holding.uses += 1
        place = _place_of(holding)
        if self._open.get(place) is not holding:
            self.renew(holding, expires_at)
            return
        self._open.move_to_end(place)
        if expires_at > holding.expires_at:
            holding.expires_at = expires_at

    def renew(self, holding: Holding, expires_at: int) -> None:
        """Move the end of a lease further; a copy that was asked for with a shorter life does not shorten it."""
        if expires_at > holding.expires_at:
            holding.expires_at = expires_at
        held = self._open.get(_place_of(holding))
        if held is None or held.lease.token == holding.lease.token:  # else it is another worker's, who knows it
            self.note(holding)

    def end(self, holding: Holding) -> None:
        """Forget a lease that is over; another one of the same version, such as another worker's, changes nothing."""
        ended = [self._end(place, holding) for place in (_place_of(holding), _place_of_inherited(holding))]
        if any(ended):
            self._tell(holding.lease.lease_id)

    def _end(self, place: _Place, holding: Holding) -> bool:
        held = self._open.get(place)
        if held is None or held.lease.token != holding.lease.token:
            return False
        del self._open[place]
        self._leave(held)
        return True

    def inherit(self, holdings: Sequence[Holding]) -> None:
        """Take over leases that a worker issued which is gone, as far as there is room, the newest first.

        They are the first to be forgotten.
        """
        room = max(0, self._limit - len(self._open))
        for holding in holdings[max(0, len(holdings) - room) :]:
            self._inherit(holding)

    def _inherit(self, holding: Holding) -> None:
        """Workers that renewed a lease noted it too; the note that says what the vault calls its own stays."""
        own = self._open.get(_place_of(holding))
        holding.is_inherited = True
        known = self._open.get(_place_of(holding))
        if known is not None and known.upstream is not None:
            return
        if own is not None and own.upstream is None and holding.upstream is not None:
            self._end(_place_of(own), holding)
        self.note(holding)
        self._open.move_to_end(_place_of(holding), last=False)

    def purge(self, now: int) -> None:
        """Forget what has expired."""
        for holding in [holding for holding in self._open.values() if now >= holding.expires_at]:
            self._end(_place_of(holding), holding)

    def take_over(self) -> list[Holding]:
        """The last leases of upstream leases that nobody holds any more, each once."""
        over, self._over = self._over, {}
        return [holding for upstream, holding in over.items() if upstream not in self._sharing]

    def _tell(self, news: Holding | str) -> None:
        self.news.append(news)
        self.on_news()

    def _leave(self, holding: Holding) -> None:
        """A lease is held no longer: note if its upstream lease has no other."""
        self._for_others.pop(holding.lease.lease_id, None)
        if holding.upstream is None:
            return
        sharing = self._sharing.get(holding.upstream, {})
        if sharing.get(_place_of(holding)) is holding:
            del sharing[_place_of(holding)]
        if not sharing:
            self._sharing.pop(holding.upstream, None)
            self._over[holding.upstream] = holding


def _place_of_inherited(holding: Holding) -> _Place:
    """A place of its own: the run may be given a lease of the same version by this worker as well."""
    return holding.run_key + lease_id(holding.lease.token), holding.lease.name, holding.lease.version


def _place_of(holding: Holding) -> _Place:
    if holding.is_inherited:
        return _place_of_inherited(holding)
    actor_key = b"" if holding.actor is None else holding.actor[1]
    return holding.run_key + actor_key, holding.lease.name, holding.lease.version
