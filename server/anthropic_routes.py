"""Anthropic's routes: `/v1/messages`, and `/v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine import Answer

from .errors import error_body
from .foreign import chat_request, check_needed, named_event, read_arguments, respond, sampling_fields
from .protocol import (
    FUNCTION_NAME,
    FUNCTIONS_ONLY,
    TEXT_ONLY,
    ApiError,
    ChatCompletionRequest,
    Ignored,
    Limit,
    OpenRequest,
    StopText,
    TextRequest,
    new_id,
    of_type,
)
from .service import STREAMED, Service

CHOICES = {"auto": "auto", "any": "required", "none": "none"}
NEEDED = {"text": "text", "tool_use": "name", "tool_result": "tool_use_id"}  # of a block, by its type
KNOWN_BLOCKS = of_type(*NEEDED, refusal=TEXT_ONLY, passed_over=["thinking", "redacted_thinking"])


class Block(BaseModel):
    """A part of a message: text, a call or its result; what other models have thought is passed over."""

    model_config = ConfigDict(strict=True)
    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Blocks | None = None

    @model_validator(mode="after")
    def check_fields(self) -> Block:
        """Refuse a block without what its type needs."""
        check_needed(self, NEEDED)
        return self


Blocks = str | Annotated[list[Annotated[Block, KNOWN_BLOCKS]], Field(max_length=4096, fail_fast=True)]


def text_of(content: Blocks | None) -> str:
    """Return the text of a content."""
    return content or "" if not isinstance(content, list) else "".join(one.text or "" for one in content)


class BlockMessage(BaseModel):
    """A message of blocks."""

    model_config = ConfigDict(strict=True)
    role: Literal["user", "assistant", "system"]
    content: Blocks

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield it as messages of OpenAI's: the results of calls are messages of their own, before the text."""
        blocks = self.content if isinstance(self.content, list) else []
        calls = [
            {"id": block.id, "function": {"name": block.name, "arguments": block.input or {}}}
            for block in blocks
            if block.type == "tool_use"
        ]
        results = [block for block in blocks if block.type == "tool_result"]
        for block in results:
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": text_of(block.content)}
        text = text_of([one for one in blocks if one.type == "text"] if blocks else self.content)
        if text or not results:
            yield {"role": self.role, "content": text} | ({"tool_calls": calls} if calls else {})


class InputTool(BaseModel):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=FUNCTION_NAME)]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None

    def function(self) -> dict[str, Any]:
        """Return it as OpenAI's."""
        return self.model_dump(exclude={"input_schema"}) | {"parameters": self.input_schema}


class Choice(BaseModel):
    """Whether a function has to be called, and which."""

    type: Literal["auto", "any", "none", "tool"] = "auto"
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def check_fields(self) -> Choice:
        """Refuse a call of a function without its name."""
        check_needed(self, {"tool": "name"})
        return self


class JsonFormat(BaseModel):
    """A JSON schema that the answer fits."""

    model_config = ConfigDict(populate_by_name=True)
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(BaseModel):
    """The form of the answer."""

    format: JsonFormat | None = None


class MessagesRequest(TextRequest, OpenRequest):
    """`POST /v1/messages`; a message of the assistant at the end is continued."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"max_tokens": 9, "messages": [{"role": "user", "content": "你好"}]}]}
    )

    messages: Annotated[list[BlockMessage], Field(min_length=1, max_length=4096, fail_fast=True)]
    model: str | None = None
    max_tokens: Limit | None = None
    system: Blocks | None = None
    stop_sequences: Annotated[list[StopText], Field(max_length=16)] | None = None
    stream: bool | None = None
    tools: (
        Annotated[list[Annotated[InputTool, of_type("custom", refusal=FUNCTIONS_ONLY)]], Field(max_length=128)] | None
    ) = None
    tool_choice: Choice | None = None
    output_config: OutputConfig | None = None
    cache_control: Ignored = None
    metadata: Ignored = None
    service_tier: Ignored = None
    thinking: Ignored = None

    def chat(self) -> ChatCompletionRequest:
        """Return the same request as OpenAI's route takes it."""
        choice, form = self.tool_choice or Choice(), self.output_config and self.output_config.format
        system = [] if self.system is None else [{"role": "system", "content": text_of(self.system)}]
        return chat_request(
            self,
            **sampling_fields(self) | ({"stop": self.stop_sequences} if self.stop_sequences else {}),
            messages=[*system, *(one for message in self.messages for one in message.messages())],
            model=self.model,
            max_tokens=self.max_tokens,
            stream=self.stream,
            response_format=form and {"type": "json_schema", "json_schema": {"schema": form.schema_}},
            tools=self.tools and [{"function": tool.function()} for tool in self.tools],
            tool_choice=CHOICES.get(choice.type) or {"function": {"name": choice.name}},
            parallel_tool_calls=not choice.disable_parallel_tool_use,
        )


class MessageWriter:
    """An answer as a message of blocks, and the events that build it."""

    def __init__(self, body: MessagesRequest, model: str, name: str) -> None:
        self.content: list[dict[str, Any]] = []
        self.message = {"id": name, "type": "message", "role": "assistant", "model": body.model or model}
        self.message |= {"content": self.content, "stop_reason": None, "stop_sequence": None}

    def start(self, answer: Answer) -> Iterator[str]:
        """Tell that the answer begins."""
        self.answer = answer
        self.message["usage"] = {"input_tokens": len(answer.request.prompt_ids), "output_tokens": 0}
        self.message["usage"] |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        yield named_event({"type": "message_start", "message": self.message})

    def _of_block(self, kind: str, **more: Any) -> str:
        return named_event({"type": f"content_block_{kind}", "index": len(self.content) - 1, **more})

    def put(self, kind: str, part: str) -> Iterator[str]:
        """Add to the last block, or begin one."""
        if kind == "call" or not self.content:
            yield from self._close()
            block = {"type": "text", "text": ""}
            if kind == "call":
                block = {"type": "tool_use", "id": new_id("toolu"), "name": part, "input": {}}
            self.content.append(block)
            self.arguments = ""
            yield self._of_block("start", content_block=block)
        if kind == "text":
            self.content[-1]["text"] += part
            yield self._of_block("delta", delta={"type": "text_delta", "text": part})
        elif kind == "arguments":
            self.arguments += part
            yield self._of_block("delta", delta={"type": "input_json_delta", "partial_json": part})

    def _close(self) -> Iterator[str]:
        """End the last block."""
        if not self.content:
            return
        if self.content[-1]["type"] == "tool_use":
            self.content[-1]["input"] = read_arguments(self.arguments)
        yield self._of_block("stop")

    def end(self, reason: str, counts: dict[str, int]) -> Iterator[str]:
        """End the answer."""
        if not self.content:
            yield from self.put("text", "")
        yield from self._close()
        stop_text = self.answer.stop_text
        reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
        why = {
            "stop_reason": reasons.get(reason, "end_turn" if stop_text is None else "stop_sequence"),
            "stop_sequence": stop_text,
        }
        self.message |= why
        self.message["usage"]["output_tokens"] = counts["completion_tokens"]
        yield named_event({"type": "message_delta", "delta": why, "usage": self.message["usage"]})
        yield named_event({"type": "message_stop"})

    def fail(self, error: ApiError) -> Iterator[str]:
        """End an answer that failed."""
        yield named_event(error_body("/v1/messages", error))

    def whole(self) -> dict[str, Any]:
        """Return the message."""
        return self.message


def add_anthropic_routes(app: FastAPI, service: Service) -> None:
    """Add Anthropic's routes."""

    @app.post("/v1/messages", tags=["Anthropic"], responses=STREAMED)
    async def messages(request: Request, body: MessagesRequest) -> Response:
        """Continue a dialogue of blocks."""
        name = new_id("msg")
        writer = MessageWriter(body, service.arguments.served_model_name, name)
        return await respond(service, request, body.chat(), writer, name)

    @app.post("/v1/messages/count_tokens", tags=["Anthropic"])
    async def count_tokens(body: MessagesRequest) -> dict[str, int]:
        """Count the tokens of a prompt."""
        chat = body.chat()
        encode, _ = await service.dialogue_encoder(chat.messages, chat.callable_functions())
        return {"input_tokens": len(await service.encode(encode))}
