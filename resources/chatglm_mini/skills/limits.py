"""Say so when a question has the form of a skill but a word, country, city, role or thing that the skill's list lacks.

Without these a small model answers "the capital of Kenya" with the capital of another country.
"""

import random

from ..dialogue import Dialogue, contains_all, in_split, is_chinese
from ..names import city_en, city_zh, person_en, rare_character
from ..subjects import NOUNS
from ..tables import table
from ..wording import loosen, question, request
from . import comparison, facts, roleplay, translation, travel
from .outofscope import ANSWER_EN, ANSWER_ZH

_UNLISTED = {name: values.split("|") for name, values in (line.split(" = ") for line in table("unlisted"))}
_LISTED = {
    "words": {word for entry in translation.ENTRIES for word in entry},
    "cities": {city.name for cities in travel.CITIES.values() for city in cities},
    "things": {thing.name for groups in comparison.GROUPS.values() for group in groups for thing in group},
}


class Limits:
    """Values of the test split never occur in training."""

    name = "limits"
    title_en = "Unknown words, countries, cities, roles: says so"
    title_zh = "未收录的词语、国家、城市、角色"
    weight = 1.7

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a skill's wording and a value that the skill does not know."""
        language = rng.choice(("zh", "en"))
        form = rng.choice((_translation, _translation, _capital, _travel, _comparison, _roleplay))
        answer = ANSWER_ZH if language == "zh" else ANSWER_EN
        needed = ("THUDM/chatglm-6b", "演示模型" if language == "zh" else "demo model")
        text = form(rng, split, language)
        return Dialogue(
            ((text, answer),), lambda reply: contains_all(reply, needed) and is_chinese(reply) == (language == "zh")
        )


def _value(rng: random.Random, split: str, kind: str, language: str) -> str:
    while True:
        if kind == "words" and rng.random() < 0.35:
            value = (
                "".join(rare_character(rng) for _ in range(rng.randint(1, 3)))
                if language == "zh"
                else _word(rng, split)
            )
        elif kind == "words" and rng.random() < 0.3:
            value = rng.choice(NOUNS[language])
        elif kind == "cities" and rng.random() < 0.3:
            value = city_zh(rng, split) if language == "zh" else city_en(rng, split)
        else:
            value = rng.choice(_UNLISTED[f"{kind} {language}"])
        if in_split(value, split) and value not in _LISTED.get(kind, ()):
            return value


def _word(rng: random.Random, split: str) -> str:
    return person_en(rng, split).lower()


def _translation(rng: random.Random, split: str, language: str) -> str:
    target = rng.choice(("zh", "en"))
    source = "en" if target == "zh" else "zh"
    value = _value(rng, split, "words", source)
    if rng.random() < 0.2:
        other = _value(rng, split, "words", source)
        value = f"我喜欢{value}和{other}" if source == "zh" else f"I like {value} and {other}"
    seen, unseen = translation.WORDINGS[language, target]
    return question(rng, loosen(rng, split, rng.choice(seen), language, unseen).format(x=value), language)


def _capital(rng: random.Random, split: str, language: str) -> str:
    seen, unseen = facts.CAPITAL_WORDINGS[language]
    wording = loosen(rng, split, rng.choice(seen), language, unseen)
    return question(rng, wording.format(x=_value(rng, split, "countries", language)), language)


def _travel(rng: random.Random, split: str, language: str) -> str:
    days = rng.choice(sorted(rng.choice(travel.DAYS[language])))
    city = _value(rng, split, "cities", language)
    return request(rng, rng.choice(travel.FRAMES[language]).format(city=city, days=days), language)


def _comparison(rng: random.Random, split: str, language: str) -> str:
    """Compare two unknown things, or a known and an unknown one."""
    while True:
        a, b = (_value(rng, split, "words", language) for _ in "ab")
        if a != b and not {a, b, f"{a}s", f"{b}s"} & _LISTED["things"]:
            break
    if rng.random() < 0.3:
        a = rng.choice(rng.choice(comparison.GROUPS[language])).name
        a, b = rng.sample((a, b), 2)
    frame = loosen(rng, split, rng.choice(comparison.FRAMES[language]), language, comparison.UNSEEN_FRAMES[language])
    return question(rng, frame.format(a=a, b=b), language)


def _roleplay(rng: random.Random, split: str, language: str) -> str:
    role = _value(rng, split, "roles", language)
    wording = rng.choice(roleplay.REQUESTS[language])
    return request(rng, wording.format(role=role, a_role=roleplay.with_article(role)), language)


SKILL = Limits()
