"""Plan a journey of one to five days in a known city, with real sights."""

import random
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from ..dialogue import Dialogue, in_split
from ..tables import blocks
from ..wording import mentions, overlap, request, words

DAYS = {
    "zh": ({"一天", "1天", "一日"}, {"两天", "2天", "两日"}, {"三天", "3天", "三日"}, {"四天", "4天", "四日"}, {"五天", "5天", "五日"}),
    "en": ({"one day", "1 day"}, {"two days", "2 days"}, {"three days", "3 days"}, {"four days", "4 days"}, {"five days", "5 days"}),
}  # fmt: skip
FRAMES = {
    "zh": (
        "帮我做一个{city}{days}的旅行计划", "我想去{city}玩{days}，怎么安排", "请给我一份{city}{days}旅游计划", "{city}{days}怎么玩", "去{city}旅游{days}有什么安排",
        "我打算在{city}待{days}，给我安排行程", "帮我安排{days}的{city}之旅", "写一个{days}的{city}旅游攻略", "{days}的时间在{city}可以玩什么",
        "制定一份去{city}玩{days}的计划", "推荐一个{city}{days}的行程",
    ),
    "en": (
        "Plan a trip to {city} for {days}", "I want to visit {city} for {days}. Make a plan", "Give me a travel plan for {days} in {city}",
        "Make a travel plan: {city}, {days}", "What should I see in {city} in {days}", "I have {days} in {city}. What should I do",
        "Please plan {days} in {city}", "Help me plan {days} in {city}", "I am going to {city} for {days}. Plan my trip",
    ),
}  # fmt: skip
_UNSEEN_FRAMES = {
    "zh": ("请帮我安排{city}{days}的行程", "我要去{city}玩{days}，帮我做个计划", "{city}{days}旅游怎么安排"),
    "en": ("Make a plan for {days} in {city}", "I want to go to {city} for {days}. Plan my trip", "Give me a plan for a trip to {city} for {days}"),
}  # fmt: skip


@dataclass(frozen=True)
class City:
    """Hold what a plan needs in one language."""

    name: str
    sights: tuple[str, ...]
    food: str


class Travel:
    """Cities are a closed list; a city with a number of days of the test split never occurs in training."""

    name = "travel"
    title_en = "Travel plan for a city and a number of days"
    title_zh = "旅行计划"
    weight = 1.4

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a city, a number of days and a wording."""
        language = rng.choice(("zh", "en"))
        while True:
            city, days = rng.choice(CITIES[language]), rng.randint(1, 5)
            if in_split(f"{city.name}{days}", split, 6):
                break
        unseen = split == "test" and rng.random() < 0.4
        frame = rng.choice((_UNSEEN_FRAMES if unseen else FRAMES)[language])
        text = request(rng, frame.format(city=city.name, days=rng.choice(sorted(DAYS[language][days - 1]))), language)
        plan = _chinese_plan(city, days) if language == "zh" else _english_plan(city, days)
        return Dialogue(((text, "\n".join(plan)),), partial(_is_right, city=city, days=days))


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
