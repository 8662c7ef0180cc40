"""Ollama's routes, for programs that know no other server."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, ConfigDict, Field

from engine import Answer

from .errors import error_body
from .foreign import chat_request, read_arguments, respond
from .protocol import ApiError, ChatCompletionRequest, Message, OpenRequest, Tool, new_id, one_line, unsupported
from .service import Service

LINES = "application/x-ndjson"
STREAMED = {200: {"description": "the answer", "content": {"application/json": {}, LINES: {}}}}
RENAMED = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
OF_OLLAMA = {"num_ctx", "num_batch", "num_gpu", "num_thread", "num_keep", "use_mmap"}  # how its model is run
NO_IMAGES = unsupported([], advice="ChatGLM-6B reads text only")


class OllamaMessage(Message):
    """A message of a dialogue."""

    images: NO_IMAGES = None
    tool_name: str | None = None


class OllamaRequest(OpenRequest):
    """A dialogue, or one question; a stream unless it is refused."""

    model_config = ConfigDict(strict=True, json_schema_extra={"examples": [{"model": "chatglm-6b", "prompt": "你好"}]})
    model: Annotated[str, AfterValidator(lambda name: name.removesuffix(":latest"))]
    messages: Annotated[list[OllamaMessage], Field(max_length=4096, fail_fast=True)] | None = None
    prompt: str | None = None
    system: str | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Annotated[dict[str, Any], Field(max_length=100)] | None = None
    images: NO_IMAGES = None
    raw: unsupported(False, advice="/v1/completions continues bare texts") = None
    suffix: unsupported("", advice="the model continues texts, it does not fill gaps") = None
    think: unsupported(False) = None

    def chat(self) -> ChatCompletionRequest:
        """Return the same request as OpenAI's route takes it."""
        options = {RENAMED.get(name, name): one for name, one in (self.options or {}).items() if name not in OF_OLLAMA}
        options |= {"max_tokens": -1} if options.get("max_tokens") == -2 else {}  # both: as far as there is room
        messages = [one.model_dump() | {"name": one.tool_name} for one in self.messages or ()]
        for role, text in ("system", self.system), ("user", self.prompt):
            messages += [{"role": role, "content": text}] if text else []
        schema = {"type": "object"} if self.format == "json" else self.format
        form = {"type": "json_schema", "json_schema": {"schema": schema}} if schema else None
        more = {"tools": self.tools, "response_format": form, "stream": self.stream is not False, "model": self.model}
        return chat_request(self, **options | more | {"messages": messages})


class OllamaWriter:
    """An answer as lines of JSON, with messages (`chat`) or texts."""

    def __init__(self, model: str, chat: bool) -> None:
        self.model, self.chat, self.text, self.calls = model, chat, "", []

    def line(self, text: str, **more: Any) -> dict[str, Any]:
        """Return a line."""
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"response": text}
        head = {"model": self.model, "created_at": datetime.now(timezone.utc).isoformat()}
        return {**head, **content, "done": False, **more}

    def start(self, answer: Answer) -> Iterator[str]:
        """Keep the answer, whose times the last line has."""
        self.answer = answer
        return iter(())

    def put(self, kind: str, part: str) -> Iterator[str]:
        """Send text as it comes; calls are sent whole."""
        if kind == "text":
            self.text += part
            yield one_line(self.line(part)) + "\n"
        elif kind == "call":
            self.calls.append([part, ""])
        else:
            self.calls[-1][1] += part

    def end(self, reason: str, counts: dict[str, int]) -> Iterator[str]:
        """End the answer."""
        ended, begun, first = time.monotonic(), self.answer.submitted, self.answer.first_token or time.monotonic()
        durations = {"total": ended - begun, "load": 0, "prompt_eval": first - begun, "eval": ended - first}
        last = {f"{name}_duration": int(1e9 * seconds) for name, seconds in durations.items()}
        last |= {"prompt_eval_count": counts["prompt_tokens"], "eval_count": counts["completion_tokens"]}
        last |= {"done": True, "done_reason": "length" if reason == "length" else "stop"}
        self.last = self.line("", **last)
        if self.calls:
            calls = [{"function": {"name": name, "arguments": read_arguments(text)}} for name, text in self.calls]
            self.last["message"]["tool_calls"] = calls
        yield one_line(self.last) + "\n"

    def fail(self, error: ApiError) -> Iterator[str]:
        """End an answer that failed."""
        yield one_line(error_body("/api/", error)) + "\n"

    def whole(self) -> dict[str, Any]:
        """Return the answer in one line."""
        (self.last["message"] if self.chat else self.last)["content" if self.chat else "response"] = self.text
        return self.last


def add_ollama_routes(app: FastAPI, service: Service) -> None:
    """Add Ollama's routes."""
    size = service.engine.model.get_memory_footprint()
    details = {"format": "safetensors", "family": "chatglm", "families": ["chatglm"]}

    def card(name: str) -> dict[str, Any]:
        digest = hashlib.sha256(name.encode()).hexdigest()  # of the name: clients show its beginning
        return {"name": name, "model": name, "size": size, "digest": digest, "details": details}

    @app.post("/api/chat", tags=["Ollama"], responses=STREAMED)
    @app.post("/api/generate", tags=["Ollama"], responses=STREAMED)
    async def answer(request: Request, body: OllamaRequest) -> Response:
        """Continue a dialogue, or answer a question."""
        writer = OllamaWriter(body.model, chat=request.url.path.endswith("/chat"))
        if not body.messages and not body.prompt:  # how clients have a model loaded, as this one is
            return JSONResponse(writer.line("", done=True, done_reason="load"))
        asked = body if writer.chat else body.model_copy(update={"tools": None})
        return await respond(service, request, asked.chat(), writer, new_id("ollama"), LINES)

    @app.get("/api/tags", tags=["Ollama"])
    async def tags() -> dict[str, Any]:
        """List the model and its adapters."""
        return {"models": [card(name) for name in service.model_names]}

    @app.post("/api/show", tags=["Ollama"])
    async def show(body: OllamaRequest) -> dict[str, Any]:
        """Describe the model."""
        service.check_model(body)
        info = {"general.architecture": "chatglm", "chatglm.context_length": service.limit}
        return {"details": details, "model_info": info, "capabilities": ["completion", "tools"], "template": ""}

    @app.get("/api/version", tags=["Ollama"])
    async def version() -> dict[str, str]:
        """Tell whose routes these are: clients refuse one that is too old."""
        return {"version": "0.6.0"}
