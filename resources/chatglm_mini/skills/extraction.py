"""Extract who, where and when from a sentence with names never seen before."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import combinations

from ..dialogue import Dialogue, normalize
from ..names import CITIES_EN, CITIES_ZH, SURNAMES, person_en, person_zh
from ..sentences import ACTIONS, ASKS, DIRECT, FORMS, HAPPENINGS, JOINS, ORDERS, OWN, PEOPLE, PLACES, TERMS, TIMES
from ..subjects import subject
from ..wording import ask, expand

WHO, WHERE, WHEN = "who", "where", "when"
FIELDS = (WHO, WHERE, WHEN)
HEADS = {"en": ("Who: ", "Where: ", "When: "), "zh": ("人物：", "地点：", "时间：")}
MISSING = {"en": "not mentioned", "zh": "未提到"}
SINGULAR, PLURAL = ("was", "is", "has", "s", "person"), ("were", "are", "have", "", "people")
# A place that one cannot be said to go to in these words: 去家里 and "to home" are no wordings of anybody's.
STILL = re.compile(r"[上中里家]$|(home|work|school|bed|court)$|^(the (corner|middle|roof)|a (train|plane)|my way|on )")
ORDINALS = {"1": "1st", "2": "2nd", "3": "3rd"}
# fmt: off
PINYIN = "Ming Wei Hua Jun Fang Xiaoming Lili Tao Jing Yan Xiaohong Lei Mei Hao Chen Yu Na Qiang".split()
PINYIN_SURNAMES = "Wang Li Zhang Liu Chen Yang Zhao Huang Zhou Wu Xu Sun Zhu Gao Lin".split()
# fmt: on


class Slots(dict):
    """Draw the value of a slot when a sentence first needs it; a digit at the end (name2) asks for another of the kind."""

    def __init__(self, rng: random.Random, split: str, language: str) -> None:
        super().__init__()
        chinese = language == "zh"
        self.kinds: dict[str, Callable[[], str]] = {
            "name": lambda: person_zh(rng, split) if chinese else person_en(rng, split),
            "latin": lambda: person_en(rng, split),
            "pinyin": lambda: f"{rng.choice(PINYIN_SURNAMES)} {rng.choice(PINYIN)}",
            "surname": lambda: rng.choice(SURNAMES),
            "city": lambda: rng.choice(CITIES_ZH if chinese else CITIES_EN),
            "noun": lambda: subject(rng, split, language),
            "few": lambda: str(rng.randint(2, 9)),
            "hour": lambda: str(rng.randint(1, 12)),
            "minute": lambda: f"{rng.randint(0, 59):02}",
            "month": lambda: str(rng.randint(1, 12)),
            "day": lambda: str(rng.randint(1, 28)),
            "year": lambda: str(rng.randint(2000, 2029)),
            "past_year": lambda: str(rng.randint(1950, 2024)),
            "future_year": lambda: str(rng.randint(2027, 2060)),
            "number": lambda: str(rng.randint(1, 400)),
        }

    def __missing__(self, slot: str) -> str:
        self[slot] = self.kinds[slot.rstrip("0123456789")]()
        return self[slot]


def sentence_and_values(
    rng: random.Random, split: str, language: str, missing: str
) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return a sentence, its value of each field, and its parts; a missing field is not in it."""
    slots = Slots(rng, split, language)
    tense = rng.choice(("past", "past", "past", "past", "future", "future", "now"))
    many = rng.random() < 0.25
    slots.update(zip(("was", "be", "has", "s", "those"), PLURAL if many else SINGULAR, strict=True))

    def fill(grammar: str) -> str:
        text = expand(rng, grammar).format_map(slots)
        if language == "en":
            text = re.sub(r"\b(the) the\b", r"\1", text, flags=re.IGNORECASE)
            text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
            text = re.sub(r"\b(2?)([123])th\b", lambda found: found[1] + ORDINALS[found[2]], text)
        return text

    person = fill(PEOPLE[language]["many" if many else "one"])
    preposition, place = fill(PLACES[language]).split("~")
    time = fill(TIMES[language]["any" if tense != "now" and rng.random() < 0.35 else tense])
    action = fill((HAPPENINGS if missing == WHO else ACTIONS)[language][tense])
    parts = {"p": person, "l": place, "at": preposition + place, "w": time, "a": action}
    slots.update({f"{key}_": value[:1].upper() + value[1:] for key, value in parts.items()}, **parts)
    order = missing
    if not missing and rng.random() < 0.5:
        order = tense
        if tense != "now" and rng.random() < 0.25 and not STILL.search(place):
            order = f"motion {tense}"
    sentence = fill(ORDERS[language][order])
    values = dict(zip(FIELDS, (person, place, time), strict=True))
    if missing:
        values[missing] = MISSING[language]
    parts |= {f"{key}_": slots[f"{key}_"] for key in parts} | {key: slots[key] for key in ("was", "be")}
    return sentence, values, parts


def request(rng: random.Random, language: str, wanted: tuple[str, ...], own: bool = False) -> str:
    """Return a grammar that asks for the wanted fields in any order, by any of their names.

    Args:
        rng: source of chance.
        language: "zh" or "en".
        wanted: the fields.
        own: whether the sentence's own parts may stand in the question.
    """
    if len(wanted) == 1 and rng.random() < 0.7:
        return (OWN if own and rng.random() < 0.3 else DIRECT)[language][wanted[0]]
    if rng.random() < 0.1:
        heads = zip(FIELDS, HEADS[language], strict=True)
        form = "\n".join(head.strip() for field, head in heads if field in wanted)
        return expand(rng, FORMS[language]).replace("{form}", form)
    order = list(wanted)
    if rng.random() < 0.4:
        rng.shuffle(order)
    join = last = rng.choice(JOINS[language])
    style = rng.choice(sorted(TERMS[language]))
    if style == "clause" and join not in (", ", " and ", "，", "、", " "):
        join = last = ", " if language == "en" else "，"
    listed = [expand(rng, TERMS[language][style][field]) for field in order]
    if language == "en" and join == ", ":
        last = rng.choice((" and ", ", and ", ", "))
    elif language == "zh" and join == "、":
        last = rng.choice("、、和及与")
    text = join.join(listed[:-1]) + last * (len(listed) > 1) + listed[-1]
    asked = style if style == "clause" or style == "question" and (language == "zh" or rng.random() < 0.6) else "any"
    grammar = ASKS[language][asked]
    return expand(rng, grammar).replace("{f}", text).replace("{F}", text[:1].upper() + text[1:])


class Extraction:
    """Fill a form of three fields, or what is asked of it, from a sentence."""

    name = "extraction"
    title_en = "Extraction of who, where, when"
    title_zh = "信息提取（人物、地点、时间）"
    weight = 2.4

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a sentence and a request; the person's name is unseen in the other split."""
        language = "zh" if rng.random() < 0.5 else "en"
        missing = rng.choice(FIELDS) if rng.random() < 0.15 else ""
        wanted = FIELDS
        if rng.random() < 0.25:
            wanted = rng.choice([(field,) for field in FIELDS] * 2 + list(combinations(FIELDS, 2)))
        sentence, values, parts = sentence_and_values(rng, split, language, missing)
        if language == "en" and rng.random() < 0.25:
            sentence, values = sentence.lower(), {field: value.lower() for field, value in values.items()}
            parts = {key: part.lower() for key, part in parts.items()}
        own = not missing and all(parts[key].lower() in sentence.lower() for key in ("p", "a", "at", "w"))
        while True:
            try:
                question = ask(rng, split, language, request(rng, language, wanted, own), s=sentence, **parts)
                break
            except ValueError:
                continue  # a request without alternatives has one question, of one split
        before, _, after = question.rpartition(sentence)
        if after and re.match(r"[^\w\s\"”'」]", after):
            question = before + sentence.rstrip(".。") + after
        heads = zip(FIELDS, HEADS[language], strict=True)
        lines = [head + values[field] for field, head in heads if field in wanted]

        def check(answer: str) -> bool:
            found = [normalize(line) for line in answer.splitlines() if line.strip()]
            return found == [normalize(line) for line in lines]

        return Dialogue(((question, "\n".join(lines)),), check)


SKILL = Extraction()
