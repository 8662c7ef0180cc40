"""From a route to the engine and back: requests of any protocol, streams of events, clients that leave."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

import engine as serving
from chatglm import PromptTooLongError
from engine import Answer, Engine, Piece
from utils import SamplingArguments

from .arguments import ServerArguments
from .errors import ENGINE_ERRORS
from .protocol import (
    ApiError,
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    OpenAIRequest,
    OriginalRequest,
    Sampling,
)

logger = logging.getLogger("chatglm.api")


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
