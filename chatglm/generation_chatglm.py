"""What `generate` is given beside the model: checks and choices of logits, reasons to stop, and a thread to run in.

Source: this project; `FiniteLogits` takes the place of the original's processor that hid NaN behind a blank answer.
"""

from __future__ import annotations

import functools
import math
import queue
import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

if TYPE_CHECKING:
    from .tokenization_chatglm import ChatGLMTokenizer

# characters that an answer kept to one language does not have
FOREIGN_CHARACTERS = {"en": "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]", "zh": "[A-Za-z]"}


class InvalidLogitsError(ArithmeticError):
    """The model computed NaN or infinite logits, so that there is no token to choose."""


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
            raise InvalidLogitsError(
                "the model computed NaN or infinite logits. Likely causes: damaged or wrongly converted weights, or "
                "float16 overflow; check the files, or load the model in bfloat16 or float32"
            )


class OneLanguage(LogitsProcessor):
    """Keep an answer to one language's tokens.

    Args:
        tokenizer: the model's.
        language: "en" forbids tokens with Chinese characters, "zh" those with Latin letters.

    Raises:
        ValueError: another language.
    """

    def __init__(self, tokenizer: ChatGLMTokenizer, language: str) -> None:
        if language not in FOREIGN_CHARACTERS:
            raise ValueError(f"language must be one of {', '.join(FOREIGN_CHARACTERS)}, got {language!r}")
        self.foreign = foreign_tokens(tokenizer, language)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        foreign = self.foreign[: scores.shape[-1]].to(scores.device)
        scores[:, : len(foreign)].masked_fill_(foreign, -math.inf)
        return scores


@functools.lru_cache(maxsize=8)
def foreign_tokens(tokenizer: ChatGLMTokenizer, language: str) -> Tensor:
    """Return a bool [vocabulary] that is true for the tokens that `language` does not have."""
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


class StopWhen(StoppingCriteria):
    """Stop the rows for which a function of the ids [b, t] says so, bool [b]."""

    def __init__(self, condition: Callable[[Tensor], Tensor]) -> None:
        self.condition = condition

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        return self.condition(input_ids)


class GenerationThread(BaseStreamer):
    """Run `generate` in a thread and iterate over its tokens; leaving the `with` block ends it within a token."""

    def __init__(self, model: PreTrainedModel, arguments: dict) -> None:
        self.tokens: queue.SimpleQueue = queue.SimpleQueue()
        self.stopped = False
        self.prompt_seen = False
        criteria = [*(arguments.pop("stopping_criteria", None) or []), StopWhen(self._stop)]
        arguments = dict(arguments, streamer=self, stopping_criteria=criteria)
        self.thread = threading.Thread(target=self._run, args=(model, arguments), daemon=True, name="chatglm-generate")

    def _run(self, model: PreTrainedModel, arguments: dict) -> None:
        try:
            model.generate(**arguments)
            self.tokens.put(None)
        except BaseException as error:  # whatever it is, the consumer raises it
            self.tokens.put(error)

    def put(self, value: Tensor) -> None:
        """Take new token ids from `generate`; the first call brings the prompt."""
        if self.prompt_seen:
            for token_id in value.reshape(-1).tolist():
                self.tokens.put(token_id)
        self.prompt_seen = True

    def end(self) -> None:
        """Take note of the end: nothing to do, `_run` reports it."""

    def _stop(self, input_ids: Tensor) -> Tensor:
        return torch.full((input_ids.shape[0],), self.stopped, dtype=torch.bool, device=input_ids.device)

    def __iter__(self) -> Iterator[int]:
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
