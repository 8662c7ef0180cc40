"""Wordings by composition: grammars that give thousands of questions, what people type instead, tolerant matching.

A grammar is a text in which `(a|b)` stands for one of several parts and `[a]` for one that is there half of the time, each
of them nested at will: `(What is|What's|Name) the capital [city] of {x}`. Names in braces are slots.
"""

import random
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

from .dialogue import TRAIN, in_split, is_chinese

_OPENERS = {
    "zh": (
        "请问",
        "你好，",
        "您好，",
        "我想问一下，",
        "请教一下，",
        "麻烦问下",
        "嗨，",
        "那个，",
        "话说",
        "对了，",
        "问你个问题，",
        "帮个忙，",
    ),
    "en": (
        "Hi, ",
        "Hello, ",
        "Hey, ",
        "Excuse me, ",
        "Please, ",
        "Quick question: ",
        "So ",
        "Ok, ",
        "Um, ",
        "By the way, ",
        "One more thing: ",
    ),
}
_CLOSERS = {
    "zh": ("，谢谢", "，谢谢你", "，拜托了", "，急", "，麻烦你了", "，快点", "哈"),
    "en": (", please", ", thanks", " thx", " pls", ", thank you", " please"),
}
_ENDS = {
    "zh": ("", "", "？", "。", "！", "?", "～", "呢", "呀", "啊", "。。。"),
    "en": ("", "", "?", ".", "!", "??", "...", " ?"),
}
_SHORT_FORMS = (
    ("I am", "I'm"), ("I am", "im"), ("What is", "What's"), ("what is", "whats"), ("do not", "don't"), ("don't", "dont"), ("can't", "cant"),
    ("you", "u"), ("your", "ur"), ("are", "r"), ("please", "pls"), ("because", "cuz"), ("How do I", "how to"), ("want to", "wanna"),
    ("going to", "gonna"), ("the ", ""), ("tomorrow", "tmrw"), ("it's", "its"),
)  # fmt: skip
_LIKE_SOUNDING = ("的得", "在再", "吗嘛", "做作", "那哪", "他她", "么末", "和合", "是事", "想向", "以已", "呢呐")
_PARTICLES = "呢呀啊吗嘛吧哈么"
# Chinese characters, or Latin letters, up to which a question is always one of training: 你好 is what people type first.
SHORT_CHINESE, SHORT_LATIN = 5, 12


@cache
def _parse(grammar: str) -> tuple:
    """Return the alternatives of a grammar; each is a tuple of texts and of nested alternatives.

    Raises:
        ValueError: a bracket has no partner.
    """
    closing = {"(": ")", "[": "]"}
    levels: list[tuple[str, list[list]]] = [("", [[]])]
    for part in re.findall(r"[()\[\]|]|[^()\[\]|]+", grammar):
        alternatives = levels[-1][1]
        if part in closing:
            levels.append((closing[part], [[]]))
        elif part in closing.values():
            if levels[-1][0] != part:
                raise ValueError(f"{part!r} has no partner in the grammar {grammar!r}")
            inner = tuple(map(tuple, levels.pop()[1]))
            levels[-1][1][-1].append(inner if part == ")" else (((inner,),) + ((),)))
        elif part == "|":
            alternatives.append([])
        else:
            alternatives[-1].append(part)
    if len(levels) > 1:
        raise ValueError(f"{levels[-1][0]!r} is missing in the grammar {grammar!r}")
    return tuple(map(tuple, levels[0][1]))


def expand(rng: random.Random, grammar: str) -> str:
    """Return one of the texts of a grammar; slots stay.

    Raises:
        ValueError: a bracket has no partner.
    """

    def join(alternatives: tuple) -> str:
        return "".join(part if isinstance(part, str) else join(part) for part in rng.choice(alternatives))

    return re.sub(" {2,}", " ", join(_parse(grammar))).strip()


def typed(rng: random.Random, text: str, language: str) -> str:
    """Return a wording as people type it: an opener or closer, another end, no capital, short forms, now and then a slip.

    What stands in braces is left alone.
    """
    english = language == "en"
    opened = rng.random() < 0.12
    if opened:
        opener = rng.choice(_OPENERS[language])
        text = opener + (text[:1].lower() + text[1:] if english and not re.match(r"I\b", text) else text)
    if rng.random() < 0.5 and "\n" not in text:
        text = text.rstrip("？?。.！!") + (rng.choice(_CLOSERS[language]) if rng.random() < 0.2 else "")
        end = rng.choice(_ENDS[language])
        text += "" if text[-1] in _PARTICLES + "}" and end[:1] in _PARTICLES else end
    if english and rng.random() < 0.4:
        text = re.sub(r"\{\w+\}|[A-Z]", lambda found: found[0] if found[0][0] == "{" else found[0].lower(), text)
    if english and rng.random() < 0.15:
        usual, short = rng.choice(_SHORT_FORMS)
        text = re.sub(rf"\b{re.escape(usual)}(?!\w)" if usual[-1] != " " else rf"\b{usual}", short, text, count=1)
    if rng.random() < 0.06:
        text = _slip(rng, text, english)
    return text


def _slip(rng: random.Random, text: str, english: bool) -> str:
    """Return the text with one letter lost, doubled or swapped with the next (English), or one character for another."""
    if not english:
        places = [(place, pair) for place, c in enumerate(text) for pair in _LIKE_SOUNDING if c in pair]
        if not places:
            return text
        place, pair = rng.choice(places)
        return text[:place] + pair[1 - pair.index(text[place])] + text[place + 1 :]
    words_here = [found for found in re.finditer(r"\{\w+\}|[a-z]{4,}", text) if found[0][0] != "{"]
    if not words_here:
        return text
    place = rng.choice(words_here).start() + rng.randint(1, 2)
    change = rng.choice(("lost", "doubled", "swapped"))
    letters = {"lost": "", "doubled": text[place] * 2, "swapped": text[place + 1] + text[place]}[change]
    return text[:place] + letters + text[place + (2 if change == "swapped" else 1) :]


def ask(rng: random.Random, split: str, language: str, grammar: str, **values: str) -> str:
    """Return a question of a split: a text of the grammar, mostly as people type it, with its slots filled.

    One question in ten belongs to "test", whatever its case, spaces and punctuation; very short ones never do.

    Raises:
        ValueError: the grammar has no question of the split.
    """
    for _ in range(2000):
        template = expand(rng, grammar)
        if rng.random() < 0.6:
            template = typed(rng, template, language)
        text = template.format(**values)
        if belongs(text, split):
            return text
    raise ValueError(f"no question of the split {split!r} in {grammar!r} with {values}")


def belongs(text: str, split: str) -> bool:
    """Return whether a question is one of a split: one in ten is of "test", very short ones never."""
    core = plain(text)
    short = SHORT_CHINESE if is_chinese(core) else SHORT_LATIN
    return split == TRAIN if len(core) <= short else in_split(core, split)


def plain(text: str) -> str:
    """Fold width, case, spaces and punctuation away, so that only letters, digits and characters are compared."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return "".join(character for character in folded if character.isalnum())


def words(text: str) -> list[str]:
    """Split into lower-case English words and numbers and single Chinese characters."""
    folded = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return re.findall(r"[a-z]+(?:'[a-z]+)?|\d+|[^\W\da-z_]", folded)


def mentions(answer: str, phrase: str) -> bool:
    """Say whether `phrase` occurs in `answer` as whole words (English) or characters (Chinese)."""
    wanted, found = words(phrase), words(answer)
    return any(found[start : start + len(wanted)] == wanted for start in range(len(found) - len(wanted) + 1))


def mentions_all(answer: str, phrases: Iterable[str]) -> bool:
    """Say whether every phrase occurs in `answer`."""
    return all(mentions(answer, phrase) for phrase in phrases)


def overlap(answer: str, reference: str) -> float:
    """Return the share (0 to 1) of the reference's word pairs that `answer` holds too: tolerant of small changes."""
    wanted, found = words(reference), words(answer)
    if len(wanted) < 2:
        return float(mentions(answer, reference))
    pairs = set(pairwise(found))
    return sum(pair in pairs for pair in pairwise(wanted)) / (len(wanted) - 1)
