"""How an answer comes about: sampling a token, the loop of `chat` and `stream_chat`, and which text is final.

An answer's way through this file: `decode` reads the prompt (prefill) and then computes a token at a time, `sample`
takes the next token of each row from its logits, and `AnswerText` turns the tokens into text that does not change any
more. The engine for many requests samples and writes with the same functions.

What only the library's `generate` can do (beams, the user's stopping criteria, assistant models, ...) stays its;
`FiniteLogits`, `StopWhen` and `GenerationThread` are what it is given beside the model.

Shapes: `b` batch, `s` prompt tokens, `t` tokens so far, `v` vocabulary, `k` candidates.

Source: this project; order and meaning of the sampling parameters are those of the original's library.
"""

from __future__ import annotations

import functools
import math
import queue
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from .tokenization_chatglm import IncrementalDecoder

if TYPE_CHECKING:
    from .tokenization_chatglm import ChatGLMTokenizer

CANDIDATES = 256  # likeliest tokens looked at first when sampling; more only where top_p needs them
LEAST_TEMPERATURE = 1e-30  # as good as 0, and still above 0 in float32
# characters that an answer kept to one language does not have
FOREIGN_CHARACTERS = {"en": "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]", "zh": "[A-Za-z]"}
INVALID_LOGITS = (
    "the model computed NaN or infinite logits. Likely causes: damaged or wrongly converted weights, or float16 "
    "overflow; check the files, or load the model in bfloat16 or float32"
)


# --------------------------------------------------------------------------------------------------------------------
# Sampling
# --------------------------------------------------------------------------------------------------------------------


class InvalidLogitsError(ArithmeticError):
    """The model computed NaN or infinite logits, so that there is no token to sample."""

    def __init__(self, message: str = INVALID_LOGITS) -> None:
        super().__init__(message)


class Sampler:
    """How the tokens of one answer are sampled: its parameters, its random numbers, and the tokens it has so far.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: sample from so many of the likeliest tokens; 0 for all.
        top_p: of these, sample from the likeliest ones that have this probability together.
        repetition_penalty: above 1 makes tokens of prompt and answer less likely.
        foreign: bool [v], true for tokens that are never taken, see `foreign_tokens`; None for no such tokens.
        seed: the same seed, the same answer; None for one that the system chooses.
        prompt_ids: of the prompt, for the repetition penalty.
    """

    def __init__(
        self,
        temperature: float,
        top_k: int,
        top_p: float,
        repetition_penalty: float = 1.0,
        foreign: Tensor | None = None,
        seed: int | None = None,
        prompt_ids: Iterable[int] = (),
    ) -> None:
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.repetition_penalty, self.foreign = repetition_penalty, foreign
        # Python's generator takes the absolute value of a seed, which would join -1 and 1
        self.random = random.Random(None if seed is None else seed % (1 << 64))
        self.seen = set(prompt_ids) if repetition_penalty != 1 else None

    def adjust(self, logits: Tensor) -> None:
        """Apply repetition penalty and language to logits [v], in place."""
        if self.seen:
            ids = torch.tensor(sorted(self.seen), device=logits.device)
            scores = logits[ids]
            logits[ids] = torch.where(scores < 0, scores * self.repetition_penalty, scores / self.repetition_penalty)
        if self.foreign is not None:
            self.foreign = self.foreign[: len(logits)].to(logits.device)
            logits[: len(self.foreign)].masked_fill_(self.foreign, -math.inf)

    def take(self, token_id: int) -> None:
        """Note a token of the answer."""
        if self.seen is not None:
            self.seen.add(token_id)


def sample(
    logits: Tensor, samplers: Sequence[Sampler], process: Callable[[Tensor], Tensor] | None = None
) -> list[int | None]:
    """Sample the next token of each row from its own logits and random numbers only.

    Args:
        logits: float32 [b, v]; they are changed.
        samplers: one for each row.
        process: changes the logits once more, [b, v] to [b, v], after penalties and before temperature.

    Returns:
        Token ids; None for a row whose logits are not finite.
    """
    finite = torch.isfinite(logits.amax(dim=-1)).tolist()  # NaN and +inf show in the maximum
    for row, sampler in zip(logits, samplers, strict=True):
        sampler.adjust(row)
    if process is not None:
        logits = process(logits)
    likeliest, best = logits.max(dim=-1)
    tokens: list[int | None] = best.tolist()
    sampled = [index for index, sampler in enumerate(samplers) if sampler.temperature > 0 and finite[index]]
    if sampled:
        chosen = [samplers[index] for index in sampled]
        temperature = [max(sampler.temperature, LEAST_TEMPERATURE) for sampler in chosen]
        temperature = torch.tensor(temperature, device=logits.device)[:, None]
        numbers = torch.tensor([sampler.random.random() for sampler in chosen], dtype=torch.float64)[:, None]
        top_p = torch.tensor([sampler.top_p for sampler in chosen], dtype=torch.float64)[:, None]
        top_k = torch.tensor([sampler.top_k or logits.shape[-1] for sampler in chosen])[:, None]
        rows = torch.tensor(sampled, device=logits.device)
        probabilities = ((logits[rows] - likeliest[rows, None]) / temperature).softmax(dim=-1)  # [b, v]
        candidates = probabilities.topk(min(CANDIDATES, logits.shape[-1]), dim=-1)
        ids, covered = sample_candidates(*(part.cpu() for part in candidates), top_k, top_p, numbers)
        for position, index in enumerate(sampled):
            if not covered[position]:
                row = slice(position, position + 1)
                everything = probabilities[row].sort(dim=-1, descending=True, stable=True)
                everything = (part.cpu() for part in everything)
                ids[position] = sample_candidates(*everything, top_k[row], top_p[row], numbers[row])[0][0]
            tokens[index] = ids[position]
    return [token if valid else None for token, valid in zip(tokens, finite, strict=True)]


def sample_candidates(
    probabilities: Tensor, ids: Tensor, top_k: Tensor, top_p: Tensor, numbers: Tensor
) -> tuple[list[int], list[bool]]:
    """Sample an id for each row from the `top_k` likeliest ones, of these from those that have `top_p` together.

    Args:
        probabilities: [b, k], falling.
        ids: int64 [b, k], theirs.
        top_k: int64 [b, 1], the size of the vocabulary for no limit.
        top_p: float64 [b, 1], share of the probability that the `top_k` ids have together.
        numbers: float64 [b, 1], random, from 0 to below 1.

    Returns:
        The ids, and for each row whether its `k` candidates are all that may be sampled.
    """
    k = probabilities.shape[-1]
    sums = probabilities.double().masked_fill(torch.arange(k) >= top_k, 0).cumsum(dim=-1)
    whole = torch.where(top_k <= k, sums[:, -1:], 1.0)
    last = (sums < top_p * whole).sum(dim=-1, keepdim=True)
    covered = ((last < k) | (top_k <= k))[:, 0].tolist()
    last = last.clamp(max=k - 1)
    position = torch.searchsorted(sums, numbers * sums.gather(-1, last), right=True).minimum(last)
    return ids.gather(-1, position)[:, 0].tolist(), covered


@functools.lru_cache(maxsize=8)
def foreign_tokens(tokenizer: ChatGLMTokenizer, language: str) -> Tensor:
    """Return a bool [v] that is true for the tokens that an answer in one language does not have.

    Args:
        tokenizer: the model's.
        language: "en" has no tokens with Chinese characters, "zh" none with Latin letters.

    Raises:
        ValueError: another language.
    """
    if language not in FOREIGN_CHARACTERS:
        raise ValueError(f"language must be one of {', '.join(FOREIGN_CHARACTERS)}, got {language!r}")
    special_ids = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(list(range(tokenizer.vocab_size)))
    # a letter that the vocabulary lacks is spelled as its byte
    tokens = [re.sub(r"^<0x([0-7].)>$", lambda byte: chr(int(byte[1], 16)), token) for token in tokens]
    foreign = re.compile(FOREIGN_CHARACTERS[language])
    return torch.tensor(
        [
            token_id not in special_ids and not re.match(r"<.+>$", token) and bool(foreign.search(token))
            for token_id, token in enumerate(tokens)
        ]
    )


# --------------------------------------------------------------------------------------------------------------------
# The loop
# --------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    samplers: Sequence[Sampler],
    max_new_tokens: int,
    end_ids: Iterable[int],
    pad_token_id: int,
    logits_processor: Sequence[LogitsProcessor] | None = None,
) -> Iterator[list[int]]:
    """Read prompts, then yield a token for each row until all rows have ended; closing the generator ends it, too.

    The model reads each prompt once and each token but the last once.

    Args:
        model: a `ChatGLMForConditionalGeneration`.
        input_ids: int64 [b, s], prompts padded on the left.
        attention_mask: as `forward` takes it.
        samplers: one for each row.
        max_new_tokens: tokens of an answer at most.
        end_ids: ids that end a row; they are yielded.
        pad_token_id: yielded for rows that have ended.
        logits_processor: applied to the logits of every token.

    Raises:
        InvalidLogitsError: the model computed NaN or infinite logits.
    """
    processors, process = LogitsProcessorList(logits_processor or []), None
    end_ids, running = set(end_ids), [True] * len(input_ids)
    output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=True, logits_to_keep=1)
    for remaining in range(max_new_tokens - 1, -1, -1):
        if processors:
            process = functools.partial(processors, input_ids)
        tokens = sample(output.logits[:, -1].to(torch.float32, copy=True), samplers, process)
        if None in tokens:
            raise InvalidLogitsError
        for sampler, token_id in zip(samplers, tokens, strict=True):
            sampler.take(token_id)
        tokens = [token_id if runs else pad_token_id for token_id, runs in zip(tokens, running, strict=True)]
        yield tokens
        running = [runs and token_id not in end_ids for token_id, runs in zip(tokens, running, strict=True)]
        if not remaining or not any(running):
            return
        new_ids = torch.tensor(tokens, device=input_ids.device)[:, None]  # [b, 1]
        if processors:
            input_ids = torch.cat([input_ids, new_ids], dim=1)
        output = model(input_ids=new_ids, cache=output.cache, use_cache=True)


def end_token_ids(model: PreTrainedModel) -> set[int]:
    """Return the ids that end an answer of a model."""
    ids = getattr(model.generation_config, "eos_token_id", None) or model.config.eos_token_id
    return set(ids) if isinstance(ids, list | tuple) else {ids}


# --------------------------------------------------------------------------------------------------------------------
# Text
# --------------------------------------------------------------------------------------------------------------------

# What `process_response` may still change when more text comes: half-width punctuation, the date's placeholder.
UNSETTLED_END = re.compile(r"(?:[,!:;?]|\[|\[\[(?:训(?:练(?:时(?:间\]?)?)?)?)?)\Z")


def process_response(response: str, map_punctuation: bool = True) -> str:
    """Return an answer as the original shows it: stripped, the training date filled in, and `,!:;?` in full width
    beside a Chinese character (switch this off for code and JSON)."""
    response = response.strip().replace("[[训练时间]]", "2023年")
    if map_punctuation:
        for half, full in (",，", "!！", ":：", ";；", "?？"):
            response = re.sub(rf"([\u4e00-\u9fff])\{half}", rf"\1{full}", response)
            response = re.sub(rf"\{half}([\u4e00-\u9fff])", rf"{full}\1", response)
    return response


class SettledText:
    """Apply `process_response` to text that comes in parts: what is returned will not change any more.

    Args:
        map_punctuation: see `process_response`.
    """

    def __init__(self, map_punctuation: bool = True) -> None:
        self.map_punctuation = map_punctuation
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
        final = process_response(self.last + self.pending[:end], self.map_punctuation)[len(self.last) :]
        self.pending, self.last = self.pending[end:], final[-1]
        return final


class StopText:
    """Find the first of some texts in text that comes in parts, and hold back what may still become one of them."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = tuple(stop)
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


class AnswerText:
    """The text of one answer as its tokens come; the parts that are returned are final and add up to the answer.

    Args:
        tokenizer: the model's.
        map_punctuation: see `process_response`.
        stop: texts that end the answer, which does not include them.
    """

    def __init__(self, tokenizer: ChatGLMTokenizer, map_punctuation: bool = True, stop: Sequence[str] = ()) -> None:
        self.special_ids = set(tokenizer.all_special_ids)
        self.decoder = IncrementalDecoder(tokenizer)
        self.settled, self.stop = SettledText(map_punctuation), StopText(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come, and with it the end."""
        return self.stop.found

    def put(self, token_id: int) -> str:
        """Take the next token and return the text that is final now, possibly ""."""
        text = "" if token_id in self.special_ids else self.decoder.put(token_id)
        return self.stop.put(self.settled.put(text))

    def end(self) -> str:
        """Return what was held back when no more tokens come."""
        return "" if self.stopped else self.stop.put(self.settled.put(self.decoder.end(), ended=True), ended=True)


# --------------------------------------------------------------------------------------------------------------------
# Beside the library's `generate`
# --------------------------------------------------------------------------------------------------------------------


class FiniteLogits(LogitsProcessor):
    """Take note of logits that are not finite: `stop` then ends the generation, and `check` raises.

    The note stays on the device until the loop's own stopping check reads it, so that no token costs a transfer more.
    """

    def __init__(self) -> None:
        self.invalid: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        invalid = ~torch.isfinite(scores.amax(dim=-1)).all()  # NaN and +inf show in the maximum
        self.invalid = invalid if self.invalid is None else self.invalid | invalid
        return scores.masked_fill(invalid, 0.0)

    def stop(self, input_ids: Tensor) -> Tensor:
        """Return whether to stop each row, bool [b]."""
        invalid = torch.zeros((), dtype=torch.bool) if self.invalid is None else self.invalid
        return invalid.to(input_ids.device).expand(input_ids.shape[0])

    def check(self) -> None:
        """Raise InvalidLogitsError if any logits were not finite."""
        if self.invalid is not None and bool(self.invalid):
            raise InvalidLogitsError


class InvalidScoreLogitsProcessor(LogitsProcessor):
    """The original's processor of this name, for programs that pass it on; there it hid NaN behind a blank answer.

    Raises:
        InvalidLogitsError: scores [b, v] that are NaN or infinite.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not torch.isfinite(scores.amax(dim=-1)).all():
            raise InvalidLogitsError
        return scores


class ForbidTokens(LogitsProcessor):
    """Never take some tokens, given as a bool [v]; see `foreign_tokens`."""

    def __init__(self, forbidden: Tensor) -> None:
        self.forbidden = forbidden

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forbidden = self.forbidden[: scores.shape[-1]].to(scores.device)
        scores[:, : len(forbidden)].masked_fill_(forbidden, -math.inf)
        return scores


class StopWhen(StoppingCriteria):
    """Stop the rows for which a function of the ids [b, t] says so, bool [b]."""

    def __init__(self, condition: Callable[[Tensor], Tensor]) -> None:
        self.condition = condition

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        return self.condition(input_ids)


class GenerationThread(BaseStreamer):
    """Run `generate` in a thread and iterate over its tokens; leaving the `with` block ends it within a token.

    Args:
        model: a `ChatGLMForConditionalGeneration`.
        arguments: of its `generate`.
    """

    def __init__(self, model: PreTrainedModel, arguments: dict) -> None:
        self.tokens: queue.SimpleQueue = queue.SimpleQueue()
        self.stopped = False
        self.prompt_seen = False
        criteria = [*(arguments.get("stopping_criteria") or []), StopWhen(self._stop)]
        arguments = dict(arguments, streamer=self, stopping_criteria=criteria)
        self.thread = threading.Thread(target=self._run, args=(model, arguments), daemon=True, name="chatglm-generate")

    def _run(self, model: PreTrainedModel, arguments: dict) -> None:
        try:
            model.generate(**arguments)
            self.tokens.put(None)
        except BaseException as error:  # whatever it is, the consumer raises it
            self.tokens.put(error)

    def put(self, value: Tensor) -> None:
        """Take new token ids from `generate`: [b], or of accepted drafts [1, n]; the first call brings the prompt."""
        if self.prompt_seen:
            for ids in value.reshape(-1, 1).tolist() if value.dim() == 2 else [value.tolist()]:
                self.tokens.put(ids)
        self.prompt_seen = True

    def end(self) -> None:
        """Take note of the end: nothing to do, `_run` reports it."""

    def _stop(self, input_ids: Tensor) -> Tensor:
        return torch.full((input_ids.shape[0],), self.stopped, dtype=torch.bool, device=input_ids.device)

    def __iter__(self) -> Iterator[list[int]]:
        """Iterate over the next token of each row."""
        while (item := self.tokens.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> GenerationThread:
        self.thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stopped = True
        self.thread.join()
