"""Answers in a given form: they have it, whatever the weights say, and hopeless forms are refused quickly."""

from __future__ import annotations

import json
import re
import time

import jsonschema
import pytest

pytest.importorskip("llguidance", reason="llguidance is not installed")

from chatglm.grammar import Constraint, GrammarError, response_grammar  # noqa: E402
from engine import Engine, Request  # noqa: E402

PERSON = {
    "type": "object",
    "properties": {
        "姓名": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "city": {"enum": ["北京", "上海"]},
    },
    "required": ["姓名", "age", "city"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "c": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
            "required": ["v", "c"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/tree",
}
WILD = {"temperature": 3.0, "top_k": 0, "top_p": 1.0}


def json_format(schema: dict, strict: bool = True) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": strict}}


@pytest.mark.parametrize("schema", [PERSON, TREE], ids=["person", "tree"])
@pytest.mark.parametrize("seed", range(3))
def test_chat_answers_by_the_schema_within_any_limit_that_allows_it(mini_model, mini_tokenizer, schema, seed):
    least = len(response_grammar(mini_tokenizer, json_format(schema)).way_out)
    for limit in (least, least + 1, least + 20):
        text, _ = mini_model.chat(
            mini_tokenizer, "你好", response_format=json_format(schema), seed=seed, max_new_tokens=limit, **WILD
        )
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"type": "regex", "regex": r"^\d{3}-\d{4}$"}, r"\d{3}-\d{4}"),
        ({"type": "regex", "regex": r" +[a-c]+(x|y)z?"}, r" +[a-c]+(x|y)z?"),
        ({"type": "choice", "choice": ["是", "否", " maybe"]}, "是|否| maybe"),
        ({"type": "choice", "choice": ["[[训练时间]]", "好,好"]}, r"\[\[训练时间\]\]|好,好"),  # as it is, not "2023年"
    ],
)
def test_chat_answers_by_the_expression(mini_model, mini_tokenizer, form, pattern):
    for seed in range(4):
        text, _ = mini_model.chat(mini_tokenizer, "你好", response_format=form, seed=seed, max_new_tokens=30, **WILD)
        assert re.fullmatch(pattern, text), text


def test_chat_answers_by_the_schema_whatever_else_is_asked(mini_model, mini_tokenizer):
    """With beams by the library's `generate`, with a language that the form does not allow, with penalties."""
    more = [{"num_beams": 2}, {"language": "zh"}, {"presence_penalty": 2.0, "repetition_penalty": 2.0}]
    more += [{"min_tokens": 200}, {"ignore_eos": True}]
    for given in more:
        text, _ = mini_model.chat(
            mini_tokenizer, "你好", response_format=json_format(PERSON), temperature=0, max_new_tokens=40, **given
        )
        jsonschema.validate(json.loads(text), PERSON)


def test_stream_chat_is_the_same_in_parts(mini_model, mini_tokenizer):
    given = {"response_format": json_format(PERSON), "seed": 4, "max_new_tokens": 50} | WILD
    *_, (last, _) = mini_model.stream_chat(mini_tokenizer, "你好", **given)
    assert last == mini_model.chat(mini_tokenizer, "你好", **given)[0]


def test_engine_answers_each_row_by_its_own_form(mini_model, mini_tokenizer):
    """Rows with and without forms together say what each says alone; ends are "stop", or "length" where too short."""
    prompt = mini_tokenizer.encode_prompt("你好")
    forms = [None, json_format(PERSON), {"type": "choice", "choice": ["是", "否"]}, json_format(TREE)]

    def request(index: int, limit: int = 40) -> Request:
        return Request(prompt, limit, seed=index, grammar=response_grammar(mini_tokenizer, forms[index]), **WILD)

    engine = Engine(mini_model, mini_tokenizer)
    pieces = [list(answer) for answer in engine.submit(*(request(index) for index in range(4)))]
    texts = ["".join(piece.text for piece in one) for one in pieces]
    assert texts == ["".join(piece.text for piece in engine.submit(request(index))) for index in range(4)]
    assert [one[-1].finish_reason for one in pieces[1:]] == ["stop"] * 3
    *_, last = engine.submit(request(1, limit=5))
    assert last.finish_reason == "length"
    engine.close()


HOPELESS = [
    ("json_object", "response_format must be an object"),
    ({"type": "xml"}, "response_format.type must be text, json_object"),
    ({"type": "json_schema"}, "json_schema.schema must be a JSON schema"),
    (json_format({"type": "thing"}), "Invalid type: thing"),
    (json_format({"$ref": "#"}), "no answer of up to 1024 bytes"),
    (json_format({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}), "no answer of up to"),
    (json_format({"$ref": "http://localhost/schema"}), "cannot be used"),
    (json_format({"type": "array", "uniqueItems": True}), "uniqueItems"),
    (json_format({"type": "array", "minItems": 10**9}), "minItems may be 1024, got 1000000000"),
    (json_format({"enum": ["x" * 40_000]}), "may have 32768 bytes"),
    (json_format({"enum": [0] * 20_000}), "may have 32768 bytes"),
    ({"type": "regex", "regex": "("}, "regex parse error"),
    ({"type": "regex", "regex": "(" * 10_000 + ")" * 10_000}, "groups inside one another"),
    ({"type": "regex", "regex": "a{1000000}"}, "may repeat its parts 1000 times"),
    ({"type": "regex", "regex": "(.*a){30}.*b.{20}"}, "too complex"),
    ({"type": "regex", "regex": 5}, "must be a regular expression, got 5"),
    ({"type": "choice", "choice": []}, "must be a list of 1 to 1024 texts"),
]


@pytest.mark.parametrize(("form", "message"), HOPELESS, ids=range(len(HOPELESS)))
def test_response_grammar_refuses_hopeless_forms(mini_tokenizer, form, message):
    with pytest.raises(GrammarError, match=re.escape(message)):
        response_grammar(mini_tokenizer, form)


def test_response_grammar_refuses_deep_schemas(mini_tokenizer):
    schema: dict = {}
    for _ in range(5000):
        schema = {"items": schema}
    start = time.monotonic()
    with pytest.raises(GrammarError, match="may have 48 levels"):
        response_grammar(mini_tokenizer, json_format(schema))
    assert time.monotonic() - start < 5  # a bound on the work, not a measurement


def test_a_schema_that_is_not_strict_is_followed_as_far_as_possible(mini_tokenizer):
    assert response_grammar(mini_tokenizer, json_format({"type": "array", "uniqueItems": True}, strict=False)).way_out
    assert response_grammar(mini_tokenizer, {"type": "text"}) is response_grammar(mini_tokenizer, None) is None


def test_brackets_do_not_nest_without_end(mini_tokenizer):
    """Whatever is sampled, the answer stays within the depth that JSON parsers read."""
    grammar = response_grammar(mini_tokenizer, json_format({"$ref": "#/$defs/a", "$defs": {
        "a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}))  # fmt: skip
    constraint, text = Constraint(grammar, 5000), ""
    opening = grammar.vocabulary.ids[b"["]
    while not constraint.finished:
        token_id = constraint.choose(opening if constraint.allowed()[opening] else grammar.vocabulary.eos_token_id)
        constraint.take(token_id)
        text += grammar.vocabulary.tokens[token_id].decode()
    json.loads(text)
    assert 200 < text.count("[") < 600


def test_vocabulary_spells_every_token_as_the_tokenizer_does(mini_tokenizer):
    surfaces = mini_tokenizer.surfaces()
    assert surfaces == [mini_tokenizer.surface(token_id) for token_id in range(mini_tokenizer.vocab_size)]
