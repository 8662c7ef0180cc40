"""Chat: moods, the weather, jokes, wishes, short replies, and a small poem about anything."""

import random
from dataclasses import replace

from ..dialogue import TRAIN, Dialogue
from ..subjects import subject
from ..tables import blocks
from .greetings import AROUND, answered, around, ask_plainly, read_kinds

KINDS = read_kinds("smalltalk")
# How often a kind is drawn, relative to the others: a poem copies, and the short replies are many.
_SHARES = {"poem": 3, "apology": 1.5, "ok": 1.5}
# Wishes are given back in their own words, {x}; the second column is what the day is called, {d}.
_WISHES = {
    language: [line.split(" = ") for line in lines]
    for language, lines in zip(("zh", "en"), blocks("wishes"), strict=True)
}
# Kinds that people put something around, by how they say them.
_MANNERS = {
    **dict.fromkeys("bored tired sad happy angry hungry stressed sick nice rain temperature".split(), "told"),
    **dict.fromkeys("joke fact sing doing likes friends".split(), "asked"),
}
_AROUND = {
    language: {name: around(AROUND[language, manner], kinds[name].grammar) for name, manner in _MANNERS.items()}
    for language, kinds in KINDS.items()
}
_EMOJI = ("❤️", "😊", "😀", ":)", "😂", "🎉", "!!")


class Smalltalk:
    """Closed answers to what people say when they ask for nothing, and two that copy: a wish and a poem."""

    name = "smalltalk"
    title_en = "Small talk"
    title_zh = "闲聊"
    weight = 2.0

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a question whose whole wording is unseen in the other split, as is the subject of a poem."""
        language = rng.choice(("zh", "en"))
        kinds = KINDS[language]
        while True:
            name = rng.choices(list(kinds), [_SHARES.get(name, 1) for name in kinds])[0]
            values = {"e": rng.choice(_EMOJI)}
            if name == "poem":
                values["x"] = subject(rng, split, language)
            elif name == "wish":
                values["x"], values["d"] = rng.choice(_WISHES[language])
            if name == "poem" and split == TRAIN and rng.random() < 0.25:
                values["x"] = values["x"].lower()
            grammar = kinds[name].grammar
            if name in _MANNERS and rng.random() < 0.15:
                grammar = _AROUND[language][name]
            try:
                question = ask_plainly(rng, split, language, grammar, **values)
            except ValueError:  # short wordings have no question of the split "test"
                continue
            copied = values.get("x", "")
            dialogue = answered(question, kinds[name], copied)
            return _twice(dialogue, copied) if name == "poem" else dialogue


def _twice(dialogue: Dialogue, copied: str) -> Dialogue:
    """Return a dialogue whose right answers also name their subject twice, as a poem does."""
    right = dialogue.check
    return replace(dialogue, check=lambda answer: right(answer) and answer.lower().count(copied.lower()) >= 2)


SKILL = Smalltalk()
