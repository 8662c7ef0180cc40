"""Answer many requests at once with one model: continuous batching for a prefix language model.

    engine = Engine(model, tokenizer)
    for piece in engine.submit(Request(tokenizer.encode_prompt("你好"), max_tokens=100)):
        ...                                     # `async for` where an event loop runs

One thread owns the model. It reads prompts one at a time and a few layers at a time (a bidirectional prompt cannot be
cut along its length), and between these slices it decodes one token for every running answer together. Answers join
and leave the batch at any token. What an answer says does not depend on its neighbours.

Shapes: `b` running answers, `h` heads, `t` tokens so far, `d` head size, `v` vocabulary.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import math
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from chatglm import ChatGLMCache, ChatGLMTokenizer, IncrementalDecoder, InvalidLogitsError, PromptTooLongError
from chatglm.generation_chatglm import foreign_tokens
from chatglm.modeling_chatglm import CACHE_STEP, AttentionPlan, PromptLayout, rotary_tables
from utils import CHAT_DEFAULTS

logger = logging.getLogger(__name__)

CANDIDATES = 256  # likeliest tokens looked at first when drawing; more only where top_p needs them
SHORTEST_SLICE = 0.02  # seconds of prompt reading between two tokens of the running answers
# What `process_response` may still change when more text comes: half-width punctuation, the date's placeholder.
UNSETTLED_END = re.compile(r"(?:[,!:;?]|\[|\[\[(?:训(?:练(?:时(?:间\]?)?)?)?)?)\Z")


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
class Request:
    """What is asked, and how the answer is drawn.

    Attributes:
        prompt_ids: of `ChatGLMTokenizer.encode_prompt` or `encode_chat`.
        max_tokens: limit of the answer, at least 1; the model's own limit counts as well. None: the model's.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: draw from the likeliest tokens that have this probability together.
        repetition_penalty: above 1 makes tokens of prompt and answer less likely.
        language: "zh" or "en" keeps the answer to that language's tokens.
        seed: the same seed, the same answer, whatever else is being answered.
        stop: texts that end the answer, which does not include them.
        logprobs: number of likeliest tokens to report with each token, 0 for its own probability only, None for none.
        map_punctuation: see `process_response` of the model.
        embedding: no answer is wanted but the mean of the prompt's last hidden states.
    """

    prompt_ids: list[int]
    max_tokens: int | None = None
    temperature: float = CHAT_DEFAULTS["temperature"]
    top_p: float = CHAT_DEFAULTS["top_p"]
    repetition_penalty: float = 1.0
    language: str | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    map_punctuation: bool = True
    embedding: bool = False


def chat_request(
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: Sequence[Sequence[str]] | None,
    max_length: int,
    max_new_tokens: int | None = None,
    **drawing: Any,
) -> tuple[Request, int]:
    """Make the request for a question that follows earlier rounds.

    Args:
        tokenizer: of the model.
        query: the question.
        history: earlier (question, answer) rounds, oldest first.
        max_length: tokens that prompt and answer may have together.
        max_new_tokens: limit of the answer alone, in tokens.
        drawing: further attributes of the request.

    Returns:
        (the request, number of rounds dropped from the start of history because they did not fit).

    Raises:
        PromptTooLongError: the question alone leaves no token for an answer.
    """
    prompt_ids, dropped = tokenizer.encode_chat(query, history, max_length)
    room = max_length - len(prompt_ids)
    max_tokens = room if max_new_tokens is None else min(room, max_new_tokens)
    return Request(prompt_ids, max_tokens, **drawing), dropped


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


# --------------------------------------------------------------------------------------------------------------------
# The text of an answer
# --------------------------------------------------------------------------------------------------------------------


class TidyText:
    """Apply the model's `process_response` to text that comes in parts: what is returned will not change any more.

    Args:
        process_response: the model's.
        map_punctuation: see there.
    """

    def __init__(self, process_response: Callable[[str, bool], str], map_punctuation: bool) -> None:
        self.process_response, self.map_punctuation = process_response, map_punctuation
        self.pending = ""
        self.last = ""  # the character before the pending text, as it was returned

    def put(self, text: str, ended: bool = False) -> str:
        """Take more text and return what is final now."""
        self.pending += text
        if not self.last:
            self.pending = self.pending.lstrip()
        body = self.pending.rstrip()
        unsettled = None if ended else UNSETTLED_END.search(body)
        end = unsettled.start() if unsettled else len(body)
        end = len(self.pending[:end].rstrip())
        if not end:
            return ""
        # what comes before the unsettled end has all the neighbours that decide about it
        final = self.process_response(self.last + self.pending[:end], self.map_punctuation)[len(self.last) :]
        self.pending, self.last = self.pending[end:], final[-1]
        return final


class StopText:
    """Find the first of some texts in text that comes in parts, and hold back what may still become one of them."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stop = stop
        self.pending = ""
        self.found = False

    def put(self, text: str, ended: bool = False) -> str:
        """Take more text and return what certainly comes before a stop text; `found` says that one is complete."""
        if not self.stop or not text and not ended:
            return text
        self.pending += text
        ends = [(start + len(word), start) for word in self.stop if (start := self.pending.find(word)) >= 0]
        if ends:  # the one that is complete first, however the text was cut
            self.found, end = True, min(ends)[1]
        elif ended:
            end = len(self.pending)
        else:
            held = (
                size
                for word in self.stop
                for size in range(1, min(len(word), len(self.pending) + 1))
                if self.pending.endswith(word[:size])
            )
            end = len(self.pending) - max(held, default=0)
        final, self.pending = self.pending[:end], self.pending[end:]
        return final


# --------------------------------------------------------------------------------------------------------------------
# Cache of the running answers
# --------------------------------------------------------------------------------------------------------------------


class BatchCache(ChatGLMCache):
    """Keys and values of answers of different lengths, one row each, which decode together one token at a time.

    It is its own layout: the model asks it for positions and visible columns as it asks a prompt's `PromptLayout`.

    Attributes:
        row_lengths: tokens of each row, P-Tuning prefix included.
        context_lengths, mask_positions: of each row's prompt, as in `PromptLayout`.
    """

    uniform_context_length = 0  # every new token belongs to an answer

    def __init__(self) -> None:
        super().__init__()
        self.layout = self
        self.row_lengths: list[int] = []
        self.context_lengths: list[int] = []
        self.mask_positions: list[int] = []
        self.indices: dict[torch.device, tuple[Tensor, Tensor]] = {}

    # what the model calls

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs=None):
        """Append each row's key and value [b, h, 1, d] at its own end; return views up to the longest row's."""
        device = key_states.device
        if device not in self.indices:
            rows = torch.arange(len(self.row_lengths), device=device)
            self.indices[device] = rows, torch.tensor(self.row_lengths, device=device)
        rows, columns = self.indices[device]
        key, value = self.keys[layer_idx], self.values[layer_idx]
        key[rows, :, columns] = key_states[:, :, 0]
        value[rows, :, columns] = value_states[:, :, 0]
        b, t = len(self.row_lengths), max(self.row_lengths) + 1
        return key[:b, :, :t], value[:b, :, :t]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the length of the longest row, P-Tuning prefix not counted."""
        return max(self.row_lengths) - self.prefix_length

    def position_ids(self, start: int, count: int) -> Tensor:
        """Return the position channels of each row's next token, int64 [b, 2, 1]."""
        answered = [
            length - self.prefix_length - context + 1
            for length, context in zip(self.row_lengths, self.context_lengths, strict=True)
        ]
        positions = torch.tensor([self.mask_positions, answered], device=self.keys[0].device)  # [2, b]
        return positions.T[..., None]

    def visible_keys(self, length: int) -> Tensor | None:
        """Return which columns hold a row's tokens, the new one included, bool [b, length]; None if all do."""
        if len(set(self.row_lengths)) == 1:
            return None
        ends = torch.tensor(self.row_lengths, device=self.keys[0].device)[:, None] - self.prefix_length
        return torch.arange(length, device=ends.device) <= ends

    # what the engine calls

    def prepare(self) -> None:
        """Make room for one more token in each row."""
        self.indices.clear()
        self._resize(len(self.row_lengths), max(self.row_lengths) + 1)

    def advance(self) -> None:
        """Take note that each row has one more token."""
        self.row_lengths = [length + 1 for length in self.row_lengths]

    def append_row(self, prompt: ReadPrompt) -> None:
        """Copy a prompt's keys and values into a new row."""
        self.prefix_length = prompt.cache.prefix_length
        length = prompt.cache.lengths[0]
        if not self.keys:
            self.keys = [key.new_zeros(0, key.shape[1], 0, key.shape[3]) for key in prompt.cache.keys]
            self.values = [value.new_zeros(0, value.shape[1], 0, value.shape[3]) for value in prompt.cache.values]
        row = len(self.row_lengths)
        self._resize(row + 1, max([length + 1, *self.row_lengths]))
        for layer, (key, value) in enumerate(prompt.cache):
            self.keys[layer][row, :, :length] = key[0]
            self.values[layer][row, :, :length] = value[0]
        self.row_lengths.append(length)
        self.context_lengths.append(prompt.context_length)
        self.mask_positions.append(prompt.mask_position)

    def remove_row(self, row: int) -> None:
        """Forget a row; the last one takes its place. What is left behind is zero, as NaN would reach other rows."""
        last = len(self.row_lengths) - 1
        length = self.row_lengths[last]
        for buffer in (*self.keys, *self.values):
            if row != last:
                buffer[row, :, : self.row_lengths[row]] = 0
                buffer[row, :, :length] = buffer[last, :, :length]
            buffer[last, :, :length] = 0
        for values in (self.row_lengths, self.context_lengths, self.mask_positions):
            values[row] = values[last]
            values.pop()
        if not self.row_lengths:  # give the memory back when nobody is served
            self.keys, self.values = [], []

    def _resize(self, rows: int, length: int) -> None:
        """Grow the buffers to hold at least this; rows by doubling, columns by steps of 256. New room is zero."""
        capacity_rows, _, capacity, _ = self.keys[0].shape
        if rows <= capacity_rows and length <= capacity:
            return
        if rows > capacity_rows:
            capacity_rows = max(rows, 2 * capacity_rows)
        if length > capacity:
            capacity = -(-length // CACHE_STEP) * CACHE_STEP
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                b, h, t, d = buffer.shape
                grown = buffer.new_zeros(capacity_rows, h, capacity, d)
                grown[:b, :, :t] = buffer
                buffers[layer] = grown


# --------------------------------------------------------------------------------------------------------------------
# Prompts
# --------------------------------------------------------------------------------------------------------------------


class ReadPrompt:
    """A prompt on its way through the layers, or all the way through.

    Args:
        model: a `ChatGLMForConditionalGeneration`.
        prompt_ids: its ids.

    Attributes:
        cache: the keys and values of the layers done.
        logits: float32 [v] of the first answer token, None before the end.
        embedding: mean of the last hidden states, float32 [e], None before the end.
    """

    def __init__(self, model: nn.Module, prompt_ids: list[int]) -> None:
        self.model, self.prompt_ids = model, prompt_ids
        self.logits: Tensor | None = None
        self.embedding: Tensor | None = None
        transformer, config = model.transformer, model.config
        input_ids = torch.tensor([prompt_ids], device=model.device)
        layout = PromptLayout.from_input_ids(input_ids, torch.ones_like(input_ids), config)
        self.context_length, self.mask_position = int(layout.context_length[0]), int(layout.mask_position[0])
        self.hidden_states: Tensor | None = transformer.word_embeddings(input_ids)  # [1, s, e]
        self.cache, self.prefix = ChatGLMCache(), None
        if config.pre_seq_len is not None:
            self.prefix = transformer.prefix_encoder(1, self.hidden_states.dtype)
            self.cache.prefix_length = config.pre_seq_len
        self.plan = AttentionPlan.build(layout, 0, len(prompt_ids), self.cache.prefix_length, input_ids.device)
        self.rotary = rotary_tables(
            layout.position_ids(0, len(prompt_ids)),
            config.hidden_size // config.num_attention_heads,
            self.hidden_states.dtype,
        )

    def advance(self, seconds: float) -> bool:
        """Compute layers for about so many seconds, at least one; return whether all are done."""
        deadline = time.monotonic() + seconds
        transformer = self.model.transformer
        while (layer := len(self.cache)) < len(transformer.layers):
            prefix = None if self.prefix is None else self.prefix[layer]
            self.hidden_states, _ = transformer.layers[layer](
                self.hidden_states, self.rotary, self.plan, self.cache, prefix
            )
            if time.monotonic() >= deadline and layer + 1 < len(transformer.layers):
                return False
        hidden_states = transformer.final_layernorm(self.hidden_states)
        self.logits = self.model.lm_head(hidden_states[:, -1:])[0, 0].float()
        self.embedding = hidden_states[0].float().mean(dim=0)
        self.hidden_states = self.rotary = self.plan = self.prefix = None
        return True

    def bytes(self) -> int:
        """Return the memory that the keys and values take."""
        return sum(buffer.numel() * buffer.element_size() for buffer in (*self.cache.keys, *self.cache.values))


class PromptCache:
    """The prompts read last, up to a number of bytes; the very last one in any case."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.prompts: collections.OrderedDict[tuple[int, ...], ReadPrompt] = collections.OrderedDict()
        self.size = 0

    def get(self, prompt_ids: list[int]) -> ReadPrompt | None:
        """Return a prompt that was read, or None."""
        key = tuple(prompt_ids)
        if key in self.prompts:
            self.prompts.move_to_end(key)
        return self.prompts.get(key)

    def put(self, prompt: ReadPrompt) -> None:
        """Keep a prompt, and drop those unused for longest."""
        self.prompts[tuple(prompt.prompt_ids)] = prompt
        self.size += prompt.bytes()
        while self.size > self.limit and len(self.prompts) > 1:
            self.size -= self.prompts.popitem(last=False)[1].bytes()


# --------------------------------------------------------------------------------------------------------------------
# Drawing tokens
# --------------------------------------------------------------------------------------------------------------------


class Row:
    """A running answer: its random numbers, the text so far, the tokens that count for the repetition penalty."""

    def __init__(self, answer: Answer, model: nn.Module, tokenizer: ChatGLMTokenizer) -> None:
        request = answer.request
        self.answer, self.request = answer, request
        self.random = random.Random(request.seed)  # None: a seed of the system's
        self.limit = model.config.max_sequence_length - len(request.prompt_ids)
        if request.max_tokens is not None:
            self.limit = min(self.limit, request.max_tokens)
        self.decoder = IncrementalDecoder(tokenizer)
        self.tidy = TidyText(model.process_response, request.map_punctuation)
        self.stop = StopText(request.stop)
        self.logprobs: list[TokenProbability] = []  # of tokens whose text is held back
        self.seen = set(request.prompt_ids) if request.repetition_penalty != 1 else None
        self.foreign = None if request.language is None else foreign_tokens(tokenizer, request.language)
        self.last_token = 0

    def adjust(self, logits: Tensor) -> None:
        """Apply repetition penalty and language to logits [v], in place."""
        if self.seen is not None:
            ids = torch.tensor(sorted(self.seen), device=logits.device)
            scores, penalty = logits[ids], self.request.repetition_penalty
            logits[ids] = torch.where(scores < 0, scores * penalty, scores / penalty)
        if self.foreign is not None:
            foreign = self.foreign[: len(logits)].to(logits.device)
            logits[: len(foreign)].masked_fill_(foreign, -math.inf)


def choose_tokens(logits: Tensor, rows: list[Row]) -> list[int | None]:
    """Choose the next token of each row from the logits, float32 [b, v], which are changed.

    Each row's choice depends on its own logits and random numbers only.

    Returns:
        Token ids; None for a row whose logits are not finite.
    """
    finite = torch.isfinite(logits.amax(dim=-1)).tolist()
    for index, row in enumerate(rows):
        row.adjust(logits[index])
    likeliest, best = logits.max(dim=-1)
    chosen: list[int | None] = best.tolist()
    drawing = [index for index, row in enumerate(rows) if row.request.temperature > 0 and finite[index]]
    if drawing:
        requests = [rows[index].request for index in drawing]
        temperature = torch.tensor([request.temperature for request in requests], device=logits.device)[:, None]
        numbers = torch.tensor([rows[index].random.random() for index in drawing], dtype=torch.float64)[:, None]
        top_p = torch.tensor([request.top_p for request in requests], dtype=torch.float64)[:, None]
        picked = torch.tensor(drawing, device=logits.device)
        probabilities = ((logits[picked] - likeliest[picked, None]) / temperature).softmax(dim=-1)  # [b, v]
        candidates = probabilities.topk(min(CANDIDATES, logits.shape[-1]), dim=-1)
        drawn, covered = draw(*(part.cpu() for part in candidates), top_p, numbers)
        for place, index in enumerate(drawing):
            if not covered[place]:
                one = slice(place, place + 1)
                everything = probabilities[one].sort(dim=-1, descending=True, stable=True)
                drawn[place] = draw(*(part.cpu() for part in everything), top_p[one], numbers[one])[0][0]
            chosen[index] = drawn[place]
    return [token if ok else None for token, ok in zip(chosen, finite, strict=True)]


def draw(probabilities: Tensor, ids: Tensor, top_p: Tensor, numbers: Tensor) -> tuple[list[int], list[bool]]:
    """Draw an id for each row from the likeliest ones that have the probability `top_p` together.

    Args:
        probabilities: [b, k], falling.
        ids: int64 [b, k], theirs.
        top_p: float64 [b, 1].
        numbers: float64 [b, 1], random, from 0 to below 1.

    Returns:
        The drawn ids, and for each row whether its `k` candidates have the probability `top_p` together.
    """
    sums = probabilities.double().cumsum(dim=-1)
    last = (sums < top_p).sum(dim=-1, keepdim=True)
    covered = (last < sums.shape[-1])[:, 0].tolist()
    last = last.clamp(max=sums.shape[-1] - 1)
    place = torch.searchsorted(sums, numbers * sums.gather(-1, last), right=True).minimum(last)
    return ids.gather(-1, place)[:, 0].tolist(), covered


def token_probabilities(logits: Tensor, tokens: list[int | None], rows: list[Row]) -> list[TokenProbability | None]:
    """Return the probabilities that the model gives, before temperature and penalties, to the rows that want them."""
    found: list[TokenProbability | None] = [None] * len(rows)
    for index, (token, row) in enumerate(zip(tokens, rows, strict=True)):
        count = row.request.logprobs
        if count is not None and token is not None:
            logprobs = logits[index].log_softmax(dim=-1)
            values, ids = logprobs.topk(min(count, len(logprobs)))
            likeliest = list(zip(ids.tolist(), values.tolist(), strict=True))
            found[index] = TokenProbability(token, float(logprobs[token]), likeliest)
    return found


# --------------------------------------------------------------------------------------------------------------------
# Engine
# --------------------------------------------------------------------------------------------------------------------


class Engine:
    """The thread that owns the model, its queue and its running batch.

    Args:
        model: a `ChatGLMForConditionalGeneration`, on its device and in evaluation mode.
        tokenizer: its tokenizer.
        max_batch_size: answers that run together.
        max_queue: requests that may wait besides.
        queue_seconds: how long a request may wait for its turn.
        total_seconds: how long waiting and answering may take.
        prompt_cache_bytes: memory for prompts that may be asked again.
        on_finished: called in the engine's thread with each answer that has ended.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: ChatGLMTokenizer,
        max_batch_size: int = 32,
        max_queue: int = 256,
        queue_seconds: float = 120.0,
        total_seconds: float = 600.0,
        prompt_cache_bytes: int = 256 << 20,
        on_finished: Callable[[Answer], None] | None = None,
    ) -> None:
        for name, value, least in (("max_batch_size", max_batch_size, 1), ("max_queue", max_queue, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.model, self.tokenizer = model, tokenizer
        self.max_batch_size, self.max_queue = max_batch_size, max_queue
        self.queue_seconds, self.total_seconds = queue_seconds, total_seconds
        self.on_finished = on_finished
        ends = getattr(model.generation_config, "eos_token_id", None) or model.config.eos_token_id
        self.end_ids = set(ends) if isinstance(ends, list | tuple) else {ends}
        self.special_ids = set(tokenizer.all_special_ids)
        self.waiting: collections.deque[Answer] = collections.deque()
        self.reading: tuple[Answer, ReadPrompt] | None = None
        self.rows: list[Row] = []
        self.cache = BatchCache()
        self.prompts = PromptCache(prompt_cache_bytes)
        self.step_seconds = SHORTEST_SLICE
        self.closing = False
        self.changed = threading.Condition()
        self.woken: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
        self.thread = threading.Thread(target=self._run, daemon=True, name="chatglm-engine")
        self.thread.start()

    # What other threads call

    def submit(self, *requests: Request) -> Answer | list[Answer]:
        """Queue a request and return its answer; of several requests, all or none are taken.

        Raises:
            PromptTooLongError: a prompt leaves no token for an answer.
            QueueFullError: there is no place for them.
            ClosedError: the engine is closing.
        """
        limit = self.model.config.max_sequence_length
        for request in requests:
            if len(request.prompt_ids) >= limit:
                raise PromptTooLongError(len(request.prompt_ids), limit)
        answers = [Answer(request) for request in requests]
        with self.changed:
            if self.closing:
                raise ClosedError("the server is shutting down")
            # with places free in the batch, a request waits for its prompt only
            places = self.max_queue + max(0, self.max_batch_size - self.batch_size)
            if len(self.waiting) + len(requests) > places:
                raise QueueFullError(
                    f"the server is busy: {self.batch_size} answers are running and {len(self.waiting)} requests wait "
                    f"(at most {self.max_queue} may). Try again later"
                )
            self.waiting.extend(answers)
            self.changed.notify()
        return answers[0] if len(answers) == 1 else answers

    def close(self, cancel: bool = True) -> None:
        """End the thread: at once, or with `cancel=False` when all answers have ended. No new ones are taken."""
        with self.changed:
            self.closing = True
            if cancel:
                running = [row.answer for row in self.rows] + ([self.reading[0]] if self.reading else [])
                for answer in [*self.waiting, *running]:
                    answer.cancel()
            self.changed.notify()
        self.thread.join()

    def place(self, answer: Answer) -> int:
        """Return an answer's place in the queue, the next one's being 1; 0 if it does not wait (any more)."""
        with self.changed:
            return self.waiting.index(answer) + 1 if answer in self.waiting else 0

    @property
    def queue_length(self) -> int:
        """Number of requests that wait."""
        return len(self.waiting)

    @property
    def batch_size(self) -> int:
        """Number of answers that run, the one whose prompt is being read included."""
        return len(self.rows) + (self.reading is not None)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self.thread.is_alive()

    # The thread

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self.changed:
                while not (self.waiting or self.reading or self.rows or self.closing):
                    self.changed.wait()
                if self.closing and not (self.waiting or self.reading or self.rows):
                    return
            try:
                self._drop()
                self._read()
                if self.rows:
                    self._decode()
            except Exception as error:  # the server must live on; those whose tokens were being computed are told
                logger.exception("a step failed")
                self._fail(error)
            self._wake()

    def _drop(self) -> None:
        """End what was cancelled or took too long."""
        now = time.monotonic()
        with self.changed:
            ended = [answer for answer in self.waiting if self._is_over(answer, now, waiting=True)]
            for answer in ended:
                self.waiting.remove(answer)
        for answer in ended:
            self._end(answer, self._reason(answer, now, waiting=True))
        if self.reading is not None and self._is_over(self.reading[0], now):
            self._end(self.reading[0], self._reason(self.reading[0], now))
            self.reading = None
        for index in reversed(range(len(self.rows))):
            answer = self.rows[index].answer
            if self._is_over(answer, now):
                self._end(answer, self._reason(answer, now))
                self._remove(index)

    def _is_over(self, answer: Answer, now: float, waiting: bool = False) -> bool:
        seconds = now - answer.submitted
        return answer.cancelled or seconds > self.total_seconds or waiting and seconds > self.queue_seconds

    def _reason(self, answer: Answer, now: float, waiting: bool = False) -> Piece:
        if answer.cancelled:
            return Piece(finish_reason="cancelled")
        if waiting and now - answer.submitted > self.queue_seconds:
            return Piece(error=QueueTimeoutError(f"no place became free within {self.queue_seconds:g} seconds"))
        return Piece(error=AnswerTimeoutError(f"the answer took more than {self.total_seconds:g} seconds"))

    def _read(self) -> None:
        """Read waiting prompts for as long as a token of the running answers takes, or to the end if none runs."""
        deadline = time.monotonic() + max(SHORTEST_SLICE, self.step_seconds)
        while self.reading is not None or self._take():
            answer, prompt = self.reading
            if prompt.logits is None and not prompt.advance(deadline - time.monotonic()):
                return
            self.reading = None
            if not answer.cached:
                self.prompts.put(prompt)
            self._join(answer, prompt)
            if self.rows and time.monotonic() >= deadline:
                return

    def _take(self) -> bool:
        """Give the next waiting request its place; return whether there is a request and a place."""
        with self.changed:
            if not self.waiting or len(self.rows) >= self.max_batch_size:
                return False
            answer = self.waiting.popleft()
            answer.started = time.monotonic()
            prompt = self.prompts.get(answer.request.prompt_ids)
            answer.cached = prompt is not None
            # taken from the queue and put into `reading` under one lock, so that `close` finds it in one of them
            self.reading = answer, prompt
        if prompt is None:
            try:
                self.reading = answer, ReadPrompt(self.model, answer.request.prompt_ids)
            except Exception:
                self.reading = answer, prompt
                raise
        return True

    def _join(self, answer: Answer, prompt: ReadPrompt) -> None:
        """Let an answer join the batch with its first token."""
        if answer.request.embedding:
            self._end(answer, Piece(finish_reason="stop", embedding=prompt.embedding.tolist()))
            return
        row = Row(answer, self.model, self.tokenizer)
        self.cache.append_row(prompt)
        self.rows.append(row)
        self._choose(prompt.logits[None].clone(), [row])

    def _decode(self) -> None:
        """Compute one token for every running answer."""
        start = time.monotonic()
        self.cache.prepare()
        last_tokens = torch.tensor([[row.last_token] for row in self.rows], device=self.model.device)
        logits = self.model(input_ids=last_tokens, past_key_values=self.cache, use_cache=True).logits[:, 0].float()
        self.cache.advance()
        self._choose(logits, list(self.rows))
        self.step_seconds += 0.2 * (time.monotonic() - start - self.step_seconds)

    def _choose(self, logits: Tensor, rows: list[Row]) -> None:
        """Choose and deliver the next token of some of the rows, and remove those that end with it."""
        raw = logits.clone() if any(row.request.logprobs is not None for row in rows) else logits
        tokens = choose_tokens(logits, rows)
        probabilities = token_probabilities(raw, tokens, rows)
        for row, token, probability in zip(rows, tokens, probabilities, strict=True):
            if self._deliver(row, token, probability):
                self._remove(self.rows.index(row))

    def _deliver(self, row: Row, token: int | None, probability: TokenProbability | None) -> bool:
        """Give an answer its next token; return whether it has ended."""
        answer = row.answer
        if answer.first_token is None:
            answer.first_token = time.monotonic()
        if token is None:
            reason = (
                "the model computed NaN or infinite logits for this request. Likely causes: damaged or wrongly "
                "converted weights, or float16 overflow; load the model in bfloat16 or float32"
            )
            self._end(answer, Piece(error=InvalidLogitsError(reason)))
            return True
        ended = token in self.end_ids
        row.last_token = token
        if row.seen is not None:
            row.seen.add(token)
        if not ended:
            answer.completion_tokens += 1
            if probability is not None:
                row.logprobs.append(probability)
        text = "" if ended or token in self.special_ids else row.decoder.put(token)
        full = not ended and answer.completion_tokens >= row.limit
        text = row.stop.put(row.tidy.put(text))
        if (ended or full) and not row.stop.found:
            text += row.stop.put(row.tidy.put(row.decoder.end(), ended=True), ended=True)
        finish_reason = "stop" if ended or row.stop.found else "length" if full else None
        if text or finish_reason:
            piece = Piece(text, row.logprobs, finish_reason)
            row.logprobs = []
            if finish_reason:
                self._end(answer, piece)
            else:
                self._put(answer, piece)
        return finish_reason is not None

    def _remove(self, index: int) -> None:
        self.cache.remove_row(index)
        self.rows[index] = self.rows[-1]
        self.rows.pop()

    def _fail(self, error: Exception) -> None:
        """End all answers whose state may be damaged, and start with an empty batch."""
        answers = [row.answer for row in self.rows] + ([self.reading[0]] if self.reading else [])
        self.rows, self.reading, self.cache = [], None, BatchCache()
        for answer in answers:
            if answer.finish_reason is None:
                reason = "out of memory" if "memory" in str(error) else type(error).__name__
                self._end(answer, Piece(error=StepError(f"the answer could not be computed: {reason}")))

    def _end(self, answer: Answer, piece: Piece) -> None:
        answer.finished = time.monotonic()
        answer.finish_reason = piece.finish_reason or "error"
        self._put(answer, piece)
        if self.on_finished is not None:
            self.on_finished(answer)

    def _put(self, answer: Answer, piece: Piece) -> None:
        answer.pieces.put(piece)
        if answer.loop is not None:
            self.woken.setdefault(answer.loop, []).append(answer)

    def _wake(self) -> None:
        """Tell each event loop once which answers have new pieces."""
        for loop, answers in self.woken.items():
            try:
                loop.call_soon_threadsafe(_set_arrived, answers)
            except RuntimeError:  # the loop has been closed, and with it whoever waited
                for answer in answers:
                    answer.cancel()
        self.woken = {}


def _set_arrived(answers: list[Answer]) -> None:
    for answer in answers:
        answer.arrived.set()
