"""Serve ChatGLM-6B over HTTP, to many clients at once: the original's route, OpenAI's, and event streams.

    python api.py                                     the embedded mini checkpoint on http://127.0.0.1:8000
    python api.py --model THUDM/chatglm-6b --port 80  the real one
    curl http://127.0.0.1:8000 -d '{"prompt": "你好", "history": []}'

/docs describes every route. SIGTERM and Ctrl-C let running answers finish, for up to --drain-seconds.
"""

import asyncio
import base64
import hmac
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import prometheus_client
import uvicorn
from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers import PreTrainedModel, PreTrainedTokenizer

import engine as serving
from api_protocol import (
    DONE,
    ApiError,
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    History,
    OpenAIRequest,
    OriginalRequest,
    Sampling,
    chat_logprobs,
    completion_logprobs,
    error_body,
    event,
    now,
    to_rounds,
    usage,
)
from chatglm import InvalidLogitsError, PromptTooLongError
from engine import Answer, Engine, Piece
from utils import ModelArguments, SamplingArguments, load_model_and_tokenizer, parse_arguments, run_main

logger = logging.getLogger("chatglm.api")
OPEN_PATHS = ("/health", "/metrics", "/docs", "/openapi.json", "/redoc")  # need no key
ENGINE_ERRORS = {  # status, code
    PromptTooLongError: (400, "context_length_exceeded"),
    serving.QueueFullError: (429, "queue_full"),
    serving.QueueTimeoutError: (503, "queue_timeout"),
    serving.AnswerTimeoutError: (504, "answer_timeout"),
    serving.ClosedError: (503, "shutting_down"),
    serving.StepError: (503, "not_computed"),
    InvalidLogitsError: (500, "invalid_logits"),
}


@dataclass
class ServerArguments:
    """What only the server has."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen at; 0.0.0.0 is all of this computer's"})
    port: int = field(default=8000, metadata={"help": "port to listen at; 0 to 65535, 0 picks a free one"})
    api_key: str = field(
        default="", metadata={"help": "key that clients must send as `Authorization: Bearer`; also CHATGLM_API_KEY"}
    )
    allow_origin: str = field(
        default="", metadata={"help": "origins, by commas, whose pages may call the server (CORS); * is all"}
    )
    max_batch_size: int = field(default=32, metadata={"help": "answers that are generated together; 1 and up"})
    max_queue: int = field(default=256, metadata={"help": "requests that may wait besides; 0 and up"})
    queue_timeout: float = field(default=120.0, metadata={"help": "seconds that a request may wait for its turn"})
    request_timeout: float = field(default=600.0, metadata={"help": "seconds that a request may take altogether"})
    drain_seconds: float = field(default=30.0, metadata={"help": "seconds that answers may run on after SIGTERM"})
    max_body_bytes: int = field(default=1 << 20, metadata={"help": "largest request body, in bytes"})
    prompt_cache_mb: int = field(default=256, metadata={"help": "memory for prompts that are asked again, in MiB"})
    served_model_name: str = field(default="chatglm-6b", metadata={"help": "name in /v1/models"})
    strict_model_names: bool = field(default=False, metadata={"help": "refuse requests for other model names"})
    log_conversations: bool = field(default=False, metadata={"help": "write prompts and answers to the log"})
    glm_bot: bool = field(default=False, metadata={"help": "also serve glm-bot's routes: /chat, /clear, /chatglm"})

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, got {self.port}")
        for name in ("queue_timeout", "request_timeout", "drain_seconds", "prompt_cache_mb"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name, least in (("max_batch_size", 1), ("max_queue", 0), ("max_body_bytes", 1024)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        self.api_key = self.api_key or os.environ.get("CHATGLM_API_KEY", "")


class Metrics:
    """Numbers for Prometheus."""

    def __init__(self, engine: Engine) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        registry = {"registry": self.registry}
        seconds = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
        rates = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
        self.requests = prometheus_client.Counter(
            "chatglm_requests", "HTTP requests by route and status", ["route", "status"], **registry
        )
        self.prompt_tokens = prometheus_client.Counter("chatglm_prompt_tokens", "Tokens of prompts", **registry)
        self.completion_tokens = prometheus_client.Counter("chatglm_completion_tokens", "Tokens of answers", **registry)
        self.answers = prometheus_client.Counter("chatglm_answers", "Ended answers by reason", ["reason"], **registry)
        self.first_token = prometheus_client.Histogram(
            "chatglm_time_to_first_token_seconds", "From request to first token", buckets=seconds, **registry
        )
        self.rate = prometheus_client.Histogram(
            "chatglm_tokens_per_second", "Speed of an answer after its first token", buckets=rates, **registry
        )
        for name, text, value in (
            ("chatglm_queue_length", "Requests that wait", lambda: engine.queue_length),
            ("chatglm_batch_size", "Answers that run", lambda: engine.batch_size),
        ):
            prometheus_client.Gauge(name, text, **registry).set_function(value)

    def finished(self, answer: Answer) -> None:
        """Count an answer that has ended; called in the engine's thread."""
        self.answers.labels(answer.finish_reason).inc()
        if answer.started is not None and not answer.cached:
            self.prompt_tokens.inc(len(answer.request.prompt_ids))
        self.completion_tokens.inc(answer.completion_tokens)
        if answer.first_token is not None:
            self.first_token.observe(answer.first_token - answer.submitted)
            if answer.completion_tokens > 1:
                elapsed = max(answer.finished - answer.first_token, 1e-9)
                self.rate.observe((answer.completion_tokens - 1) / elapsed)


class Gate:
    """What comes before every route, and counts: the key, the body's size, and JSON whatever type it is sent as."""

    def __init__(self, app: ASGIApp, arguments: ServerArguments, metrics: Metrics) -> None:
        self.app, self.arguments, self.metrics = app, arguments, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        try:
            headers = dict(scope["headers"])
            self.check_key(scope["path"], headers.get(b"authorization", b""))
            if scope["method"] == "POST":
                body = await self.read_body(headers.get(b"content-length", b"0"), receive)
                # the original reads JSON whatever its declared type is: curl -d declares a form
                kept = [item for item in scope["headers"] if item[0] not in (b"content-type", b"content-length")]
                length = str(len(body)).encode()
                scope["headers"] = [*kept, (b"content-type", b"application/json"), (b"content-length", length)]
                receive = replay(body, receive)
        except ApiError as error:
            await failure(scope["path"], error)(scope, receive, counted)
            return
        await self.app(scope, receive, counted)

    def check_key(self, path: str, authorization: bytes) -> None:
        key = self.arguments.api_key.encode()
        given = authorization[7:] if authorization[:7].lower() == b"bearer " else b""
        if key and path not in OPEN_PATHS and not hmac.compare_digest(given.strip(), key):
            message = "Incorrect API key provided: send the server's key as `Authorization: Bearer KEY`"
            raise ApiError(401, message, "invalid_api_key", {"WWW-Authenticate": "Bearer"})

    async def read_body(self, declared: bytes, receive: Receive) -> bytes:
        limit, parts, size, more = self.arguments.max_body_bytes, [], 0, True
        too_large = ApiError(413, f"the body may have {limit} bytes: please reduce the length", "body_too_large")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large
            more = message.get("more_body", False)
        body = b"".join(parts).removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as editors on Windows write it
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ApiError(422, f"the body must be JSON in UTF-8: {error.reason}", "invalid_json") from error
        return body


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already, and then what comes."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


def failure(path: str, error: ApiError) -> JSONResponse:
    """Return an error in the shape of the route that it happened on."""
    body = error_body(path, error.status, error.message, error.code)
    return JSONResponse(body, error.status, error.headers)


def as_api_error(error: Exception) -> ApiError:
    """Give an engine's error its HTTP status."""
    status, code = ENGINE_ERRORS[type(error)]
    return ApiError(status, str(error), code, {"Retry-After": "1"} if status in (429, 503) else None)


@contextmanager
def watched(request: Request, answers: Sequence[Answer]):
    """Cancel answers when their client disconnects, and in any case at the end."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        for answer in answers:
            answer.cancel()

    task = asyncio.create_task(wait())
    try:
        yield
    finally:
        task.cancel()
        for answer in answers:
            answer.cancel()


class EventStream(Response):
    """A response of server-sent events, whose answers are cancelled when the client goes."""

    media_type = "text/event-stream"

    def __init__(self, request: Request, answers: Sequence[Answer], events: AsyncIterator[str]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.request, self.answers, self.events = request, answers, events
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with watched(self.request, self.answers), suppress(OSError):  # OSError: the client has gone
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for text in self.events:
                await send({"type": "http.response.body", "body": text.encode("utf-8"), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def in_turn(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Piece]]:
    """Yield the pieces of several answers with their numbers, as they come."""
    arrived: asyncio.Queue = asyncio.Queue()

    async def forward(index: int, answer: Answer) -> None:
        try:
            async for piece in answer:
                arrived.put_nowait((index, piece))
        except tuple(ENGINE_ERRORS) as error:
            arrived.put_nowait((index, error))

    tasks = [asyncio.create_task(forward(index, answer)) for index, answer in enumerate(answers)]
    try:
        running = len(tasks)
        while running:
            index, piece = await arrived.get()
            if isinstance(piece, Exception):
                raise piece
            running -= piece.finish_reason is not None
            yield index, piece
    finally:
        for task in tasks:
            task.cancel()


class Service:
    """Turns requests of any protocol into the engine's, and keeps the log.

    Args:
        engine: generates.
        arguments: of the server.
        sampling: defaults of requests.
    """

    def __init__(self, engine: Engine, arguments: ServerArguments, sampling: SamplingArguments) -> None:
        self.engine, self.tokenizer, self.arguments, self.sampling = engine, engine.tokenizer, arguments, sampling
        self.limit = engine.model.config.max_sequence_length

    def keywords(self, body: Sampling) -> dict[str, Any]:
        """Return the sampling part of an engine's request."""
        default = self.sampling

        def given(value: Any, otherwise: Any) -> Any:
            return otherwise if value is None else value

        return {
            "temperature": given(body.temperature, default.temperature),
            "top_p": given(body.top_p, default.top_p),
            "repetition_penalty": given(body.repetition_penalty, default.repetition_penalty),
            "language": given(body.language, default.answer_language),
            "seed": given(body.seed, default.seed),
            "stop": body.stop_texts(),
        }

    async def ask(self, body: OriginalRequest) -> tuple[Answer, int]:
        """Submit a question of the original's protocol; also return how many of its oldest rounds did not fit."""
        limit = min(body.max_length or self.sampling.max_length, self.limit)
        self.check_size(body.prompt)
        ids, dropped = await run_in_threadpool(self.tokenizer.encode_chat, body.prompt, body.history, limit)
        budgets = [limit - len(ids), body.max_new_tokens, self.sampling.max_new_tokens]
        max_tokens = min(budget for budget in budgets if budget is not None)
        answer = self.engine.submit(serving.Request(ids, max_tokens, **self.keywords(body)))
        return answer, dropped

    async def complete(
        self, body: ChatCompletionRequest | CompletionRequest, prompts: Sequence[Callable[[], list[int]]]
    ) -> list[Answer]:
        """Submit `n` requests for each prompt, which is given as a function that encodes it."""
        self.check_model(body)
        max_tokens = getattr(body, "max_completion_tokens", None) or body.max_tokens or self.sampling.max_new_tokens
        requests = []
        for encode in prompts:
            ids = await run_in_threadpool(encode)
            for _ in range(body.n or 1):
                request = serving.Request(ids, max_tokens, logprobs=body.probabilities(), **self.keywords(body))
                if request.seed is not None:
                    request.seed += len(requests)  # several answers, each with numbers of its own
                requests.append(request)
        answers = self.engine.submit(*requests)
        return answers if isinstance(answers, list) else [answers]

    def check_model(self, body: OpenAIRequest | EmbeddingRequest) -> None:
        """Refuse an unknown model name where that is asked for."""
        served = self.arguments.served_model_name
        if self.arguments.strict_model_names and body.model not in (None, served):
            raise ApiError(
                404, f"The model `{body.model}` does not exist; this server has `{served}`", "model_not_found"
            )

    def check_size(self, *texts: str) -> None:
        """Refuse texts that are certainly too long without encoding them: no token is longer than 80 characters."""
        if any(len(text) > 80 * self.limit for text in texts):
            shortest = max(len(text) for text in texts) // 80
            raise PromptTooLongError(shortest, self.limit)

    def log(self, name: str, answers: Sequence[Answer], texts: Sequence[str], query: object) -> None:
        """Write one line for a request: counts and times; what was said only if asked for."""
        for answer, text in zip(answers, texts, strict=True):
            end = answer.finished or time.monotonic()
            first = f"{answer.first_token - answer.submitted:.3f}" if answer.first_token else "-"
            logger.info(
                "%s: %d + %d tokens, first after %s s, all after %.3f s, %s",
                name,
                len(answer.request.prompt_ids),
                answer.completion_tokens,
                first,
                end - answer.submitted,
                answer.finish_reason,
            )
            if self.arguments.log_conversations:
                logger.info("%s: %s -> %s", name, json.dumps(query, ensure_ascii=False), text)


async def collect(request: Request, answers: Sequence[Answer]) -> tuple[list[str], list[list], list[str]]:
    """Wait for answers to end; return their texts, token probabilities and reasons."""
    texts, tokens, reasons = [""] * len(answers), [[] for _ in answers], [""] * len(answers)
    with watched(request, answers):
        async for index, piece in in_turn(answers):
            texts[index] += piece.text
            tokens[index] += piece.logprobs
            reasons[index] = piece.finish_reason or ""
    if "cancelled" in reasons:
        raise ApiError(503, "the answer was cancelled", "cancelled")
    return texts, tokens, reasons


def build_app(
    engine: Engine, arguments: ServerArguments | None = None, sampling: SamplingArguments | None = None
) -> FastAPI:
    """Return the application that serves an engine.

    Args:
        engine: generates; its `on_finished` is taken over for the metrics.
        arguments: of the server.
        sampling: defaults of requests.
    """
    arguments, sampling = arguments or ServerArguments(), sampling or SamplingArguments()
    service, metrics = Service(engine, arguments, sampling), Metrics(engine)
    engine.on_finished = metrics.finished
    errors = {401: "wrong key", 404: "no such model", 413: "body too large", 422: "malformed JSON or wrong types"}
    errors |= {400: "prompt too long, or an unsupported parameter", 429: "queue full", 500: "invalid logits"}
    errors |= {503: "no place in time, or shutting down", 504: "took too long"}
    responses = {status: {"description": text} for status, text in errors.items()}
    app = FastAPI(title="ChatGLM-6B", description=__doc__, version="1", responses=responses)
    app.add_middleware(Gate, arguments=arguments, metrics=metrics)
    if arguments.allow_origin:
        origins = [origin.strip() for origin in arguments.allow_origin.split(",")]
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    add_error_handlers(app)
    add_original_routes(app, service)
    add_openai_routes(app, service)
    if arguments.glm_bot:
        from api_glm_bot import add_glm_bot_routes

        add_glm_bot_routes(app, service, collect)

    @app.get("/health", tags=["server"])
    async def health() -> Response:
        """Tell whether the server is alive, and ready for requests."""
        ready = engine.alive and not engine.closing
        body = {"alive": engine.alive, "ready": ready, "running": engine.batch_size, "waiting": engine.queue_length}
        return JSONResponse(body, 200 if ready else 503)

    @app.get("/metrics", tags=["server"])
    async def numbers() -> Response:
        """Give numbers to Prometheus."""
        return Response(
            prometheus_client.generate_latest(metrics.registry), media_type=prometheus_client.CONTENT_TYPE_LATEST
        )

    return app


def add_error_handlers(app: FastAPI) -> None:
    """Give every error the shape that the clients of its route read."""

    async def refuse(request: Request, error: ApiError) -> Response:
        return failure(request.url.path, error)

    async def refuse_in_engine(request: Request, error: Exception) -> Response:
        return failure(request.url.path, as_api_error(error))

    async def refuse_route(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # how the framework reports a body that the JSON parser gave up on
            return failure(request.url.path, ApiError(422, "the body must be JSON", "invalid_json"))
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return failure(request.url.path, ApiError(error.status_code, str(error.detail), code, error.headers))

    async def refuse_values(request: Request, error: RequestValidationError) -> Response:
        found = [(".".join(map(str, item["loc"][1:])) or "body", item["msg"], item["type"]) for item in error.errors()]
        message = "; ".join(f"{place}: {text}" for place, text, _ in found[:5])
        if all(kind in ("extra_forbidden", "unsupported") for *_, kind in found):
            return failure(
                request.url.path, ApiError(400, f"unsupported parameter: {message}", "unsupported_parameter")
            )
        return failure(request.url.path, ApiError(422, message, "invalid_request"))

    app.add_exception_handler(ApiError, refuse)
    app.add_exception_handler(HTTPException, refuse_route)
    app.add_exception_handler(RequestValidationError, refuse_values)
    for kind in ENGINE_ERRORS:
        app.add_exception_handler(kind, refuse_in_engine)


def add_original_routes(app: FastAPI, service: Service) -> None:
    """Add the original's route, with its streaming forms."""

    def result(body: OriginalRequest, text: str, dropped: int, **more: Any) -> dict[str, Any]:
        history = [*(body.history or []), [body.prompt, text]]
        if dropped:
            more["dropped_rounds"] = dropped
        return {"response": text, "history": history, "status": 200, "time": now(), **more}

    async def events(body: OriginalRequest, answer: Answer, dropped: int, cumulative: bool) -> AsyncIterator[str]:
        text = ""
        try:
            async for piece in answer:
                text += piece.text
                if piece.finish_reason:
                    more = {"delta": piece.text, "finish_reason": piece.finish_reason, "finished": True}
                    yield event(result(body, text, dropped, **more))
                elif cumulative:
                    yield event(result(body, text, dropped, delta=piece.text, finished=False))
                else:
                    yield event({"delta": piece.text, "finished": False})
        except tuple(ENGINE_ERRORS) as error:
            refused = as_api_error(error)
            yield event(error_body("/", refused.status, refused.message, refused.code))
        service.log("POST /stream", [answer], [text], body.prompt)
        yield DONE

    async def answer_whole(request: Request, body: OriginalRequest) -> Response:
        answer, dropped = await service.ask(body)
        (text,), _, _ = await collect(request, [answer])
        service.log("POST /", [answer], [text], body.prompt)
        return JSONResponse(result(body, text, dropped))

    async def answer_in_parts(request: Request, body: OriginalRequest, cumulative: bool) -> Response:
        answer, dropped = await service.ask(body)
        return EventStream(request, [answer], events(body, answer, dropped, cumulative))

    @app.get("/", tags=["original"])
    async def greet() -> dict[str, str]:
        """Greet, as clients expect that look for a server here."""
        return {"message": "Hello ChatGLM API!"}

    @app.post("/", tags=["original"])
    async def create_item(request: Request, body: OriginalRequest) -> Response:
        """Answer a question. With `"stream": true` a stream of events, each with the answer so far."""
        return await (answer_in_parts(request, body, True) if body.stream else answer_whole(request, body))

    @app.post("/stream", tags=["original"])
    async def stream(request: Request, body: OriginalRequest) -> Response:
        """Answer a question by a stream of events: `delta` is the new piece, the last event has the whole result."""
        return await answer_in_parts(request, body, False)

    @app.post("/predict", tags=["original"])
    async def predict(
        request: Request,
        user_msg: str,
        history: Annotated[History | None, Body()] = None,
        max_length: Annotated[int | None, Query(ge=0)] = None,
        top_p: Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)] = None,
        temperature: Annotated[float | None, Query(ge=0, le=100, allow_inf_nan=False)] = None,
    ) -> Response:
        """Answer a question in the URL with its history in the body, as nonebot's `6b-api` mode asks."""
        return await answer_whole(
            request,
            OriginalRequest(
                prompt=user_msg, history=history, max_length=max_length, top_p=top_p, temperature=temperature
            ),
        )


def add_openai_routes(app: FastAPI, service: Service) -> None:
    """Add OpenAI's routes."""
    tokenizer, created = service.tokenizer, int(time.time())

    def model_card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "chatglm"}

    @app.get("/v1/models", tags=["OpenAI"])
    async def models() -> dict[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [model_card(service.arguments.served_model_name)]}

    @app.get("/v1/models/{name:path}", tags=["OpenAI"])
    async def model(name: str) -> dict[str, Any]:
        """Describe a model; any name is this server's model unless names are strict."""
        service.check_model(EmbeddingRequest(input="", model=name))
        return model_card(name)

    def frame(body: OpenAIRequest, name: str, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": name, "object": kind, "created": int(time.time())}
        return head | {"model": body.model or service.arguments.served_model_name, "choices": choices, **more}

    def choice(index: int, finish_reason: str | None, logprobs: Any, **content: Any) -> dict[str, Any]:
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}

    async def events(body: OpenAIRequest, answers: list[Answer], name: str, query: Any) -> AsyncIterator[str]:
        chat = isinstance(body, ChatCompletionRequest)
        kind, texts = "chat.completion.chunk" if chat else "text_completion", [""] * len(answers)

        def content(text: str) -> dict[str, Any]:
            return {"delta": {"content": text} if text else {}} if chat else {"text": text}

        def send(*choices: dict[str, Any], **more: Any) -> str:
            return event(frame(body, name, kind, list(choices), **more))

        if chat:  # at once, while the request may still wait: clients give up without a first byte
            for index in range(len(answers)):
                yield send(choice(index, None, None, delta={"role": "assistant"}))
        try:
            async for index, piece in in_turn(answers):
                logprobs = None
                if body.probabilities() is not None and piece.logprobs:
                    offset = len(texts[index])
                    logprobs = (
                        chat_logprobs(tokenizer, piece.logprobs)
                        if chat
                        else completion_logprobs(tokenizer, piece.logprobs, offset)
                    )
                texts[index] += piece.text
                if piece.text or logprobs:
                    yield send(choice(index, None, logprobs, **content(piece.text)))
                if piece.finish_reason:
                    yield send(choice(index, piece.finish_reason, None, **content("")))
            if body.stream_options is not None and body.stream_options.include_usage:
                yield send(usage=usage(answers))
        except tuple(ENGINE_ERRORS) as error:
            refused = as_api_error(error)
            yield event(error_body("/v1", refused.status, refused.message, refused.code))
        service.log(name, answers, texts, query)
        yield DONE

    async def respond(
        request: Request, body: ChatCompletionRequest | CompletionRequest, answers: list[Answer], query: Any
    ) -> Response:
        chat = isinstance(body, ChatCompletionRequest)
        name = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        if body.stream:
            return EventStream(request, answers, events(body, answers, name, query))
        texts, tokens, reasons = await collect(request, answers)
        service.log(name, answers, texts, query)
        choices = []
        for index, (text, probabilities, reason) in enumerate(zip(texts, tokens, reasons, strict=True)):
            wanted = body.probabilities() is not None
            if chat:
                logprobs = chat_logprobs(tokenizer, probabilities) if wanted else None
                choices.append(choice(index, reason, logprobs, message={"role": "assistant", "content": text}))
            else:
                logprobs = completion_logprobs(tokenizer, probabilities) if wanted else None
                choices.append(choice(index, reason, logprobs, text=text))
        kind = "chat.completion" if chat else "text_completion"
        return JSONResponse(frame(body, name, kind, choices, usage=usage(answers)))

    @app.post("/v1/chat/completions", tags=["OpenAI"])
    async def chat_completions(request: Request, body: ChatCompletionRequest) -> Response:
        """Continue a dialogue."""
        query, history = to_rounds(body.messages)
        service.check_size(query, *(text for pair in history for text in pair))

        def encode() -> list[int]:
            ids, _ = tokenizer.encode_chat(query, history)
            if len(ids) >= service.limit:
                raise PromptTooLongError(len(ids), service.limit)
            return ids

        messages = [{"role": message.role, "content": message.text()} for message in body.messages]
        return await respond(request, body, await service.complete(body, [encode]), messages)

    @app.post("/v1/completions", tags=["OpenAI"])
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continue texts."""
        prompts = body.prompts()
        service.check_size(*prompts)
        encoders = [lambda prompt=prompt: tokenizer.encode_prompt(prompt) for prompt in prompts]
        return await respond(request, body, await service.complete(body, encoders), prompts)

    @app.post("/v1/embeddings", tags=["OpenAI"])
    async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
        """Turn texts into vectors: means of the last hidden states, which is weak; the model was not trained for it."""
        service.check_model(body)
        texts, vectors, tokens, window = body.texts(), [], 0, service.engine.max_batch_size
        service.check_size(*texts)
        for start in range(0, len(texts), window):
            requests = []
            for text in texts[start : start + window]:
                requests.append(serving.Request(await run_in_threadpool(tokenizer.encode_prompt, text), embedding=True))
            answers = service.engine.submit(*requests)
            answers = answers if isinstance(answers, list) else [answers]
            with watched(request, answers):
                for answer in answers:
                    vector = np.array((await anext(answer)).embedding, dtype=np.float32)
                    vectors.append(vector / max(np.linalg.norm(vector), 1e-12))
                    tokens += len(answer.request.prompt_ids)
        data = []
        for index, vector in enumerate(vectors):
            packed = body.encoding_format == "base64"
            value = base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist()
            data.append({"object": "embedding", "index": index, "embedding": value})
        name = body.model or service.arguments.served_model_name
        counts = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": name, "usage": counts})


def serve(app: FastAPI, engine: Engine, arguments: ServerArguments) -> int:
    """Serve until SIGTERM or Ctrl-C, let running answers finish, and return the exit status."""
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        timeout_graceful_shutdown=math.ceil(arguments.drain_seconds),
        access_log=False,
        log_level="warning",
    )
    server = uvicorn.Server(config)

    def stop(*_: Any) -> None:
        server.force_exit = server.should_exit  # the second time at once
        server.should_exit = True

    # in a thread of its own, so that the signals are ours: the server itself would end with the signal's status
    thread = threading.Thread(target=server.run, name="chatglm-http")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    thread.start()
    while thread.is_alive() and not server.started:
        thread.join(0.05)
    if server.started:
        port = server.servers[0].sockets[0].getsockname()[1]
        print(f"http://{arguments.host}:{port}", file=sys.stderr, flush=True)
    while thread.is_alive():
        thread.join(0.2)
    engine.close()
    return 0 if server.started else 1


def start_engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizer, arguments: ServerArguments) -> Engine:
    """Return the engine that serves a model within the server's limits."""
    return Engine(
        model,
        tokenizer,
        max_batch_size=arguments.max_batch_size,
        max_queue=arguments.max_queue,
        queue_seconds=arguments.queue_timeout,
        total_seconds=arguments.request_timeout,
        prompt_cache_bytes=arguments.prompt_cache_mb << 20,
    )


def main() -> int:
    """Run the server and return the exit status."""
    model_arguments, sampling, arguments = parse_arguments(__doc__, ModelArguments, SamplingArguments, ServerArguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    model, tokenizer = load_model_and_tokenizer(model_arguments)
    engine = start_engine(model, tokenizer, arguments)
    return serve(build_app(engine, arguments, sampling), engine, arguments)


if __name__ == "__main__":
    run_main(main)
