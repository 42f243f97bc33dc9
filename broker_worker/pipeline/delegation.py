"""On behalf of a run: somebody whom the policy lets act for others asks, and the run's own rights decide.

What counts is what the run showed of itself, its identity token or a static token, and a proof of its key where its
policy wants one (docs/protocol.md, "On behalf of a run"). The asker is believed nothing but that it was shown this.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from hmac import compare_digest
from typing import TypeVar

from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import Delivery, Report, Resolve, Subject
from agent_sdk.wire.proof import verify_proof
from agent_sdk.wire.static_tokens import PREFIX, parse
from agent_sdk.wire.tokens import RunIdentity, TokenVerifier
from broker_worker.core.configuration import Configuration, StaticToken
from broker_worker.core.limits import Rate, count_one
from broker_worker.core.policy import ActsFor
from broker_worker.pipeline.batch import Ask

REPORT_GRACE_MS = 60_000
"""How long after its token's end calls of a run are still recorded: they were made before, and told late."""
STATIC_ISSUER = "static-token"
"""What the audit names as the issuer of an identity that a static token stands for."""
FAULTS = Rate(600, 60_000, 60)
"""How many signatures that do not verify an actor may have looked at: each costs what hundreds of requests cost."""
_AGAIN_MS = 1000
T = TypeVar("T")


class Subjects:
    """Finds out for whom somebody asks, and whether they may.

    Args:
        skew: how far clocks may differ, ms.
        limit: how many verified tokens are remembered.
    """

    def __init__(self, skew: int, limit: int = 4096) -> None:
        self._skew = skew
        self._limit = limit
        self._verified: OrderedDict[str, RunIdentity] = OrderedDict()
        self._faults: OrderedDict[tuple[str, str], int] = OrderedDict()

    def forget(self) -> None:
        """Have every token verified again, because the files changed."""
        self._verified.clear()

    def stand_in(self, ask: Ask, configuration: Configuration, verifier: TokenVerifier, now: int) -> None:
        """Let a request count as that of the run that it is made for, or refuse it.

        Args:
            ask: a request with a subject.
            configuration: the files in force.
            verifier: verifies identity tokens.
            now: the time, ms since the epoch.
        """
        body = ask.request.body
        assert isinstance(body, Resolve | Report)
        assert body.subject is not None
        actor = ask.actor = ask.actor or ask.identity
        way: Delivery = body.deliver if isinstance(body, Resolve) else "proxy"
        grace = REPORT_GRACE_MS if isinstance(body, Report) else 0
        agent = configuration.policy.agents.get(actor.agent_id)
        acts_for = None if agent is None else agent.acts_for
        if acts_for is None or way not in acts_for.deliver:
            ask.refuse(Code.DENIED, "may_not_act_for_others")
            return
        try:
            subject = self._identity(body.subject.token, ask, configuration.static_tokens, verifier, now, grace)
            _check_claimed(body.subject, subject)
            if not grace:
                self._check_proof(body.subject, subject, ask, acts_for, configuration, now)
        except WireError as error:
            retry_after = _AGAIN_MS if error.code is Code.RATE_LIMITED else None
            ask.refuse(error.code, f"subject_{error.reason}", retry_after)
            return
        if subject.agent_id == actor.agent_id:  # else whoever may only have it used would have it, by its own token
            ask.refuse(Code.DENIED, "may_not_act_for_itself")
            return
        if not acts_for.covers(subject.agent_id, way):
            ask.refuse(Code.DENIED, "may_not_act_for_this_agent")
            return
        ask.identity = subject

    def _identity(
        self,
        token: str,
        ask: Ask,
        static: Mapping[str, StaticToken],
        verifier: TokenVerifier,
        now: int,
        grace: int,
    ) -> RunIdentity:
        known = self._verified.get(token)
        if token.startswith(PREFIX):
            identity = _static_identity(token, static)
        elif known is not None:
            identity = known
        else:
            identity = self._within("", ask, lambda: _verified(token, verifier, now, grace))
            self._verified[token] = identity
            if len(self._verified) > self._limit:
                self._verified.popitem(last=False)
        if identity.expires_at <= now - self._skew - grace:
            raise WireError("what the run showed is over", code=Code.EXPIRED, reason="expired")
        return identity

    def _within(self, token_id: str, ask: Ask, check: Callable[[], T]) -> T:
        """Check a signature, unless too many of its kind did not verify lately.

        Args:
            token_id: of the run's token, if that verified before: junk stops nobody who is known.
            ask: the actor's request.
            check: verifies it.
        """
        kind = (ask.sender.agent_id, token_id)
        is_within, arrival = count_one(FAULTS, self._faults.get(kind, 0), ask.entry.received_us)  # never set back
        if not is_within:
            raise WireError("too many signatures did not verify", code=Code.RATE_LIMITED, reason="too_many_faults")
        try:
            return check()
        except WireError:
            self._faults[kind] = arrival
            self._faults.move_to_end(kind)
            if len(self._faults) > self._limit:
                self._faults.popitem(last=False)
            raise

    def _check_proof(
        self,
        shown: Subject,
        subject: RunIdentity,
        ask: Ask,
        acts_for: ActsFor,
        configuration: Configuration,
        now: int,
    ) -> None:
        """Verify a proof that was shown, and want one where the agent's policy does."""
        agent = configuration.policy.agents.get(subject.agent_id)
        is_required = agent is not None and agent.proof_required
        proof, audience = shown.proof, acts_for.audience
        if proof is None:
            if is_required:
                raise WireError("no proof was shown", code=Code.UNAUTHENTICATED, reason="without_proof")
            return
        if subject.issuer == STATIC_ISSUER or audience is None:
            raise WireError("no proof counts here", code=Code.UNAUTHENTICATED, reason="proof_not_taken")
        key = subject.run_public_key
        self._within(subject.token_id, ask, lambda: verify_proof(proof, shown.token, key, (audience,), now, self._skew))


def _check_claimed(shown: Subject, subject: RunIdentity) -> None:
    """What it called itself besides must be what its token says."""
    if shown.agent not in (None, subject.agent_id) or shown.run not in (None, subject.run_id):
        raise WireError("the token is another's", code=Code.UNAUTHENTICATED, reason="is_another")


def _verified(token: str, verifier: TokenVerifier, now: int, grace: int) -> RunIdentity:
    try:
        return verifier.verify(token, now)
    except WireError as error:
        if not grace or error.code is not Code.EXPIRED:
            raise
        return verifier.verify(token, now - grace)


def _static_identity(token: str, static: Mapping[str, StaticToken]) -> RunIdentity:
    shown = parse(token)
    found = static.get(shown.token_id)
    if found is None or not compare_digest(found.sha256, shown.digest):
        raise WireError("no static token of this broker", code=Code.UNAUTHENTICATED, reason="unknown_static_token")
    return RunIdentity(
        issuer=STATIC_ISSUER,
        agent_id=found.agent,
        run_id=found.run_id,
        run_public_key=shown.digest,
        token_id=found.run_id,
        issued_at=found.created_at,
        expires_at=found.expires_at,
    )
