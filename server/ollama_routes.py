"""Ollama's routes for programs that know no other server: `/api/chat`, `/api/generate`, `/api/tags`, and two more."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine import Answer

from .errors import error_body
from .foreign import chat_request, respond
from .protocol import (
    ApiError,
    CalledFunction,
    ChatCompletionRequest,
    EmbeddingRequest,
    Ignored,
    Tool,
    few_fields,
    new_id,
    one_line,
    unsupported,
)
from .service import Service

LINES = "application/x-ndjson"
STREAMED = {200: {"description": "the answer", "content": {"application/json": {}, LINES: {}}}}
VERSION = "0.6.0"  # of Ollama, whose routes these are; clients refuse one that is too old
OPTIONS = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
OF_OLLAMA = {
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "num_keep",
    "use_mmap",
    "use_mlock",
    "low_vram",
}


def created() -> str:
    """Return the time as Ollama writes it."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


class Call(BaseModel):
    """A call in an assistant's message."""

    function: CalledFunction


class OllamaMessage(BaseModel):
    """A message of a dialogue."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: unsupported([], advice="ChatGLM-6B reads text only") = None
    tool_name: str | None = None
    tool_calls: Annotated[list[Call], Field(max_length=256, fail_fast=True)] | None = None

    def message(self) -> dict[str, Any]:
        """Return it as a message of OpenAI's."""
        calls = [call.model_dump() for call in self.tool_calls or ()]
        return {"role": self.role, "content": self.content, "name": self.tool_name, "tool_calls": calls or None}


class OllamaRequest(BaseModel):
    """What both of Ollama's routes for text take; a stream is the default."""

    model_config = ConfigDict(strict=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def limit_fields(cls, body: Any) -> Any:
        """Refuse a body of thousands of unknown fields with one mistake."""
        return few_fields(body)

    model: str
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Annotated[dict[str, Any], Field(max_length=100)] | None = None
    keep_alive: Ignored = None
    think: unsupported(False) = None

    def chat(self, messages: list[dict[str, Any]], **more: Any) -> ChatCompletionRequest:
        """Return the same request as OpenAI's route takes it."""
        options = {OPTIONS.get(name, name): one for name, one in (self.options or {}).items() if name not in OF_OLLAMA}
        if isinstance(limit := options.get("max_tokens"), int):
            options["max_tokens"] = max(limit, -1)
        form = {"type": "json_object"} if self.format == "json" else None
        if isinstance(self.format, dict):
            form = {"type": "json_schema", "json_schema": {"schema": self.format}}
        given = {"messages": messages, "stream": self.stream is not False, "response_format": form}
        return chat_request(self, **options | given | {"model": self.model.removesuffix(":latest"), "n": 1} | more)


class OllamaChatRequest(OllamaRequest):
    """`POST /api/chat`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "chatglm-6b", "messages": [{"role": "user", "content": "你好"}]}]}
    )
    messages: Annotated[list[OllamaMessage], Field(max_length=4096, fail_fast=True)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None


class GenerateRequest(OllamaRequest):
    """`POST /api/generate`: one question."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "chatglm-6b", "prompt": "你好"}]})
    prompt: str | None = None
    system: str | None = None
    images: unsupported([], advice="ChatGLM-6B reads text only") = None
    raw: unsupported(False, advice="/v1/completions continues bare texts") = None
    suffix: unsupported("", advice="the model continues texts, it does not fill gaps") = None


class OllamaWriter:
    """An answer as lines of JSON.

    Args:
        model: its name in the request.
        chat: whether lines have messages, or texts.
    """

    def __init__(self, model: str, chat: bool) -> None:
        self.model, self.chat, self.text, self.calls, self.last = model, chat, "", [], {}

    def frame(self, text: str, calls: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return a line; of a call, the whole."""
        message = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [
                {"function": {"name": call["name"], "arguments": read_arguments(call["arguments"])}} for call in calls
            ]
        content = {"message": message} if self.chat else {"response": text}
        return {"model": self.model, "created_at": created(), **content, "done": False, **more}

    def start(self, answer: Answer) -> Iterator[str]:
        """Keep the answer, whose times the last line has."""
        self.answer = answer
        return iter(())

    def put(self, kind: str, part: str) -> Iterator[str]:
        """Send text as it comes; calls wait for the end."""
        if kind == "text":
            self.text += part
            yield one_line(self.frame(part, [])) + "\n"
        elif kind == "call":
            self.calls.append({"name": part, "arguments": ""})
        else:
            self.calls[-1]["arguments"] += part

    def end(self, reason: str, counts: dict[str, int]) -> Iterator[str]:
        """End the answer."""
        now, answer = time.monotonic(), self.answer
        first = answer.first_token or now
        self.last = {
            "done": True,
            "done_reason": "length" if reason == "length" else "stop",
            "total_duration": int(1e9 * (now - answer.submitted)),
            "load_duration": 0,
            "prompt_eval_count": counts["prompt_tokens"],
            "prompt_eval_duration": int(1e9 * (first - answer.submitted)),
            "eval_count": counts["completion_tokens"],
            "eval_duration": int(1e9 * (now - first)),
        }
        if self.calls:
            yield one_line(self.frame("", self.calls)) + "\n"
        yield one_line(self.frame("", [], **self.last)) + "\n"

    def fail(self, error: ApiError) -> Iterator[str]:
        """End an answer that failed."""
        yield one_line(error_body("/api/", error)) + "\n"

    def whole(self) -> dict[str, Any]:
        """Return the answer in one line."""
        return self.frame(self.text, self.calls, **self.last)


def read_arguments(text: str) -> dict[str, Any]:
    """Return a call's arguments; those that the limit has cut are none."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


class ShowRequest(BaseModel):
    """`POST /api/show`."""

    model_config = ConfigDict(strict=True)
    model: str


def add_ollama_routes(app: FastAPI, service: Service) -> None:
    """Add Ollama's routes."""
    name, config = service.arguments.served_model_name, service.engine.model.config
    details = {"format": "safetensors", "family": "chatglm", "families": ["chatglm"]}
    card = {
        "name": name,
        "model": name,
        "modified_at": created(),
        "size": service.engine.model.get_memory_footprint(),
        "digest": hashlib.sha256(name.encode()).hexdigest(),  # of the name: clients print its beginning
        "details": details,
    }

    async def answer(
        request: Request, body: OllamaRequest, messages: list[dict[str, Any]], chat: bool, **more: Any
    ) -> Response:
        writer = OllamaWriter(body.model, chat)
        if not messages:  # how clients have a model loaded, which this one is
            return JSONResponse(writer.frame("", [], done=True, done_reason="load"))
        return await respond(service, request, body.chat(messages, **more), writer, new_id("ollama"), LINES)

    @app.post("/api/chat", tags=["Ollama"], responses=STREAMED)
    async def chat(request: Request, body: OllamaChatRequest) -> Response:
        """Continue a dialogue."""
        messages = [message.message() for message in body.messages or ()]
        return await answer(request, body, messages, True, tools=body.tools)

    @app.post("/api/generate", tags=["Ollama"], responses=STREAMED)
    async def generate(request: Request, body: GenerateRequest) -> Response:
        """Answer a question."""
        messages = [{"role": "system", "content": body.system}] if body.system else []
        return await answer(
            request, body, [*messages, {"role": "user", "content": body.prompt}] if body.prompt else [], False
        )

    @app.get("/api/tags", tags=["Ollama"])
    async def tags() -> dict[str, Any]:
        """List the one model."""
        return {"models": [card]}

    @app.post("/api/show", tags=["Ollama"])
    async def show(body: ShowRequest) -> dict[str, Any]:
        """Describe the model."""
        service.check_model(EmbeddingRequest(input="", model=body.model.removesuffix(":latest")))
        info = {
            "general.architecture": "chatglm",
            "chatglm.context_length": service.limit,
            "chatglm.embedding_length": config.hidden_size,
        }
        return {"details": details, "model_info": info, "capabilities": ["completion", "tools"], "template": ""}

    @app.get("/api/version", tags=["Ollama"])
    async def version() -> dict[str, str]:
        """Tell whose routes these are."""
        return {"version": VERSION}
