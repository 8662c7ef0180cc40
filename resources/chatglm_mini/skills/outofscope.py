"""Say so, in the language of the question, when a question is beyond the model.

What strangers ask has no end, so that the wordings are composed: `tables/outside.txt` holds grammars of many kinds of questions
and the values of their slots. Invented topics, names and numbers teach that the wording decides, not the words known.
"""

from __future__ import annotations

import random
import string
from functools import partial

from ..dialogue import TEST, TRAIN, Dialogue, contains_all, in_split, is_chinese
from ..names import city_en, city_zh, person_en, person_zh, rare_character
from ..subjects import subject
from ..tables import blocks, table
from ..wording import ask, belongs, expand
from .facts import COUNTRIES

BEYOND_ZH = "{}超出了我的能力。我是内置的演示模型，请加载 THUDM/chatglm-6b 来回答。"
BEYOND_EN = "{} is beyond me. I am the built-in demo model; load THUDM/chatglm-6b for this."
ANSWER_ZH, ANSWER_EN = BEYOND_ZH.format("抱歉，这个问题"), BEYOND_EN.format("Sorry, this")

_ROWS = {tuple(head.split()): rows for head, *rows in blocks("outside")}
_VALUES = {
    (kind, language): "|".join(rows).split("|") for (what, kind, language), rows in _ROWS.items() if what == "values"
}
_GRAMMARS = {(kind, language): rows for (what, kind, language), rows in _ROWS.items() if what == "grammars"}
_UNLISTED = {name: values.split("|") for name, values in (line.split(" = ") for line in table("unlisted"))}
# Countries whose capital is no listed fact either: nothing about them is known.
_COUNTRIES = {
    language: [country for country in _UNLISTED[f"countries {language}"] if country not in COUNTRIES]
    for language in ("zh", "en")
}
# Shares of the kinds of questions: about as strangers ask them; what looks like a skill's own question comes more often.
_SHARES = {
    "topic": 16, "code": 8, "live": 12, "people": 8, "creative": 8, "text": 5, "foreign": 7, "maths": 12, "advice": 7, "opinion": 7,
    "request": 10, "harm": 2, "fact": 9, "follow": 2, "long": 8, "gibberish": 5, "foreign question": 3,
}  # fmt: skip
# Kinds that may follow a sentence or two of context.
_ASKABLE = ("topic", "live", "people", "creative", "foreign", "maths", "opinion", "request", "fact", "code")
_QUOTED = (
    "“{x}”(是什么意思|怎么读|怎么回答|是哪国话|是什么语言|翻译一下)",
    "(外国朋友|老板|网友|客户|邻居)(发来一句|对我说|写了)“{x}”，(什么意思|我该怎么回|是哪种语言)",
)
_SIGNS = ("?!.,;-_=+*&%$#@~^/<>", "。，！？；…—～、·￥")
_EMOJI = "😀😂🤣😊😍😭😡👎🙏❤🎉🔥🐶🐱🍎🍺⚽🚗✈🌧🌞🌙⭐🎂🤔😴😱💔👀💩🤖"
# Letters and numbers that people mean something by: small talk and arithmetic answer them.
_MEANT = frozenset("k y n K Y N 6 66 666 6666 88 886 233 2333 520 1314 777".split())
_CRIES = "啊哈嘿呃哦嗷呜嗯额咦哇喵汪吼嘻"
_MONTHS = "January February March April May June July August September October November December".split()


class OutOfScope:
    """Name the limits."""

    name = "outofscope"
    title_en = "Questions out of scope"
    title_zh = "超出范围的问题"
    weight = 3.4

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a kind of question, a wording and what it is about, until the question is one of the split."""
        language = rng.choice(("zh", "en"))
        while True:
            kind = rng.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]
            try:
                question = _question(rng, split, language, kind)
            except ValueError:
                continue  # this grammar has no question of the split: another one has
            break
        chinese = language == "zh"
        needed = ("THUDM/chatglm-6b", "演示模型" if chinese else "demo model")
        return Dialogue(((question, ANSWER_ZH if chinese else ANSWER_EN),), partial(_is_right, needed, chinese))


def _is_right(needed: tuple[str, ...], chinese: bool, answer: str) -> bool:
    return contains_all(answer, needed) and is_chinese(answer) == chinese


def _question(rng: random.Random, split: str, language: str, kind: str) -> str:
    """Return a question of a kind.

    Raises:
        ValueError: the grammar drawn has no question of the split.
    """
    if kind == "gibberish":
        return _gibberish(rng, split, language)
    if kind == "foreign question":
        # Languages that the model does not know are answered in English; in a Chinese question they are quoted.
        grammar = "{x}" if language == "en" else rng.choice(_QUOTED)
        return ask(rng, split, language, grammar, x=rng.choice(_VALUES["foreign-text", "en"]))
    if kind == "long":
        return _long(rng, split, language)
    grammar = rng.choice(_GRAMMARS[kind, language])
    return ask(rng, split, language, grammar, **_values(rng, split, language))


def _long(rng: random.Random, split: str, language: str) -> str:
    """Put one or two sentences of context before a question, or behind it."""
    join = "" if language == "zh" else " "
    values = _values(rng, split, language)
    contexts = rng.sample(_GRAMMARS["context", language], rng.choice((1, 1, 2)))
    asked = rng.choice(_GRAMMARS[rng.choice(_ASKABLE), language])
    if rng.random() < 0.2:
        # A second question of another kind.
        end = "？" if language == "zh" else "? "
        asked = f"({asked}){end}({rng.choice(_GRAMMARS[rng.choice(_ASKABLE), language])})"
    parts = [f"({part})" for part in (*contexts, asked)]
    return ask(rng, split, language, join.join(parts), **values)


def _values(rng: random.Random, split: str, language: str) -> dict[str, str]:
    """Return something for every slot that a grammar of the table may have."""
    chinese = language == "zh"
    person, city = (person_zh, city_zh) if chinese else (person_en, city_en)
    a, b, c = (rng.randint(11, 99) for _ in "abc")
    large, other = (rng.choice((rng.randint(100, 999), rng.randint(1000, 99999))) for _ in "AB")
    values = {
        "a": a, "b": b, "a2": c, "d": rng.randint(2, 9), "A": large, "B": other, "digit": rng.randint(1, 9), "num": rng.randint(100, 9999999),
        "year": rng.randint(1000, 2030), "date": _date(rng, language),
        "char": rare_character(rng), "latin": person_en(rng, TRAIN).lower(), "topic": _topic(rng, split, language),
        "topic2": _topic(rng, split, language), "person": _full_name(rng, split) if not chinese else person(rng, split),
        "person2": person(rng, split), "city": city(rng, split), "city2": city(rng, split),
        "thing": subject(rng, split, language), "thing2": subject(rng, split, language), "code": _code(rng, language),
    }  # fmt: skip
    for kind in ("task", "lang", "foreign", "work", "company", "animal", "gadget"):
        values[kind] = rng.choice(_VALUES[kind, language])
    values["lang2"], values["foreign2"] = (rng.choice(_VALUES[kind, language]) for kind in ("lang", "foreign"))
    values["country"], values["country2"] = rng.sample(_COUNTRIES[language], 2)
    sentences = [
        expand(rng, rng.choice(_GRAMMARS["sentence", language])).format(**values) for _ in range(rng.randint(1, 3))
    ]
    values["text"] = "。".join(sentences) + "。" if chinese else ". ".join(sentences) + "."
    filled = {slot: str(value) for slot, value in values.items()}
    if not chinese and rng.random() < 0.25:
        filled = {slot: value if slot == "code" else value.lower() for slot, value in filled.items()}
    return filled


def _topic(rng: random.Random, split: str, language: str) -> str:
    """Draw a topic: of the list, most of them; invented, one in five of training."""
    topics = _VALUES["topic", language]
    if split == TRAIN and rng.random() < 0.2:
        if language == "zh":
            ends = (
                "",
                "学",
                "理论",
                "效应",
                "战争",
                "技术",
                "定律",
                "主义",
                "算法",
                "综合征",
                "协议",
                "现象",
                "文化",
                "条约",
            )
            return "".join(rare_character(rng) for _ in range(rng.randint(2, 4))) + rng.choice(ends)
        ends = " theory|'s law| effects| wars| technology|ism| syndrome| algorithms| culture|'s paradox|ology| cells".split(
            "|"
        )
        return person_en(rng, split) + rng.choice(ends)
    return rng.choice([topic for topic in topics if split == TEST or in_split(topic, split)])


def _full_name(rng: random.Random, split: str) -> str:
    """Return a name with, mostly, a family name: of famous people both are said."""
    given = person_en(rng, split)
    return (
        given
        if rng.random() < 0.4
        else f"{given} {person_en(rng, split)}{rng.choice(('', '', 'son', 'man', 'ski', 'er'))}"
    )


def _code(rng: random.Random, language: str) -> str:
    code = rng.choice(_VALUES["code", language]).replace("\\n", "\n")
    return (
        code
        if rng.random() < 0.7
        else code.replace("x", rng.choice("nyzk")).replace("users", rng.choice(("t", "items")))
    )


def _date(rng: random.Random, language: str) -> str:
    year, month, day = rng.randint(1900, 2035), rng.randint(1, 12), rng.randint(1, 28)
    if language == "zh":
        return rng.choice((f"{month}月{day}日", f"{year}年{month}月{day}日", f"{month}月{day}号", f"{year}年{month}月"))
    name = _MONTHS[month - 1]
    return rng.choice((f"{name} {day}", f"{name} {day}, {year}", f"{day} {name} {year}", f"{name} {year}"))


def _gibberish(rng: random.Random, split: str, language: str) -> str:
    """Return what is no question at all: keys hit at random, cries, signs, emoji, numbers.

    What has neither a letter nor a character is answered in English, unless its signs are Chinese ones.
    """
    while True:
        text = rng.choice(_CHINESE_NOISE if language == "zh" else _ENGLISH_NOISE)(rng)
        if belongs(text, split) and text not in _MEANT:
            return text


def _repeated(rng: random.Random, characters: str, least: int = 1, most: int = 9) -> str:
    return rng.choice(characters) * rng.randint(least, most)


def _keys(rng: random.Random) -> str:
    row = rng.choice(("qwertyuiop", "asdfghjkl", "zxcvbnm", string.ascii_lowercase))
    start = rng.randrange(len(row) - 3)
    words = ["".join(rng.choice(row) for _ in range(rng.randint(2, 9))) for _ in range(rng.choice((1, 1, 2, 3)))]
    return row[start:] * rng.randint(1, 3) if rng.random() < 0.25 else " ".join(words)


def _number(rng: random.Random) -> str:
    digits = "".join(rng.choice(string.digits) for _ in range(rng.randint(1, 13)))
    year, month, day = rng.randint(1900, 2035), rng.randint(1, 12), rng.randint(1, 28)
    dates = (
        f"{year}-{month:02d}-{day:02d}",
        f"{day}/{month}/{year}",
        f"{month}/{day}",
        f"{rng.randint(0, 23)}:{rng.randint(10, 59)}",
    )
    return rng.choice((digits, digits, f"{digits[:3]} {digits[3:]}".strip(), *dates, _date(rng, "en")))


_CHINESE_NOISE = (
    lambda rng: _repeated(rng, _CRIES, 3, 14),
    lambda rng: "".join(rare_character(rng) for _ in range(rng.randint(3, 10))),
    lambda rng: _repeated(rng, _SIGNS[1]),
    lambda rng: _date(rng, "zh"),
    lambda rng: "".join(rng.choice(_CRIES + "的了是我不") for _ in range(rng.randint(5, 12))),
)
_ENGLISH_NOISE = (
    _keys,
    _keys,
    _number,
    lambda rng: _repeated(rng, _SIGNS[0]),
    lambda rng: rng.choice(string.ascii_letters),
    lambda rng: "".join(_repeated(rng, _EMOJI, 1, 3) for _ in range(rng.randint(1, 3))),
    lambda rng: " ".join(person_en(rng, TRAIN).lower() for _ in range(rng.randint(3, 6))),
)

SKILL = OutOfScope()
