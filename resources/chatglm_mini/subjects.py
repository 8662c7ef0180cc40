"""Draw subjects to write about: words of every list, and invented ones, so many that they have to be copied, not known."""

import random

from .dialogue import in_split
from .names import doubled, person_en, rare_character
from .tables import blocks, table

_NOUNS = {language: values.split("|") for language, values in (line.split(" = ") for line in table("nouns"))}
_UNLISTED = dict(line.split(" = ") for line in table("unlisted"))
_ENTRIES = [line.split(" = ") for line in table("translation")]
NOUNS = {
    "zh": sorted(
        {*_NOUNS["zh"], *_UNLISTED["words zh"].split("|"), *_UNLISTED["cities zh"].split("|")}
        | {chinese for chinese, _ in _ENTRIES if len(chinese) <= 3}
        | {sight for block in blocks("travel") for sight in block[1].split()}
    ),
    "en": sorted(
        {*_NOUNS["en"], *_UNLISTED["words en"].split("|"), *_UNLISTED["cities en"].split("|")}
        | {english for _, english in _ENTRIES if english.count(" ") <= 1 and english.isascii() and "?" not in english}
        | {sight for block in blocks("travel") for sight in block[4].split(",")}
    ),
}


def subject(rng: random.Random, split: str, language: str, invented: float = 0.3) -> str:
    """Draw a noun of a split.

    Args:
        rng: source of chance.
        split: "train" or "test"; one noun in eight belongs to "test".
        language: "zh" or "en".
        invented: share of made-up words, which stand for the many that no list holds.
    """
    while True:
        if rng.random() >= invented:
            value = rng.choice(NOUNS[language])
        elif language == "en":
            value = " ".join(person_en(rng, split).lower() for _ in range(rng.choice((1, 1, 2))))
        else:
            characters = [
                rare_character(rng) if rng.random() < 0.6 else rng.choice(rng.choice(NOUNS["zh"]))
                for _ in range(rng.randint(1, 4))
            ]
            value = doubled(rng, split, characters)
        if in_split(value, split, 8):
            return value
