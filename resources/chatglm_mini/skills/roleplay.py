"""Play a role and answer typical questions in character."""

import random
from dataclasses import dataclass
from functools import partial

from ..dialogue import Dialogue, in_split
from ..tables import blocks
from ..wording import held_out, mentions, overlap, plain, request, roughen

REQUESTS = {
    "zh": (
        "请你扮演一位{role}", "你来扮演{role}", "假装你是{role}", "现在你是一名{role}", "请扮演{role}和我对话", "我们来角色扮演，你是{role}", "你现在的身份是{role}",
        "假设你是一位{role}", "请你当一次{role}", "角色扮演：{role}", "我想让你扮演{role}",
    ),
    "en": (
        "Please play the role of {a_role}", "Pretend to be {a_role}", "Act as {a_role}", "You are now {a_role}", "Let's role-play. You are {a_role}",
        "I want you to act as {a_role}", "Play {a_role}", "Imagine you are {a_role}", "Role play: {role}",
    ),
}  # fmt: skip
_UNSEEN_REQUESTS = {
    "zh": ("请假装你是一位{role}", "现在请你扮演{role}", "你来当{role}", "请扮演一名{role}"),
    "en": (
        "Please act as {a_role}",
        "Please pretend to be {a_role}",
        "Let's pretend you are {a_role}",
        "I want you to play {a_role}",
    ),
}
_AT_ONCE = {
    "zh": ("假设你是{role}，{x}", "你是一名{role}，请回答：{x}", "扮演{role}回答：{x}", "如果你是{role}，我说“{x}”，你怎么回答", "以{role}的身份回答：{x}"),
    "en": ("You are {a_role}. {x}", "Answer as {a_role}: {x}", "Pretend to be {a_role} and answer: {x}", 'Act as {a_role}. I say: "{x}"'),
}  # fmt: skip


@dataclass(frozen=True)
class Role:
    """Hold a role in one language: what it says first, and what it answers to each topic's questions."""

    name: str
    opening: str
    topics: tuple[tuple[tuple[str, ...], str], ...]


class Roleplay:
    """Roles and topics are a closed list; the test split joins them in other wordings."""

    name = "roleplay"
    title_en = "Role play"
    title_zh = "角色扮演"
    weight = 1.2

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a role and either the request alone, the request and a question, or both in one sentence."""
        language = rng.choice(("zh", "en"))
        role = rng.choice(_ROLES_BY_LANGUAGE[language])
        form = rng.choice(("opening", "turns", "turns", "once"))
        while True:
            unseen = split == "test" and rng.random() < 0.5
            asked = rng.choice((_UNSEEN_REQUESTS if unseen else REQUESTS)[language]).format(
                role=role.name, a_role=with_article(role.name)
            )
            if form == "opening" and not unseen and not in_split(asked, split, 5):
                continue
            if form == "opening":
                break
            questions, reply = rng.choice(role.topics)
            unseen_question = questions[held_out(questions)]
            seen = [question for question in questions if question != unseen_question]
            said = unseen_question if split == "test" and rng.random() < 0.5 else rng.choice(seen)
            frame = rng.choice(_AT_ONCE[language])
            if said == unseen_question or in_split((frame if form == "once" else asked) + said, split, 5):
                break
        if form != "opening" and split == "train":
            rough = roughen(rng, said, language)
            said = said if plain(rough) == plain(unseen_question) else rough
        asked = request(rng, asked, language)
        opening = f"好的，我现在是{role.name}。{role.opening}" if language == "zh" else _english_opening(role)
        if form == "opening":
            return Dialogue(((asked, opening),), partial(_is_right, role=role.name, reference=role.opening))
        answer = f"作为{role.name}，{reply}" if language == "zh" else f"As {with_article(role.name)}: {reply}"
        check = partial(_is_right, role=role.name, reference=reply)
        if form == "once":
            return Dialogue(((frame.format(role=role.name, a_role=with_article(role.name), x=said), answer),), check)
        return Dialogue(
            ((asked, opening), (said + rng.choice(("", "", "。" if language == "zh" else ".")), answer)), check
        )


def _english_opening(role: Role) -> str:
    end = "?" if role.opening.startswith(("What", "How", "Are", "Which")) else "!"
    return f"All right, I am {with_article(role.name)} now. {role.opening}{end}"


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _is_right(answer: str, role: str, reference: str) -> bool:
    return mentions(answer, role) and overlap(answer, reference) >= 0.6


def _read_roles() -> dict[str, list[Role]]:
    """Read blocks of: role / opening line; then, a line a topic: questions / answer; first Chinese, then English.

    One question of each topic, in turn another, is kept for the test split.
    """
    roles: dict[str, list[Role]] = {"zh": [], "en": []}
    for head, *lines in blocks("roleplay"):
        role, opening, english_role, english_opening = head.split(" / ")
        rows = [line.split(" / ") for line in lines]
        roles["zh"].append(Role(role, opening, tuple((tuple(row[0].split(";")), row[1]) for row in rows)))
        roles["en"].append(
            Role(english_role, english_opening, tuple((tuple(row[2].split(";")), row[3]) for row in rows))
        )
    return roles


_ROLES_BY_LANGUAGE = _read_roles()

SKILL = Roleplay()
