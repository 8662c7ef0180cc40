"""From a route to the engine and back: requests of any protocol, streams of events, clients that leave."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

import engine as serving
from chatglm import PromptTooLongError
from chatglm.grammar import GrammarError, response_grammar, vocabulary
from chatglm.tokenization_chatglm import LONGEST_TOKEN
from chatglm.tools import call_grammar
from engine import Answer, Engine, Piece
from loading.arguments import SamplingArguments

from .arguments import ServerArguments
from .errors import client_gone
from .protocol import (
    ApiError,
    ChatCompletionRequest,
    CompletionRequest,
    Message,
    OpenRequest,
    OriginalRequest,
    TextRequest,
    ignored,
    to_rounds,
    usage,
)

logger = logging.getLogger("chatglm.api")


@contextmanager
def watched(request: Request, answers: Sequence[Answer]) -> Iterator[asyncio.Event]:
    """Cancel answers when their client disconnects, which sets the event, and in any case at the end."""
    gone = asyncio.Event()

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()
        for answer in answers:
            answer.cancel()

    task = asyncio.create_task(wait())
    try:
        yield gone
    finally:
        task.cancel()
        for answer in answers:
            answer.cancel()


EVENT_STREAM = "text/event-stream"
# what routes that can stream say of their answers, in the server's description
STREAMED = {200: {"description": "the answer", "content": {"application/json": {}, EVENT_STREAM: {}}}}


class EventStream(Response):
    """A response of server-sent events, whose answers are cancelled when the client goes."""

    media_type = EVENT_STREAM

    def __init__(
        self,
        request: Request,
        answers: Sequence[Answer],
        events: AsyncIterator[str],
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"} | (headers or {}))
        self.request, self.answers, self.events = request, answers, events
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with watched(self.request, self.answers), suppress(OSError):  # OSError: the client has gone
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for text in self.events:
                await send({"type": "http.response.body", "body": text.encode("utf-8"), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def in_turn(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Piece]]:
    """Yield the pieces of several answers with their numbers, as they come.

    Raises:
        EngineError, InvalidLogitsError: the first that one of the answers ends with; a cancelled one is a ClosedError.
    """
    arrived: asyncio.Queue = asyncio.Queue()

    async def forward(index: int, answer: Answer) -> None:
        try:
            async for piece in answer:
                arrived.put_nowait((index, piece))
        except Exception as error:  # raised again below, by the one who waits
            arrived.put_nowait((index, error))

    tasks = [asyncio.create_task(forward(index, answer)) for index, answer in enumerate(answers)]
    try:
        running = len(tasks)
        while running:
            index, piece = await arrived.get()
            if isinstance(piece, Exception):
                raise piece
            if piece.finish_reason == "cancelled":
                raise serving.ClosedError("the server is shutting down: the answer was cut")
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
        self.model_names = [arguments.served_model_name, *engine.adapters.names]
        with suppress(GrammarError):  # not installed; who asks for a form is told so
            vocabulary(self.tokenizer)  # takes a second at the real size, which no request should wait for
        self.encoding = asyncio.Semaphore(1)

    def keywords(self, body: TextRequest) -> dict[str, Any]:
        """Return the sampling part of an engine's request."""
        return self.sampling.sampling() | body.sampling() | {"stop": body.stop_texts()}

    async def ask(self, body: OriginalRequest) -> tuple[Answer, int]:
        """Submit a question of the original's protocol; also return how many of its oldest rounds did not fit."""
        limit = min(body.max_length or self.sampling.max_length, self.limit)
        self.check_size(body.prompt)
        request, dropped = await self.encode(
            serving.chat_request,
            self.tokenizer,
            body.prompt,
            body.history,
            max_length=limit,
            max_new_tokens=body.max_new_tokens or self.sampling.max_new_tokens,
            **self.keywords(body),
        )
        return self.submit([request])[0], dropped

    async def dialogue_encoder(
        self, messages: Sequence[Message], functions: Sequence[dict[str, Any]] = ()
    ) -> tuple[Callable[[], list[int]], str]:
        """Return a function that encodes the prompt of a dialogue, and the start of its answer, "" for none."""
        query, history, before = await run_in_threadpool(to_rounds, messages, functions)
        self.check_size(query, before, *(text for pair in history for text in pair), together=True)

        def encode() -> list[int]:
            ids, _ = self.tokenizer.encode_chat(query, history)
            return ids + self.tokenizer.encode_text(before) if before else ids

        return encode, before

    async def chat(self, body: ChatCompletionRequest) -> list[Answer]:
        """Submit `n` requests for a dialogue: what every protocol of messages comes to."""
        functions = body.callable_functions()
        encode, before = await self.dialogue_encoder(body.messages, functions)
        grammar = None
        if functions:
            forced = body.tool_choice not in (None, "auto")  # and then no answer is left that has another form
            form = None if forced else await self.encode(response_grammar, self.tokenizer, body.form())
            several = body.parallel_tool_calls is not False and body.named_tool is None
            grammar = await self.encode(call_grammar, self.tokenizer, functions, forced, several, form)
        return await self.complete(body, [encode], before=before, grammar=grammar)

    def encode_prompt(self, prompt: str | list[int]) -> list[int]:
        """Return the ids of a prompt that is a text, or ids already: then with [gMASK] and <sop> if they lack."""
        if isinstance(prompt, str):
            return self.tokenizer.encode_prompt(prompt)
        config = self.engine.model.config
        if max(prompt) >= config.vocab_size:
            raise ApiError(400, f"prompt: token ids are below {config.vocab_size}", "invalid_value", None, "prompt")
        if config.bos_token_id not in prompt:
            return [*prompt, config.gmask_token_id, config.bos_token_id]
        if not {config.gmask_token_id, config.mask_token_id} & set(prompt):
            raise ApiError(400, "prompt: <sop> stands without [gMASK]", "invalid_value", None, "prompt")
        return prompt

    async def complete(
        self,
        body: ChatCompletionRequest | CompletionRequest,
        prompts: Sequence[Callable[[], list[int]]],
        **more: Any,
    ) -> list[Answer]:
        """Submit `n` requests for each prompt, which is given as a function that encodes it.

        Args:
            more: further attributes of the engine's requests.
        """
        self.check_model(body)
        if self.arguments.strict_parameters and (names := ignored(body)):
            message = f"unsupported parameter: {', '.join(names)}"
            raise ApiError(400, message, "unsupported_parameter", parameter=names[0])
        if more.get("grammar") is None and (form := body.form()) is not None:
            more["grammar"] = await self.encode(response_grammar, self.tokenizer, form)
        max_tokens, requests = body.limit() or self.sampling.max_new_tokens, []
        for encode in prompts:
            ids = await self.encode(encode)
            if len(ids) >= self.limit:
                raise PromptTooLongError(len(ids), self.limit)
            limit = max_tokens or max(1, self.sampling.max_length - len(ids))
            for _ in range(body.n or 1):
                more |= {"logprobs": body.probabilities(), "adapter": self.adapter(body)}
                request = serving.Request(ids, limit, **self.keywords(body), **more)
                if request.min_tokens > limit:
                    message = f"min_tokens is {request.min_tokens}, but the answer may have {limit} tokens"
                    raise ApiError(400, message, "invalid_value", parameter="min_tokens")
                if request.seed is not None:
                    request.seed += len(requests)  # several answers, each with numbers of its own
                requests.append(request)
        return self.submit(requests)

    async def encode(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Run a function that computes with the tokenizer in a thread, one at a time.

        Many threads that compute would keep the event loop from its turn.
        """
        async with self.encoding:
            return await run_in_threadpool(function, *arguments, **keywords)

    def submit(self, requests: list[serving.Request]) -> list[Answer]:
        """Submit requests together; refuse more than this server could ever take."""
        most = self.engine.max_batch_size + self.engine.max_queue
        if len(requests) > most:
            message = f"{len(requests)} answers are asked for at once, and this server takes {most}: ask for fewer"
            raise ApiError(400, message, "too_many_answers")
        try:
            requests[0].check_vocabulary(self.engine.model.config.vocab_size)
        except ValueError as error:
            raise ApiError(400, str(error), "invalid_value", parameter="logit_bias") from error
        answers = self.engine.submit(*requests)
        return answers if isinstance(answers, list) else [answers]

    async def collect(self, request: Request, answers: Sequence[Answer], name: str, query: object) -> list[Piece]:
        """Wait for answers to end, and return each as one piece.

        Raises:
            ApiError: the client has gone; nobody reads it, and the number of such requests is counted.
            EngineError, InvalidLogitsError: as `in_turn`.
        """
        wholes = [Piece() for _ in answers]
        with watched(request, answers) as gone:
            try:
                async for index, piece in in_turn(answers):
                    whole = wholes[index]
                    whole.text += piece.text
                    whole.logprobs += piece.logprobs
                    whole.finish_reason, whole.embedding = piece.finish_reason, piece.embedding
            except serving.ClosedError as error:
                if gone.is_set():
                    raise client_gone() from error
                raise
            finally:
                self.log(name, answers, [whole.text for whole in wholes], query)
        return wholes

    def check_model(self, body: OpenRequest) -> None:
        """Refuse an unknown model name where that is asked for."""
        if self.arguments.strict_model_names and body.model not in (None, *self.model_names):
            served = ", ".join(f"`{name}`" for name in self.model_names)
            raise ApiError(404, f"The model `{body.model}` does not exist; this server has {served}", "model_not_found")

    def adapter(self, body: OpenRequest) -> str | None:
        """Return the name of the adapter that a request is for: the one of its model's name, else none."""
        return body.model if body.model in self.engine.adapters.names else None

    def check_size(self, *texts: str, together: bool = False) -> None:
        """Refuse texts that are certainly too long without encoding them; a token has 80 characters at most.

        Args:
            texts: each a prompt, or the parts of one.
            together: they are parts of one prompt; each has then a token at least, for what stands between them.
        """
        lengths = [len(text) // LONGEST_TOKEN for text in texts]
        shortest = max(sum(map(len, texts)) // LONGEST_TOKEN, len(texts)) if together else max(lengths, default=0)
        if shortest >= self.limit:
            raise PromptTooLongError(shortest, self.limit)

    def ignored_header(self, name: str, body: OpenRequest) -> dict[str, str]:
        """Return the header that names the parameters which were ignored, and log them."""
        if not (names := [quote(one[:64] or '""') for one in ignored(body)[:16]]):
            return {}
        logger.warning("%s: ignored unknown parameters: %s", name, ", ".join(names))
        return {"X-Ignored-Parameters": ", ".join(names)}

    def log(self, name: str, answers: Sequence[Answer], texts: Sequence[str], query: object) -> None:
        """Write one line for a request: counts and times; what was said only if asked for."""
        counts = usage(answers)
        first = min((answer.first_token - answer.submitted for answer in answers if answer.first_token), default=None)
        logger.info(
            "%s: %d + %d tokens, first after %s s, all after %.3f s, %s",
            name,
            counts["prompt_tokens"],
            counts["completion_tokens"],
            "-" if first is None else f"{first:.3f}",
            max((answer.finished or time.monotonic()) - answer.submitted for answer in answers),
            ", ".join(sorted({answer.finish_reason or "cancelled" for answer in answers})),
        )
        if self.arguments.log_conversations:
            logger.info("%s: %s -> %s", name, *(json.dumps(said, ensure_ascii=False) for said in (query, list(texts))))
