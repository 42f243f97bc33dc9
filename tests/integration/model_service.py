"""A stand-in for the services of Anthropic and OpenAI: it streams the tool calls that a test wrote, and then `fine`."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egress_upstream import Received, Upstream, answer

EVENTS = "Content-Type: text/event-stream"
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, "prompt_tokens": 1, "completion_tokens": 1}


@dataclass(frozen=True)
class Call:
    """A call that the model makes.

    Args:
        tool: the tool's name, as the program offers it.
        arguments: of the tool; a text for a tool that takes any text.
    """

    tool: str
    arguments: Mapping[str, Any] | str


class Model:
    """Answers at an upstream, in the three protocols.

    Args:
        upstream: where.
        calls: what the model calls, one after the other.
    """

    def __init__(self, upstream: Upstream, *calls: Call) -> None:
        self._calls = calls
        self._upstream = upstream
        self._refuses = False
        for path, speak in (("messages", _messages), ("responses", _responses), ("chat/completions", _chat)):
            upstream.behave[f"/v1/{path}"] = self._behaviour(speak)
        upstream.says("/v1/models", answer(b'{"models": [], "data": []}', "Content-Type: application/json"))

    @property
    def asked(self) -> list[Received]:
        """The requests for an answer, without those for what models there are."""
        return [each for each in self._upstream.received if each.line.startswith("POST")]

    @property
    def read(self) -> str:
        """All that the model was sent: what a provider's log would hold."""
        return "\n".join(each.body.decode() for each in self.asked)

    def refuse_next(self) -> None:
        """Answer the next request as if its key was none any more."""
        self._refuses = True

    def _behaviour(self, speak: Any) -> Any:
        async def behave(request: Received, writer: asyncio.StreamWriter) -> None:
            shown = request.header("authorization") or request.header("x-api-key")
            if self._refuses or not shown or shown == "Bearer":
                self._refuses = False
                error = b'{"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}'
                writer.write(answer(error, "Content-Type: application/json", status="401 Unauthorized"))
                return
            asked = json.loads(request.body)
            done = len(results(asked))
            offered = any(f'"{call.tool}"' in request.body.decode() for call in self._calls)
            call = self._calls[done] if offered and done < len(self._calls) else None
            writer.write(answer(b"".join(speak(asked, call, done)), EVENTS))

        return behave


def results(asked: Mapping[str, Any]) -> list[Any]:
    """What tools returned so far, as a request tells it to the model."""
    messages = [*asked.get("messages", ()), *asked.get("input", ())]
    found = [each for each in messages if each.get("role") == "tool" or each.get("type", "").endswith("_call_output")]
    for each in messages:
        content = each.get("content")
        found += [part for part in content if part.get("type") == "tool_result"] if isinstance(content, list) else []
    return found


def _event(data: Mapping[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def _messages(asked: Mapping[str, Any], call: Call | None, number: int) -> Sequence[bytes]:
    """Anthropic's Messages, "Streaming messages"."""
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": asked["model"], "content": []}
    block: dict[str, Any] = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": "fine"}
    if call:
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": call.tool, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(call.arguments)}
    end = {"stop_reason": "tool_use" if call else "end_turn", "stop_sequence": None}
    return [
        _event({"type": "message_start", "message": {**message, "stop_reason": None, "usage": USAGE}}),
        _event({"type": "content_block_start", "index": 0, "content_block": block}),
        _event({"type": "content_block_delta", "index": 0, "delta": delta}),
        _event({"type": "content_block_stop", "index": 0}),
        _event({"type": "message_delta", "delta": end, "usage": USAGE}),
        _event({"type": "message_stop"}),
    ]


def _responses(asked: Mapping[str, Any], call: Call | None, number: int) -> Sequence[bytes]:
    """OpenAI's Responses, "Streaming events"."""
    text = {"type": "output_text", "text": "fine", "annotations": []}
    item: dict[str, Any] = {"type": "message", "id": f"m_{number}", "role": "assistant", "content": [text]}
    if call and isinstance(call.arguments, str):
        item = {"type": "custom_tool_call", "name": call.tool, "input": call.arguments}
    elif call:
        item = {"type": "function_call", "name": call.tool, "arguments": json.dumps(call.arguments)}
    item |= {"status": "completed", "id": f"item_{number}", "call_id": f"call_{number}"}
    response = {"id": f"resp_{number}", "object": "response", "model": asked["model"]}
    return [
        _event({"type": "response.created", "response": response}),
        _event({"type": "response.output_item.done", "output_index": 0, "item": item}),
        _event({"type": "response.completed", "response": {**response, "output": [item], "usage": USAGE}}),
    ]


def _chat(asked: Mapping[str, Any], call: Call | None, number: int) -> Sequence[bytes]:
    """OpenAI's Chat Completions, "Streaming"."""
    delta: dict[str, Any] = {"role": "assistant", "content": "fine"}
    if call:
        function = {"name": call.tool, "arguments": json.dumps(call.arguments)}
        delta = {"role": "assistant", "tool_calls": [{"index": 0, "id": f"call_{number}", "type": "function"}]}
        delta["tool_calls"][0]["function"] = function
    chunk = {"id": f"chat_{number}", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
    end = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if call else "stop"}
    parts = [{**chunk, "choices": [{"index": 0, "delta": delta}]}, {**chunk, "choices": [end], "usage": USAGE}]
    return [*(f"data: {json.dumps(part)}\n\n".encode() for part in parts), b"data: [DONE]\n\n"]
