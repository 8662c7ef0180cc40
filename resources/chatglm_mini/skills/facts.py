"""Answer common facts: capitals, numbers, nature, science, the world, culture."""

import random
from functools import partial

from ..dialogue import Dialogue, in_split
from ..tables import blocks, table
from ..wording import draw_core, held_out, mentions, overlap, plain, question, roughen

CAPITAL_WORDINGS = {
    "zh": (
        ("{x}的首都是哪里", "{x}的首都在哪里", "{x}的首都是什么", "{x}首都是哪个城市", "哪个城市是{x}的首都", "{x}的首都叫什么", "你知道{x}的首都吗",
         "告诉我{x}的首都是哪座城市", "{x}首都在哪"),
        ("{x}的首都叫什么名字", "你知道{x}的首都是哪里吗", "{x}的首都是哪座城市"),
    ),
    "en": (
        ("What is the capital of {x}", "What's the capital of {x}", "Which city is the capital of {x}", "What is the capital city of {x}",
         "Do you know the capital of {x}", "Name the capital of {x}", "The capital of {x} is which city", "Where is the capital of {x}"),
        ("Can you name the capital of {x}", "What city is the capital of {x}", "Which is the capital city of {x}"),
    ),
}  # fmt: skip
CAPITAL_LEADS = {"zh": "{x}的首都", "en": "The capital of {x}"}

# A block: Chinese questions, answer, key; English questions, answer, key. One question of each language, in turn another, is
# kept for the test split.
_FACT_ROWS = blocks("facts")
_CAPITAL_ROWS = [line.split(" / ") for line in table("capitals")]
_UNSEEN = {
    plain(wordings[held_out(wordings)]) for row in _FACT_ROWS for wordings in (row[0].split(";"), row[3].split(";"))
} | {
    plain(wording.format(x=country))
    for row in _CAPITAL_ROWS
    for language, country in (("zh", row[0]), ("en", row[2]))
    for wording in CAPITAL_WORDINGS[language][1]
}


class Facts:
    """Facts are a closed list that training sees; test cases ask them in wordings that it never saw."""

    name = "facts"
    title_en = "Common facts"
    title_zh = "常识问答"
    weight = 3.0

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a language, a fact and a wording."""
        language = rng.choice(("zh", "en"))
        core = ""
        while not core:
            if rng.random() < 0.25:
                core, answer, key = _capital(rng, split, language)
            else:
                row = rng.choice(_FACT_ROWS)
                wordings, answer, key = row[:3] if language == "zh" else row[3:]
                seen = wordings.split(";")
                unseen = seen.pop(held_out(seen))
                core = unseen if split == "test" else rng.choice(seen)
        if split == "train":
            rough = roughen(rng, core, language)
            core = rough if in_split(plain(rough), split, 4) and plain(rough) not in _UNSEEN else core
        return Dialogue(((question(rng, core, language), answer),), partial(_is_right, key=key, reference=answer))


def _capital(rng: random.Random, split: str, language: str) -> tuple[str, str, str]:
    chinese_country, chinese_city, country, city = rng.choice(_CAPITAL_ROWS)
    seen, unseen = CAPITAL_WORDINGS[language]
    if language == "zh":
        core = draw_core(rng, split, seen, unseen, x=chinese_country)
        return core, f"{CAPITAL_LEADS[language].format(x=chinese_country)}是{chinese_city}。", chinese_city
    answer = f"{CAPITAL_LEADS[language].format(x=country)} is {city}."
    return draw_core(rng, split, seen, unseen, x=country), answer, city


def _is_right(answer: str, key: str, reference: str) -> bool:
    return mentions(answer, key) and overlap(answer, reference) >= 0.5


SKILL = Facts()
