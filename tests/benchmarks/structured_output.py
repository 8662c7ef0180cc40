"""Count answers that fit their JSON schema, and time what a form costs a token.

    python -m tests.benchmarks.structured_output --answers 1000
    python -m tests.benchmarks.structured_output --answers 1000 --model PATH_OF_A_CHECKPOINT_WITH_THE_REAL_VOCABULARY

Answers are sampled at temperature 3 from everything, which no sensible model does, under limits from the shortest that
allows an answer to 120 tokens more; each is parsed by `json` and validated by `jsonschema`. The cost is that of the
form alone (mask, its use, and the way out) per token, to be compared with a token's time of the model in question.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator

import jsonschema
import torch

from chatglm import EMBEDDED_CHECKPOINT, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm.grammar import response_grammar
from chatglm.sampler import Sampler, sample
from chatglm.sampling import Sampling
from engine import Engine, Request

TEXT, NUMBER, COUNT, YES = {"type": "string"}, {"type": "number"}, {"type": "integer"}, {"type": "boolean"}


def fields(required: list[str] | None = None, **properties: dict) -> dict:
    """Return the schema of an object of these fields only; all are required unless said otherwise."""
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def items(schema: dict, **more: int) -> dict:
    """Return the schema of an array."""
    return {"type": "array", "items": schema, **more}


SCHEMAS = [
    fields(name=TEXT),
    fields(姓名=TEXT, 年龄={"type": "integer", "minimum": 0, "maximum": 150}),
    fields(城市={"enum": ["北京", "上海", "广州"]}, 天数={"enum": [1, 2, 3]}),
    fields(price={"type": "number", "minimum": 0.5, "maximum": 99.5}),
    fields(low={"type": "integer", "exclusiveMinimum": -10, "exclusiveMaximum": 10}),
    fields(seven={"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700}),
    fields(tags=items(TEXT, maxItems=4)),
    fields(scores=items(NUMBER, minItems=2, maxItems=5)),
    fields(flag=YES, nothing={"type": "null"}),
    fields(["a"], a=COUNT, b=TEXT, c=YES),
    fields([], a=COUNT, b=TEXT, c=YES),
    fields(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}),
    fields(short={"type": "string", "minLength": 3, "maxLength": 5}),
    fields(day={"type": "string", "format": "date"}, id={"type": "string", "format": "uuid"}),
    fields(kind={"const": "point"}, x=NUMBER, y=NUMBER),
    fields(value={"anyOf": [TEXT, COUNT, {"type": "null"}]}),
    fields(value={"type": ["string", "integer", "null"]}),
    {"anyOf": [fields(cat={"const": 1}, lives=COUNT), fields(dog={"const": 2}, barks=YES)]},
    fields(outer=fields(inner=fields(深=fields(value=COUNT)))),
    items(fields(id=COUNT, 标签=items(TEXT, maxItems=2)), maxItems=3),
    {"$defs": {"p": fields(x=COUNT, y=COUNT)}, **fields(start={"$ref": "#/$defs/p"}, end={"$ref": "#/$defs/p"})},
    {"$defs": {"t": fields(v=COUNT, c=items({"$ref": "#/$defs/t"}))}, "$ref": "#/$defs/t"},
    {"$defs": {"l": {"anyOf": [{"type": "null"}, fields(next={"$ref": "#/$defs/l"})]}}, "$ref": "#/$defs/l"},
    {"type": "object", "additionalProperties": COUNT},
    {"type": "object"},
    {"type": "object", "properties": {"必填": TEXT}, "required": ["必填"]},
    {"type": "array", "prefixItems": [COUNT, TEXT], "items": False, "minItems": 2},
    {"enum": ["是", "否", None, 3.5, {"a": [1]}]},
    {"allOf": [fields(a=COUNT, b=TEXT), {"type": "object", "properties": {"a": {"minimum": 5, "maximum": 50}}}]},
    fields(**{'引号"和\\': TEXT, "a b": YES, "🙂": COUNT}),
]


def answers(engine: Engine, count: int, seed: int = 0) -> Iterator[tuple[dict, int, str, str]]:
    """Yield (schema, limit, answer, finish reason) for the schemas in turn, with limits that allow an answer."""
    dice, prompt = random.Random(seed), engine.tokenizer.encode_prompt("用 JSON 回答。")
    for start in range(0, count, engine.max_batch_size):
        chosen = []
        for number in range(start, min(start + engine.max_batch_size, count)):
            schema = SCHEMAS[number % len(SCHEMAS)]
            form = {"type": "json_schema", "json_schema": {"schema": schema, "strict": True}}
            grammar = response_grammar(engine.tokenizer, form)
            limit = len(grammar.way_out) + dice.choice((0, 1, 3, 10, 40, 120))
            sampling = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "seed": seed + number}
            chosen.append((schema, limit, engine.submit(Request(prompt, limit, grammar=grammar, **sampling))))
        for schema, limit, answer in chosen:
            pieces = list(answer)
            yield schema, limit, "".join(piece.text for piece in pieces), pieces[-1].finish_reason


def fault(schema: dict, text: str, finish_reason: str) -> str | None:
    """Return what is wrong with an answer, None for nothing."""
    try:
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
    except (ValueError, RecursionError, jsonschema.ValidationError) as error:
        return f"{type(error).__name__}: {str(error)[:80]}"
    return None if finish_reason == "stop" else f"valid, but ended by {finish_reason}"


def token_costs(tokenizer: ChatGLMTokenizer, rows: int, tokens: int = 120) -> tuple[list[float], list[float]]:
    """Return seconds of sampling a token from logits of `rows` ids, without a form and with one."""
    form = {"type": "json_schema", "json_schema": {"schema": SCHEMAS[19]}}
    costs: tuple[list[float], list[float]] = ([], [])
    logits = torch.randn(1, rows, generator=torch.Generator().manual_seed(0)) * 3
    for grammar, times in zip((None, response_grammar(tokenizer, form)), costs, strict=True):
        for seed in range(8):
            sampler = Sampler(Sampling(seed=seed), end_ids=[tokenizer.eos_token_id], grammar=grammar, limit=tokens)
            for _ in range(tokens):
                own = logits.clone()
                start = time.perf_counter()
                (token,) = sample(own, [sampler])
                sampler.take(token)
                times.append(time.perf_counter() - start)
                if sampler.finished:
                    break
    return costs


def main() -> None:
    """Print the counts and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED_CHECKPOINT, help="checkpoint (default: the embedded one)")
    parser.add_argument("--answers", type=int, default=1000, help="answers to generate (default 1000)")
    arguments = parser.parse_args()
    model = ChatGLMForConditionalGeneration.from_pretrained(arguments.model).float().eval()
    tokenizer = ChatGLMTokenizer.from_pretrained(arguments.model)
    start = time.perf_counter()
    response_grammar(tokenizer, {"type": "json_object"})
    print(f"vocabulary of {tokenizer.vocab_size} tokens prepared in {time.perf_counter() - start:.2f} s")
    engine, faults = Engine(model, tokenizer, max_batch_size=16), 0
    for schema, limit, text, reason in answers(engine, arguments.answers):
        if (wrong := fault(schema, text, reason)) is not None:
            faults += 1
            print(f"{wrong}\n  limit {limit}, {json.dumps(schema, ensure_ascii=False)[:120]}\n  {text[:200]!r}")
    engine.close()
    print(f"{arguments.answers - faults} of {arguments.answers} answers fit their schema ({len(SCHEMAS)} schemas)")
    plain, formed = token_costs(tokenizer, model.config.vocab_size)
    print(
        f"sampling a token of {model.config.vocab_size} logits: {statistics.median(plain) * 1e6:.0f} µs without, "
        f"{statistics.median(formed) * 1e6:.0f} µs with a form (mean {statistics.mean(plain) * 1e6:.0f} and "
        f"{statistics.mean(formed) * 1e6:.0f} µs)"
    )


if __name__ == "__main__":
    main()
