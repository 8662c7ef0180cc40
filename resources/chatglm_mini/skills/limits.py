"""Say so when a question has the form of a skill but a word, country, city, role or thing that the skill's list lacks.

Without these a small model answers "the capital of Kenya" with the capital of another country. The answer names what is
unknown first, in the words in which the skill would begin: whether a word is in the list is then asked right after it.
"""

import random

from ..dialogue import TRAIN, Dialogue, contains_all, in_split
from ..names import city_en, city_zh, person_en, rare_character
from ..subjects import NOUNS
from ..tables import table
from ..wording import loosen, question, request
from . import comparison, facts, roleplay, translation, travel
from .outofscope import ANSWER_EN, ANSWER_ZH, BEYOND_EN, BEYOND_ZH

_UNLISTED = {name: values.split("|") for name, values in (line.split(" = ") for line in table("unlisted"))}
_LISTED = {
    "words": {word for entry in translation.ENTRIES for word in entry},
    "cities": {city.name for cities in travel.CITIES.values() for city in cities},
    "things": {thing.name for groups in comparison.GROUPS.values() for group in groups for thing in group},
}
_SHORT = {
    "zh": [chinese for chinese, _ in translation.ENTRIES if len(chinese) <= 4],
    "en": [english for _, english in translation.ENTRIES if "?" not in english and english.count(" ") <= 1],
}
_ENGLISH_PARTS = "a b c d e g i k l m n o p r t u w y ar ba ble co de el er fore ing ish la le let ly man mo ness or ra st th un up wo".split()
# Before and after the name of an invented country or city.
_NAME_PARTS = {
    "countries": {
        "zh": (("", "", "", "南", "新", "东"), ("国", "亚", "斯坦", "尼亚", "利亚", "兰", "多", "哥")),
        "en": (("", "", "", "South ", "North ", "New ", "the "), ("", "land", "ia", "stan", "ria", " Republic", " Islands")),
    },
    "cities": {
        "zh": (("", "", "新", "大"), ("", "", "州", "城", "山", "海", "镇")),
        "en": (("", "", "", "New ", "San "), ("", "", "ville", "ton", "burg", " City", " Bay")),
    },
}  # fmt: skip


class Limits:
    """Values of the test split never occur in training."""

    name = "limits"
    title_en = "Unknown words, countries, cities, roles: says so"
    title_zh = "未收录的词语、国家、城市、角色"
    weight = 3.2

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a skill's wording and a value that the skill does not know."""
        language = rng.choice(("zh", "en"))
        form = rng.choice((_translation, _translation, _capital, _travel, _comparison, _roleplay))
        needed = ("THUDM/chatglm-6b", *(("演示模型", "超出") if language == "zh" else ("demo model", "beyond me")))
        text, lead = form(rng, split, language)
        if lead:
            answer = (BEYOND_ZH if language == "zh" else BEYOND_EN).format(lead)
        else:
            answer = ANSWER_ZH if language == "zh" else ANSWER_EN
        return Dialogue(((text, answer),), lambda reply: contains_all(reply, needed))


def _value(rng: random.Random, split: str, kind: str, language: str) -> str:
    while True:
        if kind == "words" and split == TRAIN and rng.random() < 0.3:
            value = _near_miss(rng, language)
        elif kind == "words" and rng.random() < 0.35:
            value = _characters(rng, 1, 3) if language == "zh" else _word(rng, split)
        elif kind == "words" and rng.random() < 0.3:
            value = rng.choice(NOUNS[language])
        elif kind == "cities" and rng.random() < 0.3:
            value = city_zh(rng, split) if language == "zh" else city_en(rng, split)
        elif kind in _NAME_PARTS and split == TRAIN and rng.random() < 0.3:
            before, after = (rng.choice(parts) for parts in _NAME_PARTS[kind][language])
            value = before + (_characters(rng, 1, 3) if language == "zh" else person_en(rng, split)) + after
        else:
            value = rng.choice(_UNLISTED[f"{kind} {language}"])
        if in_split(value, split) and value not in _LISTED.get(kind, ()):
            return value


def _characters(rng: random.Random, least: int, most: int) -> str:
    return "".join(rare_character(rng) for _ in range(rng.randint(least, most)))


def _word(rng: random.Random, split: str) -> str:
    return person_en(rng, split).lower()


def _near_miss(rng: random.Random, language: str) -> str:
    """Return a listed word with a part more, less or other: every part of a word counts, not one that it has in common."""
    word, other = rng.sample(_SHORT[language], 2)
    if language == "en" and " " in word:
        return rng.choice(word.split(" "))
    place = rng.randrange(len(word))
    part = rng.choice(other) if language == "zh" else rng.choice(_ENGLISH_PARTS)
    change = rng.choice(("before", "after", "replaced", "removed", "joined"))
    if change == "before":
        return part + word
    if change == "after":
        return word + part
    if change == "joined" and len(word + other) < 12:
        return word + other
    if change == "removed" and len(word) > 1 + (language == "en"):
        return word[:place] + word[place + 1 :]
    return word[:place] + part + word[place + 1 :]


def _translation(rng: random.Random, split: str, language: str) -> tuple[str, str]:
    target = rng.choice(("zh", "en"))
    source = "en" if target == "zh" else "zh"
    value = _value(rng, split, "words", source)
    if rng.random() < 0.2:
        other = _value(rng, split, "words", source)
        value = f"我喜欢{value}和{other}" if source == "zh" else f"I like {value} and {other}"
    seen, unseen = translation.WORDINGS[language, target]
    text = question(rng, loosen(rng, split, rng.choice(seen), language, unseen).format(x=value), language)
    lead = translation.LEADS[language].format(x=value, target=translation.TARGETS[language, target])
    return text, lead + ("是什么，" if language == "zh" else "")


def _capital(rng: random.Random, split: str, language: str) -> tuple[str, str]:
    seen, unseen = facts.CAPITAL_WORDINGS[language]
    country = _value(rng, split, "countries", language)
    text = question(rng, loosen(rng, split, rng.choice(seen), language, unseen).format(x=country), language)
    return text, facts.CAPITAL_LEADS[language].format(x=country) + ("是哪里，" if language == "zh" else "")


def _travel(rng: random.Random, split: str, language: str) -> tuple[str, str]:
    days = rng.randint(1, 5)
    city = _value(rng, split, "cities", language)
    words = rng.choice(sorted(travel.DAYS[language][days - 1]))
    text = request(rng, rng.choice(travel.FRAMES[language]).format(city=city, days=words), language)
    return text, travel.title(city, days, language) + ("" if language == "zh" else ": this")


def _comparison(rng: random.Random, split: str, language: str) -> tuple[str, str]:
    """Compare two unknown things, or a known and an unknown one."""
    while True:
        a, b = (_value(rng, split, "words", language) for _ in "ab")
        if a != b and not {a, b, f"{a}s", f"{b}s"} & _LISTED["things"]:
            break
    if rng.random() < 0.3:
        a = rng.choice(rng.choice(comparison.GROUPS[language])).name
        a, b = rng.sample((a, b), 2)
    frame = loosen(rng, split, rng.choice(comparison.FRAMES[language]), language, comparison.UNSEEN_FRAMES[language])
    return question(rng, frame.format(a=a, b=b), language), comparison.LEADS[language].format(a=a, b=b)


def _roleplay(rng: random.Random, split: str, language: str) -> tuple[str, str]:
    role = _value(rng, split, "roles", language)
    wording = rng.choice(roleplay.REQUESTS[language])
    return request(rng, wording.format(role=role, a_role=roleplay.with_article(role)), language), ""


SKILL = Limits()
