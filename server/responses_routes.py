"""OpenAI's newer route, `/v1/responses`: the same dialogues as items, without storage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine import Answer

from .foreign import chat_request, check_needed, named_event, respond, sampling_fields
from .protocol import (
    FUNCTIONS_ONLY,
    ApiError,
    ChatCompletionRequest,
    Content,
    Function,
    Ignored,
    Limit,
    OpenRequest,
    TextRequest,
    new_id,
    of_type,
    unsupported,
)
from .service import STREAMED, Service

STATELESS = "this server stores no answers: send the whole dialogue as `input`"
NEEDED = {None: "role", "message": "role", "function_call": "name", "function_call_output": "output"}


class Item(BaseModel):
    """What was said, called or returned; reasoning of other models is passed over."""

    model_config = ConfigDict(strict=True)
    type: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None

    @model_validator(mode="after")
    def check_fields(self) -> Item:
        """Refuse an item without what its type needs."""
        check_needed(self, NEEDED)
        return self


KNOWN_ITEMS = of_type(
    *filter(None, NEEDED), refusal="this server knows no {type}, and stores nothing", passed_over=["reasoning"]
)


class ItemTool(Function):
    """A function that the model may call."""

    type: Literal["function"] = "function"


class ChosenTool(BaseModel):
    """The function that has to be called."""

    type: Literal["function"]
    name: str


class Format(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(populate_by_name=True)
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None
    description: str | None = None


class TextConfig(BaseModel):
    """What is asked of the answer's text."""

    format: Format | None = None


class ResponsesRequest(TextRequest, OpenRequest):
    """`POST /v1/responses`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "chatglm-6b", "input": "你好"}]})

    input: str | Annotated[list[Annotated[Item, KNOWN_ITEMS]], Field(min_length=1, max_length=4096, fail_fast=True)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Limit | None = None
    stream: bool | None = None
    text: TextConfig | None = None
    tools: (
        Annotated[list[Annotated[ItemTool, of_type("function", refusal=FUNCTIONS_ONLY)]], Field(max_length=128)] | None
    ) = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None
    include: Ignored = None
    max_tool_calls: Ignored = None
    reasoning: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    stream_options: Ignored = None
    truncation: Ignored = None
    user: Ignored = None
    background: unsupported(False, advice="the answer comes at once, or with `stream`") = None
    conversation: unsupported(advice=STATELESS) = None
    previous_response_id: unsupported(advice=STATELESS) = None
    prompt: unsupported(advice="it stores no prompts: send `input`") = None
    top_logprobs: unsupported(0, advice="/v1/chat/completions has probabilities") = None

    def messages(self) -> list[dict[str, Any]]:
        """Return the dialogue as messages; calls belong to the assistant's message before them."""
        found = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        items = [Item(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        for item in items:
            if item.type == "function_call":
                if not found or found[-1]["role"] != "assistant":
                    found.append({"role": "assistant", "content": None})
                call = {"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments}}
                found[-1].setdefault("tool_calls", []).append(call)
            elif item.type == "function_call_output":
                found.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
            elif item.type != "reasoning":
                found.append({"role": item.role, "content": item.content})
        return found

    def chat(self) -> ChatCompletionRequest:
        """Return the same request as OpenAI's older route takes it."""
        form, choice = self.text and self.text.format, self.tool_choice
        schema = form and {"name": form.name, "schema": form.schema_, "strict": form.strict}
        return chat_request(
            self,
            **sampling_fields(self),
            messages=self.messages(),
            model=self.model,
            max_tokens=self.max_output_tokens,
            stream=self.stream,
            response_format=form and {"type": form.type, "json_schema": schema},
            tools=self.tools and [{"function": tool.model_dump(exclude={"type"})} for tool in self.tools],
            tool_choice={"function": {"name": choice.name}} if isinstance(choice, ChosenTool) else choice,
            parallel_tool_calls=self.parallel_tool_calls,
        )


class ResponseWriter:
    """An answer as items, and the events that build them."""

    def __init__(self, body: ResponsesRequest, model: str, name: str) -> None:
        self.number, self.output = 0, []
        repeated = {"instructions", "max_output_tokens", "temperature", "tool_choice", "tools", "top_p"}
        self.response = body.model_dump(include=repeated) | {
            "id": name,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "metadata": body.metadata or {},
            "model": body.model or model,
            "output": self.output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "text": body.text and body.text.model_dump(by_alias=True),
            "usage": None,
        }
        for field, value in (("text", {"format": {"type": "text"}}), ("tool_choice", "auto"), ("tools", [])):
            self.response[field] = self.response[field] or value

    def _event(self, kind: str, **more: Any) -> str:
        self.number += 1
        return named_event({"type": f"response.{kind}", "sequence_number": self.number - 1, **more})

    def _of_item(self, kind: str, **more: Any) -> str:
        place = {"output_index": len(self.output) - 1, "item_id": self.output[-1]["id"]}
        return self._event(kind, **place, **more)

    def start(self, answer: Answer) -> Iterator[str]:
        """Tell that the answer begins."""
        yield self._event("created", response=self.response)
        yield self._event("in_progress", response=self.response)

    def put(self, kind: str, part: str) -> Iterator[str]:
        """Add to the last item, or begin one."""
        if kind == "call" or not self.output:
            yield from self._close("completed")
            item = {"id": new_id("msg"), "type": "message", "status": "in_progress", "role": "assistant", "content": []}
            if kind == "call":
                item = {"id": new_id("fc"), "type": "function_call", "status": "in_progress", "arguments": ""}
                item |= {"call_id": new_id("call"), "name": part}
            self.output.append(item)
            yield self._event("output_item.added", output_index=len(self.output) - 1, item=item)
            if kind == "text":
                item["content"].append({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
                yield self._of_item("content_part.added", content_index=0, part=item["content"][0])
        if kind == "text":
            self.output[-1]["content"][0]["text"] += part
            yield self._of_item("output_text.delta", content_index=0, delta=part, logprobs=[])
        elif kind == "arguments":
            self.output[-1]["arguments"] += part
            yield self._of_item("function_call_arguments.delta", delta=part)

    def _close(self, status: str) -> Iterator[str]:
        """End the last item."""
        if not self.output:
            return
        item = self.output[-1]
        if item["type"] == "message":
            (part,) = item["content"]
            yield self._of_item("output_text.done", content_index=0, text=part["text"], logprobs=[])
            yield self._of_item("content_part.done", content_index=0, part=part)
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield self._of_item("function_call_arguments.done", **done)
        item["status"] = status
        yield self._event("output_item.done", output_index=len(self.output) - 1, item=item)

    def end(self, reason: str, counts: dict[str, int]) -> Iterator[str]:
        """End the answer."""
        if not self.output:
            yield from self.put("text", "")
        status = "incomplete" if reason == "length" else "completed"
        yield from self._close(status)
        self.response["status"] = status
        self.response["completed_at"] = int(time.time())
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if reason == "length" else None
        self.response["usage"] = {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts["total_tokens"],
        }
        yield self._event(status, response=self.response)

    def fail(self, error: ApiError) -> Iterator[str]:
        """End an answer that failed."""
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        self.response |= {"status": "failed", "error": {"code": code, "message": error.message}}
        yield self._event("failed", response=self.response)

    def whole(self) -> dict[str, Any]:
        """Return the response."""
        return self.response


def add_responses_routes(app: FastAPI, service: Service) -> None:
    """Add `/v1/responses`."""

    @app.post("/v1/responses", tags=["OpenAI"], responses=STREAMED)
    async def responses(request: Request, body: ResponsesRequest) -> Response:
        """Continue a dialogue of items."""
        name = new_id("resp")
        writer = ResponseWriter(body, service.arguments.served_model_name, name)
        return await respond(service, request, body.chat(), writer, name)
