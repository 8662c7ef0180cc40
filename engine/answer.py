"""What is asked of the engine and what comes back: requests, answers, pieces, and why there may be none."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chatglm import ChatGLMTokenizer
from chatglm.grammar import Grammar
from chatglm.sampling import Sampling


class EngineError(Exception):
    """A request has no answer, for a reason that lies in the server's limits or state."""


class QueueFullError(EngineError):
    """As many requests wait as may wait."""


class QueueTimeoutError(EngineError):
    """A request has waited for its turn for too long."""


class AnswerTimeoutError(EngineError):
    """Waiting and answering together took too long."""


class ClosedError(EngineError):
    """The engine takes no more requests, or was closed before an answer's end."""


class StepError(EngineError):
    """Computing failed: out of memory, or a defect."""


@dataclass
class Request(Sampling):
    """What is asked, and how the answer is sampled: the fields of `Sampling` belong to it.

    Attributes:
        prompt_ids: of `ChatGLMTokenizer.encode_prompt` or `encode_chat`.
        max_tokens: limit of the answer, at least 1; the model's own limit counts as well. None: the model's.
        stop: texts that end the answer, which does not include them.
        logprobs: number of likeliest tokens to report with each token, 0 for its own probability only, None for none.
        map_punctuation: see `process_response` of the model.
        before: text of the answer that the prompt ends with, and that is not repeated.
        grammar: the form that the answer has, see `chatglm.grammar.response_grammar`.
        embedding: no answer is wanted but the mean of the prompt's last hidden states.
        adapter: name of the engine's adapter that answers, None for the base.
    """

    prompt_ids: list[int]
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    map_punctuation: bool = True
    before: str = ""
    grammar: Grammar | None = None
    embedding: bool = False
    adapter: str | None = None


def chat_request(
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: Sequence[Sequence[str]] | None,
    max_length: int,
    max_new_tokens: int | None = None,
    **sampling: Any,
) -> tuple[Request, int]:
    """Make the request for a question that follows earlier rounds.

    Args:
        tokenizer: of the model.
        query: the question.
        history: earlier (question, answer) rounds, oldest first.
        max_length: tokens that prompt and answer may have together.
        max_new_tokens: limit of the answer alone, in tokens.
        sampling: further attributes of the request.

    Returns:
        (the request, number of rounds dropped from the start of history because they did not fit).

    Raises:
        PromptTooLongError: the question alone leaves no token for an answer.
    """
    prompt_ids, dropped = tokenizer.encode_chat(query, history, max_length)
    room = max_length - len(prompt_ids)
    max_tokens = room if max_new_tokens is None else min(room, max_new_tokens)
    return Request(prompt_ids, max_tokens, **sampling), dropped


@dataclass
class TokenProbability:
    """A token of an answer, the logarithm of the model's probability for it, and the likeliest tokens at its place."""

    token_id: int
    logprob: float
    likeliest: list[tuple[int, float]]


@dataclass
class Piece:
    """What is new of an answer: final text, its tokens' probabilities if asked for, and at its end the reason."""

    text: str = ""
    logprobs: list[TokenProbability] = field(default_factory=list)
    finish_reason: str | None = None  # "stop" or "length" in the last piece
    embedding: list[float] | None = None
    error: Exception | None = None


class Answer:
    """The stream of an answer's pieces; iterate with `for`, or with `async for` if it was made in an event loop.

    Attributes:
        request: what was asked.
        completion_tokens: number of generated tokens so far.
        cached: whether the prompt had been read before.
        submitted, started, first_token, finished: seconds of the monotonic clock, None if not yet.
        finish_reason: "stop", "length", "cancelled" or "error" once it has ended.
        stop_text: the one that ended it, None if none did.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.completion_tokens = 0
        self.cached = False
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.first_token: float | None = None
        self.finished: float | None = None
        self.finish_reason: str | None = None
        self.stop_text: str | None = None
        self.cancelled = False
        self.pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        self.exhausted = False
        try:
            self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
            self.arrived = asyncio.Event()
        except RuntimeError:
            self.loop = None

    def cancel(self) -> None:
        """Have the engine drop this answer within a token; its stream ends."""
        self.cancelled = True

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> Piece:
        if self.exhausted:
            raise StopIteration
        return self._take(self.pieces.get())

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Piece:
        if self.exhausted:
            raise StopAsyncIteration
        while True:
            try:
                return self._take(self.pieces.get_nowait())
            except queue.Empty:  # `arrived` is set in this very thread, so that no call of `set` gets lost between
                self.arrived.clear()
                await self.arrived.wait()

    def _take(self, piece: Piece) -> Piece:
        self.exhausted = piece.finish_reason is not None or piece.error is not None
        if piece.error is not None:
            raise piece.error
        return piece
