"""What people are told, as each service understands it.

The purpose of a request is text that an agent chose; it may try to mention everybody, to hide a link, or to look like a
message of ours. So it is only ever shown where a service interprets nothing, control and direction characters are
replaced, and the link is ours.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from broker_worker.jobs.payloads import ApprovalNotice

BODY_VERSION: Final = 1
SIGNATURE_HEADER: Final = "X-Secret-Broker-Signature"
TIMESTAMP_HEADER: Final = "X-Secret-Broker-Timestamp"
_JSON = {"Content-Type": "application/json; charset=utf-8"}
_SHOWN_CHARACTERS = 300
_DISCORD_CHARACTERS = 2000  # Discord, "Execute Webhook"
_SUPPRESS_EMBEDS = 4  # Discord, "Message Flags"


@dataclass(frozen=True, slots=True)
class Message:
    """One HTTP request's headers and body."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def slack_message(notice: ApprovalNotice, now: int) -> Message:
    """Slack, incoming webhook: Block Kit; what an agent wrote stands in `plain_text`, where nothing is interpreted."""
    fields = [
        {"type": "plain_text", "text": f"{label}\n{text}"[:2000], "emoji": False} for label, text in _facts(notice, now)
    ]
    title = {"type": "plain_text", "text": f"{_line(notice.agent_id)} waits for an approval"[:150], "emoji": False}
    blocks: list[dict[str, Any]] = [{"type": "header", "text": title}, {"type": "section", "fields": fields}]
    if notice.link:
        link = f"<{_slack(notice.link)}|Decide in the dashboard>"
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": link}})
    text = _slack(f"{_line(notice.agent_id)} waits for an approval ({notice.approval_id})")
    return _json({"text": text, "blocks": blocks, "unfurl_links": False, "unfurl_media": False})


def discord_message(notice: ApprovalNotice, now: int) -> Message:
    """Discord, webhook: nobody is mentioned, and facts stand in code spans, where nothing is interpreted."""
    content = "\n".join(["**An approval waits**", *([notice.link] if notice.link else [])])
    for label, text in _facts(notice, now):
        line = f"\n**{label}:** `{_code(text)}`"
        if len(content) + len(line) <= _DISCORD_CHARACTERS:  # a line cut in two would leave its code span open
            content += line
    return _json({"content": content, "allowed_mentions": {"parse": []}, "flags": _SUPPRESS_EMBEDS})


def ntfy_message(notice: ApprovalNotice, now: int) -> Message:
    """ntfy, published to a topic's address: plain text; only our own words and ids stand in headers."""
    text = "\n".join(f"{label}: {fact}" for label, fact in _facts(notice, now))
    headers = {"Title": "An approval waits", "Tags": "key", "Priority": "high", "Content-Type": "text/plain"}
    if notice.link:
        headers["Click"] = notice.link
    return Message(text.encode(), headers)


def webhook_message(notice: ApprovalNotice, now: int, secret: bytes | None = None) -> Message:
    """A webhook of anybody's: versioned JSON, signed if there is a key (docs/operations.md, "Notifications").

    Args:
        notice: what waits.
        now: the time, ms since the epoch.
        secret: the key; the signature is HMAC-SHA256 over the timestamp's header, a dot and the body.
    """
    body = notice_json(notice)
    headers = {**_JSON, TIMESTAMP_HEADER: str(now // 1000)}
    if secret is not None:
        signed = headers[TIMESTAMP_HEADER].encode() + b"." + body
        headers[SIGNATURE_HEADER] = "v1=" + hmac.new(secret, signed, hashlib.sha256).hexdigest()
    return Message(body, headers)


def notice_json(notice: ApprovalNotice) -> bytes:
    """What a webhook and a command are given: the event and its facts as one JSON object.

    Texts are as the agent and the token said them; whoever shows them escapes them.
    """
    approval = {
        "id": notice.approval_id,
        "agent": notice.agent_id,
        "run": notice.run_id,
        "names": list(notice.names),
        "purpose": notice.purpose,
        "task": notice.task,
        "approvers": list(notice.approvers),
        "expires_at": _rfc3339(notice.expires_at),
        "asked_today": notice.asked_today,
        "link": notice.link or None,
    }
    event = {"version": BODY_VERSION, "event": "approval_requested", "approval": approval}
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace")


MESSAGES = {"slack": slack_message, "discord": discord_message, "ntfy": ntfy_message}
"""What each service is sent; a webhook of anybody's has its key besides."""


def _facts(notice: ApprovalNotice, now: int) -> list[tuple[str, str]]:
    """Who asks for what and why, until when: labels of ours, and texts on one line each, what matters most first."""
    minutes = max(0, notice.expires_at - now) // 60_000
    facts = [
        ("Agent", notice.agent_id),
        ("Wants", _listed(notice.names)),
        ("Says it is for", notice.purpose or "(it gave no purpose)"),
        ("Until", f"{_rfc3339(notice.expires_at)} ({minutes} min)"),
        ("Asked in the last 24 h", str(notice.asked_today)),
        ("Run", notice.run_id),
        ("Task", notice.task or ""),
        ("Who may decide", _listed(notice.approvers)),
        ("Approval", notice.approval_id),
    ]
    return [(label, _line(text)) for label, text in facts if text]


def _listed(words: tuple[str, ...]) -> str:
    """The words, or as many as can be shown and how many more there are: nobody is to overlook one."""
    shown = list(words)
    while len(shown) > 1 and len(", ".join(shown)) > _SHOWN_CHARACTERS:
        shown.pop()
    more = len(words) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _line(text: str) -> str:
    """The text on one line; control, direction and private characters become a replacement character."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _slack(text: str) -> str:
    """Slack's three control characters, escaped as its documentation asks (Slack, "Formatting text")."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    """Text for a code span: nothing in it can end the span."""
    return text.replace("`", "\u02cb")


def _rfc3339(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(content: Mapping[str, Any]) -> Message:
    return Message(json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace"), _JSON)
