"""How an answer is sampled: the default and the range of each parameter, once for the model, flags, pages and API.

Only the standard library is imported here, so that a script checks its flags before it imports PyTorch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

MAX_LENGTH = 2048  # tokens of history, question and answer together
LANGUAGES = ("zh", "en")


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, or without end; NaN is in none."""

    least: float
    most: float | None = None

    def __contains__(self, value: float) -> bool:
        return self.least <= value and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        return f"at least {self.least}" if self.most is None else f"from {self.least} to {self.most}"


def parameter(default: Any, allowed: Range | tuple[str, ...] | type[bool], meaning: str) -> Any:
    """Return a dataclass field for a parameter: its default, what values it takes beside it, and what they do."""
    return dataclasses.field(default=default, metadata={"allowed": allowed, "meaning": meaning})


@dataclass(kw_only=True)
class Sampling:
    """How the tokens of an answer are sampled; `chat`, the engine's requests, the flags and the API have these fields.

    Raises:
        ValueError: a value that is not allowed; names the parameter, the rule and the value.
    """

    temperature: float = parameter(0.95, Range(0, 100), "0 always takes the likeliest token, more varies more")
    # 50 is what the original's library used, whatever was asked for
    top_k: int = parameter(50, Range(0), "sample from so many of the likeliest tokens at most; 0 for all")
    top_p: float = parameter(0.7, Range(0, 1), "sample from the likeliest tokens that have this probability together")
    # far below 0.01, logits would overflow
    repetition_penalty: float = parameter(
        1.0, Range(0.01, 10), "above 1 makes tokens of prompt and answer less likely, below 1 more"
    )
    min_p: float = parameter(
        0.0, Range(0, 1), "leave out tokens with less than this share of the likeliest's probability"
    )
    presence_penalty: float = parameter(
        0.0, Range(-2, 2), "subtracted from the logits of tokens that the answer has already"
    )
    frequency_penalty: float = parameter(
        0.0, Range(-2, 2), "subtracted from a token's logit once for each time that the answer has it"
    )
    logit_bias: dict[int, float] | None = parameter(None, Range(-100, 100), "added to the logits of these token ids")
    min_tokens: int = parameter(0, Range(0), "tokens that an answer has before it, or a stop text, may end it")
    ignore_eos: bool = parameter(False, bool, "the answer does not end by itself, but at a limit or a stop text")
    language: str | None = parameter(None, LANGUAGES, "zh or en keeps answers to the tokens of one language")
    seed: int | None = parameter(None, Range(-(1 << 63), (1 << 63) - 1), "the same seed, the same answer")

    def __post_init__(self) -> None:
        for name, value in self.sampling().items():
            if name == "logit_bias" and isinstance(value, dict):
                for token_id, bias in value.items():
                    if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
                        raise ValueError(f"logit_bias is a number for each of some token ids, got {token_id!r:.80}")
                    check_parameter(name, bias)
            else:
                check_parameter(name, value)

    def check_vocabulary(self, size: int) -> None:
        """Refuse token ids that a vocabulary of so many tokens does not have.

        Raises:
            ValueError: names the id.
        """
        if self.logit_bias and max(self.logit_bias) >= size:
            raise ValueError(f"logit_bias takes token ids below {size}, got {max(self.logit_bias)}")

    def sampling(self) -> dict[str, Any]:
        """Return these parameters, without those that a subclass adds."""
        return {name: getattr(self, name) for name in PARAMETERS}


PARAMETERS = {field.name: field for field in dataclasses.fields(Sampling)}
LENGTHS = {"max_length": Range(2), "max_new_tokens": Range(1)}  # in tokens


def check_parameter(name: str, value: Any) -> None:
    """Refuse a value of a parameter of `Sampling` or `LENGTHS` that is not allowed; the default always is.

    Raises:
        ValueError: names the parameter, the rule and the value.
    """
    field = PARAMETERS.get(name)
    allowed = LENGTHS[name] if field is None else field.metadata["allowed"]
    if value is None and (field is None or field.default is None):
        return
    if allowed is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")
        return
    if isinstance(allowed, Range) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if value not in allowed:
        rule = " or ".join(allowed) if isinstance(allowed, tuple) else allowed
        raise ValueError(f"{name} must be {rule}, got {value}")
