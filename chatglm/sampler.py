"""The next token of every answer, each from its own logits and random numbers only.

Shapes: `b` rows, `v` vocabulary, `k` candidates.

Source: this project; order and meaning of the parameters are those of the original's library.
"""

from __future__ import annotations

import functools
import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .grammar import Constraint, Grammar, GrammarError
from .host_transfer import download, upload
from .sampling import Sampling

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


class InvalidLogitsError(ArithmeticError):
    """The model computed NaN or infinite logits, so that there is no token to sample."""

    def __init__(self, message: str = INVALID_LOGITS) -> None:
        super().__init__(message)


class Sampler:
    """How the tokens of one answer are sampled: its parameters, its random numbers, and the tokens it has so far.

    Args:
        sampling: the parameters.
        foreign: bool [v], true for tokens that are never taken, see `foreign_tokens`; None for no such tokens.
        prompt_ids: of the prompt, for the repetition penalty.
        end_ids: tokens that end an answer.
        grammar: the form that the answer has; None for any.
        limit: tokens that the answer may have, so that it has its form by then.
    """

    def __init__(
        self,
        sampling: Sampling,
        foreign: Tensor | None = None,
        prompt_ids: Iterable[int] = (),
        end_ids: Iterable[int] = (),
        grammar: Grammar | None = None,
        limit: int = 1 << 62,
    ) -> None:
        self.sampling, self.foreign, seed = sampling, foreign, sampling.seed
        # Python's generator takes the absolute value of a seed, which would join -1 and 1
        self.random = random.Random(None if seed is None else seed % (1 << 64))
        self.seen = set(prompt_ids) if sampling.repetition_penalty != 1 else None
        self.end_ids, self.length = sorted(end_ids), 0
        self.counts: dict[int, int] = {}  # of the answer's tokens
        self.constraint = None if grammar is None else Constraint(grammar, limit)

    @property
    def finished(self) -> bool:
        """Whether the answer has the form that was asked for, and ends with it."""
        return self.constraint is not None and self.constraint.finished

    def adjust(self, logits: Tensor) -> None:
        """Apply biases, penalties, and what may not be taken, to logits [v] in place; sums and order are vLLM's."""
        sampling, device = self.sampling, logits.device
        if sampling.logit_bias:
            ids = upload(list(sampling.logit_bias), device)
            logits[ids] += upload(list(sampling.logit_bias.values()), device, logits.dtype)
        if self.seen:
            ids = upload(sorted(self.seen), device)
            scores, penalty = logits[ids], sampling.repetition_penalty
            logits[ids] = torch.where(scores < 0, scores * penalty, scores / penalty)
        if self.counts and (sampling.frequency_penalty or sampling.presence_penalty):
            counts = upload(list(self.counts.values()), device, logits.dtype)
            penalties = sampling.frequency_penalty * counts + sampling.presence_penalty
            logits[upload(list(self.counts), device)] -= penalties
        if self.constraint is not None:
            foreign = () if self.foreign is None else (self.foreign.numpy(),)
            allowed = upload(self.constraint.allowed(foreign)[: len(logits)], device)
            logits[len(allowed) :] = -math.inf
            logits[: len(allowed)].masked_fill_(~allowed, -math.inf)
        elif self.end_ids and (sampling.ignore_eos or self.length < sampling.min_tokens):
            logits[upload(self.end_ids, device)] = -math.inf
        if self.foreign is not None and self.constraint is None:
            self.foreign = self.foreign[: len(logits)]
            if self.foreign.device != device:  # once an answer
                self.foreign = upload(self.foreign, device)
            logits[: len(self.foreign)].masked_fill_(self.foreign, -math.inf)
        if sampling.min_p and sampling.temperature > 0:  # a share of probabilities is a distance of logits
            least = logits.max() + sampling.temperature * math.log(sampling.min_p)
            logits.masked_fill_(logits < least, -math.inf)

    def failure(self) -> Exception:
        """Return why there is no next token."""
        error = self.constraint and self.constraint.error
        return (
            GrammarError(f"the answer's form could not be followed further: {error}") if error else InvalidLogitsError()
        )

    def choose(self, token_id: int) -> int | None:
        """Return a sampled token, or the one that the answer's form needs in its place; None if it cannot be had."""
        if self.constraint is None:
            return token_id
        return None if self.constraint.error else self.constraint.choose(token_id)

    def take(self, token_id: int) -> None:
        """Note a token of the answer."""
        if self.constraint is not None:
            self.constraint.take(token_id)
        self.length += 1
        self.counts[token_id] = self.counts.get(token_id, 0) + 1
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
        Token ids; None for a row whose logits are not finite, or whose form cannot be followed any more.
    """
    finite = torch.isfinite(logits.amax(dim=-1))  # NaN and +inf show in the maximum
    for row, sampler in zip(logits, samplers, strict=True):
        sampler.adjust(row)
    if process is not None:
        logits = process(logits)
    likeliest, best = logits.max(dim=-1)
    candidates: Sequence[Tensor] = ()
    wanted = [index for index, sampler in enumerate(samplers) if sampler.sampling.temperature > 0]
    if wanted:
        temperature = upload(
            [max(samplers[index].sampling.temperature, LEAST_TEMPERATURE) for index in wanted], logits.device
        )
        if len(wanted) < len(samplers):
            rows = upload(wanted, logits.device)
            logits, likeliest = logits[rows], likeliest[rows]
        probabilities = ((logits - likeliest[:, None]) / temperature[:, None]).softmax(dim=-1)  # [b, v]
        candidates = probabilities.topk(min(CANDIDATES, logits.shape[-1]), dim=-1)
    finite, best, *candidates = download(finite, best, *candidates)
    finite, tokens = finite.tolist(), best.tolist()
    sampled = [position for position, index in enumerate(wanted) if finite[index]]
    if sampled:
        chosen = [samplers[wanted[position]] for position in sampled]
        numbers = torch.tensor([sampler.random.random() for sampler in chosen], dtype=torch.float64)[:, None]
        top_p = torch.tensor([sampler.sampling.top_p for sampler in chosen], dtype=torch.float64)[:, None]
        size = logits.shape[-1]
        top_k = torch.tensor([min(sampler.sampling.top_k or size, size) for sampler in chosen])[:, None]
        ids, covered = sample_candidates(*(part[sampled] for part in candidates), top_k, top_p, numbers)
        for number, position in enumerate(sampled):
            if not covered[number]:
                row = slice(number, number + 1)
                everything = probabilities[position : position + 1].sort(dim=-1, descending=True, stable=True)
                everything = download(*everything)
                ids[number] = sample_candidates(*everything, top_k[row], top_p[row], numbers[row])[0][0]
            tokens[wanted[position]] = ids[number]
    return [
        sampler.choose(token) if valid else None for sampler, token, valid in zip(samplers, tokens, finite, strict=True)
    ]


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
    """
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
