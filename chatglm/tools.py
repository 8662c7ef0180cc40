"""Functions that a model may call: how it is told of them, how it calls them, and how its calls are read.

The one format, for a model that was never trained for it. An opening system message describes the functions, one line
of JSON each, after `INSTRUCTION`. An answer that calls is one line of JSON for each call and nothing else:

    {"name": "get_weather", "arguments": {"city": "北京"}}

Results come back as a question: `get_weather 的结果：…`. Every other answer is text: of the form that was asked for, or
of none, and then it does not start with `{`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .grammar import Grammar, checked_schema, checked_size, json_rule, lark_text

if TYPE_CHECKING:
    from .tokenization_chatglm import ChatGLMTokenizer

INSTRUCTION = (
    '你可以调用下列函数。要调用时，只回答一行 JSON：{"name": 函数名, "arguments": 参数}，不要有其他文字；不需要时，'
    "直接回答。"
)
MOST_CALLS = 16  # in one answer
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
CALL_HEAD = re.compile(r'\s*\{"name": "([^"]*)", "arguments": ')
BEFORE_NAME, BEHIND_NAME = '{"name": "', '", "arguments": '


def plain_messages(
    messages: Sequence[Mapping[str, Any]], functions: Sequence[Mapping[str, Any]] = ()
) -> list[tuple[str, str]]:
    """Return (role, text) pairs of user, assistant and system for messages that may call functions.

    Args:
        messages: each with `role` and `content`, a text; an assistant's may have `tool_calls`, and those of role `tool`
            or `function` are results, with `tool_call_id` or `name`.
        functions: to describe: `name`, `description` and `parameters`, a JSON schema.
    """
    names: dict[str, str] = {}
    pairs = []
    for message in messages:
        role, text = message["role"], message.get("content") or ""
        for call in message.get("tool_calls") or ():
            function = call["function"]
            names[call.get("id") or ""] = function["name"]
            text = "\n".join(filter(None, [text, call_text(function["name"], function.get("arguments"))]))
        if role in ("tool", "function"):
            name = message.get("name") or names.get(message.get("tool_call_id") or "", "函数")
            role, text = "user", f"{name} 的结果：{text}"
        pairs.append((role, text))
    if functions:
        keys = ("name", "description", "parameters")
        lines = [json.dumps({key: one[key] for key in keys if one.get(key)}, ensure_ascii=False) for one in functions]
        described = "\n".join([INSTRUCTION, *lines])
        if pairs and pairs[0][0] in ("system", "developer"):
            described = f"{pairs.pop(0)[1]}\n{described}".strip()
        pairs.insert(0, ("system", described))
    return pairs


def call_text(name: str, arguments: Any) -> str:
    """Return a call as an answer has it; arguments are a JSON text, as OpenAI's, or an object."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:  # what a model has made of them; it is said again as it is
            return f"{_call_head(name)}{arguments}}}"
    return f"{_call_head(name)}{json.dumps(arguments or {}, ensure_ascii=False)}}}"


def _call_head(name: str) -> str:
    return f'{{"name": {json.dumps(name)}, "arguments": '


def call_grammar(
    tokenizer: ChatGLMTokenizer,
    functions: Sequence[Mapping[str, Any]],
    forced: bool,
    several: bool,
    form: Grammar | None = None,
) -> Grammar:
    """Return the grammar of answers that call functions with arguments that fit their schemas.

    Args:
        tokenizer: the model's.
        functions: those that may be called: `name`, `parameters` and `strict`.
        forced: whether the answer must call; else it may be a text.
        several: whether it may call more than once.
        form: of an answer that does not call.

    Raises:
        GrammarError: parameters that are no usable schema.
    """
    schemas = tuple(
        (one["name"], checked_schema(one.get("parameters") or NO_PARAMETERS), one.get("strict") is True)
        for one in functions
    )
    checked_size("".join(schema for _, schema, _ in schemas), "all functions' parameters together")
    return _compile_calls(tokenizer, schemas, forced, several, form)


@functools.lru_cache(maxsize=32)
def _compile_calls(
    tokenizer: ChatGLMTokenizer,
    schemas: tuple[tuple[str, str, bool], ...],
    forced: bool,
    several: bool,
    form: Grammar | None,
) -> Grammar:
    more = f' ("\\n" call){{0,{MOST_CALLS - 1}}}' if several else ""
    rules = [f"body: call{more}" if forced else f"body: call{more} | said"]
    if not forced:
        rules.append("said: /[^{\\s](.|\\n)*/" if form is None else form.lark.replace("body:", "said:", 1))
    rules.append("call: " + " | ".join(f"call_{index}" for index in range(len(schemas))))
    for index, (name, schema, strict) in enumerate(schemas):
        # cut as JSON's own rules are, whose longest match would otherwise be the whole head
        head = ("{", '"name"', ": ", json.dumps(name), ", ", '"arguments"', ": ")
        rules.append(f'call_{index}: {" ".join(map(lark_text, head))} arguments_{index} "}}"')
        rules.append(f"arguments_{index}: {json_rule(schema, strict)}")
    return Grammar(tokenizer, "\n".join(rules) + "\n", exact_start="{" if form is None else form.exact_start)


def may_call(text: str) -> bool:
    """Return whether a text may be the beginning of a call's head."""
    text = text.lstrip()
    if not text.startswith(BEFORE_NAME):
        return BEFORE_NAME.startswith(text)
    _, quote, rest = text.removeprefix(BEFORE_NAME).partition('"')
    return BEHIND_NAME.startswith(quote + rest)


class CallReader:
    """Read an answer that comes in parts: its text, or its calls.

    Attributes:
        calls: number of calls that have begun.
    """

    def __init__(self) -> None:
        self.pending, self.part, self.calls = "", "start", 0
        self.depth, self.in_string, self.escaped = 0, False, False

    def put(self, text: str) -> Iterator[tuple[str, str]]:
        """Take more of the answer; yield ("text", part), ("call", name) and ("arguments", part) as they are certain."""
        self.pending += text
        if self.part == "start" and self.pending.lstrip():
            self.part = "head" if self.pending.lstrip().startswith("{") else "text"
        while self.pending:
            if self.part == "text":
                part, self.pending = self.pending, ""
                yield "text", part
            elif self.part == "head" and (head := CALL_HEAD.match(self.pending)):
                self.pending, self.part, self.depth = self.pending[head.end() :], "arguments", 0
                self.calls += 1
                yield "call", head[1]
            elif self.part == "head" and not self.calls and not may_call(self.pending):
                self.part = "text"  # JSON of the form that was asked for
            elif self.part == "arguments":
                end = self._arguments_end()
                part, self.pending = self.pending[:end], self.pending[end:]
                yield "arguments", part
            elif self.part == "tail" and self.pending.startswith("}"):
                self.pending, self.part = self.pending[1:], "head"
            else:
                return

    def _arguments_end(self) -> int:
        """Return where the arguments end in the pending text, or its length."""
        for at, character in enumerate(self.pending):
            if self.in_string:
                self.in_string = self.escaped or character != '"'
                self.escaped = character == "\\" and not self.escaped
            elif character == '"':
                self.in_string = True
            elif character in "{[":
                self.depth += 1
            elif character in "}]":
                self.depth -= 1
                if not self.depth:
                    self.part = "tail"
                    return at + 1
        return len(self.pending)
