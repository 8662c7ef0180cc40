"""What the two web pages share: sliders, requests, what a person is told of an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chatglm import ChatGLMTokenizer, InvalidLogitsError, PromptTooLongError
from engine import (
    AnswerTimeoutError,
    ClosedError,
    EngineError,
    QueueFullError,
    QueueTimeoutError,
    Request,
    StepError,
    chat_request,
)
from loading.arguments import SamplingArguments

from .texts import TEXTS, too_long

HISTORY_ROUNDS = 200  # a page keeps so many, the newest
SLIDER_LENGTH = 4096  # tokens, the original's; models that are trained for fewer end the slider there
HISTORY_CHARACTERS = 1_000_000  # of all rounds together
ANSWER_ERRORS = (EngineError, PromptTooLongError, InvalidLogitsError)
ERROR_TEXTS = {  # what a person is told of an error that has no values
    QueueFullError: "busy",
    QueueTimeoutError: "no_place",
    AnswerTimeoutError: "too_slow",
    ClosedError: "closed",
    StepError: "failed",
    InvalidLogitsError: "failed",
}


FIRST_SLIDERS = ("max_length", "top_p", "temperature")  # the original's; a page opens the others on demand


class WrongChatError(ValueError):
    """What should be a chat is none; `told` says why, in a language of `TEXTS`."""

    def __init__(self, name: str, *values: object) -> None:
        self.name, self.values = name, values
        super().__init__(self.told(TEXTS["en"]))

    def told(self, texts: dict[str, str]) -> str:
        """Return the reason in a language."""
        return texts[self.name].format(*self.values)


class Slider(NamedTuple):
    """What a slider can be set to, and where it stands at first."""

    least: float
    most: float
    value: float
    step: float


def sliders(sampling: SamplingArguments, limit: int) -> dict[str, Slider]:
    """Return the sliders of a page, within what the model allows: the original's first.

    Args:
        sampling: where they stand at first.
        limit: tokens that the model was trained for.
    """
    most = min(SLIDER_LENGTH, limit)
    return {
        "max_length": Slider(2, most, min(sampling.max_length, most), 1),
        "top_p": Slider(0.01, 1.0, sampling.top_p, 0.01),
        "temperature": Slider(0.0, max(1.0, sampling.temperature), sampling.temperature, 0.01),
        "top_k": Slider(0, max(200, sampling.top_k), sampling.top_k, 1),
        "repetition_penalty": Slider(
            min(1.0, sampling.repetition_penalty),
            max(2.0, sampling.repetition_penalty),
            sampling.repetition_penalty,
            0.01,
        ),
        "min_p": Slider(0.0, 1.0, sampling.min_p, 0.01),
        "presence_penalty": Slider(-2.0, 2.0, sampling.presence_penalty, 0.01),
        "frequency_penalty": Slider(-2.0, 2.0, sampling.frequency_penalty, 0.01),
    }


def make_request(
    tokenizer: ChatGLMTokenizer, query: str, history: Sequence[Sequence[str]], sampling: SamplingArguments
) -> tuple[Request, int]:
    """Return the engine's request for a question, and how many of the oldest rounds do not fit into it.

    Raises:
        PromptTooLongError: the question is too long.
    """
    return chat_request(tokenizer, query, history, **sampling.chat_keywords())


def describe(error: Exception, texts: dict[str, str], model_limit: int | None = None) -> str:
    """Return what a person is told of an error; the limit is of what the model itself takes, in tokens."""
    if isinstance(error, PromptTooLongError):
        return too_long(error, texts, model_limit)
    if isinstance(error, WrongChatError):
        return texts["wrong_chat"].format(error.told(texts))
    return texts[ERROR_TEXTS[type(error)]] if type(error) in ERROR_TEXTS else texts["error"].format(error)


def check_history(content: object) -> list[list[str]]:
    """Return the newest rounds of something that came from outside.

    Raises:
        WrongChatError: it is not a list of pairs of texts, or a longer one than a page keeps.
    """
    if not isinstance(content, list):
        raise WrongChatError("no_rounds")
    for number, pair in enumerate(content, 1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise WrongChatError("wrong_round", number)
    kept = content[-HISTORY_ROUNDS:]
    if count(kept) > HISTORY_CHARACTERS:
        raise WrongChatError("too_large")
    return kept


def newest(history: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return the newest rounds of a history, so many and of so many characters as a page keeps."""
    kept = list(history[-HISTORY_ROUNDS:])
    while count(kept) > HISTORY_CHARACTERS:
        del kept[0]
    return kept


def count(history: Sequence[Sequence[str]]) -> int:
    """Return how many characters the rounds of a history have."""
    return sum(len(text) for pair in history for text in pair)
