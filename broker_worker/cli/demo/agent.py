"""The program that the demo's agents run: it asks for secrets with the SDK and tells what came of it, never a value.

It is run as a file, so that its process loads the SDK and nothing of the broker. Orders come as JSON lines on standard
input; for each it writes JSON lines, one for every request and a last one `{"event": "done"}`. It ends with its input.
"""

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from agent_sdk import AsyncSecretBroker, LeaseExpired, NotGranted, RunCredential, Secret

LOOK_SECONDS = 0.005


async def serve() -> None:
    """Take the run's credential, then carry out orders until there are no more."""
    credential = RunCredential.load()
    async with AsyncSecretBroker(credential) as broker:
        loaded = sorted(name for name in sys.modules if name.partition(".")[0] == "broker_worker")
        inherited = sorted(name for name in os.environ if name.startswith("SECRET_BROKER") or name == "REDIS_URL")
        tell(event="ready", run_id=credential.run_id, broker_modules=loaded, broker_variables=inherited)
        held: dict[str, Secret] = {}
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            if "store" in order:
                await store(broker, **order["store"])
            elif "rotated" in order:
                await see_rotated(held[order["rotated"]], order["seconds"])
            elif "call" in order:
                await call(credential, **order["call"])
            elif "watch" in order:
                await watch(held[order["watch"]], order["seconds"])
            else:
                await carry_out(broker, order, held)
            tell(event="done")


async def carry_out(broker: AsyncSecretBroker, order: dict[str, Any], held: dict[str, Secret]) -> None:
    """Ask for what the order lists: one after another, or without waiting for answers at a pace in seconds."""
    if order["pace"] is None:
        for name, purpose in order["asks"]:
            await ask(broker, name, purpose, order, held)
        return
    async with asyncio.TaskGroup() as group:
        for name, purpose in order["asks"]:
            group.create_task(ask(broker, name, purpose, order, held))
            if order["pace"]:
                await asyncio.sleep(order["pace"])


async def ask(
    broker: AsyncSecretBroker, name: str, purpose: str, order: dict[str, Any], held: dict[str, Secret]
) -> None:
    """Ask for one secret, tell the outcome, and hold what was granted until the name is granted again."""
    started = time.monotonic()
    try:
        secret = await broker.get(name, purpose=purpose, **order["options"])
    except NotGranted as refusal:
        outcome: dict[str, Any] = {
            "outcome": refusal.code,
            "words": str(refusal),
            "retry_after": refusal.retry_after,
            "approval": next((each.approval for each in refusal.refusals), None) or "",
        }
    else:
        held[name] = secret
        outcome = {
            "outcome": "granted",
            "source": secret.source,
            "shown": f"{secret} {secret!r}",
            "proof": prove(secret, bytes.fromhex(order["challenge"])),
        }
    tell(event="answer", name=name, purpose=purpose, started=started, ended=time.monotonic(), **outcome)


async def store(broker: AsyncSecretBroker, name: str, purpose: str, prefix: str) -> None:
    """Make up a value, as a service would that the agent has just set up, and store it under a name."""
    started = time.monotonic()
    try:
        stored = await broker.put(name, prefix + secrets.token_urlsafe(24), purpose=purpose)
    except NotGranted as refusal:
        outcome = {"outcome": refusal.code, "words": str(refusal)}
    else:
        outcome = {"outcome": "granted", "shown": repr(stored)}
    tell(event="answer", name=name, purpose=purpose, started=started, ended=time.monotonic(), **outcome)


async def call(credential: RunCredential, url: str, seconds: float) -> None:
    """Call a URL of the proxy with the run's token in place of a key; tell what came back, word for word."""
    shown = {"Authorization": f"Bearer {credential.token}"}
    request = urllib.request.Request(url, headers=shown)  # noqa: S310  # http, to the demo's own proxy
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def made() -> tuple[int, str]:
        try:
            with opener.open(request, timeout=seconds) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    status, text = await asyncio.to_thread(made)
    tell(event="called", status=status, text=text)


async def see_rotated(secret: Secret, seconds: float) -> None:
    """Wait until the broker says that there is a newer value, or the time is over; tell which."""
    end = time.monotonic() + seconds
    while not secret.rotated and time.monotonic() < end:  # noqa: ASYNC110  # `on_notice` would be for all names
        await asyncio.sleep(LOOK_SECONDS)
    usable = bool(secret.reveal_bytes())
    words = "rotated, and usable" if secret.rotated and usable else "not rotated"
    tell(event="over", name=secret.name, error="", words=words, at=time.time())


async def watch(secret: Secret, seconds: float) -> None:
    """Use a secret again and again until that fails, or the time is over; tell which."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            secret.reveal_bytes()
        except LeaseExpired as over:
            tell(event="over", name=secret.name, error=type(over).__name__, words=str(over), at=time.time())
            return
        await asyncio.sleep(LOOK_SECONDS)
    tell(event="over", name=secret.name, error="", words="still held", at=time.time())


def prove(secret: Secret, challenge: bytes) -> str:
    """Show whoever knows the value, and nobody else, that we have it."""
    return hmac.new(challenge, secret.reveal_bytes(), hashlib.sha256).hexdigest()


def tell(**event: object) -> None:
    """Write one event."""
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    asyncio.run(serve())
