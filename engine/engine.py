"""The generation thread: its queue, the prompts that it reads and the batch that it decodes."""

from __future__ import annotations

import asyncio
import collections
import logging
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from chatglm import ChatGLMTokenizer, PromptTooLongError
from chatglm.cuda_decode import graph_bytes
from chatglm.generation_chatglm import end_token_ids
from chatglm.host_transfer import upload
from chatglm.sampler import sample
from loading.devices import free_memory
from loading.named_adapters import NamedAdapters

from .answer import (
    Answer,
    AnswerTimeoutError,
    ClosedError,
    Piece,
    QueueFullError,
    QueueTimeoutError,
    Request,
    StepError,
    TokenProbability,
)
from .cache import FREE_SHARE, BatchCache, Preempted
from .prompts import Prefill, Prompt, PromptCache
from .rows import Row, token_probabilities

logger = logging.getLogger(__name__)

SHORTEST_SLICE = 0.02  # seconds of prompt reading between two tokens of the running answers
PASS_TOKENS = 1024  # of prompts and padding; a large GPU computes as many in the time that asking for a pass takes
ROOM_TO_RESUME = 64  # tokens; with room for the next one only, an answer would come and go with each


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
        cache_bytes: memory for keys and values of running answers; None: 70 % of what is free now. Where answers grow
            beyond it, those that began last wait until there is room again; one alone runs in any case.
        on_finished: called in the engine's thread with each answer that has ended.
        adapters: of the model, by name, for requests to choose from. Answers of one adapter run together, and those of
            another when those have ended; see `_next`.
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
        cache_bytes: int | None = None,
        on_finished: Callable[[Answer], None] | None = None,
        adapters: NamedAdapters | None = None,
    ) -> None:
        for name, value, least in (("max_batch_size", max_batch_size, 1), ("max_queue", max_queue, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.model, self.tokenizer = model, tokenizer
        self.adapters, self.switched = adapters or NamedAdapters(model, {}), 0.0
        self.max_batch_size, self.max_queue = max_batch_size, max_queue
        self.queue_seconds, self.total_seconds = queue_seconds, total_seconds
        self.on_finished = on_finished
        self.end_ids = end_token_ids(model)
        self.open: set[Answer] = set()  # every submitted answer that has not ended, wherever it is
        self.waiting: collections.deque[Answer] = collections.deque()
        self.reading: dict[Answer, Prompt] = {}  # out of the queue and not yet in the batch
        self.prefill: Prefill | None = None  # the pass that reads their prompts
        self.pass_tokens = PASS_TOKENS if model.device.type == "cuda" else 0  # for several prompts; one may be longer
        self.one_by_one = False  # how those in `reading` are read after a pass of several has failed
        self.rows: list[Row] = []
        if cache_bytes is None:
            graphs = graph_bytes(model, max_batch_size) if model.device.type == "cuda" else 0
            cache_bytes = max(0, int(FREE_SHARE * (free_memory(model) - graphs)))
        self.cache_bytes = cache_bytes
        self.cache = self._empty_cache()
        self.preempted: collections.deque[tuple[Row, Preempted]] = collections.deque()  # in the order they began in
        self.prompts = PromptCache(prompt_cache_bytes)
        self.step_seconds = SHORTEST_SLICE
        self.closing = self.cancelling = False
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
            ValueError: `logit_bias` names tokens that the vocabulary does not have, or there is no such adapter.
        """
        limit = self.model.config.max_sequence_length
        for request in requests:
            if len(request.prompt_ids) >= limit:
                raise PromptTooLongError(len(request.prompt_ids), limit)
            request.check_vocabulary(self.model.config.vocab_size)
            if request.adapter not in (None, *self.adapters.names):
                raise ValueError(f"adapter must be one of {self.adapters.names} or None, got {request.adapter!r}")
        answers = [Answer(request) for request in requests]
        with self.changed:
            if self.closing or not self.alive:
                raise ClosedError("the server is shutting down")
            # with room in the batch, a request waits for its prompt only
            room = self.max_queue + max(0, self.max_batch_size - self.batch_size)
            if len(self.waiting) + len(requests) > room:
                raise QueueFullError(
                    f"the server is busy: {self.batch_size} answers are running and {len(self.waiting)} requests wait "
                    f"(at most {self.max_queue} may). Try again later"
                )
            self.open.update(answers)
            self.waiting.extend(answers)
            self.changed.notify()
        return answers[0] if len(answers) == 1 else answers

    def close(self, cancel: bool = True) -> None:
        """End the thread: at once, or with `cancel=False` when all answers have ended. No new ones are taken."""
        with self.changed:
            self.closing, self.cancelling = True, cancel
            self.changed.notify()
        self.thread.join()

    def queue_position(self, answer: Answer) -> int:
        """Return an answer's position in the queue, the next one's being 1; 0 if it does not wait (any more)."""
        with self.changed:
            return self.waiting.index(answer) + 1 if answer in self.waiting else 0

    @property
    def queue_length(self) -> int:
        """Number of requests that wait."""
        return len(self.waiting)

    @property
    def batch_size(self) -> int:
        """Number of answers that run, those preempted and those whose prompts are being read included."""
        return len(self.rows) + len(self.preempted) + len(self.reading)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self.thread.is_alive()

    # The thread

    @torch.inference_mode()
    def _run(self) -> None:
        """Serve until the engine is closed. Whatever raises, every answer that was submitted ends, and once."""
        failure: Exception | None = None
        try:
            while True:
                try:
                    if failure is not None:
                        self._fail(failure)
                        failure = None
                    self._wake()
                    if not self._await_work():
                        return
                    self._step()
                except Exception as error:  # the server must live on; those whose tokens were being computed are told
                    failure = error  # and if telling them fails, they are told in the next round
                    logger.exception("a step failed")
        finally:
            with self.changed:
                self.closing = True
            for answer in [*self.open]:
                self._end(answer, Piece(error=ClosedError("the engine has ended")))
            self._wake()

    def _await_work(self) -> bool:
        """Wait for something to do; return whether there is, and not the engine's end."""
        with self.changed:
            while not (self.waiting or self.batch_size or self.closing):
                self.changed.wait()
            return bool(self.waiting or self.batch_size)

    def _step(self) -> None:
        self._drop()
        self._resume()
        self._read()
        if self.rows:
            self._decode()

    def _drop(self) -> None:
        """End what was cancelled or took too long."""
        now = time.monotonic()
        with self.changed:
            ended = [answer for answer in self.waiting if self._is_over(answer, now, waiting=True)]
            for answer in ended:
                self.waiting.remove(answer)
        for answer in ended:
            self._end(answer, self._reason(answer, now, waiting=True))
        for answer in [answer for answer in self.reading if self._is_over(answer, now)]:
            self._end(answer, self._reason(answer, now))
            del self.reading[answer]
        if not self.reading:
            self.prefill = None
        for index in reversed(range(len(self.preempted))):
            answer = self.preempted[index][0].answer
            if self._is_over(answer, now):
                self._end(answer, self._reason(answer, now))
                del self.preempted[index]
        for index in reversed(range(len(self.rows))):
            answer = self.rows[index].answer
            if self._is_over(answer, now):
                self._end(answer, self._reason(answer, now))
                self._remove(index)

    def _is_over(self, answer: Answer, now: float, waiting: bool = False) -> bool:
        seconds = now - answer.submitted
        too_long = seconds > self.total_seconds or waiting and seconds > self.queue_seconds
        return answer.cancelled or self.cancelling or too_long

    def _reason(self, answer: Answer, now: float, waiting: bool = False) -> Piece:
        if answer.cancelled or self.cancelling:
            return Piece(finish_reason="cancelled")
        if waiting and now - answer.submitted > self.queue_seconds:
            return Piece(error=QueueTimeoutError(f"no place became free within {self.queue_seconds:g} seconds"))
        return Piece(error=AnswerTimeoutError(f"the answer took more than {self.total_seconds:g} seconds"))

    def _read(self) -> None:
        """Read waiting prompts for as long as a token of the running answers takes, or to the end if none runs."""
        deadline = time.monotonic() + max(SHORTEST_SLICE, self.step_seconds)
        while self.reading or self._take():
            self._join()
            if self.rows and time.monotonic() >= deadline:
                return
            if self.reading and not self._advance(deadline):
                return

    def _take(self) -> bool:
        """Take waiting requests, as many as have room in the batch and in a pass; return whether there were any."""
        lengths: list[int] = []
        unread: dict[tuple[int, ...], Prompt] = {}  # equal prompts are read once
        self.one_by_one = False
        with self.changed:
            while self.waiting and not self.preempted and len(self.rows) + len(self.reading) < self.max_batch_size:
                if not self.batch_size:
                    self._switch(self.waiting[0].request.adapter)
                if (answer := self._next()) is None:
                    break
                prompt_ids = answer.request.prompt_ids
                lengths.append(len(prompt_ids) + self.cache.prefix_length)
                if (self.rows or self.reading) and not self.cache.has_room(*lengths):
                    break
                prompt = self.prompts.get(prompt_ids, self.adapters.active) or unread.get(tuple(prompt_ids))
                cached = prompt is not None
                if prompt is None:
                    longest = max(map(len, (prompt_ids, *unread)))
                    if unread and (len(unread) + 1) * longest > self.pass_tokens:
                        break
                    prompt = unread[tuple(prompt_ids)] = Prompt(prompt_ids)
                self.waiting.remove(answer)
                answer.started, answer.cached = time.monotonic(), cached
                self.reading[answer] = prompt
        return bool(self.reading)

    def _switch(self, adapter: str | None) -> None:
        """Put another adapter into the model, while nothing runs."""
        if adapter != self.adapters.active:
            self.adapters.use(adapter)
            # a new cache is how fused decoding notices: in the old one, a prompt could look like one more token
            self.switched, self.cache = time.monotonic(), self._empty_cache()

    def _next(self) -> Answer | None:
        """Return the waiting request for the adapter in the model that is next, if it may be taken.

        All that waited when the adapter came may. Those that came later do not overtake requests for other adapters,
        so that each adapter has its turn.
        """
        overtakes = False
        for answer in self.waiting:
            if answer.request.adapter == self.adapters.active:
                return None if overtakes and answer.submitted > self.switched else answer
            overtakes = True
        return None

    def _advance(self, deadline: float) -> bool:
        """Read on until a time; return whether a pass has ended. One that fails is made again, prompt by prompt."""
        unread = [prompt for prompt in dict.fromkeys(self.reading.values()) if prompt.logits is None]
        prompts = self.prefill.prompts if self.prefill else unread[:1] if self.one_by_one else unread
        try:
            self.prefill = self.prefill or Prefill(self.model, prompts)
            if not self.prefill.advance(deadline - time.monotonic()):
                return False
        except Exception as error:  # no running answer's state was touched: at most those to one prompt end
            logger.exception("reading prompts of %s tokens failed", [len(prompt.prompt_ids) for prompt in prompts])
            self.one_by_one = True
            if len(prompts) == 1:
                for answer in [answer for answer, prompt in self.reading.items() if prompt is prompts[0]]:
                    del self.reading[answer]
                    self._end(answer, failed(error))
        self.prefill = None
        return True

    def _join(self) -> None:
        """Add the answers whose prompts have been read to the batch, with their first tokens."""
        rows, logits = [], []
        for answer, prompt in [*self.reading.items()]:
            if prompt.logits is None:
                continue
            del self.reading[answer]
            if answer.request.embedding:
                self._end(answer, Piece(finish_reason="stop", embedding=prompt.embedding.tolist()))
                continue
            if not answer.cached:
                self.prompts.put(prompt, self.adapters.active)
            rows.append(Row(answer, self.model, self.tokenizer))
            self.cache.append_row(prompt)
            self.rows.append(rows[-1])
            logits.append(prompt.logits)
        if rows:
            self._sample(torch.stack(logits), rows)

    def _make_room(self) -> None:
        """Preempt the answers that began last, as many as needed for the others to have another token."""
        while len(self.rows) > 1 and not self.cache.has_room():
            index = max(range(len(self.rows)), key=lambda index: self.rows[index].answer.started)
            self.preempted.appendleft((self.rows[index], self.cache.preempt(index)))
            self._remove(index)

    def _resume(self) -> None:
        """Resume preempted answers where there is room for more than their next token."""
        while self.preempted:
            row, state = self.preempted[0]
            if self.rows and not self.cache.has_room(state.cache.lengths[0] + ROOM_TO_RESUME):
                return
            self.preempted.popleft()
            self.cache.append_row(state)
            self.rows.append(row)

    def _decode(self) -> None:
        """Compute one token for every running answer, or several for one that runs alone."""
        start = time.monotonic()
        self._make_room()
        row = self.rows[0]
        draft = [] if len(self.rows) > 1 or row.drafts is None else row.drafts.propose(row.remaining - 1)
        self.cache.prepare(1 + len(draft))
        ids = upload([[row.last_token, *draft] for row in self.rows], self.model.device)
        logits = self.model(input_ids=ids, cache=self.cache, use_cache=True).logits.float()
        self.cache.advance(1 + len(draft))
        for place in range(1 + len(draft)):
            self._sample(logits[:, place], list(self.rows))
            if not self.rows or draft[place : place + 1] != [row.last_token]:
                break
        if draft and self.rows:
            self.cache.shorten_row(0, len(draft) - place)
        self.step_seconds += 0.2 * (time.monotonic() - start - self.step_seconds)

    def _sample(self, logits: Tensor, rows: list[Row]) -> None:
        """Sample and deliver the next token of some of the rows, and remove those that end with it."""
        raw = logits.clone() if any(row.request.logprobs is not None for row in rows) else logits
        tokens = sample(logits, [row.sampler for row in rows])
        probabilities = token_probabilities(raw, tokens, rows)
        for row, token, probability in zip(rows, tokens, probabilities, strict=True):
            try:
                ended = self._deliver(row, token, probability)
            except Exception as error:  # of this row's text alone
                logger.exception("an answer failed")
                self._end(row.answer, failed(error))
                ended = True
            if ended:
                self._remove(self.rows.index(row))

    def _deliver(self, row: Row, token: int | None, probability: TokenProbability | None) -> bool:
        """Give an answer its next token; return whether it has ended."""
        answer = row.answer
        if answer.first_token is None:
            answer.first_token = time.monotonic()
        if token is None:
            self._end(answer, Piece(error=row.sampler.failure()))
            return True
        ended = token in self.end_ids
        row.take(token)
        if not ended:
            answer.completion_tokens += 1
            if probability is not None:
                row.logprobs.append(probability)
        text = "" if ended else row.text.put(token)
        ended = ended or row.sampler.finished
        full = answer.completion_tokens >= row.limit
        if ended or full:
            text += row.text.end()
        finish_reason = "stop" if ended or row.text.stopped else "length" if full else None
        answer.stop_text = row.text.stop.found
        if text or finish_reason:
            piece = Piece(text, row.logprobs, finish_reason)
            row.logprobs = []
            if finish_reason:
                self._end(answer, piece)
            else:
                self._put(answer, piece)
        return finish_reason is not None

    def _empty_cache(self) -> BatchCache:
        return BatchCache(self.cache_bytes, self.model.config.max_sequence_length)

    def _remove(self, index: int) -> None:
        self.cache.remove_row(index)
        self.rows[index] = self.rows[-1]
        self.rows.pop()

    def _fail(self, error: Exception) -> None:
        """End all answers whose state may be damaged, and start with an empty batch.

        Damaged is what neither waits nor was preempted: what raised may have been about to put it into a list.
        """
        self.rows, self.reading, self.prefill, self.cache = [], {}, None, self._empty_cache()
        self.preempted = collections.deque(pair for pair in self.preempted if pair[0].answer in self.open)
        with self.changed:
            sound = {*self.waiting, *(row.answer for row, _ in self.preempted)}
            damaged = self.open - sound
        for answer in damaged:
            self._end(answer, failed(error))

    def _end(self, answer: Answer, piece: Piece) -> None:
        """Deliver the last piece of an answer, unless it has had it."""
        if answer not in self.open:
            return
        answer.finished = time.monotonic()
        answer.finish_reason = piece.finish_reason or "error"
        self._put(answer, piece)
        self.open.discard(answer)
        if self.on_finished is not None:
            try:
                self.on_finished(answer)
            except Exception:  # whoever counts must not stop the thread that answers
                logger.exception("on_finished failed")

    def _put(self, answer: Answer, piece: Piece) -> None:
        answer.pieces.put(piece)
        if answer.loop is not None:
            self.woken.setdefault(answer.loop, []).append(answer)

    def _wake(self) -> None:
        """Wake each event loop once for all of its answers that have new pieces."""
        for loop, answers in self.woken.items():
            try:
                loop.call_soon_threadsafe(_set_arrived, answers)
            except RuntimeError:  # the loop has been closed, and with it whoever waited
                for answer in answers:
                    answer.cancel()
        self.woken = {}


def failed(error: Exception) -> Piece:
    """Return the end of an answer that could not be computed."""
    reason = "out of memory" if "memory" in str(error) else type(error).__name__
    return Piece(error=StepError(f"the answer could not be computed: {reason}"))


def _set_arrived(answers: list[Answer]) -> None:
    for answer in answers:
        answer.arrived.set()
