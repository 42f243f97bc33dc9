"""What people are told: each service's form, and a purpose that can do nothing there."""

import hashlib
import hmac
import json
from typing import Any

import pytest

from broker_worker.jobs.messages import (
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    discord_message,
    notice_json,
    ntfy_message,
    slack_message,
    webhook_message,
)
from broker_worker.jobs.payloads import NOTIFY_APPROVAL, ApprovalNotice

NOW = 1_790_000_000_000
LINK = "http://localhost:7710/approvals/00112233aabbccdd"
HOSTILE = (
    "@everyone <!channel> <https://evil.example|click> `x` **b** [a](https://evil.example) \u202egnp\n# big\x1b[31m"
)


def notice(**changes: object) -> ApprovalNotice:
    """An approval that waits."""
    fields: dict[str, object] = {
        "approval_id": "00112233aabbccdd",
        "agent_id": "claude",
        "run_id": "run-7",
        "names": ["stripe.live_key"],
        "purpose": "refund order 12",
        "task": "support",
        "approvers": ["ops", "alice"],
        "expires_at": NOW + 600_000,
        "asked_today": 3,
        "link": LINK,
        **changes,
    }
    decoded: ApprovalNotice = NOTIFY_APPROVAL.decode(NOTIFY_APPROVAL.encode(fields))
    return decoded


SAID = ("claude", "run-7", "stripe.live_key", "refund order 12", "support", "ops, alice", "10 min", "3")


@pytest.mark.parametrize("make", [slack_message, discord_message, ntfy_message])
def test_everything_that_a_person_must_know_is_said(make: Any) -> None:
    """Who asks for what and why, until when, how often today, the approval's id and where to decide."""
    message = make(notice(), NOW)
    text = message.body.decode() + " ".join(message.headers.values())
    for said in (*SAID, "00112233aabbccdd", LINK):
        assert said in text, said


def test_slack_interprets_nothing_of_an_agent_s() -> None:
    """Its words stand in plain text only; our link is the only one, and nothing is unfolded."""
    body = json.loads(slack_message(notice(purpose=HOSTILE, task=HOSTILE), NOW).body)
    interpreted = [body["text"]] + [
        block["text"]["text"] for block in body["blocks"] if block.get("text", {}).get("type") == "mrkdwn"
    ]
    assert "evil" not in "".join(interpreted)
    assert interpreted[1] == f"<{LINK}|Decide in the dashboard>"
    assert {field["type"] for field in body["blocks"][1]["fields"]} == {"plain_text"}
    assert len(body["blocks"][1]["fields"]) <= 10
    assert body["unfurl_links"] is False


def test_discord_mentions_nobody_and_formats_nothing_of_an_agent_s() -> None:
    """Its words stand in a code span that they cannot end, and mentions are switched off besides."""
    body = json.loads(discord_message(notice(purpose=HOSTILE), NOW).body)
    assert body["allowed_mentions"] == {"parse": []}
    (line,) = [line for line in body["content"].split("\n") if "evil" in line]
    assert line.startswith("**Says it is for:** `")
    assert line.endswith("`")
    assert line.count("`") == 2


def test_ntfy_gets_plain_text_and_only_our_words_in_headers() -> None:
    """A header made of an agent's text could add another."""
    message = ntfy_message(notice(purpose=HOSTILE, task=HOSTILE), NOW)
    assert message.headers["Click"] == LINK
    assert "evil" not in " ".join(message.headers.values())
    assert not any("\n" in value for value in message.headers.values())
    assert message.headers["Content-Type"] == "text/plain"


@pytest.mark.parametrize("make", [slack_message, discord_message, ntfy_message])
def test_no_text_breaks_out_of_its_line(make: Any) -> None:
    """Line feeds, escapes and direction marks become a replacement character."""
    text = make(notice(purpose=HOSTILE), NOW).body.decode()
    for character in ("\u202e", "\x1b", "\\u001b", "\\u202e", "gnp\\n", "gnp\n"):
        assert character not in text


@pytest.mark.parametrize("make", [slack_message, discord_message, ntfy_message])
def test_many_names_and_long_texts_fit(make: Any) -> None:
    """A request for 64 names is summed up; a service's limit does not lose the message."""
    many = notice(names=[f"{'n' * 100}.{number}" for number in range(64)], purpose="\u00e4" * 256, task="t" * 256)
    body = make(many, NOW).body.decode()
    assert " and 62 more" in body
    assert LINK in body + make(many, NOW).headers.get("Click", "")
    if make is discord_message:
        content = json.loads(body)["content"]
        assert len(content) <= 2000
        assert content.count("`") % 2 == 0


def test_a_webhook_s_body_is_versioned_and_signed() -> None:
    """The receiver computes HMAC-SHA256 over timestamp, dot and body with the shared key."""
    message = webhook_message(notice(), NOW, b"shared key")
    assert json.loads(message.body) == {
        "version": 1,
        "event": "approval_requested",
        "approval": {
            "id": "00112233aabbccdd",
            "agent": "claude",
            "run": "run-7",
            "names": ["stripe.live_key"],
            "purpose": "refund order 12",
            "task": "support",
            "approvers": ["ops", "alice"],
            "expires_at": "2026-09-21T14:23:20Z",
            "asked_today": 3,
            "link": LINK,
        },
    }
    signed = message.headers[TIMESTAMP_HEADER].encode() + b"." + message.body
    assert message.headers[SIGNATURE_HEADER] == "v1=" + hmac.new(b"shared key", signed, hashlib.sha256).hexdigest()


def test_a_webhook_without_a_key_is_not_signed() -> None:
    """It has no header that could be taken for a signature."""
    assert SIGNATURE_HEADER not in webhook_message(notice(), NOW).headers


def test_what_is_missing_is_left_out_or_said() -> None:
    """No purpose, no task, no link."""
    bare = notice(purpose="", task=None, link="", approvers=[])
    text = ntfy_message(bare, NOW).body.decode()
    assert "it gave no purpose" in text
    assert "Task" not in text
    assert "Click" not in ntfy_message(bare, NOW).headers
    assert json.loads(notice_json(bare))["approval"]["link"] is None
