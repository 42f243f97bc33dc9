"""What tests of approvals in a browser share: an installation that asks people, a worker, an authenticator."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker_home import Home
from browser_site import Site, free_port
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from software_authenticator import SoftwareAuthenticator

from agent_sdk.wire import keynames
from broker_worker.ledger.schema import METADATA

if TYPE_CHECKING:
    from playwright.async_api import CDPSession, Page

POLICY = """
    agents:
      claude:
        allow:
          - openai.api_key
          - {secret: anthropic.api_key, approval: {approvers: [ops], ttl: 10m}}
"""


def text(raw: bytes) -> str:
    """Base64url without padding, as approvers.yaml has it."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def enroll(home: Home, **people: SoftwareAuthenticator) -> None:
    """Write approvers.yaml: each of these people is one of `ops`."""
    lines = ["approvers:"] if people else ["approvers: []"]
    for name, authenticator in people.items():
        key = authenticator.key
        named = f"credential_id: {text(key.credential_id)}, public_key: {text(key.public)}, rp_id: {key.rp_id}"
        lines.append(f"  - {{name: {name}, groups: [ops], keys: [{{kind: webauthn, {named}}}]}}")
    (home.settings.config_dir / "approvers.yaml").write_text("\n".join(lines) + "\n")


@dataclass
class Authenticator:
    """Chromium's virtual authenticator: it belongs to one page, and stays there wherever the page goes."""

    session: "CDPSession"
    name: str

    async def hold(self, key: SoftwareAuthenticator) -> None:
        """Put a credential into it."""
        private = key.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        credential = {
            "credentialId": base64.b64encode(key.credential_id).decode(),
            "privateKey": base64.b64encode(private).decode(),
            "rpId": key.rp_id,
            "signCount": 0,
            "isResidentCredential": False,
        }
        await self._send("addCredential", credential=credential)

    async def verifies(self, is_user: bool) -> None:
        """Whether it recognises who touches it."""
        await self._send("setUserVerified", isUserVerified=is_user)

    async def credentials(self) -> int:
        """How many credentials it holds."""
        return len((await self._send("getCredentials"))["credentials"])

    async def _send(self, command: str, **values: Any) -> Any:
        return await self.session.send(f"WebAuthn.{command}", {"authenticatorId": self.name, **values})


async def plug_in(page: "Page") -> Authenticator:
    """Give a page a built-in authenticator that verifies its user."""
    session = await page.context.new_cdp_session(page)
    await session.send("WebAuthn.enable", {"enableUI": False})
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasUserVerification": True,
        "isUserVerified": True,
        "hasResidentKey": True,
        "automaticPresenceSimulation": True,
    }
    added = await session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return Authenticator(session, added["authenticatorId"])


@asynccontextmanager
async def asking(home: Home) -> AsyncIterator[Site]:
    """A worker that asks people for one of two secrets, and the dashboard where they decide."""
    port = free_port()
    home.write(policy=POLICY, broker=f"provider: {{type: local}}\ndashboard: {{port: {port}}}\n")
    site = Site(home.settings, home.clock.now, port)
    METADATA.create_all(site.writer)
    async with home.working(reloading=True), site.served():
        yield site
    site.writer.dispose()


def decisions(home: Home) -> int:
    """How many decisions stand on the queue."""
    with home.redis() as redis:
        return int(redis.xlen(keynames.CONTROL))
