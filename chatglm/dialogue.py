"""A dialogue as ChatGLM-6B's prompt text: messages of roles to rounds of question and answer, and rounds to a text.

Source: the prompt text is the original's `chat`; what becomes of roles is this project's, after what clients send.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

History = Sequence[Sequence[str | None]]

SYSTEM_REPLY = "好的。"  # the answer to a system message, where it opens a dialogue as a round of its own
# `build_prompt` for programs that read templates: messages of user and assistant in turn, after at most one of system
CHAT_TEMPLATE = (
    "{%- set round = namespace(number=0) -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "{{- message.content -}}{%- if not loop.last -%}{{- '\n' -}}{%- endif -%}"
    "{%- elif message.role == 'user' and loop.first and messages | length < 3 -%}"
    "{{- message.content -}}"
    "{%- elif message.role == 'user' or message.role == 'system' and loop.first -%}"
    "{{- '[Round ' ~ round.number ~ ']\n问：' ~ message.content ~ '\n答：' -}}"
    "{%- if message.role == 'system' -%}{{- '" + SYSTEM_REPLY + "\n' -}}{%- endif -%}"
    "{%- set round.number = round.number + 1 -%}"
    "{%- else -%}"
    "{{- raise_exception('user and assistant must take turns, after at most one system message') -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


class PromptTooLongError(ValueError):
    """The newest question alone fills the model's token budget.

    Attributes:
        tokens: tokens of the prompt without any history.
        limit: tokens that prompt and answer may have together.
    """

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"the question has {tokens} tokens, but prompt and answer together may have max_length = {limit}; "
            f"please reduce the length of the question or raise max_length"
        )
        self.tokens = tokens
        self.limit = limit

    def __reduce__(self) -> tuple:
        return type(self), (self.tokens, self.limit)


def build_prompt(query: str, history: History | None = None) -> str:
    """Join a question and the rounds before it into the prompt text of ChatGLM-6B.

    Args:
        query: the newest question.
        history: earlier rounds as (question, answer) pairs, oldest first; None in a pair counts as "".

    Returns:
        The bare question without history, else `[Round i]\\n问：…\\n答：…` lines that end after the last `答：`.

    Raises:
        ValueError: query is no string, or an item of history is no pair of strings.
    """
    if not isinstance(query, str):
        raise ValueError(f"query must be a string, got {type(query).__name__}: {query!r:.80}")
    rounds = checked_history(history)
    if not rounds:
        return query
    answered = "".join(round_text(number, question, answer) + "\n" for number, (question, answer) in enumerate(rounds))
    return answered + round_text(len(rounds), query, "")


def messages_to_rounds(messages: Sequence[tuple[str, str]]) -> tuple[str | None, list[tuple[str, str]]]:
    """Map a dialogue of roles to the model's rounds. This is the only place that does; its time grows linearly.

    - A user message is a question; several in a row are joined by a line break.
    - An assistant message answers the question before it; several in a row are joined by a line break.
    - A system message that opens the dialogue is a round of its own, answered by `SYSTEM_REPLY`.
    - A system message between a question and the next one stands for the answer, as FastChat's clients send it.
    - Any other system message is joined to the question that it precedes or follows.
    - An empty system message says nothing, and is left out.

    Args:
        messages: (role, text) pairs, oldest first; roles are user, assistant, and system or developer.

    Returns:
        The newest question, None if the last message is the assistant's, and the (question, answer) pairs before it.

    Raises:
        ValueError: another role.
    """
    messages = [(role, text) for role, text in messages if text or role not in ("system", "developer")] or messages
    next_speakers: list[str | None] = [None]  # who speaks after each message, the system left out; newest first
    for role, _ in reversed(messages):
        if role not in ("user", "assistant", "system", "developer"):
            raise ValueError(f"a message's role must be user, assistant, system or developer, got {role!r:.80}")
        next_speakers.append(role if role in ("user", "assistant") else next_speakers[-1])
    last_question = max((index for index, (role, _) in enumerate(messages) if role == "user"), default=-1)

    rounds: list[tuple[list[str], list[str]]] = []
    question: list[str] = []
    for index, (role, text) in enumerate(messages):
        is_system = role in ("system", "developer")
        if role == "assistant" or (is_system and question and next_speakers[-2 - index] == "user"):
            if rounds and not question:
                rounds[-1][1].append(text)
            else:
                rounds.append((question, [text]))
            question = []
        elif is_system and not question and not rounds and index < last_question:
            rounds.append(([text], [SYSTEM_REPLY]))
        else:
            question.append(text)
    pairs = [("\n".join(asked), _join_answers(answers)) for asked, answers in rounds]
    return "\n".join(question) if question else None, pairs


def _join_answers(answers: list[str]) -> str:
    return answers[0] if len(answers) == 1 else "\n".join(filter(None, answers)).strip("\n")


def round_text(number: int, question: str, answer: str) -> str:
    return f"[Round {number}]\n问：{question}\n答：{answer}"


def checked_history(history: History | None) -> list[tuple[str, str]]:
    """Return history as (question, answer) string pairs, or raise a ValueError that names the wrong item."""
    if history is None:
        return []
    expected = "(question, answer), a tuple or list of two strings"
    if isinstance(history, str) or not isinstance(history, Iterable):
        raise ValueError(f"history must be a list of {expected}; got {type(history).__name__}: {history!r:.80}")
    rounds = []
    for index, item in enumerate(history):
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise ValueError(f"history[{index}] must be {expected}; got {type(item).__name__}: {item!r:.80}")
        if not all(part is None or isinstance(part, str) for part in item):
            raise ValueError(f"history[{index}] must be {expected}; got parts {item!r:.80}")
        rounds.append((item[0] or "", item[1] or ""))
    return rounds


def message_pairs(messages: Any) -> list[tuple[Any, str]]:
    """Return the (role, text) pairs of a dialogue in the chat form; texts may be in parts.

    Raises:
        ValueError: names the message that has another form. Roles are checked by `messages_to_rounds`.
    """
    expected = '{"role": "user", "assistant" or "system", "content": text}'
    if not isinstance(messages, Sequence) or not messages:
        raise ValueError(f"a conversation must be a list of messages {expected}, got {messages!r:.80}")
    pairs = []
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else message
        if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
            content = "".join(part["text"] for part in content)
        if not isinstance(message, Mapping) or not isinstance(content, str | None):
            raise ValueError(f"message {index} must be {expected}, got {message!r:.80}")
        pairs.append((message.get("role"), content or ""))
    return pairs


def read_messages(messages: Any) -> tuple[str, list[tuple[str, str]], str | None]:
    """Return the newest question of a dialogue in the chat form, the rounds before it, and its answer if it has one."""
    question, rounds = messages_to_rounds(message_pairs(messages))
    if question is not None:
        return question, rounds, None
    *rounds, (question, answer) = rounds
    return question, rounds, answer
