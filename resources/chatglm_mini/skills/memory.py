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
from . import facts, greetings, identity, smalltalk, translation

# fmt: off
WEIGHTS = {"name": 10, "city": 3, "age": 3, "colour": 3, "pet": 2, "job": 2, "food": 2, "hobby": 2, "relative": 2.5, "number": 1.5, "favourite": 2}
# Told together, "what do I like" or "what do I have" would have two answers; the second list's kinds half imply each other.
_ALIKE = ({"like", "colour"}, {"like", "food"}, {"like", "drink"}, {"like", "hobby"}, {"like", "favourite"}, {"have", "bought"}, {"have", "pet"})
_IMPLIED = (*_ALIKE, {"name", "surname"}, {"city", "origin"}, {"job", "workplace"}, {"job", "study"}, {"hobby", "favourite"}, {"food", "favourite"})
_RECALL = {
    "zh": "[那|所以|那么](你|)[还](记得|知道|记不记得|能想起|说得出)({np})(吗|么|不|嘛)|(告诉|提醒|提示)[一下]我({np})|(我忘了|考考你|说说|说一下|再说一遍|回忆一下|麻烦说一下|你说)[，]({np})|(你还能|你能|能不能|可以)(告诉我|说出|说说|回忆起)({np})[吗]|(之前|刚才|前面|刚刚)(我说过|告诉过你|提到过|说的)({np})[，还记得吗]|我(想知道|想确认)({np})|({np})(来着|，你记住了吗|，你知道吗|还记得不|，说说看)|(你应该|你总该|你肯定|想必你)(知道|记得)({np})(吧|了吧)|我(跟你说过|不是说过|告诉过你|刚跟你说了)({np})(的|，是什么|，还记得吗|，你忘了)|(测试一下你的记性|考考你的记性|看你记性好不好|测试一下|小测验)(：|，)({np})|(别告诉我你忘了|你不会忘了|你没忘|可别忘了)({np})(吧|)|({np})(，再说一次|，重复一下|，告诉我)",
    "en": "[(so|well|now|and)] do you [(still|even)] (remember|know|recall) ({np})|(can|could|would|will) you [please] (tell me|remind me|say) ({np})|(remind me|tell me|say|repeat) ({np})[, please]|(I forgot|I can't remember|I'd like to know|I want to hear|let's see if you know|I was wondering if you remember) ({np})|(did|do) you (remember|catch|notice|note) ({np})|(have you|you haven't) forgotten ({np})|(what did I say about|what do you know about) ({np})|have I (told|given) you ({np})|quiz: ({np})|any idea ({np})|(still remember|u know|you know|u remember|still know) ({np})|(let me test your memory|memory test|test|pop quiz|now the question|let's see)(:|,) ({np})|I [(already|just)] told you ({np})(, (remember|do you remember|what was it|didn't I)|, right)|I bet you (forgot|don't know|can't tell me) ({np})|(don't tell me you forgot|have you memorised|have you memorized|did you write down|did you save) ({np})|(please|pls|plz|now) (repeat|tell me|say) ({np}) [(again|once more|one more time)]|({np}), (do you know|please|tell me|do you remember it|what was it)",
}
_BEFORE = {
    "zh": "(你好|您好|嗨|哈喽|早上好|你好啊)[，|！]|(对了|顺便说一下|告诉你|跟你说|请记住|记一下|悄悄告诉你|说起来)，|(那个|嗯|话说)，|(先说一下|我先说|自我介绍：|聊聊我吧，|忘了说，|说说我自己，|说个事，|补充一下，|给你介绍一下，|我想告诉你，)",
    "en": "(Hi|Hello|Hey|Good morning|Hey there|Hi there)(,|!) |(By the way|Just so you know|Well|FYI|So|Ok|Please note|Remember|Oh), |(Let me tell you something: |About me: |I forgot to say, |You should know that |I want you to know: |I wanted to tell you that |Did I mention that |Something about me: |Note that |Keep in mind that |First of all, |Btw |Lemme tell you, )",
}
_CHANGED = {
    "zh": "(其实|不对，|说错了，|更正一下，|等等，|我改主意了，|对了，|哦不，|不好意思，|抱歉，|)",
    "en": "(Actually, |Sorry, |No wait, |Correction: |Oh, |I was wrong, |Well, now |Wait, |Update: |I made a mistake, |)",
}
# A correction that names no kind: what was told last is meant. {old}: what it was.
_BARE = {
    "zh": "(不对|不是|错了|哦不|写错了|打错了|口误|不好意思|说错了)，(是|应该是|我想说的是|我是说|我说的是|其实是){x}|(不是|不是{old}，|不是{old}，而|哦，不是{old}，)是{x}|{x}，(不是{old}|我刚才说错了|打错字了|刚才写错了)|(更正|更正一下|纠正一下|改一下)(：|，是|，应该是){x}|(应该|其实)是{x}|(改成|换成){x}(吧|)",
    "en": "(no|nope|sorry|oops|wait|no wait|correction|I mean|ah no|wrong|typo)(, |: | )(I meant|I mean|it's|it is|make that|that should be|it should be|I wanted to say|) {x}|not {old}(, but|, it's|,|. It is|. I meant) {x}|{x}(, not {old}| not {old}|, sorry|, I mean|, I mistyped|, that was a typo| I meant)|I (meant|meant to say|wanted to write|should have said) {x} [(instead|not {old}|, sorry)]|(it should be|it's actually|it is actually|that should be|make it|change it to|change that to) {x} [(please|not {old}|instead)]",
}
# What follows a statement, and what stands around a question about a fact.
_AFTER = {
    "zh": "，(记住哦|别忘了|记一下|请记住|记得哦|帮我记着|一会儿考你|告诉你一声|你记住了吗|要记住)",
    "en": "(, (btw|by the way|just so you know|please remember that|remember that|don't forget it|keep that in mind|if you want to know|fyi)| btw| lol| haha)",
}
_AROUND = {
    "zh": (
        "那|那你说|再问一遍，|考考你，|对了，|好了，|现在问你，|等等，|话说，|回到正题，|哎，|问题来了，",
        "，还记得吗|，你还记得吗|，你知道吗|，说说看|，我考考你|，我忘了|，你来说|，帮我想想|，再说一遍",
    ),
    "en": (
        "and |now |so |well then, |ok now |tell me, |just checking, |wait, |hey, |one question: |back to me: |my question: ",
        ", do you remember|, do you still know|, remember|, tell me|, I forgot|, just checking|, if you remember| btw|, you should know|, can you tell me",
    ),
}
# With one fact told, these ask for it; without any they would not be about what was told.
_ANYTHING = {
    "zh": "我(刚才|刚刚|之前|前面)(说了什么|告诉你什么了|跟你说了什么|告诉了你什么|说了我的什么)|(你|你都)(知道|记得|记住了)我(的什么|什么|些什么)|关于我[，]你(知道|记得|了解)(什么|些什么)|我跟你说过什么[来着]|(说说|讲讲|重复一下)(我刚才告诉你的|我告诉过你的事|你知道的关于我的事)",
    "en": "What did I (just tell you|tell you about me|tell you about myself|say about myself|just say about me)|What (have I told you|do you know|do you remember|did you learn) about me|(Tell me|Say|Repeat) what (I told you about me|you know about me|I just told you|you remember about me)|(Do you remember|Remember) what I (told you|just told you|said about myself)",
}
# The one who told a name is asked for when they ask whether they are known.
_MET = {
    "zh": "(你|)[还](记得|认得|认识|知道)我(吗|么|不|是谁吗)|(还|你还)(记得|认得|认识)我不|[你](忘了|忘记)我(了吗|了吧)|[你](没忘了|没忘记|不会忘了)我吧|我们(刚才|刚刚)认识的，(记得我吗|还记得我吗)",
    "en": "(do you |do u |you |)[still] (remember|know|recognise|recognize) me [(now|already|then)]|(did|have) you (forget|forgotten|remembered) me|(you|surely you) (remember|know) me, (right|don't you)|(so you know|you do know) me",
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
    if "old" in told.slots:
        return expand(rng, _BARE[language])
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
    if rng.random() < 0.06:
        after = expand(rng, _AFTER[language])
        text += after if after[0] in ",，" else f" {after}"
    text = text if len(told) > 1 or "old" in told[0].slots else _opened(rng, text, language, changed)
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
    grammar = direct if rng.random() < 0.6 else recall
    if rng.random() < 0.12:
        grammar = greetings.around(_AROUND[language], direct)
    return ask(rng, split, language, grammar, **told.slots)


def _asked_of_known(rng: random.Random, split: str, target: Told, told: list[Told], language: str) -> str:
    """Return a question about a fact that was told, now and then one that only this makes clear."""
    if target.kind.name == "name" and rng.random() < 0.08:
        grammar = _MET[language]
    elif len(told) == 1 and rng.random() < 0.05:
        grammar = _ANYTHING[language]
    else:
        return asked(rng, split, target, language)
    try:
        return ask(rng, split, language, grammar)
    except ValueError:  # a short list may have no question of the split "test"
        return asked(rng, split, target, language)


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
            if old is told[-1] and not joined and rng.random() < 0.35:
                target = Told(new.kind, new.value, {**new.slots, "old": old.value})
            told = [one for one in told if one is not old] + [target]
            turns.append((_said(rng, [target], language, changed=True), target.fill(target.kind.reply)))
        if rng.random() < 0.22:
            # The acknowledgement has to be learnt too: end with the last statement.
            last = told[0] if joined and not outdated else told[-1]
            return Dialogue(tuple(turns), _checked([last.value], []))
        question, answer = _asked_of_known(rng, split, target, told, language), target.fill(target.kind.answer)
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
            skill = rng.choice(
                (greetings.SKILL, greetings.SKILL, smalltalk.SKILL, identity.SKILL, facts.SKILL, translation.SKILL)
            )
            distractor = skill.sample(rng, split)
            if distractor.turns[0][1] == identity.KINDS[language]["memory"].answer:
                continue  # whoever told a name is known in this chat
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
