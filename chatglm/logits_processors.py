"""What changes or watches the logits of the library's `generate`.

Shapes: `b` batch, `t` tokens so far, `v` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LogitsProcessor

from .sampler import InvalidLogitsError, Sampler


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


class AdjustLogits(LogitsProcessor):
    """Change the logits of the library's `generate` as those of our own loop are, see `Sampler.adjust`.

    Args:
        start: returns the sampler of an answer that has no token yet.
        prompt_length: tokens before the answer.
    """

    def __init__(self, start: Callable[[], Sampler], prompt_length: int) -> None:
        self.start, self.prompt_length = start, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for answer_ids, row in zip(input_ids[:, self.prompt_length :].tolist(), scores, strict=True):
            sampler = self.start()  # of beams, a row may go on another one's answer
            for token_id in answer_ids:
                sampler.take(token_id)
            sampler.adjust(row)
        return scores
