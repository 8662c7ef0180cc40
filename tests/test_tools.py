"""Functions in the prompt, calls in answers, and reading them, however an answer is cut."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest

from chatglm.grammar import response_grammar
from chatglm.tools import INSTRUCTION, CallReader, call_grammar, call_text, plain_messages

WEATHER = {
    "name": "get_weather",
    "description": "天气",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["北京", "上海"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
TIME = {"name": "time", "description": None, "parameters": None}


def test_plain_messages_describes_functions_and_says_calls_and_results():
    call = {"id": "c1", "function": {"name": "get_weather", "arguments": '{"city":"北京"}'}}
    messages = [
        {"role": "system", "content": "简短。"},
        {"role": "user", "content": "天气?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "晴"},
        {"role": "function", "name": "time", "content": "8:00"},
    ]
    described = json.dumps(WEATHER, ensure_ascii=False)
    assert plain_messages(messages, [WEATHER, TIME]) == [
        ("system", f'简短。\n{INSTRUCTION}\n{described}\n{{"name": "time"}}'),
        ("user", "天气?"),
        ("assistant", '{"name": "get_weather", "arguments": {"city": "北京"}}'),
        ("user", "get_weather 的结果：晴"),
        ("user", "time 的结果：8:00"),
    ]
    assert plain_messages(messages[1:2], [TIME])[0] == ("system", f'{INSTRUCTION}\n{{"name": "time"}}')
    assert plain_messages(messages[:2]) == [("system", "简短。"), ("user", "天气?")]


@pytest.mark.parametrize(
    ("arguments", "shown"), [(None, "{}"), ("", "{}"), ({"a": 1}, '{"a": 1}'), ("{broken", "{broken")]
)
def test_call_text_takes_arguments_as_text_or_object(arguments, shown):
    assert call_text("f", arguments) == f'{{"name": "f", "arguments": {shown}}}'


def read(text: str, dice: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """Return the text and the calls that a reader finds in an answer cut at random places."""
    reader, said, calls = CallReader(), "", []
    while text:
        size = dice.randint(1, 9)
        for kind, part in reader.put(text[:size]):
            if kind == "text":
                said += part
            elif kind == "call":
                calls.append((part, ""))
            else:
                calls[-1] = calls[-1][0], calls[-1][1] + part
        text = text[size:]
    assert reader.calls == len(calls)
    return said, calls


def test_call_reader_finds_calls_however_they_are_cut():
    dice = random.Random(0)
    values = ['a"}]', "\\", '{"name": "x", "arguments": ', "}", "中", '\\"', "\n"]
    for _ in range(400):
        made = [(dice.choice(["f", "a-b"]), {dice.choice(values): [dice.choice(values), {"k": dice.choice(values)}]})
                for _ in range(dice.randint(1, 3))]  # fmt: skip
        said, calls = read("\n".join(call_text(*one) for one in made), dice)
        assert said == "" and [(name, json.loads(arguments)) for name, arguments in calls] == made


def test_call_reader_gives_text_as_it_is():
    for text in ("你好", "  [1] {", " x\n{", '{"name": "x", "age": 3}', '{"name":"x"}', "{}", '{"named": 1}'):
        assert read(text, random.Random(1)) == (text, [])


def test_call_grammar_forces_calls_and_their_arguments(mini_tokenizer):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    ids = mini_tokenizer.encode_text

    def matches(grammar, text: str) -> bool:
        matcher = grammar.matcher.deep_copy()
        return matcher.consume_tokens(grammar.vocabulary(text)) and matcher.is_accepting()

    good, other = call_text("get_weather", {"city": "北京", "days": 3}), call_text("time", {})
    jsonschema.validate(json.loads(good)["arguments"], WEATHER["parameters"])
    one = call_grammar(mini_tokenizer, [WEATHER, TIME], forced=True, several=False)
    assert matches(one, good) and matches(one, other) and not matches(one, f"{good}\n{other}")
    assert not matches(one, "好") and not matches(one, call_text("get_weather", {"city": "北京", "days": 8}))
    free = call_grammar(mini_tokenizer, [WEATHER, TIME], forced=False, several=True)
    assert matches(free, f"{good}\n{other}\n{good}") and matches(free, "好 {x\n") and not matches(free, "{x}")
    assert ids("好")  # the tokenizer itself is unchanged


def test_call_grammar_leaves_the_form_to_what_is_no_call(mini_tokenizer):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    for form, said in (
        ({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, '{"name": "x"}'),
        ({"type": "regex", "regex": "[ab]+"}, "ab"),
        ({"type": "choice", "choice": ["甲", "乙"]}, "乙"),
    ):
        form = response_grammar(mini_tokenizer, form)
        grammar = call_grammar(mini_tokenizer, [WEATHER, TIME], False, True, form)
        for text, allowed in ((said, True), (call_text("time", {}), True), ("好", False)):
            matcher = grammar.matcher.deep_copy()
            assert (matcher.consume_tokens(grammar.vocabulary(text)) and matcher.is_accepting()) is allowed, text
