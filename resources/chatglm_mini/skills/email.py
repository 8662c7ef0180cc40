"""Write an e-mail to whom a question names, with what the question says copied word for word."""

import random
import re
from dataclasses import dataclass
from functools import cache, partial

from ..dialogue import Dialogue, draw_split, in_split
from ..names import GIVEN_CHARACTERS, SURNAMES, city_en, city_zh, person_en, person_zh
from ..subjects import subject
from ..tables import blocks, table
from ..wording import ask, expand, mentions, plain


@dataclass(frozen=True)
class Purpose:
    """Hold one kind of e-mail: a block in the table of purposes.

    Args:
        language: "zh" or "en".
        clauses: name of the grammar in the table of e-mails that gives what is copied, `{r}`.
        weight: share among the purposes, as a number.
        subject: subject line of the answer.
        body: text of the answer.
        addressed: grammar of the demand with its recipient, `{to}`. English verbs that end in "~" also get "-ing".
        alone: the same without a recipient.
        label: what such an e-mail is called; alternatives have "|" between them.
    """

    language: str
    clauses: str
    weight: str
    subject: str
    body: str
    addressed: str
    alone: str
    label: str


_PURPOSES = [Purpose(*block) for block in blocks("email_purposes")]
_FAMILY_NAMES = (
    "Smith Brown Jones Miller Davis Wilson Taylor Clark Lewis Walker Hall Young King Wright Scott Green Baker Adams Nelson "
    "Carter Parker Evans Turner Collins Cook Rogers Morgan Bell Murphy Cooper Ward Gray Watson Brooks Price Wood Ross Foster "
    "Powell Long Hughes Butler Fisher Reed Cole Stone Ford Hill Marsh Webb Li Wang Zhang Chen Liu Zhao"
).split()
_TITLES = "经理 老师 主任 教授 医生 总监 先生 女士 校长 律师 师傅 编辑 总 老板 局长 阿姨 同学 小姐 院长".split()
_GRAMMARS = dict(line.split(" = ", 1) for line in table("email"))
# What an e-mail says that is asked for by its kind alone: a purpose's clauses, what people call it, and the reason.
_BRIEF = {
    "en": (
        ("thanks", "thank you|thank-you|thanks", "your help"),
        ("leave", "leave request|vacation request|holiday request|leave of absence", "leave"),
        ("leave", "sick leave|sick day|sick note", "sick leave"),
        ("sorry", "apology|sorry", "for the trouble"),
        ("wish", "birthday|happy birthday", "a happy birthday"),
        ("wish", "Christmas|merry Christmas", "a merry Christmas"),
        ("wish", "New Year|happy new year", "a happy new year"),
        ("wish", "get well|get-well", "a speedy recovery"),
        ("wish", "good luck", "all the best"),
    ),
    "zh": (
        ("thanks", "感谢|致谢|感谢的", "的帮助"),
        ("leave", "请假|请假的|请假申请", "请假"),
        ("wish", "生日祝福|祝贺生日的|祝生日快乐的", "生日快乐"),
        ("wish", "新年祝福|拜年的|新年问候", "新年快乐"),
        ("wish", "中秋祝福|中秋节祝福", "中秋快乐"),
        ("apply", "离职|辞职|离职申请", "申请离职"),
        ("apply", "加薪申请|申请加薪的", "申请加薪"),
        ("apply", "求职", "应聘贵公司的职位"),
    ),
}
_PEOPLE = {"zh": person_zh, "en": person_en}
_CITIES = {"zh": city_zh, "en": city_en}


class Email:
    """Names, and what is to be written, of the test split never occur in training."""

    name = "email"
    title_en = "E-mail from a name, a recipient and a reason"
    title_zh = "写邮件"
    weight = 2.6

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a purpose, what to write, a recipient and a sender; the last two are often not said."""
        while True:
            try:
                return _chinese(rng, split) if rng.random() < 0.5 else _english(rng, split)
            except ValueError:
                continue  # no wording of this e-mail belongs to the split


def _chinese(rng: random.Random, split: str) -> Dialogue:
    purpose = _purpose(rng, "zh")
    reason, leave = _clause(rng, split, "zh", purpose.clauses), _fill(rng, split, "zh", _GRAMMARS["leave zh"])
    asked, dear = _recipient_zh(rng, split)
    sender = person_zh(rng, split) if rng.random() < 0.4 else ""
    chance, special = rng.random(), ""
    if chance < 0.08:
        clauses, label, reason = rng.choice(_BRIEF["zh"])
        purpose = next(one for one in _PURPOSES if one.language == "zh" and one.clauses == clauses)
        special = f"brief|{label}"
    elif chance < 0.25 and purpose.clauses in ("reason", "sorry", "problem"):
        special = f"reason|{purpose.label}"
        leave = "请假"
    grammar = _grammar_zh(purpose, bool(asked), bool(sender), special)
    text = ask(rng, split, "zh", grammar, to=asked, r=reason, v=leave, sender=sender)
    salutation, signature = dear or "尊敬的先生/女士", sender or "[你的名字]"
    body = purpose.body.format(r=reason, v=leave)
    answer = f"主题：{purpose.subject}\n{salutation}：\n您好！{body}\n祝好！\n{signature}"
    return _dialogue(text, answer, salutation, signature, reason, purpose.subject)


def _english(rng: random.Random, split: str) -> Dialogue:
    purpose = _purpose(rng, "en")
    typed_as = rng.choice((str, str, str, str.lower))
    reason, special = typed_as(_clause(rng, split, "en", purpose.clauses)), ""
    if rng.random() < 0.08:
        clauses, label, reason = rng.choice(_BRIEF["en"])
        purpose = next(one for one in _PURPOSES if one.language == "en" and one.clauses == clauses)
        reason, special = typed_as(reason), f"brief|{label}"
    asked, dear = (typed_as(part) for part in _recipient_en(rng, split))
    sender = typed_as(_sender_en(rng, split)) if rng.random() < 0.45 else ""
    said = reason.format(your=rng.choice(("his", "her", "their", "your")))
    verb, _, rest = said.partition(" ")
    what, because, why = said.partition(" because ")
    if not special and rng.random() < 0.5 and (because or purpose.clauses == "problem" or said.startswith("that i")):
        why = why if because else said.removeprefix("that ")
        special = f"reason|{purpose.label}" if what == "leave" or not because else ""
    why = why[:1].upper() + why[1:] if rng.random() < 0.5 and typed_as is str else why
    caused = bool(because) and purpose.clauses == "leave"
    grammar = _grammar_en(purpose, bool(asked), bool(sender), caused, special)
    values = {"to": asked, "sender": sender, "r": said, "ring": f"{_ing(verb)} {rest}", "what": what, "why": why}
    text = ask(rng, split, "en", grammar, **values)
    reason = reason.format(your="your")
    salutation, signature = dear or "Sir or Madam", sender or "[Your name]"
    body = purpose.body.format(r=reason)
    answer = f"Subject: {purpose.subject}\nDear {salutation},\n{body}\nBest regards,\n{signature}"
    return _dialogue(text, answer, salutation, signature, reason, purpose.subject)


def _purpose(rng: random.Random, language: str) -> Purpose:
    purposes = [purpose for purpose in _PURPOSES if purpose.language == language]
    return rng.choices(purposes, [float(purpose.weight) for purpose in purposes])[0]


def _ing(verb: str) -> str:
    """Return the present participle of a verb that a demand begins with."""
    if verb in ("let", "cancel", "get", "set"):
        return verb + verb[-1] + "ing"
    return verb.removesuffix("e") + "ing"


def _demand(frames: str, demand: str) -> str:
    """Put a demand into frames: its infinitives for "INF", its participles for "ING"; "~" marks its verbs."""

    def participle(found: re.Match[str]) -> str:
        return "{ring}" if found[1] == "{r}" else _ing(found[1])

    participles = re.sub(r"(\w+|\{r\})~", participle, demand)
    return frames.replace("INF", f"({demand.replace('~', '')})").replace("ING", f"({participles})")


def _frames(language: str, names: list[str]) -> str:
    """Join the frames of those names in the table, with their verbs and nouns for writing a mail."""
    joined = "|".join(_GRAMMARS[f"{name} {language}"] for name in names)
    return joined.replace("WRITE", _GRAMMARS[f"write {language}"]).replace("MAIL", _GRAMMARS["mail en"])


@cache
def _grammar_en(purpose: Purpose, addressed: bool, signed: bool, because: bool, special: str) -> str:
    """Return the grammar of every way to ask for an e-mail; where there is a cause, it is also said in front.

    Args:
        purpose: its purpose.
        addressed: whether a recipient is named.
        signed: whether a sender is named.
        because: whether it says why.
        special: nothing, or how else it is asked for, by "brief" or "reason" frames, and what it is called.
    """
    if special:
        name, _, label = special.partition("|")
        called = "|".join(f"{'an' if one[0] in 'aei' else 'a'} {one}" for one in label.split("|"))
        frames = _frames("en", [f"{name} frames"]).replace("KIND", f"({called})").replace("LABEL", label)
        frames = frames.replace("TO", " to {to}" if addressed else "")
        return _GRAMMARS["signed en"].replace("FRAMES", frames) if signed else f"({frames})(||.)"
    told = purpose.clauses == "tell"
    used = {"alone frames": True, "told frames": told, "cause frames": because, "direct frames": addressed}
    used["told direct frames"] = told and addressed
    called = "|".join(f"{'an' if label[0] in 'aei' else 'a'} {label}" for label in purpose.label.split("|"))
    frames = _frames("en", [name for name, wanted in used.items() if wanted])
    frames = frames.replace("CALLED", called).replace("LABEL", purpose.label)
    frames = _demand(frames.replace("TO", " to {to}" if addressed else ""), purpose.alone)
    if addressed:
        frames = f"({_demand(_frames('en', ['addressed frames']), purpose.addressed)})|({frames})"
    return _GRAMMARS["signed en"].replace("FRAMES", frames) if signed else f"({frames})(||.)"


@cache
def _grammar_zh(purpose: Purpose, addressed: bool, signed: bool, special: str) -> str:
    """Return the grammar of every way to ask for an e-mail; `special` as in English."""
    name, _, label = special.partition("|")
    frames = (
        _frames("zh", [f"{name} frames"])
        if special
        else _frames("zh", ["alone frames", "told frames"] if purpose.clauses == "tell" else ["alone frames"])
    )
    frames = frames.replace("TO", "(给{to}|给{to}|发给{to})" if addressed else "")
    frames = frames.replace("PRE", "给{to}" if addressed else "")
    if addressed and not special:
        frames = f"({_frames('zh', ['addressed frames'])})|({frames})"
    frames = frames.replace("DEMAND", f"({purpose.addressed})").replace("ALONE", f"({purpose.alone})")
    frames = frames.replace("LABEL", label or purpose.label)
    return _GRAMMARS["signed zh"].replace("FRAMES", frames) if signed else f"({frames})(||。)"


def _fill(rng: random.Random, split: str, language: str, grammar: str) -> str:
    """Return a text of a grammar of the table; what is in braces is another grammar, a name, a city or a noun."""

    def value(found: re.Match[str]) -> str:
        slot = found[1]
        if slot == "your":
            return found[0]
        if slot == "x":
            return subject(rng, split, language, invented=0.25).removeprefix("the ")
        if slot in ("name", "city"):
            return (_PEOPLE if slot == "name" else _CITIES)[language](rng, split)
        return _fill(rng, split, language, _GRAMMARS[f"{slot} {language}"])

    return re.sub(r"\{(\w+)\}", value, expand(rng, grammar))


def _clause(rng: random.Random, split: str, language: str, name: str) -> str:
    """Return what is to be written, of the split: one text in six belongs to "test", whatever stands in it."""
    while True:
        clause = _fill(rng, split, language, _GRAMMARS[f"{name} {language}"])
        if in_split(clause, split, 6):
            return re.sub(r"\ba (?=[aeio])", "an ", clause)


def _recipient_en(rng: random.Random, split: str) -> tuple[str, str]:
    """Return how a question names a recipient, and the salutation; both are empty where nobody is named."""
    chance = rng.random()
    if chance < 0.15:
        return "", ""
    if chance < 0.4:
        who = _fill(rng, split, "en", _GRAMMARS["who en"])
        return rng.choice(("my", "my", "my", "my", "our")) + " " + who, who
    if chance < 0.52:
        office = _fill(rng, split, "en", _GRAMMARS["office en"])
        return f"{rng.choice(('the ', 'the ', 'the ', 'our ', ''))}{office}", office
    if chance < 0.6:
        bare = _fill(rng, split, "en", _GRAMMARS["bare en" if rng.random() < 0.7 else "who en"])
        return bare, bare
    if chance < 0.8:
        person = person_en(rng, split)
        if rng.random() < 0.2:
            person += " " + _family_name(rng, split)
    else:
        title = rng.choice(("Mr.", "Ms.", "Mrs.", "Dr.", "Professor", "Mr", "Ms", "Mrs", "Dr", "Prof.", "Miss"))
        person = f"{title} {_family_name(rng, split)}"
    relation = rng.choice(
        ("boss", "friend", "teacher", "colleague", "neighbour", "landlord", "doctor", "sister", "brother")
    )
    return (f"my {relation}{rng.choice((' ', ', '))}" if rng.random() < 0.15 else "") + person, person


def _recipient_zh(rng: random.Random, split: str) -> tuple[str, str]:
    """Return how a question names a recipient, and the salutation; both are empty where nobody is named."""
    chance = rng.random()
    if chance < 0.15:
        return "", ""
    mine = rng.choice(("", "", "我", "我", "我的", "我们"))
    if chance < 0.4:
        who = _fill(rng, split, "zh", _GRAMMARS["who zh"])
        return mine + who, f"尊敬的{who}"
    if chance < 0.52:
        office = _fill(rng, split, "zh", _GRAMMARS["office zh"])
        return office, f"尊敬的{office}"
    if chance < 0.62:
        close = _fill(rng, split, "zh", _GRAMMARS["close zh"])
        return mine.removesuffix("们") + close, f"亲爱的{close}"
    if chance < 0.68:
        nickname = rng.choice(("小", "阿", "老")) + rng.choice([*GIVEN_CHARACTERS, *SURNAMES])
        return nickname, f"亲爱的{nickname}"
    surname = person_zh(rng, split)[0] if rng.random() < 0.3 else rng.choice(SURNAMES)
    person = person_zh(rng, split) if rng.random() < 0.3 else surname + rng.choice(_TITLES)
    return person, f"尊敬的{person}"


def _sender_en(rng: random.Random, split: str) -> str:
    return person_en(rng, split) + (f" {_family_name(rng, split)}" if rng.random() < 0.3 else "")


def _family_name(rng: random.Random, split: str) -> str:
    return draw_split(rng, _FAMILY_NAMES, split) if rng.random() < 0.5 else person_en(rng, split)


def _dialogue(text: str, answer: str, salutation: str, signature: str, reason: str, subject: str) -> Dialogue:
    check = partial(_is_right, salutation=salutation, signature=signature, reason=reason, subject=subject)
    return Dialogue(((text, answer),), check)


def _is_right(answer: str, salutation: str, signature: str, reason: str, subject: str) -> bool:
    """The recipient stands in the salutation, the reason in the text after it, the sender at the end."""
    start = plain(answer).find(plain(salutation))
    return (
        start >= 0
        and plain(reason) in plain(answer)[start:]
        and plain(answer).endswith(plain(signature))
        and mentions(answer, subject)
    )


SKILL = Email()
