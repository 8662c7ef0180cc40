"""Remember what the user said in an earlier turn, take corrections, and say so when something was never told."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..dialogue import Dialogue, contains_all, is_chinese
from ..personal import LISTED, about, personal_value
from ..tables import blocks
from ..wording import ask, expand
from . import facts, greetings, translation

# fmt: off
WEIGHTS = {"name": 10, "city": 3, "age": 3, "colour": 3, "pet": 2, "job": 2, "food": 2, "hobby": 2, "relative": 2.5, "number": 1.5, "favourite": 2}
# Told together, "what do I like" or "what do I have" would have two answers; the second list's kinds half imply each other.
_ALIKE = ({"like", "colour"}, {"like", "food"}, {"like", "drink"}, {"like", "hobby"}, {"like", "favourite"}, {"have", "bought"}, {"have", "pet"})
_IMPLIED = (*_ALIKE, {"name", "surname"}, {"city", "origin"}, {"job", "workplace"}, {"job", "study"}, {"hobby", "favourite"}, {"food", "favourite"})
_RECALL = {
    "zh": "[那|所以|那么](你|)[还](记得|知道|记不记得|能想起|说得出)({np})(吗|么|不|嘛)|(告诉|提醒|提示)[一下]我({np})|(我忘了|考考你|猜猜|说说|说一下|再说一遍|回忆一下|麻烦说一下|你说)[，]({np})|(你还能|你能|能不能|可以)(告诉我|说出|说说|回忆起)({np})[吗]|(之前|刚才|前面|刚刚)(我说过|告诉过你|提到过|说的)({np})[，还记得吗]|我(想知道|想确认)({np})",
    "en": "[(so|well|now|and)] do you [(still|even)] (remember|know|recall) ({np})|(can|could|would|will) you [please] (tell me|remind me|say) ({np})|(remind me|tell me|say|repeat) ({np})[, please]|(I forgot|I can't remember|I'd like to know|I want to hear|let's see if you know|I was wondering if you remember) ({np})|(did|do) you (remember|catch|notice|note) ({np})|(have you|you haven't) forgotten ({np})|(what did I say about|what do you know about) ({np})|have I (told|given) you ({np})|quiz: ({np})|any idea ({np})",
}
_BEFORE = {
    "zh": "(你好|您好|嗨|哈喽|早上好|你好啊)[，|！]|(对了|顺便说一下|告诉你|跟你说|请记住|记一下|悄悄告诉你|说起来)，|(那个|嗯|话说)，",
    "en": "(Hi|Hello|Hey|Good morning|Hey there|Hi there)(,|!) |(By the way|Just so you know|Well|FYI|So|Ok|Please note|Remember|Oh), ",
}
_CHANGED = {
    "zh": "(其实|不对，|说错了，|更正一下，|等等，|我改主意了，|对了，|哦不，|不好意思，|抱歉，|)",
    "en": "(Actually, |Sorry, |No wait, |Correction: |Oh, |I was wrong, |Well, now |Wait, |Update: |I made a mistake, |)",
}
# fmt: on


@dataclass(frozen=True)
class Kind:
    """Hold the grammars around one kind of personal fact; `{x}` stands for its value, `{what}` for what it is about."""

    name: str
    say: str
    reply: str
    ask: str
    np: str
    answer: str
    unknown: str
    change: str
    listed: str = ""


@dataclass(frozen=True)
class Told:
    """Hold one fact about the user: its kind, its value and what it is about (a sister, a phone number)."""

    kind: Kind
    value: str
    slots: dict[str, str] = field(default_factory=dict)

    def fill(self, text: str) -> str:
        """Return the text with every slot filled."""
        return text.format(x=self.value, **self.slots)


def _read_kinds() -> dict[str, dict[str, Kind]]:
    """Read blocks of: kind and language; then lines "key: grammar", where the lines of a key are alternatives."""
    kinds: dict[str, dict[str, Kind]] = {"zh": {}, "en": {}}
    for head, *lines in blocks("memory"):
        name, language = head.split()
        grammars: dict[str, list[str]] = {}
        for line in lines:
            key, grammar = line.split(": ", 1)
            grammars.setdefault(key, []).append(grammar)
        kinds[language][name] = Kind(name, **{key: "|".join(parts) for key, parts in grammars.items()})
    return kinds


KINDS = _read_kinds()


def _tell(rng: random.Random, split: str, language: str, kind: str, what: str = "") -> Told:
    """Draw a fact; one English value in four is typed in lower case."""
    what = what or about(rng, kind, language)
    value = personal_value(rng, split, language, kind, what)
    if language == "en" and rng.random() < 0.25:
        value = value.lower()
    return Told(KINDS[language][kind], value, {"what": what, "who": what, "pet": what})


def statement(rng: random.Random, told: Told, language: str, changed: bool = False) -> str:
    """Return a template that tells a fact, without greeting or end."""
    kind, english = told.kind, language == "en"
    if changed and rng.random() < 0.6:
        return expand(rng, kind.change)
    bare = told.value.removeprefix("an ").removeprefix("a ") if kind.name == "job" else told.value
    listed = kind.listed and rng.random() < 0.35 and bare in LISTED[kind.name, language]
    template = expand(rng, kind.listed if listed else kind.say)
    if not english and told.value.isascii() and told.value.isalpha() and rng.random() < 0.3:
        template = template.replace("{x}", " {x} ").strip()  # 我叫 Tom
    return template


def _said(rng: random.Random, told: list[Told], language: str, changed: bool = False) -> str:
    """Return a message that tells one fact or several, as people type it."""
    parts = [statement(rng, one, language, changed) for one in told]
    parts = [one.fill(part) for one, part in zip(told, parts, strict=True)] if len(told) > 1 else parts
    if language == "zh":
        shorter = [re.sub("^我(?!的|们|家|姓|和|自|对|[^\u4e00-\u9fff])", "", part) for part in parts[1:]]
        text = rng.choice("，，，。 ").join(
            [parts[0], *(rng.choice(pair) for pair in zip(parts[1:], shorter, strict=True))]
        )
    else:
        between = rng.choice((", ", " and ", ". ", ". ", ", and "))
        later = parts[1:] if between == ". " else [part.replace("My ", "my ", 1) for part in parts[1:]]
        text = between.join([parts[0], *later])
    text = text if len(told) > 1 else _opened(rng, text, language, changed)
    plain_case = all(one.value == one.value.lower() for one in told)
    if language == "en" and rng.random() < (0.6 if plain_case else 0.2):
        text = re.sub(r"\{\w+\}|[A-Z]", lambda hit: hit[0] if hit[0][0] == "{" else hit[0].lower(), text)
        text = re.sub(r"\bi'm\b", "im", text) if rng.random() < 0.4 else text
        if len(told) > 1:  # the values are in the text already and must stay as the answer has them
            for one in told:
                text = re.sub(re.escape(one.value), lambda _, value=one.value: value, text, flags=re.IGNORECASE)
    elif language == "en" and rng.random() < 0.8 and not text.startswith("{"):
        text = text[:1].upper() + text[1:]
    end = rng.choice(("", "", "", "。", "！", "。") if language == "zh" else ("", "", ".", ".", "!"))
    text = told[0].fill(text) if len(told) == 1 else text
    return text + ("" if text[-1] in ".!。！？" else end)


def _opened(rng: random.Random, text: str, language: str, changed: bool) -> str:
    """Return a statement with a greeting, or with what announces a correction, in front."""
    if not changed and rng.random() > 0.25:
        return text
    opener = expand(rng, (_CHANGED if changed else _BEFORE)[language])
    if language == "zh":
        return opener + text
    keep = re.match(r"(I|I'm|I've)\b", text) or text[:1] == "{"
    return f"{opener} ".lstrip() + (text if keep or not opener else text[:1].lower() + text[1:])


def asked(rng: random.Random, split: str, told: Told, language: str) -> str:
    """Return a question about a fact."""
    direct, recall = told.kind.ask, _RECALL[language].replace("{np}", told.kind.np)
    return ask(rng, split, language, direct if rng.random() < 0.65 else recall, **told.slots)


class Memory:
    """Answer from what an earlier turn said."""

    name = "memory"
    title_en = "Memory over one to five turns"
    title_zh = "多轮记忆"
    weight = 3.2

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw facts, maybe a correction, distractors between them, and a question; or only the last statement."""
        language = rng.choice(("zh", "en"))
        untold = rng.random() < 1 / 6
        told = self._facts(rng, split, language, rng.choice((0, 0, 0, 1, 1, 2) if untold else (1, 1, 1, 1, 2, 2, 3)))
        joined = len(told) > 1 and rng.random() < 0.35
        turns = [
            (_said(rng, group, language), group[0].fill(group[0].kind.reply))
            for group in ([told] if joined else [[one] for one in told])
        ]
        if untold:
            target = self._untold(rng, split, language, told)
            turns = self._distracted(rng, split, language, turns)
            answer = target.fill(target.kind.unknown)
            check = _checked(
                [answer.rstrip("。.")], [one.value for one in told if not contains_all(answer, [one.value])]
            )
            return Dialogue((*turns, (asked(rng, split, target, language), answer)), check)
        target, outdated = rng.choice(told), []
        # A short list may hold a single value of a split, so that there is nothing to change it to.
        old, new = target, _tell(rng, split, language, target.kind.name, target.slots["what"])
        clear = all(not contains_all(a.value, [b.value]) for one in told for a, b in ((one, new), (new, one)))
        if clear and rng.random() < 0.13:
            target, outdated = new, [old.value]
            told = [one for one in told if one is not old] + [target]
            turns.append((_said(rng, [target], language, changed=True), target.fill(target.kind.reply)))
        if rng.random() < 0.22:
            # The acknowledgement has to be learnt too: end with the last statement.
            last = told[0] if joined and not outdated else told[-1]
            return Dialogue(tuple(turns), _checked([last.value], []))
        question, answer = asked(rng, split, target, language), target.fill(target.kind.answer)
        if len(told) == 1 and not outdated and rng.random() < 0.1:
            # Statement and question in one message.
            said = turns[0][0]
            said += "" if said[-1] in ".!。！" else rng.choice("，。" if language == "zh" else (".", ",", "!"))
            turns = [(said + ("" if language == "zh" else " ") + question, answer)]
            return Dialogue(tuple(turns), _checked([target.value], []))
        turns = self._distracted(rng, split, language, turns)
        others = [one.value for one in told if one is not target and not contains_all(answer, [one.value])]
        return Dialogue(
            (*turns, (question, answer)),
            _checked([target.value], [*others, *(one for one in outdated if not contains_all(answer, [one]))]),
        )

    def _facts(self, rng: random.Random, split: str, language: str, count: int) -> list[Told]:
        """Draw facts that do not answer each other's questions; two may be of one kind about two people or things."""
        names = list(KINDS[language])
        told: list[Told] = []
        while len(told) < count:
            twin = told and told[0].kind.name in ("relative", "favourite", "number", "date") and rng.random() < 0.4
            name = told[0].kind.name if twin else rng.choices(names, [WEIGHTS.get(one, 1) for one in names])[0]
            new = _tell(rng, split, language, name)
            if any(
                _same(new, one) or {name, one.kind.name} in _ALIKE or new.value.lower() == one.value.lower()
                for one in told
            ):
                continue
            told.append(new)
        return told

    def _untold(self, rng: random.Random, split: str, language: str, told: list[Told]) -> Told:
        """Draw a fact that none of those told answers; its value is never used."""
        while True:
            (new,) = self._facts(rng, split, language, 1)
            if not any(_same(new, one) or {new.kind.name, one.kind.name} in _IMPLIED for one in told):
                return new

    def _distracted(self, rng: random.Random, split: str, language: str, turns: list[tuple[str, str]]):
        """Put short turns of other skills, in the same language, before, between and after the statements."""
        turns = list(turns)
        while len(turns) < 5 and rng.random() < 0.25:
            skill = rng.choice((greetings.SKILL, greetings.SKILL, facts.SKILL, translation.SKILL))
            distractor = skill.sample(rng, split)
            if len(distractor.turns) == 1 and is_chinese(distractor.question) == (language == "zh"):
                turns.insert(rng.randint(0, len(turns)), distractor.turns[0])
        return turns


def _same(one: Told, other: Told) -> bool:
    """Say whether two facts would be asked for with the same words."""
    slots_tell = one.kind.name in ("relative", "favourite", "number", "date")
    return one.kind.name == other.kind.name and (not slots_tell or one.slots == other.slots)


def _checked(wanted: list[str], unwanted: list[str]) -> Callable[[str], bool]:
    """Return a rule: the answer holds all that is wanted and nothing of what belongs to another question."""
    return lambda answer: contains_all(answer, wanted) and not any(contains_all(answer, [one]) for one in unwanted)


SKILL = Memory()
