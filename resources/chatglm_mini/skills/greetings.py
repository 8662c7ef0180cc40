"""Greet, thank and say goodbye; and what the skills with closed answers share: what they read, ask and check."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..dialogue import Dialogue, contains_all, is_chinese
from ..tables import blocks
from ..wording import ask, expand


@dataclass(frozen=True)
class Kind:
    """Hold one closed answer; `{x}` stands for what the question names, if it names anything.

    Args:
        answer: what is said, whatever the wording of the question.
        needed: what a right answer must hold, whatever its case.
        grammar: the wordings of the question.
    """

    answer: str
    needed: tuple[str, ...]
    grammar: str


def read_kinds(name: str) -> dict[str, dict[str, Kind]]:
    """Read the kinds of a table, by language and by name, in its order.

    A block is: name and language; the answer, with " / " for a new line; what is needed, with " / " between; then the
    wordings, one alternative a line. A block "parts" says what slots of all wordings of its language stand for.
    """
    parts: dict[str, dict[str, str]] = {"zh": {}, "en": {}}
    kinds: dict[str, dict[str, Kind]] = {"zh": {}, "en": {}}
    for head, *lines in blocks(name):
        kind, language = head.split()
        if kind == "parts":
            parts[language] = dict(line.split(" = ", 1) for line in lines)
            continue
        answer, needed, *wordings = lines
        grammar = "|".join(wordings)
        for slot, part in parts[language].items():
            grammar = grammar.replace(slot, part)
        kinds[language][kind] = Kind(answer.replace(" / ", "\n"), tuple(needed.split(" / ")), grammar)
    return kinds


def answered(question: str, kind: Kind, x: str = "") -> Dialogue:
    """Return the question with the answer of its kind about what it names."""
    needed = [part.format(x=x) for part in kind.needed]

    def check(answer: str) -> bool:
        return contains_all(answer, needed) and is_chinese(answer) == is_chinese(kind.answer)

    return Dialogue(((question, kind.answer.format(x=x)),), check)


# What `typed` puts around a request, which nobody puts around a greeting or a feeling.
_UNFIT = re.compile(
    r"(?i)^(please|quick question|one more thing|excuse me|请问|我想问一下|请教一下|麻烦问下|问你个问题|帮个忙)"
    r"|\W(please|pls|thx|thanks|thank you)\W*$|，(谢谢你?|拜托了|急|麻烦你了|快点)[呢呀啊]?\W*$"
)
# Without Chinese characters it is English, and so is its answer; but for what only Chinese people type, such as 3q.
_ENGLISH = re.compile(r"(?i)(?!(mua|h+|xswl|nb|emo)\W*$)[^\u4e00-\u9fff]*[a-z]{2}[^\u4e00-\u9fff]*")


def ask_plainly(rng: random.Random, split: str, language: str, grammar: str, **values: str) -> str:
    """Return a question of a split that says something rather than asks for it: without "please" and the like.

    Raises:
        ValueError: the grammar has no question of the split.
    """
    while True:
        question = ask(rng, split, language, grammar, **values)
        if not _UNFIT.search(question) and not (language == "zh" and _ENGLISH.fullmatch(question)):
            return question


KINDS = read_kinds("greetings")
EMOJI = ("👋", "😊", "😀", ":)", "🙂", "❤️", "🌹", "😄", "^_^", "!!")
# Goes before the wordings of any kind but "hello": of two things at once, the second is answered.
BEFORE = {
    "zh": "(你好|您好|嗨|哈喽|嘿|喂|早上好|晚上好|下午好)[呀|啊](，|！|,|。|～)",
    "en": "(Hi|Hello|Hey|Hi there|Hey there|Hello there|Good morning|Good evening|Hey ChatGLM|Hiya|Yo)"
    "(, |! |. |, | - )",
}

# People seldom ask alone: what goes before or behind a question, and what before or behind a feeling.
AROUND = {
    ("zh", "asked"): (
        "想问下，|我有个问题，|老实说，|话说回来，|那|所以，|兄弟，|先问一下，|哎，|问一句，|好奇问一下，|不好意思，|弱弱地问一句，|随便问问，|孩子让我问：|哈喽！|你好，|嗨，|我刚装好，|第一次用，|等等，|好吧，|对了，|最后一个问题：",
        "，我想知道|，告诉我|，有点好奇|？说说看|，能告诉我吗|，快说|，急急急|，老实回答|，我很好奇|，别骗我|，随便问问|？？？|？嗯？",
    ),
    ("en", "asked"): (
        "hello! |hi there, |hey bot, |one question: |my question: |so tell me, |ok so |tell me honestly, |be honest, |I just installed this. |I found this today, |my friend asks: |just curious, |sorry, but |wait, |yo, |man, |may I ask: |listen, |first question: |last question: |and |then ",
        ", tell me|, I'm curious|, just curious|, I want to know| lol| bro| btw|, answer me|, be honest| pls tell me|, my friend|? just asking|, if I may ask|, do tell|? I wonder| dude",
    ),
    ("zh", "told"): (
        "天啊，|跟你说，|说实话，|哈喽，|嗨，|你好，|怎么说呢，|告诉你哦，|不瞒你说，|真的，|哎呀，|老实说，|我跟你讲，|是这样的，",
        "，跟你说说|，你懂吗|啊啊啊|，就想说说|，你知道吗|～～|！！|，不骗你|，真的|，没办法",
    ),
    ("en", "told"): (
        "man, |omg, |oh man, |honestly, |tbh |you know, |well, |hi, |hello, |hey bot, |I must say, |just saying: |ok so |yo, |bro, |good evening, ",
        ", you know| tbh| man| bro| ngl|, what can I say|, just saying|!!!|, to be honest|, my friend|, really",
    ),
}  # fmt: skip


def uncapitalised(grammar: str) -> str:
    """Return a grammar whose texts begin with a small letter, unless it is the word "I"."""
    text, at_start, outer = [], True, [True]
    for place, character in enumerate(grammar):
        if character in "([":
            outer.append(at_start)
        elif character == "|":
            at_start = outer[-1]
        elif character in ")]":
            at_start = outer.pop() and character == "]"
        elif at_start and character != " ":
            at_start = False
            character = character if re.match(r"I\b", grammar[place:]) else character.lower()
        text.append(character)
    return "".join(text)


def around(parts: tuple[str, str], grammar: str) -> str:
    """Return a grammar of the same texts with something before or behind them, such as `AROUND` holds."""
    before, behind = parts
    return f"({before})({uncapitalised(grammar)})|({grammar})({behind})"


def ask_kind(rng: random.Random, split: str, language: str, kinds: Mapping[str, Kind]) -> Dialogue:
    """Draw one of some kinds of greeting, now and then after a hello."""
    while True:
        name = rng.choice(sorted(kinds))
        grammar = kinds[name].grammar
        if name != "hello" and rng.random() < 0.12:
            # The wording has to be drawn here: its first letter is no longer a capital.
            wording = expand(rng, grammar)
            grammar = BEFORE[language] + (wording if re.match(r"I\b", wording) else wording[:1].lower() + wording[1:])
        try:
            question = ask_plainly(rng, split, language, grammar, e=rng.choice(EMOJI))
        except ValueError:  # a short wording has no question of the split "test"
            continue
        return answered(question, kinds[name])


class Greetings:
    """Greetings, thanks and goodbyes."""

    name = "greetings"
    title_en = "Greetings and thanks"
    title_zh = "问候与致谢"
    weight = 1.0

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a greeting; the whole wording is unseen in the other split."""
        language = rng.choice(("zh", "en"))
        return ask_kind(rng, split, language, KINDS[language])


SKILL = Greetings()
