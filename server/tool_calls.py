"""An answer as OpenAI's deltas and message: text, or calls of tools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chatglm.tools import CallReader

from .protocol import ChatCompletionRequest, new_id


class ChatAnswer:
    """One answer of a dialogue as its parts come.

    Args:
        body: what was asked.
    """

    def __init__(self, body: ChatCompletionRequest) -> None:
        self.reader = CallReader() if body.callable_functions() else None
        self.named = body.named_tool is not None

    def parts(self, text: str) -> Iterable[tuple[str, str]]:
        """Return ("text", part), ("call", name) and ("arguments", part) of more of the answer."""
        if self.reader is None:
            return [("text", text)] if text else []
        return self.reader.put(text)

    def deltas(self, text: str) -> list[dict[str, Any]]:
        """Return what a part of the answer adds to the message; of a call, its head and its arguments apart."""
        found = []
        for kind, part in self.parts(text):
            if kind == "text":
                found.append({"content": part})
                continue
            call: dict[str, Any] = {"index": self.reader.calls - 1}
            if kind == "call":
                call |= {"id": new_id("call"), "type": "function", "function": {"name": part, "arguments": ""}}
            else:
                call["function"] = {"arguments": part}
            found.append({"tool_calls": [call]})
        return found

    def message(self, text: str) -> dict[str, Any]:
        """Return the message of a whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": "" if self.reader is None else None}
        for delta in self.deltas(text):
            if "content" in delta:
                message["content"] = (message["content"] or "") + delta["content"]
                continue
            (call,) = delta["tool_calls"]
            calls = message.setdefault("tool_calls", [])
            if "id" in call:
                calls.append({key: value for key, value in call.items() if key != "index"})
            else:
                calls[-1]["function"]["arguments"] += call["function"]["arguments"]
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""
        return message

    def finish_reason(self, reason: str) -> str:
        """Return why the answer ended: as OpenAI's, a call that was chosen has a reason of its own."""
        called = reason == "stop" and self.reader is not None and self.reader.calls and not self.named
        return "tool_calls" if called else reason
