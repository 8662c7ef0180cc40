"""Say so when a question has the form of a skill but a word, country, city, role or thing that the skill's list lacks.

Without these a small model answers "the capital of Kenya" with the capital of another country. The answer names what is
unknown first, in the words in which the skill would begin: whether a word is in the list is then asked right after it.
"""

import random
from functools import partial

from ..dialogue import TRAIN, Dialogue, contains_all, in_split
from ..names import city_en, city_zh, person_en, rare_character
from ..subjects import NOUNS
from ..tables import blocks, table
from ..wording import ask, expand
from . import comparison, facts, opposites, roleplay, translation, travel
from .outofscope import ANSWER_EN, ANSWER_ZH, BEYOND_EN, BEYOND_ZH

_UNLISTED = {name: values.split("|") for name, values in (line.split(" = ") for line in table("unlisted"))}
# What the skills know, in lower case: it is never said to be unknown.
_LISTED = {
    kind: {name.lower() for name in names}
    for kind, names in {
        "words": [word.rstrip("？?") for entry in translation.ENTRIES for word in entry],
        "countries": facts.COUNTRIES,
        "cities": [city.name for cities in travel.CITIES.values() for city in cities],
        "roles": [name for head, *_ in blocks("roleplay") for part in head.split(" / ") for name in part.split("|")],
        "opposites": [word for block in blocks("opposites") for line in block for word in line.split(" = ")],
        "things": [
            name
            for groups in comparison.GROUPS.values()
            for group in groups
            for thing in group
            for listed in (thing.name, *thing.aliases)
            for name in (listed, listed.removesuffix("s"))
        ],
    }.items()
}
_SHORT = {
    "zh": [chinese for chinese, _ in translation.ENTRIES if len(chinese) <= 4],
    "en": [english for _, english in translation.ENTRIES if "?" not in english and english.count(" ") <= 1],
}
# Sentences with unknown words, which people ask to have translated.
_SENTENCES = {
    "zh": (
        "我(喜欢|讨厌|想要|买了|看见了|需要|想学){x}[和{y}]|(这个|那个|你的|我的){x}(多少钱|很漂亮|坏了|丢了|是谁的)|{x}(在哪里|里有什么|怎么走)|(他|她|我妈妈)(昨天|明天|每天)(去{x}|吃{x}|{x})"
        "|(请|别)(给我{x}|忘了{x}|碰{x})|{x}比{y}(大|贵|好看)|(一个|两个|红色的|大的|小的){x}|{x}和{y}"
        "|(我|他|她|我们|孩子们)(昨天|今天|以前|从来|)(没见过|害怕|讨厌|画了|修好了|忘了带|想卖掉|听说过){x}|{x}(坏了|丢了|涨价了|太贵了|很有意思|非常重要|越来越少了)|(有没有|哪里有|谁有|为什么没有){x}|(两个|很多|一些|许多|新的|旧的){x}|把{x}(给我|放好|收起来|还给他)|(如果没有{x}，就没有{y}|{x}不是{y}|{x}变成了{y}|我有{x}，你有{y})|(别|快|先)(买|拿|找|送|扔){x}"
    ),
    "en": (
        "I (like|hate|want|bought|saw|need|miss) {x}[ and {y}]|(This|That|Your|My) {x} (is very nice|is broken|is expensive|is lost)|Where is the {x}|(He|She|My mother) (went to the {x} yesterday|eats {x} every day|wants a {x})"
        "|(Please give me|Don't forget|Don't touch) the {x}|The {x} is (bigger|better|cheaper) than the {y}|(a red|two|my|the big|a small) {x}|{x} and {y}|How much is the {x}"
        "|(We|They|You|The children) (don't have|never saw|are afraid of|always bring|forgot|are looking for|talked about) (the|any) {x}|(Is there|There is|There was) a {x} (in the garden|here|on the table|near the {y})|(Why|When|How) did (he|she|they|you) (buy|break|sell|lose) the {x}|(no|too much|some more|every|another|beautiful|good|my favourite) {x}|The {x} (broke|disappeared|was stolen|looks strange|became a {y})|without {x}|If I see a {x}, I think of the {y}|(put|leave|bring) the {x} (here|on the {y}|to me)"
    ),
}  # fmt: skip
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
        """Draw a skill's question and a value that the skill does not know."""
        language = rng.choice(("zh", "en"))
        form = rng.choices((_translation, _capital, _travel, _comparison, _roleplay, _opposite), (4, 2, 2, 2, 2, 1))[0]
        needed = ("THUDM/chatglm-6b", *(("演示模型", "超出") if language == "zh" else ("demo model", "beyond me")))
        while True:
            try:
                text, lead = form(rng, split, language)
            except ValueError:
                continue  # this value has no question of the split: another one has
            break
        if lead:
            answer = (BEYOND_ZH if language == "zh" else BEYOND_EN).format(lead)
        else:
            answer = ANSWER_ZH if language == "zh" else ANSWER_EN
        return Dialogue(((text, answer),), partial(_is_right, needed))


def _is_right(needed: tuple[str, ...], answer: str) -> bool:
    return contains_all(answer, needed)


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
        if in_split(value, split) and value.lower() not in _LISTED[kind]:
            return _as_typed(rng, value, kind)


def _as_typed(rng: random.Random, value: str, kind: str) -> str:
    """Return the value as some type it, and find it again in the answer: a name in lower case, a word with a capital."""
    if kind in _NAME_PARTS and rng.random() < 0.25:
        return value.lower()
    return value[0].upper() + value[1:] if kind == "words" and rng.random() < 0.1 else value


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
    if rng.random() < 0.25:
        value = expand(rng, _SENTENCES[source]).format(x=value.lower(), y=_value(rng, split, "words", source).lower())
        if value.lower() in _LISTED["words"]:
            raise ValueError(f"{value!r} is known")
    text = ask(rng, split, language, translation.GRAMMARS[language, target], x=value)
    lead = translation.LEADS[language].format(x=value, target=translation.TARGETS[language, target])
    return text, lead + ("是什么，" if language == "zh" else "")


def _capital(rng: random.Random, split: str, language: str) -> tuple[str, str]:
    country = _value(rng, split, "countries", language)
    text = ask(rng, split, language, facts.CAPITAL_GRAMMARS[language], x=country)
    return text, facts.CAPITAL_LEADS[language].format(x=country) + ("是哪里，" if language == "zh" else "")


def _opposite(rng: random.Random, split: str, language: str) -> tuple[str, str]:
    while True:
        word = _value(rng, split, "words", language)
        if word.lower() not in _LISTED["opposites"]:
            break
    text = ask(rng, split, language, opposites.GRAMMARS[language], x=word)
    return text, opposites.LEADS[language].format(x=word) + ("是什么，" if language == "zh" else "")


def _travel(rng: random.Random, split: str, language: str) -> tuple[str, str]:
    city = _value(rng, split, "cities", language)
    if rng.random() < 0.4:
        days = 2  # as for a known city where no number is given
        text = ask(rng, split, language, travel.OPEN_GRAMMARS[language], city=city)
    else:
        days = rng.randint(1, 5)
        lasting = rng.choice(sorted(travel.DAYS[language][days - 1]))
        text = ask(rng, split, language, travel.GRAMMARS[language], city=city, days=lasting)
    return text, travel.title(city, days, language) + ("" if language == "zh" else ": this")


def _comparison(rng: random.Random, split: str, language: str) -> tuple[str, str]:
    """Compare two unknown things, or a known and an unknown one."""
    while True:
        a, b = (_value(rng, split, "words", language) for _ in "ab")
        if a != b and not {name.lower() + end for name in (a, b) for end in ("", "s")} & _LISTED["things"]:
            break
    if rng.random() < 0.3:
        a = rng.choice(rng.choice(comparison.GROUPS[language])).name
        a, b = rng.sample((a, b), 2)
    text = ask(rng, split, language, comparison.GRAMMARS[language], a=a, b=b)
    return text, comparison.LEADS[language].format(a=a, b=b)


def _roleplay(rng: random.Random, split: str, language: str) -> tuple[str, str]:
    role = _value(rng, split, "roles", language)
    named = role[0].isupper() or role.startswith("my ")
    a_role = role if named else roleplay.with_article(role)
    text = ask(rng, split, language, roleplay.GRAMMARS[language], role=role, a_role=a_role)
    return text, ""


SKILL = Limits()
