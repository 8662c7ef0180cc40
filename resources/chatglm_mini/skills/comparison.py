"""Compare two known things by what each is good at and whom it suits."""

import random
from dataclasses import dataclass
from functools import partial

from ..dialogue import Dialogue, in_split
from ..tables import blocks
from ..wording import loosen, mentions, overlap, question, request


@dataclass(frozen=True)
class Thing:
    """Hold one side of a comparison in one language."""

    name: str
    traits: str
    suits: str


FRAMES = {
    "zh": (
        "{a}和{b}有什么区别", "比较一下{a}和{b}", "{a}和{b}哪个好", "{a}与{b}有什么不同", "{a}和{b}的区别是什么", "对比{a}和{b}", "请比较{a}与{b}", "{a}跟{b}比怎么样",
        "我应该选{a}还是{b}", "{a}好还是{b}好", "说说{a}和{b}的不同", "{a}和{b}怎么选", "分析一下{a}和{b}的差别",
        "选{a}还是选{b}", "选{a}还是{b}好", "{a}与{b}的不同", "请对比{a}和{b}", "{a}和{b}各有什么特点",
    ),
    "en": (
        "What is the difference between {a} and {b}", "Compare {a} and {b}", "Compare {a} with {b}", "Which is better, {a} or {b}",
        "How do {a} and {b} differ", "{a} or {b}", "{a} versus {b}", "Should I choose {a} or {b}", "Please compare {a} and {b}",
        "What are the differences between {a} and {b}", "Tell me the difference between {a} and {b}",
        "Compare {a} to {b}", "{a} compared with {b}", "Which do you prefer, {a} or {b}",
    ),
}  # fmt: skip
UNSEEN_FRAMES = {
    "zh": ("{a}和{b}有哪些不同", "请对比一下{a}和{b}", "选{a}好还是选{b}好", "{a}与{b}的区别"),
    "en": ("How do {a} differ from {b}", "Please compare {a} with {b}", "Which should I choose, {a} or {b}"),
}

# Both names come first, as asked: whether both are known is easier to tell once they stand side by side.
LEADS = {"zh": "{a}和{b}的区别", "en": "The difference between {a} and {b}"}


class Comparison:
    """Things are a closed list; a pair of the test split, in either order, never occurs in training."""

    name = "comparison"
    title_en = "Comparison of two things"
    title_zh = "比较两个事物"
    weight = 1.8

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a pair, mostly within one group, and a wording."""
        language = rng.choice(("zh", "en"))
        everything = [thing for group in GROUPS[language] for thing in group]
        while True:
            a, b = rng.sample(rng.choice(GROUPS[language]) if rng.random() < 0.75 else everything, 2)
            if in_split("|".join(sorted((a.name, b.name))), split, 6):
                break
        unseen = split == "test" and rng.random() < 0.4
        frame = rng.choice((UNSEEN_FRAMES if unseen else FRAMES)[language])
        frame = loosen(rng, split, frame, language, UNSEEN_FRAMES[language])
        single = language == "en" and not frame.startswith("How do {a} differ") and rng.random() < 0.3
        core = frame.format(a=_one(a.name) if single else a.name, b=_one(b.name) if single else b.name)
        core = core[0].upper() + core[1:]
        if language == "zh":
            answer = (
                f"{LEADS[language].format(a=a.name, b=b.name)}：{a.name}{a.traits}；{b.name}{b.traits}。"
                f"如果你{a.suits}，选{a.name}；如果你{b.suits}，选{b.name}。"
            )
        else:
            first, second = (f"{thing.name} {_be(thing.name)} {thing.traits}" for thing in (a, b))
            lead = LEADS[language].format(a=a.name, b=b.name)
            answer = f"{lead}: {first}, while {second}. Choose {a.name} if you {a.suits}, or {b.name} if you {b.suits}."
        dress = request if core.startswith(("Compare", "Please", "Tell", "比", "对", "请", "说", "分")) else question
        return Dialogue(((dress(rng, core, language), answer),), partial(_is_right, things=(a, b)))


def _one(name: str) -> str:
    """Turn "cats" into "a cat"; names that cannot be counted stay."""
    if name == "cities":
        return "a city"
    if _be(name) == "is" or name == "goldfish":
        return name
    return ("an " if name[0] in "aeio" else "a ") + name[:-1]


def _be(name: str) -> str:
    return "are" if name.endswith("s") and name != "table tennis" or name == "goldfish" else "is"


def _is_right(answer: str, things: tuple[Thing, Thing]) -> bool:
    return all(
        mentions(answer, thing.name) and overlap(answer, thing.traits) >= 0.7 and overlap(answer, thing.suits) >= 0.7
        for thing in things
    )


GROUPS: dict[str, list[list[Thing]]] = {"zh": [], "en": []}
# A block is a group of things that people compare; a line is: name / traits / "choose it if you …", first in Chinese.
for _block in blocks("comparison"):
    _rows = [line.split(" / ") for line in _block]
    GROUPS["zh"].append([Thing(*row[:3]) for row in _rows])
    GROUPS["en"].append([Thing(*row[3:]) for row in _rows])

SKILL = Comparison()
