"""Guess an answer's next tokens from its prompt and itself, so that one pass of the model reads several.

Answers quote: a document that was asked about, code to be changed, the turns before. Where the last tokens have
occurred before, the draft is what followed them there. The model reads the last token and the draft in one pass, which
costs little more than one token where reading the weights is what takes time; each token is then sampled from its own
logits, as ever, and the first one that is not the draft's ends it. So the answer does not depend on drafts at all,
provided that a pass of several tokens has the bits of several passes: `cpu_decode.tokens_together` says where.

Source: this project; the idea is prompt lookup decoding (A. Saxena, 2023), verified as in speculative decoding
(arXiv 2211.17192).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .cpu_decode import tokens_together

SHORTEST_MATCH = 3  # tokens that must have occurred before
LONGEST_MATCH = 16  # tokens beyond which a longer match says no more
ROW_COST = 0.15  # of a further token in a pass, in units of a pass of one token: 0.09 (AVX-512) to 0.16 (AVX2)
MEMORY = 8  # matches by which what was seen of their like is outweighed


class Drafts:
    """The drafts of one answer; what it costs a token does not grow with the text.

    Args:
        prompt_ids: the prompt's tokens.
        longest: tokens that a draft has at most.
    """

    def __init__(self, prompt_ids: Iterable[int], longest: int) -> None:
        self.longest = longest
        self.ids: list[int] = []
        self.followers: dict[tuple[int, ...], int] = {}  # where the text goes on behind those tokens
        self.source, self.match = 0, 0  # where the draft stands in `ids`, and how many tokens before it agree
        # how often the next token was right, by the match's length; the longer, the likelier
        self.rates = [1 - 0.6 * SHORTEST_MATCH / max(length, SHORTEST_MATCH) for length in range(LONGEST_MATCH + 1)]
        for token_id in prompt_ids:
            self._append(token_id)

    @classmethod
    def of(cls, model: nn.Module, prompt_ids: Iterable[int]) -> Drafts | None:
        """Return the drafts of an answer of a `ChatGLMForConditionalGeneration`, None where they could change it."""
        together = tokens_together(model) if model.drafts else 1
        return cls(prompt_ids, together - 1) if together > 1 else None

    def take(self, token_id: int) -> None:
        """Note the answer's next token, and whether a draft has it or would have had it."""
        if self.match:
            length = min(self.match, LONGEST_MATCH)
            self.rates[length] += ((self.ids[self.source] == token_id) - self.rates[length]) / MEMORY
        self._append(token_id)

    def propose(self, limit: int) -> list[int]:
        """Return the tokens that are worth reading ahead, `limit` at most; none if that does not pay."""
        end = self.source + min(limit, self.longest) if self.match else 0
        chance = expected = 1.0
        draft: list[int] = []
        for token_id in self.ids[self.source : end]:
            chance *= self.rates[min(self.match + len(draft), LONGEST_MATCH)]
            # a longer pass must bring more tokens for its time than the shorter one
            if chance * (1 + ROW_COST * len(draft)) <= expected * ROW_COST:
                break
            expected += chance
            draft.append(token_id)
        return draft

    def _append(self, token_id: int) -> None:
        """Add a token to the text; go on with the match, or find another one."""
        if self.match and self.ids[self.source] == token_id:
            self.source, self.match = self.source + 1, self.match + 1
        else:
            self.match = 0
        self.ids.append(token_id)
        last = tuple(self.ids[-SHORTEST_MATCH:])
        if not self.match and last in self.followers:
            self.source, self.match = self.followers[last], SHORTEST_MATCH
        if len(last) == SHORTEST_MATCH:
            self.followers[last] = len(self.ids)
