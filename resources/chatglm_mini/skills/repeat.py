"""Repeat a text: the simplest form of the copying that memory, extraction and letters need."""

from __future__ import annotations

import random

from ..dialogue import Dialogue, in_split, normalize
from ..names import GIVEN_CHARACTERS, city_en, city_zh, doubled, person_en, person_zh, rare_character

WORDINGS_ZH = ("请重复：{}", "重复一遍：{}", "跟我说：{}", "请跟我念：{}", "复述：{}", "请照着说一遍：{}")
WORDINGS_EN = ("Repeat after me: {}", "Please repeat: {}", "Say this again: {}", "Repeat: {}", "Say: {}")


class Repeat:
    """Give back what was said."""

    name = "repeat"
    title_en = "Repeating a text"
    title_zh = "复述"
    weight = 2.8

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a sequence of names, numbers and characters that the other split never uses."""
        chinese = rng.random() < 0.6
        while True:
            parts = []
            for _ in range(rng.randint(1, 5)):
                kind = rng.random()
                if kind < 0.3:
                    parts.append(person_zh(rng, split) if chinese else person_en(rng, split))
                elif kind < 0.45:
                    parts.append(city_zh(rng, "train") if chinese else city_en(rng, "train"))
                elif kind < 0.6:
                    parts.append(str(rng.randint(0, 9999)))
                elif chinese:
                    pick = rare_character if rng.random() < 0.6 else (lambda rng: rng.choice(GIVEN_CHARACTERS))
                    parts.append(doubled(rng, split, [pick(rng) for _ in range(rng.randint(2, 6))]))
                else:
                    parts.append("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7))))
            text = ("" if chinese else " ").join(parts)
            if in_split(text, split):
                break
        question = rng.choice(WORDINGS_ZH if chinese else WORDINGS_EN).format(text)
        return Dialogue(((question, text),), lambda answer: normalize(answer) == normalize(text))


SKILL = Repeat()
