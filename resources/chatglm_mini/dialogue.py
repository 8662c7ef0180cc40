"""What a skill of the mini checkpoint is: dialogues to learn from, and a rule that says which answers are right."""

from __future__ import annotations

import random
import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

Value = TypeVar("Value")

TRAIN = "train"
TEST = "test"
SPLITS = (TRAIN, TEST)


@dataclass(frozen=True)
class Dialogue:
    """Hold one conversation whose last answer is the one that an evaluation scores.

    Args:
        turns: (question, answer) pairs, oldest first, as `chat` would have formatted them.
        check: tells whether an answer to the last question is right: tolerant of wording, strict on content.
    """

    turns: tuple[tuple[str, str], ...]
    check: Callable[[str], bool]

    @property
    def history(self) -> list[tuple[str, str]]:
        """Return every turn before the last."""
        return list(self.turns[:-1])

    @property
    def question(self) -> str:
        """Return the last question."""
        return self.turns[-1][0]

    @property
    def answer(self) -> str:
        """Return the last answer."""
        return self.turns[-1][1]


class Skill(Protocol):
    """Describe one thing that the mini checkpoint can do; each module in `skills/` exposes one as `SKILL`.

    Attributes:
        name: the module's name.
        title_en, title_zh: the row's name in the evaluation table.
        weight: share of the training mixture, relative to the other skills.
    """

    name: str
    title_en: str
    title_zh: str
    weight: float

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a dialogue; wordings or values of the split "test" never occur in the split "train"."""
        ...


def is_held_out(value: object, one_in: int = 10) -> bool:
    """Tell whether a value belongs to the test split: the same on every machine and in every run.

    Args:
        value: anything whose `str` names it.
        one_in: one value in this many is held out.
    """
    return zlib.crc32(str(value).encode("utf-8")) % one_in == 0


def in_split(value: object, split: str, one_in: int = 10) -> bool:
    """Tell whether a value may be used in a split.

    Raises:
        ValueError: the split is neither "train" nor "test".
    """
    if split not in SPLITS:
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    return is_held_out(value, one_in) == (split == TEST)


def select_from(values: Sequence[Value], split: str, one_in: int = 10) -> list[Value]:
    """Return the values of a split of a short list: exactly one in `one_in`, and at least one, is held out.

    Raises:
        ValueError: the split is neither "train" nor "test", or the list has fewer than two values.
    """
    if split not in SPLITS:
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    if len(values) < 2:
        raise ValueError(f"values must hold at least two, so that one can be held out, got {len(values)}")
    by_hash = sorted(values, key=lambda value: zlib.crc32(str(value).encode("utf-8")))
    held_out = set(by_hash[: max(1, len(values) // one_in)])
    return [value for value in values if (value in held_out) == (split == TEST)]


def draw_split(rng: random.Random, values: Sequence[Value], split: str, one_in: int = 10) -> Value:
    """Draw one of the values of a split of a short list."""
    return rng.choice(select_from(values, split, one_in))


def normalize(text: str) -> str:
    """Fold width, case and spaces, so that a check does not fail on "Beijing ." against "beijing."."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().lower()


def contains_all(answer: str, parts: Sequence[str]) -> bool:
    """Tell whether every part occurs in the answer, whatever the width, case and spacing."""
    folded = normalize(answer)
    return all(normalize(part) in folded for part in parts)


def is_chinese(text: str) -> bool:
    """Tell whether a text holds at least one Chinese character."""
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def numbered_items(answer: str) -> list[str]:
    """Return the texts of the lines "1. …", "2. …" that are numbered from 1 without a gap."""
    items: list[str] = []
    for line in answer.splitlines():
        match = re.match(r"\s*(\d+)\s*[.、)．]\s*(\S.*)", line)
        if match and int(match.group(1)) == len(items) + 1:
            items.append(match.group(2))
    return items
