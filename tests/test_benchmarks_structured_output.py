"""The benchmark of structured answers, in short: every schema once."""

import pytest

pytest.importorskip("llguidance", reason="llguidance is not installed")

from engine import Engine  # noqa: E402
from tests.benchmarks.structured_output import SCHEMAS, answers, fault, token_costs  # noqa: E402


def test_every_schema_has_valid_answers(mini_model, mini_tokenizer) -> None:
    engine = Engine(mini_model, mini_tokenizer, max_batch_size=len(SCHEMAS))
    found = [(schema, text, fault(schema, text, reason)) for schema, _, text, reason in answers(engine, len(SCHEMAS))]
    engine.close()
    assert len(found) == len(SCHEMAS) == 30 and not [one for one in found if one[2]]


def test_fault_tells_what_is_wrong() -> None:
    assert fault({"type": "integer"}, "3", "stop") is None
    assert "JSONDecodeError" in fault({}, "{", "length") and "not of type" in fault({"type": "integer"}, '"a"', "stop")


def test_token_costs_times_both_ways(mini_tokenizer) -> None:
    assert all(times and min(times) > 0 for times in token_costs(mini_tokenizer, mini_tokenizer.vocab_size, tokens=12))
