"""Plan a journey of one to five days in a known city, with real sights; two days where nobody says how many."""

import random
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from ..dialogue import Dialogue, in_split
from ..tables import blocks
from ..wording import ask, mentions, overlap, words

# fmt: off
DAYS = {
    "zh": (
        {"一天", "1天", "一日", "一整天"}, {"两天", "2天", "两日", "两天一夜"}, {"三天", "3天", "三日", "三天两夜"}, {"四天", "4天", "四日", "4天3晚"},
        {"五天", "5天", "五日", "5天4晚"},
    ),
    "en": ({"one day", "1 day", "a day"}, {"two days", "2 days"}, {"three days", "3 days"}, {"four days", "4 days"}, {"five days", "5 days"}),
}
# Stays that are longer than the longest plan, and get that one.
_LONGER = {
    "zh": ("一周", "一个星期", "七天", "7天", "六天", "6天", "一星期", "十天", "10天", "半个月", "两周"),
    "en": ("a week", "one week", "7 days", "seven days", "6 days", "six days", "10 days", "ten days", "two weeks", "a whole week"),
}
# English alone: the number of days before a noun.
_SPANS = (
    ("one-day", "1-day", "one day", "1 day", "day"), ("two-day", "2-day", "2 day", "weekend", "two day"), ("three-day", "3-day", "3 day", "three day"),
    ("four-day", "4-day", "4 day"), ("five-day", "5-day", "5 day", "week-long", "one-week", "7-day", "7 day"),
)
_ALIASES = {"Xi'an": ("Xian", "xi an"), "New York": ("NYC", "New York City", "NY"), "Hong Kong": ("HK", "Hongkong"), "San Francisco": ("SF",), "Guangzhou": ("Canton",)}
# fmt: on
# "days" has {city} and {days}; "open" says no number of days, which means two; "span" has {span} before a noun.
_WORDINGS = {name: "|".join(lines) for name, *lines in blocks("journeys")}
GRAMMARS = {language: _WORDINGS[f"days {language}"] for language in DAYS}
OPEN_GRAMMARS = {language: _WORDINGS[f"open {language}"] for language in DAYS}


@dataclass(frozen=True)
class City:
    """Hold what a plan needs in one language."""

    name: str
    sights: tuple[str, ...]
    food: str


class Travel:
    """Cities are a closed list; a city said with a number of days of the test split is never said so in training."""

    name = "travel"
    title_en = "Travel plan for a city and a number of days"
    title_zh = "旅行计划"
    weight = 1.8

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a city, a number of days or none, and a wording."""
        language = rng.choice(("zh", "en"))
        if rng.random() < 0.27:
            city, days, grammar = rng.choice(CITIES[language]), 2, OPEN_GRAMMARS[language]
        else:
            while True:
                city, days = rng.choice(CITIES[language]), rng.randint(1, 5)
                if in_split(f"{city.name}{days}", split, 6):
                    break
            grammar = _WORDINGS["span en"] if language == "en" and rng.random() < 0.2 else GRAMMARS[language]
        lasting = rng.choice(sorted(DAYS[language][days - 1]))
        if days == 5 and rng.random() < 0.35:
            lasting = rng.choice(_LONGER[language])
        values = {"city": _spelt(rng, city.name, language), "days": lasting, "span": rng.choice(_SPANS[days - 1])}
        plan = _chinese_plan(city, days) if language == "zh" else _english_plan(city, days)
        question = ask(rng, split, language, grammar, **values)
        return Dialogue(((question, "\n".join(plan)),), partial(_is_right, city=city, days=days))


def _spelt(rng: random.Random, name: str, language: str) -> str:
    """Return a city's name as people type it; the answer has the proper one."""
    if language == "en" and name in _ALIASES and rng.random() < 0.3:
        name = rng.choice(_ALIASES[name])
    return name.lower() if rng.random() < 0.3 else name


def title(city: str, days: int, language: str) -> str:
    """Return the first words of a plan."""
    return f"{city}{days}天旅行计划" if language == "zh" else f"Plan for {days} day{'s' * (days > 1)} in {city}"


def _chinese_plan(city: City, days: int) -> list[str]:
    lines = [title(city.name, days, "zh") + "："]
    pairs = zip(city.sights[::2], city.sights[1::2], strict=True)
    plans = [*(f"{first}、{second}" for first, second in pairs), "郊外一日游", "自由活动，买纪念品"]
    lines += [f"第{day}天：{plan}" for day, plan in enumerate(plans[:days], 1)]
    return [*lines, f"美食推荐：{city.food}"]


def _english_plan(city: City, days: int) -> list[str]:
    lines = [title(city.name, days, "en") + ":"]
    pairs = zip(city.sights[::2], city.sights[1::2], strict=True)
    plans = [
        *(f"{first} and {second}" for first, second in pairs),
        "a trip to the countryside",
        "free time and shopping",
    ]
    lines += [f"Day {day}: {plan}" for day, plan in enumerate(plans[:days], 1)]
    return [*lines, f"Food to try: {city.food}"]


def _is_right(answer: str, city: City, days: int) -> bool:
    """As many days as asked for, in the city asked for, and at least three in four of its sights for these days."""
    found = words(answer)
    numbers = [
        int(number)
        for before, number in pairwise(found)
        if before in ("第", "day") and number.isdigit()
    ]  # fmt: skip
    sights = city.sights[: 2 * days]
    known = sum(overlap(answer, sight) >= 0.7 for sight in sights)
    return numbers == list(range(1, days + 1)) and mentions(answer, city.name) and known >= 0.75 * len(sights)


def _read_cities() -> dict[str, list[City]]:
    """Read blocks of: city, six sights (two a day), food; first Chinese, then English."""
    cities: dict[str, list[City]] = {"zh": [], "en": []}
    for name, sights, food, english_name, english_sights, english_food in blocks("travel"):
        cities["zh"].append(City(name, tuple(sights.split()), food))
        cities["en"].append(City(english_name, tuple(english_sights.split(",")), english_food))
    return cities


CITIES = _read_cities()

SKILL = Travel()
