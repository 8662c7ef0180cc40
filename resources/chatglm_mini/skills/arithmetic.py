"""Additions and subtractions of numbers up to two digits, with the working shown; three terms; the times table.

The working is what makes the skill learnable in minutes: every step is a one-digit fact, and the last one copies digits.
Pairs of operands are held out, whatever the wording. Sums of two one-digit numbers and the times table never are, since
they are those facts: of them, wordings are.
"""

from __future__ import annotations

import random
import re

from ..dialogue import TEST, TRAIN, Dialogue, in_split, normalize
from ..names import person_en, person_zh
from ..numerals import expression, spelt, written
from ..tables import blocks
from ..wording import ask, expand, typed

# "asked" says for the value {e} of an expression; "named" names both operands; "story" is a little word problem, where {n}
# and {k} are people, {m} counts {x}, {f} is food, {i} and {j} are goods with a price. ">" is for results above zero only.
_TABLE = {name: lines for name, *lines in blocks("arithmetic")}
GRAMMARS = {
    name: "|".join(lines) for name, lines in _TABLE.items() if name.startswith(("asked", "named", "story", "rhyme"))
}
_WORDS = {name: lines[0].split(",") for name, lines in _TABLE.items() if name not in GRAMMARS}
# How an answer ends: in Chinese, in English, without words.
STOPS = {True: "。", False: ".", None: ""}


def working(a: int, b: int, sign: str, chinese: bool | None) -> str:
    """Return the answer: the task in one form, the digits one after the other, the result.

    `chinese` is None for an answer without any word, which suits a question without any.
    """
    task = f"{a}{sign}{b}"
    result = a + b if sign == "+" else a - b
    if a < 10 and b < 10:
        return f"{task}={result}{STOPS[chinese]}"
    large, small = (a, b) if sign == "+" else (max(a, b), min(a, b))
    large_ones, small_ones = large % 10, small % 10
    if sign == "+":
        ones = f"{large_ones}+{small_ones}={large_ones + small_ones}"
        carry = "+1" if large_ones + small_ones > 9 else ""
    else:
        borrowed = large_ones < small_ones
        ones = f"{large_ones + 10 * borrowed}-{small_ones}={large_ones + 10 * borrowed - small_ones}"
        carry = "-1" if borrowed else ""
    first, second = large // 10, small // 10
    tens_value = first + second + bool(carry) if sign == "+" else first - second - bool(carry)
    tens = f"{first}{sign}{second}{carry}={tens_value}"
    if chinese:
        start = f"{task}：" if result >= 0 else f"{task}=-({large}-{small})，"
        return f"{start}个位{ones}，十位{tens}，所以{task}={result}。"
    start = f"{task}: " if result >= 0 else f"{task}=-({large}-{small}), "
    if chinese is None:
        return f"{start}{ones}, {tens}, {task}={result}"
    return f"{start}ones {ones}, tens {tens}, so {task}={result}."


# Share of the training tasks that are of the kind learnt last.
HARD = 0.35


def harder(rng: random.Random, a: int, b: int, sign: str) -> tuple[int, int]:
    """Return operands whose sum carries, or whose difference is small, so that its sign has to be looked for."""
    if sign == "-":
        return a, min(99, max(0, a + rng.randint(-15, 15)))
    ones = rng.randint(1, 9)
    return a - a % 10 + ones, b - b % 10 + rng.randint(10 - ones, 9)


def chain(numbers: list[int], signs: str, chinese: bool | None) -> str:
    """Return the answer to three terms of one digit: one step after the other."""
    task = f"{numbers[0]}{signs[0]}{numbers[1]}{signs[1]}{numbers[2]}"
    between, result = _value(numbers[:2], signs[0]), _value(numbers, signs)
    steps = (f"{numbers[0]}{signs[0]}{numbers[1]}={between}", f"{between}{signs[1]}{numbers[2]}={result}")
    if chinese:
        return f"{task}：{'，'.join(steps)}，所以{task}={result}。"
    return f"{task}: {', '.join(steps)}, {'' if chinese is None else 'so '}{task}={result}{STOPS[chinese]}"


def _value(numbers: list[int], signs: str) -> int:
    return numbers[0] + sum(n if sign == "+" else -n for n, sign in zip(numbers[1:], signs, strict=True))


def _worded(rng: random.Random, language: str, grammar: str, **values: str) -> str:
    """Return a question whose operands alone decide on its split."""
    template = expand(rng, grammar)
    return (typed(rng, template, language) if rng.random() < 0.6 else template).format(**values)


def _bare(rng: random.Random, text: str) -> str:
    """Return an expression with nothing else than, perhaps, a sign of equality."""
    return text + rng.choice(("", "", "", "=", "=", "=?", " =", " = ?", "?", "=？", "＝"))


class Arithmetic:
    """Add and subtract, also in words and in little stories, and multiply two digits."""

    name = "arithmetic"
    title_en = "Additions, subtractions up to two digits, times table"
    title_zh = "两位数以内的加减法、乘法表"
    weight = 3.4

    def operands(self, rng: random.Random, split: str) -> tuple[int, int, str]:
        """Draw operands and sign; the pairs of the two splits differ."""
        while True:
            a, b = (rng.randint(0, 99) if rng.random() < 0.92 else rng.randint(0, 9) for _ in range(2))
            sign = rng.choice("+-")
            if split == TRAIN and rng.random() < HARD:
                a, b = harder(rng, a, b, sign)
            if a < 10 and b < 10:
                if split == TEST:
                    continue
                return a, b, sign
            if in_split((a, sign, b), split):
                return a, b, sign

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a task of one of the kinds."""
        language = rng.choice(("zh", "en"))
        kind = rng.random()
        if kind < 0.12:
            question, answer, result = self._three_terms(rng, split, language)
        elif kind < 0.25:
            question, answer, result = self._product(rng, split, language)
        elif kind < 0.35:
            question, answer, result = self._story(rng, split, language)
        else:
            question, answer, result = self._pair(rng, split, language)

        def check(answer: str) -> bool:
            numbers = re.findall(r"=\s*(-?\d+)(?!\d|\()", answer)
            return bool(numbers) and int(numbers[-1]) == result

        return Dialogue(((question, answer),), check)

    def _pair(self, rng: random.Random, split: str, language: str) -> tuple[str, str, int]:
        a, b, sign = self.operands(rng, split)
        result = _value([a, b], sign)
        if rng.random() < 0.14:
            return _bare(rng, expression(rng, [a, b], sign)), working(a, b, sign, None), result
        if rng.random() < 0.6:
            grammar = GRAMMARS[f"asked {language}"]
        else:
            positive = sign == "-" and result > 0 and rng.random() < 0.4
            grammar = GRAMMARS[f"named {language}{'>' if positive else sign}"]
        first, second = written(rng, [a, b], language)
        values = {"a": first, "b": second, "e": expression(rng, [a, b], sign, language)}
        return _worded(rng, language, grammar, **values), working(a, b, sign, language == "zh"), result

    def _three_terms(self, rng: random.Random, split: str, language: str) -> tuple[str, str, int]:
        while True:
            numbers, signs = [rng.randint(0, 9) for _ in range(3)], rng.choice(("++", "++", "++", "+-", "-+", "--"))
            if _value(numbers[:2], signs[0]) >= 0 <= _value(numbers, signs) and in_split((signs, *numbers), split):
                break
        result = _value(numbers, signs)
        if rng.random() < 0.2:
            return _bare(rng, expression(rng, numbers, signs)), chain(numbers, signs, None), result
        question = _worded(rng, language, GRAMMARS[f"asked {language}"], e=expression(rng, numbers, signs, language))
        return question, chain(numbers, signs, language == "zh"), result

    def _product(self, rng: random.Random, split: str, language: str) -> tuple[str, str, int]:
        a, b = (rng.choice((*range(10), *range(2, 10))) for _ in "ab")
        task, kind = f"{a}×{b}={a * b}", rng.random()
        if kind < 0.2 and split == TRAIN:
            return _bare(rng, expression(rng, [a, b], "×")), task, a * b
        if kind < 0.35 and language == "zh" and 0 < a <= b:
            grammar = GRAMMARS["rhyme zh"]
        else:
            grammar = GRAMMARS[rng.choice((f"asked {language}", f"asked {language}", f"named {language}×"))]
        first, second = written(rng, [a, b], language)
        spoken = spelt(rng, a, language) + spelt(rng, b, language)
        values = {"a": first, "b": second, "e": expression(rng, [a, b], "×", language), "r": spoken}
        return ask(rng, split, language, grammar, **values), task + STOPS[language == "zh"], a * b

    def _story(self, rng: random.Random, split: str, language: str) -> tuple[str, str, int]:
        most = rng.choice((9, 20, 99))
        while True:
            sign, a, b = rng.choice("+-"), rng.randint(2, most), rng.randint(2, most)
            if (sign == "+" or a > b) and (max(a, b) < 10 or in_split((a, sign, b), split)):
                break
        first, second = written(rng, [a, b], language)
        goods = rng.sample(_WORDS[f"goods {language}"], 2)
        thing, food = (rng.choice(_WORDS[f"{kind} {language}"]) for kind in ("things", "food"))
        values = {"a": first, "b": second, "i": goods[0], "j": goods[1], "x": thing, "f": food}
        if language == "zh":
            values.update(m=thing[0], x=thing[1:])
        while True:
            n, k = (self._person(rng, split, language) for _ in "nk")
            if n != k:
                break
        question = ask(rng, split, language, GRAMMARS[f"story {language}{sign}"], n=n, k=k, **values)
        return question, working(a, b, sign, language == "zh"), _value([a, b], sign)

    def _person(self, rng: random.Random, split: str, language: str) -> str:
        if rng.random() < 0.6:
            name = rng.choice(_WORDS[f"people {language}"])
        else:
            name = person_zh(rng, split) if language == "zh" else person_en(rng, split)
        return name.lower() if rng.random() < 0.25 else name


DRILL_QUESTIONS = ("计算：{}", "{}", "算一算：{}", "口算：{}", "Calculate: {}", "Work out {}")


class Drill:
    """Many small sums in one answer: the steps of the working, where two random digits have to be told apart.

    As long as a model has not learnt the tables, an answer's digits look equally likely, and nothing tells it where to
    begin. Small numbers are therefore commoner in half of the dialogues: with them, one digit alone says something.
    Not a skill of its own: the tables are closed, so there is nothing to hold out.
    """

    name = "drill"
    title_en = "Drill of small sums"
    title_zh = "口算练习"
    weight = 2.4

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw four to seven sums."""
        small_first = rng.random() < 0.5

        def digit() -> int:
            return min(rng.randint(0, 9), rng.randint(0, 9)) if small_first else rng.randint(0, 9)

        def task() -> str:
            a, b, kind = digit(), digit(), rng.random()
            if kind < 0.3:
                return f"{a}+{b}"
            if kind < 0.55:
                return f"{a}+{b}+1"
            if kind < 0.65:
                return f"{max(a, b)}-{min(a, b)}"
            if kind < 0.8:
                return f"1{min(a, b)}-{max(a, b)}"
            return f"{max(a, b) + 1}-{min(a, b)}-1" if max(a, b) < 9 else f"9-{b % 9}-1"

        tasks = [task() for _ in range(rng.randint(4, 7))]
        results = [sum(int(term) for term in re.findall(r"-?\d+", task)) for task in tasks]
        answer = ",".join(f"{task}={result}" for task, result in zip(tasks, results, strict=True))
        question = rng.choice(DRILL_QUESTIONS).format(",".join(tasks))
        return Dialogue(((question, answer),), lambda text: normalize(text) == normalize(answer))


SKILL = Arithmetic()
DRILL = Drill()
