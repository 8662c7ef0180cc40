"""Write numbers and expressions the way people type them: in digits or in words, with signs of many kinds."""

import random

# fmt: off
SIGNS = {"+": "+ + + + ＋".split(), "-": "- - - - － − –".split(), "×": "× × * * x X".split()}
SPOKEN = {
    "zh": {"+": "加 加 加 加上".split(), "-": "减 减 减 减去".split(), "×": "乘 乘 乘以".split()},
    "en": {"+": ("plus", "plus", "and"), "-": ("minus", "minus", "take away"), "×": ("times", "times", "multiplied by", "by")},
}
ONES = {
    "zh": "零一二三四五六七八九",
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(),
}
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
# fmt: on


def spelt(rng: random.Random, number: int, language: str) -> str:
    """Return a number up to 99 in words."""
    tens, ones = divmod(number, 10)
    if language == "zh":
        start = "" if not tens else "十" if tens == 1 else ONES["zh"][tens] + "十"
        return start + (ONES["zh"][ones] if ones or not tens else "")
    if number < 20:
        return ONES["en"][number]
    return TENS[tens - 2] + (rng.choice("-- ") + ONES["en"][ones] if ones else "")


def written(rng: random.Random, numbers: list[int], language: str) -> list[str]:
    """Return numbers in digits or in words, seldom one so and the other so."""
    kind = rng.random()
    if kind > 0.22:
        return [str(number) for number in numbers]
    mixed = kind < 0.05
    return [str(number) if mixed and rng.random() < 0.5 else spelt(rng, number, language) for number in numbers]


def expression(rng: random.Random, numbers: list[int], signs: str, language: str = "") -> str:
    """Return an expression as people write it, with signs or words; without a language it holds no words."""
    spoken = bool(language) and rng.random() < 0.4
    marks = {sign: rng.choice(SPOKEN[language][sign] if spoken else SIGNS[sign]) for sign in SIGNS}
    parts = written(rng, numbers, language) if spoken or language and rng.random() < 0.15 else [str(n) for n in numbers]
    apart = spoken and language == "en" or any(part.isascii() and not part.isdigit() for part in parts)
    if spoken and language == "zh":
        before = after = " " if rng.random() < 0.08 else ""
    else:
        before, after = (
            (" ", " ")
            if apart
            else rng.choice((("", ""), ("", ""), ("", ""), (" ", " "), (" ", " "), (" ", ""), ("", " ")))
        )
    return parts[0] + "".join(before + marks[sign] + after + part for sign, part in zip(signs, parts[1:], strict=True))
