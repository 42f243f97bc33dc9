"""Approvals in the dashboard: what a person is shown, and that only the person's own authenticator decides."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from dashboard_house import House
from desk_workbench import until, write_files
from people_workbench import MINUTE, POLICY, AskingHome
from redis import Redis
from software_authenticator import SoftwareAuthenticator

from agent_sdk.wire import keynames
from broker_worker.core.approvals import ApprovalRequest, decode_decision, sign_request
from broker_worker.core.control import decode_control
from broker_worker.dashboard.pages.approvals import CEREMONY_MS
from broker_worker.files.keys import QUEUE, create_broker_keys, load_seed
from broker_worker.people.assertion import check_assertion
from broker_worker.queue.acl import broker_url
from broker_worker.queue.users import ensure_users

PRESENT = 0x01


@dataclass
class Desk:
    """A dashboard on a real queue, whose policy asks alice and bob; both have an authenticator."""

    house: House
    redis: "Redis"
    browser: httpx.AsyncClient
    alice: SoftwareAuthenticator = field(default_factory=SoftwareAuthenticator)
    bob: SoftwareAuthenticator = field(default_factory=SoftwareAuthenticator)

    def set_people(self, **keys: SoftwareAuthenticator) -> None:
        """Write approvers.yaml."""
        lines = ["approvers:"]
        for name, authenticator in keys.items():
            named = ", ".join(
                f"{word}: {_text(raw)}"
                for word, raw in (
                    ("credential_id", authenticator.credential_id),
                    ("public_key", authenticator.cose),
                )
            )
            key = f"{{kind: webauthn, {named}, rp_id: localhost}}"
            lines.append(f"  - {{name: {name}, groups: [ops], keys: [{key}]}}")
        (self.house.settings.config_dir / "approvers.yaml").write_text("\n".join(lines) + "\n")

    async def ask(self, **changes: Any) -> ApprovalRequest:
        """Ask people as a worker does, and wait until the dashboard knows it."""
        asked = AskingHome(self.house.settings).ask(self.redis, self.house.now, **changes)
        await until(lambda: self.house.context.approvals.find(asked.approval_id) is not None)
        return asked

    async def challenge(self, asked: ApprovalRequest, **fields: str) -> httpx.Response:
        """Ask for what is to be signed."""
        data = {"verdict": "approve", "approver": "alice", "reason": "", "csrf": self.house.csrf, **fields}
        return await self.browser.post(f"/approvals/{asked.approval_id}/challenge", data=data)

    async def decide(
        self, asked: ApprovalRequest, challenge: httpx.Response, signer: SoftwareAuthenticator, **client_data: Any
    ) -> httpx.Response:
        """Sign what was handed out, and send it."""
        text = challenge.json()["challenge"]
        proof = signer.sign(_raw(text), **client_data)
        data = {
            "csrf": self.house.csrf,
            "challenge": text,
            "credential_id": _text(proof.credential_id),
            "authenticator_data": _text(proof.authenticator_data),
            "client_data_json": _text(proof.client_data_json),
            "signature": _text(proof.signature),
        }
        return await self.browser.post(
            f"/approvals/{asked.approval_id}/decision", data=data, headers={"Accept": "application/json"}
        )

    @property
    def written(self) -> int:
        """How many decisions stand on the queue."""
        return int(self.redis.xlen(keynames.CONTROL))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.fixture
def queue(tmp_path: Path, valkey_url: str) -> Iterator[House]:
    """A dashboard's house with keys, files and a queue."""
    house = House(tmp_path, valkey_url)
    create_broker_keys(house.settings.keys_dir, house.now)
    write_files(house.settings.config_dir, policy=POLICY)
    yield house
    house.close()


@pytest.fixture
async def desk(queue: House) -> AsyncIterator[Desk]:
    """The desk, with its browser logged in and the queue being followed."""
    key = load_seed(queue.settings.keys_dir / QUEUE)
    await ensure_users(queue.settings.queue_address, key, ["claude"])
    with Redis.from_url(broker_url(queue.settings.queue_address, key), protocol=2) as redis:
        async with queue.client() as browser:
            await queue.log_in(browser)
            made = Desk(queue, redis, browser)
            made.set_people(alice=made.alice, bob=made.bob)
            following = asyncio.create_task(queue.context.approvals.run())
            await until(lambda: queue.context.approvals.problem == "")
            yield made
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_a_person_sees_what_the_decision_is_about(desk: Desk) -> None:
    """Who, which run and task, what, why, for how long, how often today, by which rule: all of it is on the card."""
    asked = await desk.ask(task="weekly report", purpose="read the tickets", asked_today=7, grant="900s", quorum=2)
    text = (await desk.browser.get("/approvals")).text
    for shown in (
        *("claude", "run-1", "weekly report", "openai.api_key", "read the tickets"),
        *("for 15 min", "7 times before", "policy.yaml:5", asked.policy[:12], asked.approval_id, "ops", "2 of them"),
    ):
        assert shown in text, shown


async def test_the_address_in_a_notification_leads_to_the_card(desk: Desk) -> None:
    """Whoever is told that an approval waits lands where it can be decided; an id that nobody knows is no page."""
    asked = await desk.ask()
    answer = await desk.browser.get(f"/approvals/{asked.approval_id}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/approvals#matter-{asked.approval_id}")
    assert f'id="matter-{asked.approval_id}"' in (await desk.browser.get("/approvals")).text
    assert (await desk.browser.get("/approvals/0000000000000000")).status_code == 404


async def test_a_hostile_purpose_is_text(desk: Desk) -> None:
    """An agent cannot put script or markup before the person who decides."""
    await desk.ask(purpose="<script>approve()</script>", task="<b>urgent</b>")
    text = (await desk.browser.get("/approvals")).text
    assert "<script>approve" not in text
    assert "<b>urgent" not in text
    assert "&lt;script&gt;approve()" in text


async def test_an_approval_is_a_decision_that_a_worker_counts(desk: Desk) -> None:
    """What the authenticator signed goes onto the queue as it is, and verifies there."""
    asked = await desk.ask()
    answer = await desk.decide(asked, await desk.challenge(asked), desk.alice)
    assert answer.status_code == 200
    assert 'data-state="approved"' in answer.text
    entries: Any = desk.redis.xrange(keynames.CONTROL)
    ((_, fields),) = entries
    decision = decode_decision(decode_control(fields[b"m"]).body)
    assert (decision.verdict, decision.approver) == ("approve", "alice")
    assert desk.house.configuration().approvers.fault_of(decision, asked, check_assertion) is None


async def test_a_denial_says_why(desk: Desk) -> None:
    """The reason is part of what is signed, and is shown to everybody."""
    asked = await desk.ask()
    answer = await desk.decide(asked, await desk.challenge(asked, verdict="deny", reason="not today"), desk.alice)
    assert 'data-state="denied"' in answer.text
    assert "not today" in (await desk.browser.get("/approvals")).text


@pytest.mark.parametrize("reason", ["", "  ", "x" * 257])
async def test_a_denial_needs_a_reason(desk: Desk, reason: str) -> None:
    """Without one, or with one that is too long, nothing is handed out to be signed."""
    asked = await desk.ask()
    assert (await desk.challenge(asked, verdict="deny", reason=reason)).status_code == 400


async def test_without_user_verification_nothing_is_decided(desk: Desk) -> None:
    """Touching a key is not enough: the authenticator must have verified who touched it."""
    asked = await desk.ask()
    answer = await desk.decide(asked, await desk.challenge(asked), desk.alice, flags=PRESENT)
    assert answer.status_code == 409
    assert "not signed with a key" in answer.json()["error"]
    assert desk.written == 0


@pytest.mark.parametrize(
    "client_data", [{"origin": "http://evil.example"}, {"type": "webauthn.create"}, {"crossOrigin": True}]
)
async def test_a_signature_made_elsewhere_decides_nothing(desk: Desk, client_data: dict[str, Any]) -> None:
    """What another site, another ceremony or a frame had signed does not count."""
    asked = await desk.ask()
    answer = await desk.decide(asked, await desk.challenge(asked), desk.alice, **client_data)
    assert answer.status_code == 409
    assert desk.written == 0


async def test_one_person_cannot_sign_for_another(desk: Desk) -> None:
    """Bob's authenticator does not decide as alice."""
    asked = await desk.ask()
    answer = await desk.decide(asked, await desk.challenge(asked, approver="alice"), desk.bob)
    assert answer.status_code == 409
    assert desk.written == 0


async def test_a_challenge_is_used_once(desk: Desk) -> None:
    """The same signature sent again decides nothing more."""
    asked = await desk.ask(quorum=2)
    challenge = await desk.challenge(asked)
    assert (await desk.decide(asked, challenge, desk.alice)).status_code == 200
    assert (await desk.decide(asked, challenge, desk.alice)).status_code == 409
    assert desk.written == 1


async def test_a_challenge_belongs_to_its_session(desk: Desk) -> None:
    """What one browser was handed out is not taken from another."""
    asked = await desk.ask()
    challenge = await desk.challenge(asked)
    await desk.house.log_in(desk.browser)
    assert (await desk.decide(asked, challenge, desk.alice)).status_code == 409
    assert desk.written == 0


async def test_a_challenge_belongs_to_its_request(desk: Desk) -> None:
    """A signature about one request does not decide another."""
    one, other = await desk.ask(), await desk.ask(run_id="run-2")
    assert (await desk.decide(other, await desk.challenge(one), desk.alice)).status_code == 409
    assert desk.written == 0


async def test_signing_must_not_take_long(desk: Desk) -> None:
    """A challenge that lay around is refused, before the request itself is over."""
    asked = await desk.ask()
    challenge = await desk.challenge(asked)
    desk.house.now += CEREMONY_MS + 1
    assert (await desk.decide(asked, challenge, desk.alice)).status_code == 409
    assert desk.written == 0


@pytest.mark.parametrize("approver", ["mallory", "", "ops", "<script>"])
async def test_only_those_whom_the_policy_names_may_decide(desk: Desk, approver: str) -> None:
    """Nothing is handed out to be signed by somebody else."""
    assert (await desk.challenge(await desk.ask(), approver=approver)).status_code == 403


async def test_an_approver_who_was_removed_meanwhile_decides_nothing(desk: Desk) -> None:
    """Who is taken out of approvers.yaml between the challenge and the signature does not count."""
    asked = await desk.ask()
    challenge = await desk.challenge(asked)
    desk.set_people(bob=desk.bob)
    assert (await desk.decide(asked, challenge, desk.alice)).status_code == 409
    assert desk.written == 0


async def test_what_is_over_cannot_be_decided(desk: Desk) -> None:
    """A request that expired hands out nothing to be signed, and says so."""
    asked = await desk.ask()
    desk.house.now += 11 * MINUTE
    answer = await desk.challenge(asked)
    assert answer.status_code == 409
    assert "it is expired" in answer.text


async def test_an_unknown_request_is_not_found(desk: Desk) -> None:
    """An id that nobody asked about leads nowhere."""
    asked = await desk.ask()
    data = {"csrf": desk.house.csrf, "verdict": "approve", "approver": "alice"}
    for name in ("0" * 16, asked.approval_id[:8]):
        assert (await desk.browser.post(f"/approvals/{name}/challenge", data=data)).status_code == 404


async def test_two_people_are_needed_where_the_policy_says_so(desk: Desk) -> None:
    """The first approval leaves the request waiting, and is offered to the others only."""
    asked = await desk.ask(quorum=2)
    first = await desk.decide(asked, await desk.challenge(asked), desk.alice)
    assert "1 more must approve" in first.text
    assert re.findall(r"<option[^>]*>(\w+)</option>", first.text) == ["bob"]
    second = await desk.decide(asked, await desk.challenge(asked, approver="bob"), desk.bob)
    assert 'data-state="approved"' in second.text


async def test_an_approval_can_be_taken_back(desk: Desk) -> None:
    """A denial by somebody who may decide ends what was approved."""
    asked = await desk.ask(grant="run")
    await desk.decide(asked, await desk.challenge(asked), desk.alice)
    assert "Take back" in (await desk.browser.get("/approvals")).text
    challenge = await desk.challenge(asked, approver="bob", verdict="deny", reason="too broad")
    assert 'data-state="denied"' in (await desk.decide(asked, challenge, desk.bob)).text


async def test_the_session_remembers_who_decides(desk: Desk) -> None:
    """The next card begins with the person who decided last."""
    await desk.challenge(await desk.ask(), approver="bob")
    assert "<option selected>bob</option>" in (await desk.browser.get("/approvals")).text


async def test_who_has_no_passkey_is_told_another_way(desk: Desk) -> None:
    """A person without an authenticator for this address is told how to decide in the terminal."""
    desk.set_people(alice=desk.alice)
    path = desk.house.settings.config_dir / "approvers.yaml"
    path.write_text(path.read_text().replace("rp_id: localhost", "rp_id: broker.example"))
    asked = await desk.ask()
    text = (await desk.browser.get("/approvals")).text
    assert f"secret-broker approve {asked.approval_id}" in text
    assert '<form class="decide"' not in text
    assert (await desk.challenge(asked)).status_code == 409


async def test_a_forged_request_is_not_shown(desk: Desk) -> None:
    """What the broker did not sign never reaches a person."""
    asked = await desk.ask()
    forged = sign_request(asked.__class__(**{**_fields(asked), "purpose": "forged purpose"}), bytes(64))
    desk.redis.xadd(keynames.APPROVALS, {keynames.MESSAGE_FIELD: forged})
    await desk.ask(run_id="run-after")
    assert "forged purpose" not in (await desk.browser.get("/approvals")).text


async def test_the_stream_brings_what_is_new_and_what_is_settled(desk: Desk) -> None:
    """A page that is open learns of requests and decisions; from its own version on, each change once."""
    old = await desk.ask()
    found = re.search(r'sse-connect="([^"]+)"', (await desk.browser.get("/approvals")).text)
    assert found is not None
    new = await desk.ask(run_id="run-2")
    await desk.decide(old, await desk.challenge(old), desk.alice)

    def enough(text: str) -> bool:
        return text.count("event: matter") >= 2

    received = await desk.house.follow(desk.browser, found[1], enough=enough)
    cards = dict(re.findall(r'id="matter-(\w+)" data-state="(\w+)"', received))
    assert cards == {old.approval_id: "approved", new.approval_id: "waiting"}


async def test_the_navigation_counts_what_waits(desk: Desk) -> None:
    """Every page says how many requests wait for a person."""
    await desk.ask()
    await desk.ask(run_id="run-2")
    assert ">2<" in (await desk.browser.get("/approvals/count")).text


async def test_without_the_queue_the_page_says_so_and_nothing_is_decided(queue: House) -> None:
    """A queue that is away is named, instead of an empty list that looks like peace."""
    await asyncio.wait_for(_once(queue), 10)
    async with queue.client() as browser:
        await queue.log_in(browser)
        text = (await browser.get("/approvals")).text
    assert "may be out of date" in text


async def _once(house: House) -> None:
    """Let the feed try once, as a user that the queue does not know."""
    following = asyncio.create_task(house.context.approvals.run())
    await until(lambda: "not read yet" not in house.context.approvals.problem)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def _fields(asked: ApprovalRequest) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in asked.__struct_fields__}
