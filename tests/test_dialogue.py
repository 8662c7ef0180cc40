"""A dialogue as prompt text: roles to rounds."""

from __future__ import annotations

import itertools

import jinja2
import pytest

from chatglm import SYSTEM_REPLY, build_prompt, messages_to_rounds
from chatglm.dialogue import CHAT_TEMPLATE, read_messages

ROLES = {"u": "user", "a": "assistant", "s": "system", "d": "developer"}


def rounds_by_the_rules(messages: list[tuple[str, str]]) -> tuple[str | None, list[tuple[str, str]]]:
    """Apply the rules message by message, looking ahead anew for each: slow, and written like the docstring."""
    rounds, question = [], None
    for index, (role, text) in enumerate(messages):
        later = [other for other, _ in messages[index + 1 :] if other in ("user", "assistant")]
        system = role in ("system", "developer")
        if system and question is None and not rounds and "user" in later:
            rounds.append([text, SYSTEM_REPLY])
        elif role == "assistant" or (system and question is not None and later[:1] == ["user"]):
            if question is None and rounds:
                rounds[-1][1] += "\n" + text
            else:
                rounds.append([question or "", text])
            question = None
        else:
            question = text if question is None else f"{question}\n{text}"
    return question, [tuple(pair) for pair in rounds]


@pytest.mark.parametrize("length", range(1, 7))
def test_messages_to_rounds_follows_the_rules(length):
    for roles in itertools.product("uas", repeat=length):
        messages = [(ROLES[role], f"{role}{index}") for index, role in enumerate(roles)]
        assert messages_to_rounds(messages) == rounds_by_the_rules(messages), messages


def test_messages_to_rounds_takes_the_developer_for_the_system():
    assert messages_to_rounds([("developer", "s"), ("user", "u")]) == ("u", [("s", SYSTEM_REPLY)])


def test_messages_to_rounds_refuses_other_roles():
    with pytest.raises(ValueError, match="role must be user, assistant, system or developer, got 'tool'"):
        messages_to_rounds([("user", "a"), ("tool", "b")])


class Counting(list):
    """Messages that count how often one of them is looked at."""

    looks = 0

    def __getitem__(self, key):
        found = super().__getitem__(key)
        self.looks += len(found) if isinstance(key, slice) else 1
        return found

    def __iter__(self):
        for message in super().__iter__():
            self.looks += 1
            yield message

    def __reversed__(self):
        for message in super().__reversed__():
            self.looks += 1
            yield message


@pytest.mark.parametrize("roles", ["s", "u", "a", "us", "ua", "sa"])
def test_messages_to_rounds_takes_linear_time(roles):
    messages = Counting([(ROLES[role], "text") for role in roles] * (24000 // len(roles)) + [("user", "question")])
    question, _ = messages_to_rounds(messages)
    assert question.endswith("question")
    assert messages.looks <= 4 * len(messages)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("answer", [None, "答案"])
def test_chat_template_writes_the_prompt_text(count, system, answer):
    history = [(f"问题{number}\n{{{{ 1 }}}}", f"答{number} ") for number in range(count)]
    messages = [{"role": "system", "content": "你是助手"}] * system
    for question, reply in [*history, ("最后", answer)]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    messages = messages if answer is not None else messages[:-1]
    text = jinja2.Template(CHAT_TEMPLATE).render(messages=messages)
    rounds = [("你是助手", SYSTEM_REPLY)] * system + history
    assert text == build_prompt("最后", rounds) + (answer or "")
    assert read_messages(messages) == ("最后", rounds, answer)


@pytest.mark.parametrize("messages", ["你好", [], None, ["你好"], [{"role": "user", "content": 1}], [{"content": "a"}]])
def test_read_messages_refuses_what_is_no_dialogue(messages):
    with pytest.raises(ValueError, match="message"):
        read_messages(messages)
