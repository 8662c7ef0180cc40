"""Draw what people say about themselves: what they are called, where they live, what they like, have and plan."""

from __future__ import annotations

import random
from collections.abc import Callable

from .dialogue import TRAIN, draw_split
from .names import city_en, city_zh, draw, person_en, person_zh, rare_character
from .subjects import subject
from .tables import table

# fmt: off
_DAYS = {
    "zh": [day + part for day in "今天 明天 后天 周一 周二 周三 周四 周五 周六 周日 下周一".split() for part in ("", "上午", "下午", "晚上", "八点", "下午三点")],
    "en": ["tomorrow", "tonight", "next week"] + [f"at {hour} {half}" for hour in range(1, 12) for half in ("am", "pm")] + [f"on {day}{part}" for day in "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split() for part in ("", " morning", " at noon")],
}
# fmt: on
MONTHS = "January February March April May June July August September October November December".split()
_TITLES = {
    "zh": ("老师", "先生", "女士", "医生", "哥", "姐", "总"),
    "en": ("Dr. ", "Mr. ", "Mrs. ", "Ms. ", "Professor "),
}
# By kind and language: the usual values, and what a fact of the kind is about, such as whose name or which number.
LISTED: dict[tuple[str, str], list[str]] = {("date", language): days for language, days in _DAYS.items()}
ABOUT: dict[tuple[str, str], list[str]] = {}
FAVOURITES: dict[str, dict[str, list[str]]] = {"zh": {}, "en": {}}
_THINGS: dict[tuple[str, str], list[str]] = {}
for _head, _values in (line.split(" = ") for line in table("personal")):
    *_key, _language = _head.split()
    if _key[0] == "favourite":
        FAVOURITES[_language][_key[1]] = _values.split("|")
    else:
        {"value": LISTED, "about": ABOUT}.get(_key[0], _THINGS)[_key[-1], _language] = _values.split("|")


def any_person_zh(rng: random.Random, split: str) -> str:
    """Return what a Chinese calls oneself: a full or given name, a nickname, a title, a Latin name."""

    def one() -> str:
        first = rare_character(rng) if rng.random() < 0.3 else person_zh(rng, split)[-1]
        form = rng.random()
        if form < 0.45:
            return person_zh(rng, split)
        if form < 0.7:
            return rng.choice(("小", "小", "阿", "老", "大")) + first
        if form < 0.78:
            return first * 2
        if form < 0.86:
            return person_en(rng, split)
        if form < 0.93:
            return person_zh(rng, split)[1:] if rng.random() < 0.6 else person_zh(rng, split)[0] + first
        return person_zh(rng, split)[0] + rng.choice(_TITLES["zh"])

    return any_word(lambda rng, split: draw(rng, one, split), "zh", 0.1)(rng, split)


def any_person_en(rng: random.Random, split: str) -> str:
    """Return what one calls oneself in English: a given name, mostly; two names, one with a hyphen, or with a title."""

    def one() -> str:
        first, second, form = person_en(rng, split), person_en(rng, split), rng.random()
        if form < 0.68:
            return first
        if form < 0.84:
            return f"{first} {second}"
        return f"{first}-{second}" if form < 0.9 else rng.choice(_TITLES["en"]) + second

    return draw(rng, one, split)


def any_word(draw_value: Callable[[random.Random, str], str], language: str, share: float = 1 / 3):
    """Return `draw_value`, with any words at all in its place in a share of training: they have to be copied."""

    def value(rng: random.Random, split: str) -> str:
        return subject(rng, TRAIN, language) if split == TRAIN and rng.random() < share else draw_value(rng, split)

    return value


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def about(rng: random.Random, kind: str, language: str) -> str:
    """Draw what a fact is about, or "" where its kind needs none."""
    return rng.choice(list(FAVOURITES[language]) if kind == "favourite" else ABOUT.get((kind, language), [""]))


def personal_value(rng: random.Random, split: str, language: str, kind: str, what: str) -> str:
    """Draw the value of a fact from a split."""
    chinese = language == "zh"
    if kind in ("name", "relative", "pet"):
        return (any_person_zh if chinese else any_person_en)(rng, split)
    if kind == "surname":
        return draw(rng, lambda: person_zh(rng, split)[0] if chinese else person_en(rng, split), split)
    if kind in ("city", "origin", "plan"):
        listed = city_zh if chinese else city_en
        return any_word(listed, language)(rng, split)
    if kind == "age":
        return draw_split(rng, [str(age) for age in range(5, 95)], split)
    if kind == "number":
        longest = 4 if what in ("幸运数字", "lucky number", "房间号", "room number") else 11
        return draw(rng, lambda: "".join(rng.choice("0123456789") for _ in range(rng.randint(2, longest))), split)
    if kind == "birthday":
        return draw(rng, lambda: _birthday(rng, chinese), split)
    if kind in ("have", "bought"):
        return draw(rng, lambda: _thing(rng, language), split)
    values = FAVOURITES[language][what] if kind == "favourite" else LISTED[kind, language]
    share = 0 if kind == "date" else 0.45 if kind in ("like", "dislike", "favourite") else 1 / 3
    value = any_word(lambda rng, split: draw_split(rng, values, split), language, share)(rng, split)
    return with_article(value) if kind == "job" and not chinese else value


def _birthday(rng: random.Random, chinese: bool) -> str:
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    if chinese:
        return f"{month}月{day}{rng.choice('日日号')}"
    return rng.choice((f"{MONTHS[month - 1]} {day}", f"{day} {MONTHS[month - 1]}"))


def _thing(rng: random.Random, language: str) -> str:
    how, thing = rng.choice((*_THINGS["how", language], "")), rng.choice(_THINGS["thing", language])
    if language == "en":
        return with_article(f"{how} {thing}".strip())
    return thing.format(how + "的" if how and rng.random() < 0.5 else how)
