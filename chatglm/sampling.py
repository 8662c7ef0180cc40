"""How an answer is sampled: the default and the range of each parameter, once for the model, flags, pages and API.

Only the standard library is imported here, so that a script checks its flags before it imports PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_LENGTH = 2048  # tokens of history, question and answer together
TOP_K = 50  # what the original's library used, whatever was asked for
TOP_P = 0.7
TEMPERATURE = 0.95
REPETITION_PENALTY = 1.0
LANGUAGES = ("zh", "en")


@dataclass(frozen=True)
class Range:
    """The numbers from `least` (or only those above it, with `above`) to `most`, if there is a largest one."""

    least: float
    most: float | None = None
    above: bool = False
    unit: str = ""

    def __contains__(self, value: float) -> bool:
        enough = value > self.least if self.above else value >= self.least  # NaN is neither
        return enough and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.most is None:
            return f"{'above' if self.above else 'at least'} {self.least}{unit}"
        if self.above:
            return f"above {self.least} and at most {self.most}{unit}"
        return f"from {self.least} to {self.most}{unit}"


RANGES = {
    "max_length": Range(2, unit="tokens"),
    "max_new_tokens": Range(1),
    "top_k": Range(0),
    "top_p": Range(0, 1, above=True),
    "temperature": Range(0, 100),
    "repetition_penalty": Range(0, 10, above=True),
    "seed": Range(0, (1 << 32) - 1),
}


def check_sampling(**values: float | None) -> None:
    """Refuse a value that is out of its range in `RANGES`; None stands for a parameter that is not given.

    Raises:
        ValueError: names the parameter, the range and the value.
    """
    for name, value in values.items():
        if value is not None and value not in RANGES[name]:
            raise ValueError(f"{name} must be {RANGES[name]}, got {value}")


def check_language(language: str | None, name: str = "language") -> None:
    """Refuse a language that answers cannot be kept to; None mixes them.

    Raises:
        ValueError: names the parameter, as `name`, the languages and the value.
    """
    if language is not None and language not in LANGUAGES:
        raise ValueError(f"{name} must be {' or '.join(LANGUAGES)}, got {language}")
