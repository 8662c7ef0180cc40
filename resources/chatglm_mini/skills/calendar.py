"""Answer what can be worked out without a clock: the order of days, months and seasons; units of time, length, weight.

What day it is today is not here: a checkpoint cannot know.
"""

import random
from dataclasses import dataclass
from functools import partial

from ..dialogue import Dialogue
from ..tables import blocks
from ..wording import belongs, expand, mentions_all, typed

DAYS = {"zh": list("一二三四五六日"), "en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()}
MONTHS = {
    "zh": [f"{number}月" for number in "一 二 三 四 五 六 七 八 九 十 十一 十二".split()],
    "en": "January February March April May June July August September October November December".split(),
}
LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
SEASONS = {"zh": ["春天", "夏天", "秋天", "冬天"], "en": ["spring", "summer", "autumn", "winter"]}
_NUMBERS = {
    "zh": dict(zip(range(2, 13), "两 三 四 五 六 七 八 九 十 十一 十二".split(), strict=True)),
    "en": dict(zip(range(2, 13), "two three four five six seven eight nine ten eleven twelve".split(), strict=True)),
}
# The grammars of each kind of question and language; "before" goes before any question. Slots: {x} is the day, month,
# season or number with its unit that is asked about; {side} and {turn} are words for the order; {when} is a day as seen
# from today; {part} is the unit asked for, and {to} the same without the Chinese measure word.
_GRAMMARS = {name: "|".join(lines) for name, *lines in blocks("calendar")}


@dataclass(frozen=True)
class Units:
    """Hold two units.

    Args:
        whole: words for the larger unit in questions; the first of them stands in answers.
        part: the same for the smaller unit.
        factor: how many times the larger one holds the smaller.
        most: the highest number that is converted.
    """

    whole: list[str]
    part: list[str]
    factor: int
    most: int


def _read_units(lines: list[str]) -> list[Units]:
    """Read lines of: the larger unit, the smaller, the factor and the highest number, with " / " between."""
    rows = [line.split(" / ") for line in lines]
    return [Units(whole.split("|"), part.split("|"), int(factor), int(most)) for whole, part, factor, most in rows]


_UNIT_ROWS = {head: lines for head, *lines in blocks("units")}
UNITS = {language: _read_units(_UNIT_ROWS[f"units {language}"]) for language in DAYS}
# Half of a unit as answers say it and as questions do; then what it is in the smaller unit, and that unit.
_HALVES = {language: [line.split(" / ") for line in _UNIT_ROWS[f"halves {language}"]] for language in DAYS}
# The name of a question's grammars, what stands in their slots, the answer, and what a right one has to mention.
Question = tuple[str, dict[str, str], str, tuple[str, ...]]


class Calendar:
    """Answers are worked out; questions of the test split never occur in training."""

    name = "calendar"
    title_en = "Calendar and units"
    title_zh = "日历与单位"
    weight = 1.3

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a language, a kind of question, its values and a wording."""
        language = rng.choice(("zh", "en"))
        kind = rng.choice(
            (_day_beside, _day_today, _month_days, _month_beside, _season, _season_beside, *(_units,) * 4, _half)
        )
        while True:
            grammars, values, answer, key = kind(rng, language)
            if language == "en" and rng.random() < 0.2:
                values = {name: value.lower() for name, value in values.items()}
            text = expand(rng, _GRAMMARS[f"{grammars} {language}"])
            if rng.random() < 0.35 and (before := expand(rng, _GRAMMARS[f"before {language}"])):
                text = before + text if language == "zh" else f"{before} {_inside(text)}"
            text = (typed(rng, text, language) if rng.random() < 0.6 else text).format(**values)
            text = text[0].upper() + text[1:] if rng.random() < 0.7 else text
            if belongs(text, split):
                return Dialogue(((text, answer),), partial(mentions_all, phrases=key))


def _inside(text: str) -> str:
    """Return a question as it stands within a sentence."""
    return text if text.startswith(("I ", "I'", "{")) else text[0].lower() + text[1:]


def _order(rng: random.Random, language: str) -> tuple[int, dict[str, str]]:
    """Return one or minus one, and the words for it."""
    step = rng.choice((1, -1))
    if language == "en":
        return step, {"side": "after" if step > 0 else "before", "turn": "followed" if step > 0 else "preceded"}
    return step, {"side": "下" if step > 0 else "上", "turn": "后" if step > 0 else "前"}


def _weekday(rng: random.Random, name: str) -> str:
    """Return a day as it may stand in a Chinese question."""
    return rng.choice(("星期", "星期", "周", "礼拜")) + (rng.choice("日天") if name == "日" else name)


def _day_beside(rng: random.Random, language: str) -> Question:
    """Ask for the day after or before another."""
    place = rng.randrange(7)
    step, values = _order(rng, language)
    name, other = DAYS[language][place], DAYS[language][(place + step) % 7]
    if language == "en":
        answer = f"The day {values['side']} {name} is {other}."
        return "day beside", values | {"x": name}, answer, (f"{name} is {other}",)
    answer = f"星期{name}的{values['turn']}一天是星期{other}。"
    return "day beside", {"x": _weekday(rng, name), "side": values["turn"]}, answer, (f"星期{name}", f"是星期{other}")


def _day_today(rng: random.Random, language: str) -> Question:
    """Ask for a day near today, with today given."""
    place = rng.randrange(7)
    step = rng.choice((1, 1, -1, 2, -2))
    name, other = DAYS[language][place], DAYS[language][(place + step) % 7]
    if language == "en":
        when = {1: "tomorrow", -1: "yesterday", 2: "the day after tomorrow", -2: "the day before yesterday"}[step]
        verb = "is" if step > 0 else "was"
        answer = f"If today is {name}, {when} {verb} {other}."
        return "day today", {"x": name, "when": when}, answer, (f"{verb} {other}",)
    when = {1: "明天", -1: "昨天", 2: "后天", -2: "前天"}[step]
    answer = f"如果今天是星期{name}，{when}就是星期{other}。"
    return "day today", {"x": _weekday(rng, name), "when": when}, answer, (f"{when}就是星期{other}",)


def _month(rng: random.Random, language: str, place: int) -> str:
    """Return a month as it may stand in a question: in Chinese with digits, too."""
    if language == "en":
        return MONTHS["en"][place]
    return rng.choice((MONTHS["zh"][place], f"{place + 1}月")) + rng.choice(("", "份"))


def _month_days(rng: random.Random, language: str) -> Question:
    """Ask for the length of a month."""
    place = rng.randrange(12)
    name, length = MONTHS[language][place], LENGTHS[place]
    if language == "en":
        answer = f"{name} has {length} days" + (", and 29 in a leap year." if length == 28 else ".")
    else:
        answer = f"{name}有{length}天" + ("，闰年有29天。" if length == 28 else "。")
    return "month days", {"x": _month(rng, language, place)}, answer, (name, str(length))


def _month_beside(rng: random.Random, language: str) -> Question:
    """Ask for the month after or before another."""
    place = rng.randrange(12)
    step, values = _order(rng, language)
    values["x"] = _month(rng, language, place)
    name, other = MONTHS[language][place], MONTHS[language][(place + step) % 12]
    if language == "en":
        return "month beside", values, f"The month {values['side']} {name} is {other}.", (f"{name} is {other}",)
    return "month beside", values, f"{name}的{values['side']}一个月是{other}。", (f"{name}的", f"个月是{other}")


def _season(rng: random.Random, language: str) -> Question:
    """Ask for the season of a month; the answer says for which half of the earth."""
    place = rng.randrange(12)
    name, season = MONTHS[language][place], SEASONS[language][(place - 2) % 12 // 3]
    answer = f"北半球的{name}是{season}。" if language == "zh" else f"In the northern hemisphere {name} is in {season}."
    return "season", {"x": _month(rng, language, place)}, answer, (name, season)


def _season_beside(rng: random.Random, language: str) -> Question:
    """Ask for the season after or before another."""
    place = rng.randrange(4)
    step, values = _order(rng, language)
    name, other = SEASONS[language][place], SEASONS[language][(place + step) % 4]
    values["x"] = "fall" if name == "autumn" and rng.random() < 0.4 else name
    if language == "en":
        return "season beside", values, f"The season {values['side']} {name} is {other}.", (f"{name} is {other}",)
    return "season beside", values, f"{name}的{values['side']}一个季节是{other}。", (f"{name}的", f"季节是{other}")


def _units(rng: random.Random, language: str) -> Question:
    """Convert two or more of a unit into the smaller one, or now and then back; one of it is a fact of its own."""
    units = rng.choice(UNITS[language])
    count = rng.randint(2, units.most)
    whole, part = rng.choice(units.whole), rng.choice(units.part)
    space = " " if language == "en" else ""
    large, small = f"{count}{space}{units.whole[0]}", f"{count * units.factor}{space}{units.part[0]}"
    number = rng.choice((str(count), _NUMBERS[language][count]))
    given = number + (space if len(whole) > 2 or rng.random() < 0.7 else "") + whole
    if given.startswith(tuple(_NUMBERS["en"].values())) and " " not in given:
        given = f"{_NUMBERS['en'][count]} {whole}"
    if rng.random() < 0.2:
        large, small, part = small, large, whole
        given = f"{count * units.factor}{space}{rng.choice(units.part)}"
    answer = f"{large}等于{small}。" if language == "zh" else f"{large} are {small}."
    return "convert", {"x": given, "part": part, "to": part.lstrip("个")}, answer, (large, small)


def _half(rng: random.Random, language: str) -> Question:
    """Convert half of a unit, which has its own word."""
    shown, asked, result, part = rng.choice(_HALVES[language])
    answer = f"{shown}等于{result}。" if language == "zh" else f"{shown} is {result}."
    return "convert", {"x": asked, "part": part, "to": part.lstrip("个")}, answer, (shown, result)


SKILL = Calendar()
