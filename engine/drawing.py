"""The next token of every running answer, each from its own logits and random numbers only.

Shapes: `b` running answers, `v` vocabulary, `k` candidates.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from chatglm import ChatGLMTokenizer, IncrementalDecoder
from chatglm.generation_chatglm import foreign_tokens

from .answer import Answer, TokenProbability
from .text import StopText, TidyText

CANDIDATES = 256  # likeliest tokens looked at first when drawing; more only where top_p needs them
LEAST_TEMPERATURE = 1e-30  # as good as 0, and still above 0 in float32


class Row:
    """A running answer: its random numbers, the text so far, the tokens that count for the repetition penalty."""

    def __init__(self, answer: Answer, model: nn.Module, tokenizer: ChatGLMTokenizer) -> None:
        request = answer.request
        self.answer, self.request = answer, request
        # None: a seed of the system's. Python's generator takes the absolute value, which would join -1 and 1
        self.random = random.Random(None if request.seed is None else request.seed % (1 << 64))
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
        temperature = [max(request.temperature, LEAST_TEMPERATURE) for request in requests]
        temperature = torch.tensor(temperature, device=logits.device)[:, None]
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
