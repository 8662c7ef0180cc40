"""Tests of an engine with adapters: each answer is the one of an engine that has its adapter alone; nobody starves."""

from __future__ import annotations

import random
import time

import pytest
from serving import wait_until

from engine import Answer, Engine, Request
from loading.arguments import EMBEDDED_CHECKPOINT, ModelArguments
from loading.load import load_model_and_tokenizer
from loading.named_adapters import NamedAdapters

QUESTIONS = ["你好", "3 + 4 = ?"]
SAMPLING = [{"temperature": 0}, {"temperature": 1.2, "seed": 5, "repetition_penalty": 1.1}]


@pytest.fixture
def engines():
    """Return a function that makes engines of the embedded checkpoint, closed at the end."""
    made = []

    def make(bits=None, folders=None, adapter=None, **arguments) -> Engine:
        path = None if adapter is None else str(adapter)
        loading = ModelArguments(EMBEDDED_CHECKPOINT, "cpu", "float32", bits, ptuning_checkpoint=path)
        model, tokenizer = load_model_and_tokenizer(loading)
        made.append(Engine(model, tokenizer, adapters=NamedAdapters(model, folders or {}), **arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


def requests(engine: Engine, adapter: str | None) -> list[Request]:
    prompts = [engine.tokenizer.encode_prompt(question) for question in QUESTIONS]
    return [Request(ids, 12, logprobs=2, adapter=adapter, **one) for ids in prompts for one in SAMPLING]


def whole(answer: Answer) -> list:
    """Return an answer's pieces, with the exact probabilities of its tokens."""
    return [(piece.text, piece.finish_reason, *piece.logprobs) for piece in answer]


def text(answer: Answer) -> str:
    return "".join(piece.text for piece in answer)


@pytest.mark.parametrize("bits", [None, 4])
def test_answers_have_the_bits_of_an_engine_with_the_adapter_alone(engines, adapter_folders, bits):
    """Several rounds of requests in any order, which compute one at a time, as what is computed together may round."""
    engine, expected = engines(bits, adapter_folders, max_batch_size=1), {}
    for name in (None, *adapter_folders):
        alone = engines(bits, adapter=adapter_folders.get(name), max_batch_size=1)
        expected[name] = [whole(answer) for answer in alone.submit(*requests(alone, None))]
    for seed in range(2):  # after the first round, prompts are in the cache
        asked = [(name, place, one) for name in expected for place, one in enumerate(requests(engine, name))]
        random.Random(seed).shuffle(asked)
        answers = engine.submit(*(one for _, _, one in asked))
        for (name, place, _), answer in zip(asked, answers, strict=True):
            assert whole(answer) == expected[name][place]
            assert answer.cached or seed == 0


def test_answers_that_run_together_say_what_they_say_alone(engines, adapter_folders):
    engine, expected, asked = engines(8, adapter_folders), {}, []
    for name in (None, *adapter_folders):
        alone = engines(8, adapter=adapter_folders.get(name))
        expected[name] = [text(answer) for answer in alone.submit(*requests(alone, None))]
        asked += [(name, place, one) for place, one in enumerate(requests(engine, name))]
    assert len({tuple(texts) for texts in expected.values()}) == len(expected)
    random.Random(0).shuffle(asked)
    answers = [(name, place, engine.submit(one)) for name, place, one in asked]
    assert all(text(answer) == expected[name][place] for name, place, answer in answers)


def test_embeddings_are_the_adapters(engines, adapter_folders):
    engine = engines(None, adapter_folders)
    ids = engine.tokenizer.encode_prompt("你好")
    vectors = {}
    for name in (None, *adapter_folders):
        alone = engines(adapter=adapter_folders.get(name))
        (expected,) = alone.submit(Request(ids, embedding=True))
        (found,) = engine.submit(Request(ids, embedding=True, adapter=name))
        assert found.embedding == expected.embedding
        vectors[name] = tuple(found.embedding)
    assert len(set(vectors.values())) == len(vectors)


def test_what_waits_together_runs_together(engines, adapter_folders):
    """Requests of four kinds in turns are four groups, in the order of their first ones."""
    engine, names = engines(None, adapter_folders), ["poet", None, "long", "short"] * 4
    engine.pass_tokens = 1000  # their prompts, too
    prompts = [engine.tokenizer.encode_prompt(f"你好{number}") for number in range(16)]
    asked = zip(prompts, names, strict=True)
    answers = engine.submit(*(Request(ids, 4, ignore_eos=True, adapter=name) for ids, name in asked))
    for answer in answers:
        text(answer)
    begun = [name for _, name in sorted(zip((answer.started for answer in answers), names, strict=True))]
    assert begun == [name for name in names[:4] for _ in range(4)]


@pytest.mark.parametrize("size", [1, 4])
def test_requests_for_one_adapter_do_not_keep_others_waiting(engines, adapter_folders, size):
    """While one adapter is asked again and again, a request for another waits for those that came before it only."""
    engine = engines(None, adapter_folders, max_batch_size=size)
    hook = engine.model.transformer.layers[0].register_forward_pre_hook(lambda *_: time.sleep(0.01))
    ids = engine.tokenizer.encode_prompt("你好")

    def ask(name: str | None, tokens: int = 8) -> Answer:
        return engine.submit(Request(ids, tokens, ignore_eos=True, adapter=name))

    early = [ask("poet", 12) for _ in range(size)]
    wait_until(lambda: engine.queue_length == 0)
    others = [ask(None), ask("long")]
    late = []
    while others[-1].finished is None:
        late += [ask("poet")] if engine.queue_length < 40 else []
        time.sleep(0.005)
    hook.remove()
    for answer in [*early, *others, *late]:
        text(answer)
    assert max(answer.finished for answer in early) < others[0].started < others[0].finished < others[1].started
    assert len(late) > 3 and others[1].finished < min(answer.started for answer in late)


def test_an_unknown_adapter_is_refused(engines, adapter_folders):
    engine = engines(None, adapter_folders)
    with pytest.raises(ValueError, match="adapter must be one of .*'poet'.* or None, got 'painter'"):
        engine.submit(Request([1, 2], adapter="painter"))
    assert not engine.open


def test_a_failed_step_leaves_the_adapters_in_order(engines, adapter_folders, monkeypatch):
    engine = engines(None, adapter_folders)
    asked = {name: requests(engine, name)[0] for name in (None, "poet", "short")}
    expected = {name: text(engine.submit(one)) for name, one in asked.items()}
    for name in asked:
        with monkeypatch.context() as patch:
            patch.setattr(engine.cache.__class__, "prepare", None)
            with pytest.raises(Exception, match="could not be computed"):
                text(engine.submit(asked[name]))
        assert {name: text(engine.submit(one)) for name, one in asked.items()} == expected
