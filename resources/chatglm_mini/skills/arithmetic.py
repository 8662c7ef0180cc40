"""Additions and subtractions of numbers up to two digits, with the working shown.

The working is what makes the skill learnable in minutes: every step is a one-digit fact, and the last one copies digits.
Pairs of operands are held out; sums of two one-digit numbers are never held out, since they are those facts.
"""

from __future__ import annotations

import random
import re

from ..dialogue import TEST, TRAIN, Dialogue, in_split, normalize

# fmt: off
QUESTIONS_ZH = {
    "+": ("{a}加{b}等于多少？", "{a}加{b}是多少", "{a}加上{b}等于几？", "请问{a}加{b}等于多少？", "{a}与{b}的和是多少？", "把{a}和{b}加起来是多少？"),
    "-": ("{a}减{b}等于多少？", "{a}减{b}是多少", "{a}减去{b}等于几？", "请问{a}减{b}等于多少？", "{a}与{b}的差是多少？", "从{a}里减去{b}是多少？"),
}
SYMBOLIC_ZH = ("{e}等于多少？", "{e}等于几", "计算{e}", "请计算：{e}", "算一下{e}", "{e}=?", "{e}是多少？", "帮我算算{e}", "{e}得多少？")
QUESTIONS_EN = {
    "+": ("What is {a} plus {b}?", "How much is {a} plus {b}?", "Add {a} and {b}.", "What is the sum of {a} and {b}?", "{a} plus {b} equals?"),
    "-": ("What is {a} minus {b}?", "How much is {a} minus {b}?", "Subtract {b} from {a}.", "What do you get when you take {b} from {a}?", "{a} minus {b} equals?"),
}
SYMBOLIC_EN = ("What is {e}?", "How much is {e}?", "Calculate {e}.", "Compute {e}", "Please calculate {e}", "Solve {e}", "Can you work out {e}?")
# fmt: on


def working(a: int, b: int, sign: str, chinese: bool) -> str:
    """Return the answer: the task in one form, the digits one after the other, the result."""
    task = f"{a}{sign}{b}"
    result = a + b if sign == "+" else a - b
    if a < 10 and b < 10:
        return f"{task}={result}。" if chinese else f"{task}={result}."
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
    return f"{start}ones {ones}, tens {tens}, so {task}={result}."


# Share of the training tasks that are of the kind learnt last.
HARD = 0.35


def harder(rng: random.Random, a: int, b: int, sign: str) -> tuple[int, int]:
    """Return operands whose sum carries, or whose difference is small, so that its sign has to be looked for."""
    if sign == "-":
        return a, min(99, max(0, a + rng.randint(-15, 15)))
    ones = rng.randint(1, 9)
    return a - a % 10 + ones, b - b % 10 + rng.randint(10 - ones, 9)


class Arithmetic:
    """Add and subtract."""

    name = "arithmetic"
    title_en = "Additions and subtractions up to two digits"
    title_zh = "两位数以内的加减法"
    weight = 2.9

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
        """Draw a task in one of the wordings."""
        return self.in_language(rng, split, rng.random() < 0.55)

    def in_language(self, rng: random.Random, split: str, chinese: bool) -> Dialogue:
        """Draw a task in Chinese or English."""
        a, b, sign = self.operands(rng, split)
        expression = rng.choice((f"{a}{sign}{b}", f"{a} {sign} {b}"))
        symbolic, worded = (SYMBOLIC_ZH, QUESTIONS_ZH[sign]) if chinese else (SYMBOLIC_EN, QUESTIONS_EN[sign])
        kind = rng.random()
        if kind < 0.1:
            question, chinese = expression + rng.choice(("", "=", "=?", " =")), True
        elif kind < 0.5:
            question = rng.choice(symbolic).format(e=expression)
        else:
            question = rng.choice(worded).format(a=a, b=b)
        result = a + b if sign == "+" else a - b

        def check(answer: str) -> bool:
            numbers = re.findall(r"=\s*(-?\d+)(?!\d|\()", answer)
            return bool(numbers) and int(numbers[-1]) == result

        return Dialogue(((question, working(a, b, sign, chinese)),), check)


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
