"""Tests of engine/ against the library's own generation, one request at a time."""

from __future__ import annotations

import asyncio
import copy
import random
import re
import statistics
import threading
import time

import original
import psutil
import pytest
import torch
from serving import wait_until, write_lively_checkpoint

import engine as serving_engine
from chatglm import (
    ChatGLMForConditionalGeneration,
    ChatGLMTokenizer,
    InvalidLogitsError,
    PromptTooLongError,
    cpu_kernels,
)
from chatglm.cache import CACHE_STEP
from engine import Engine, Request, chat_request
from engine.cache import BatchCache
from engine.prompts import Prefill, Prompt
from loading.devices import free_memory

QUESTIONS = ["你好", "1 + 1", "hello there", "天气怎么样？", "a", "晚上睡不着应该怎么办", "x y z", "北京在哪里"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "small"
    model = write_lively_checkpoint(folder)
    return model, ChatGLMTokenizer.from_pretrained(folder)


@pytest.fixture
def engines(checkpoint):
    """Return a function that makes engines, closed at the end."""
    made = []

    def make(model=None, tokenizer=None, **arguments) -> Engine:
        made.append(Engine(model or checkpoint[0], tokenizer or checkpoint[1], **arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ids_of(answer) -> list[int]:
    return [token.token_id for piece in answer for token in piece.logprobs]


def greedy(prompt_ids: list[int], max_tokens: int = 24, **more) -> Request:
    return Request(prompt_ids, max_tokens=max_tokens, temperature=0, logprobs=0, **more)


def generate(model, prompt_ids: list[int], max_tokens: int = 24, **more) -> list[int]:
    """Return the library's own greedy answer, without the end token."""
    ids = model.generate(torch.tensor([prompt_ids]), max_length=len(prompt_ids) + max_tokens, do_sample=False, **more)
    answer = ids[0, len(prompt_ids) :].tolist()
    return answer[:-1] if answer[-1] == model.config.eos_token_id else answer


def with_prefix(model, projection: bool = False) -> ChatGLMForConditionalGeneration:
    """Return a copy of a model with a random P-Tuning prefix."""
    torch.manual_seed(1)
    config = type(model.config).from_dict(model.config.to_dict() | {"pre_seq_len": 5, "prefix_projection": projection})
    tuned = ChatGLMForConditionalGeneration(config).eval()
    tuned.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for parameter in tuned.transformer.prefix_encoder.parameters():
            parameter.normal_(std=0.5)
    return tuned


class Reads:
    """Note how many prompts a pass reads that begins; something may be done between its first and its last block.

    Attributes:
        rows: of each pass that has begun.
        whole: of each that came to the last block.
    """

    def __init__(self, model, between=lambda rows: None) -> None:
        self.rows, self.whole, self.between = [], [], between
        first, last = model.transformer.layers[0], model.transformer.layers[-1]
        self.hooks = [first.register_forward_hook(self.begin), last.register_forward_pre_hook(self.finish)]

    def begin(self, _, inputs, __) -> None:
        rows, count, _ = inputs[0].shape
        if count > 1:
            self.rows.append(rows)
            self.between(rows)

    def finish(self, _, inputs) -> None:
        rows, count, _ = inputs[0].shape
        if count > 1:
            self.whole.append(rows)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()


class SlowModel:
    """Let the forward pass of a model's first layer take a while, so that answers can be caught running."""

    def __init__(self, model, seconds: float) -> None:
        self.seconds, self.passes = seconds, 0
        self.hook = model.transformer.layers[0].register_forward_pre_hook(self.wait)

    def wait(self, *_) -> None:
        self.passes += 1
        time.sleep(self.seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.hook.remove()


# Equality with the library


def test_greedy_batch_of_16_equals_alone(checkpoint, engines):
    model, tokenizer = checkpoint
    prompts = [tokenizer.encode_prompt(f"{question}{number}") for number in range(2) for question in QUESTIONS]
    expected = [generate(model, prompt) for prompt in prompts]
    answers = engines(max_batch_size=16).submit(*map(greedy, prompts))
    assert [ids_of(answer) for answer in answers] == expected
    assert len({len(prompt) for prompt in prompts}) > 3 and len({tuple(ids) for ids in expected}) > 8


@pytest.mark.parametrize("max_batch_size", [1, 2, 16])
def test_greedy_equals_original(small_model, engines, max_batch_size):
    """The tokenizer is another model's: it makes text, which does not count here."""
    cases = original.GENERATION["greedy"]
    requests = [greedy(case["input_ids"], case["max_length"] - len(case["input_ids"])) for case in cases]
    answers = engines(small_model, max_batch_size=max_batch_size).submit(*requests)
    found = [case["input_ids"] + ids_of(answer) for case, answer in zip(cases, answers, strict=True)]
    assert found == original.GREEDY


@pytest.mark.parametrize("projection", [False, True])
def test_greedy_equals_alone_with_a_prefix_encoder(checkpoint, engines, projection):
    model, tokenizer = checkpoint
    tuned = with_prefix(model, projection)
    prompts = [tokenizer.encode_prompt(question) for question in QUESTIONS]
    expected = [generate(tuned, prompt) for prompt in prompts]
    assert expected != [generate(model, prompt) for prompt in prompts]
    assert [ids_of(answer) for answer in engines(tuned).submit(*map(greedy, prompts))] == expected


@pytest.mark.parametrize("pass_tokens", [0, 64])
def test_greedy_is_the_same_when_answers_join_and_leave(checkpoint, engines, pass_tokens):
    """More requests than places, of different lengths, submitted at random moments by several threads."""
    model, tokenizer = checkpoint
    engine, lengths, found = engines(max_batch_size=3), random.Random(0), {}
    engine.pass_tokens = pass_tokens
    wanted = {(f"{question}{number}", lengths.randint(1, 30)) for number in range(3) for question in QUESTIONS}

    def ask(question: str, length: int) -> None:
        time.sleep(lengths.random() / 10)
        found[question, length] = ids_of(engine.submit(greedy(tokenizer.encode_prompt(question), length)))

    threads = [threading.Thread(target=ask, args=pair) for pair in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {(text, size): generate(model, tokenizer.encode_prompt(text), size) for text, size in wanted}
    assert engine.batch_size == 0 and engine.cache.keys == []


def test_repetition_penalty_equals_the_librarys(checkpoint, engines):
    model, tokenizer = checkpoint
    prompts = [tokenizer.encode_prompt(question) for question in QUESTIONS]
    expected = [generate(model, prompt, repetition_penalty=1.3) for prompt in prompts]
    assert expected != [generate(model, prompt) for prompt in prompts]
    answers = engines().submit(*(greedy(prompt, repetition_penalty=1.3) for prompt in prompts))
    assert [ids_of(answer) for answer in answers] == expected


def test_text_equals_chat(checkpoint, engines):
    model, tokenizer = checkpoint
    for question in QUESTIONS:
        expected, _ = model.chat(tokenizer, question, temperature=0, max_new_tokens=40)
        answer = engines().submit(Request(tokenizer.encode_prompt(question), 40, temperature=0))
        assert "".join(piece.text for piece in answer) == expected


def test_half_precision_differs_only_in_ties(checkpoint, engines):
    """In bfloat16 a batch rounds differently: where it parts from the answer alone, the two tokens are a tie."""
    model, tokenizer = checkpoint
    half = ChatGLMForConditionalGeneration(model.config).bfloat16().eval()
    half.load_state_dict(model.state_dict())
    prompts = [tokenizer.encode_prompt(f"{question}{number}") for number in range(2) for question in QUESTIONS]
    answers = engines(half, max_batch_size=16).submit(*map(greedy, prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids, expected = ids_of(answer), generate(half, prompt)
        if ids == expected:
            continue
        same = next(index for index, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1])
        with torch.no_grad():
            logits = half(torch.tensor([prompt + expected[:same]])).logits[0, -1].float()
        step = logits.abs().max() * 2**-7  # a few of bfloat16's 8 bits, after 2 layers
        assert abs(logits[ids[same]] - logits[expected[same]]) <= 4 * step


# Sampling


def test_seed_gives_the_same_answer_whatever_else_is_served(checkpoint, engines):
    _, tokenizer = checkpoint
    engine = engines(max_batch_size=16)

    def request(question: str, seed: int) -> Request:
        return Request(tokenizer.encode_prompt(question), 24, seed=seed, logprobs=0, temperature=1.2, top_p=0.9)

    alone = [ids_of(engine.submit(request(question, seed))) for seed, question in enumerate(QUESTIONS)]
    others = [Request(tokenizer.encode_prompt(f"z{number}"), 5 + number) for number in range(8)]
    together = engine.submit(*others, *(request(question, seed) for seed, question in enumerate(QUESTIONS)))[8:]
    assert [ids_of(answer) for answer in together] == alone
    assert len({tuple(ids) for ids in alone}) == len(alone)
    assert ids_of(engine.submit(request(QUESTIONS[0], 99))) != alone[0]
    assert ids_of(engine.submit(request(QUESTIONS[1], -1))) != alone[1]


def test_top_p_0_is_greedy_and_tiny_temperature_too(checkpoint, engines):
    model, tokenizer = checkpoint
    prompt = tokenizer.encode_prompt("你好")
    for more in ({"top_p": 0.0}, {"temperature": 1e-12}, {"temperature": 1e-60}):
        request = Request(prompt, 24, **({"temperature": 2.0, "logprobs": 0} | more))
        assert ids_of(engines().submit(request)) == generate(model, prompt)


def test_language_keeps_to_it(checkpoint, engines):
    _, tokenizer = checkpoint
    for seed in range(4):
        request = Request(tokenizer.encode_prompt("你好"), 60, temperature=3.0, top_k=0, top_p=1.0, seed=seed)
        mixed = "".join(piece.text for piece in engines().submit(request))
        assert re.search("[a-zA-Z]", mixed) and re.search("[\u4e00-\u9fff]", mixed)
        request.language = "zh"
        assert not re.search("[a-zA-Z]", "".join(piece.text for piece in engines().submit(request)))


def test_logprobs_are_the_models(checkpoint, engines):
    model, tokenizer = checkpoint
    prompt = tokenizer.encode_prompt("你好")
    answer = engines().submit(Request(prompt, 10, seed=1, temperature=2.0, logprobs=3))
    tokens = [token for piece in answer for token in piece.logprobs]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + [token.token_id for token in tokens]])).logits[0]
    for index, token in enumerate(tokens):
        expected = logits[len(prompt) - 1 + index].log_softmax(-1)
        assert token.logprob == pytest.approx(float(expected[token.token_id]), abs=1e-4)
        assert [likely for likely, _ in token.likeliest] == expected.topk(3).indices.tolist()


# Text


def test_stop_ends_an_answer_and_frees_its_place(checkpoint, engines):
    model, tokenizer = checkpoint
    engine, prompt = engines(), tokenizer.encode_prompt("你好")
    whole = "".join(piece.text for piece in engine.submit(Request(prompt, 60, seed=3, temperature=1.5)))
    stop = whole[5:8]  # across token borders
    answer = engine.submit(Request(prompt, 60, seed=3, temperature=1.5, stop=(stop,)))
    pieces = list(answer)
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish_reason == "stop"
    wait_until(lambda: engine.batch_size == 0)


def test_finish_reasons(checkpoint, engines):
    model, tokenizer = checkpoint
    prompt = tokenizer.encode_prompt("你好")
    answer = engines().submit(greedy(prompt, 3))
    assert list(answer)[-1].finish_reason == "length" and answer.completion_tokens == 3
    engine = engines()
    ids = generate(model, prompt)
    count = next(index for index in range(1, len(ids)) if ids[index] not in ids[:index])
    engine.end_ids = {ids[count]}
    answer = engine.submit(greedy(prompt, 24))
    assert list(answer)[-1].finish_reason == "stop" and answer.completion_tokens == count


def test_the_models_limit_ends_an_answer(checkpoint, engines, monkeypatch):
    model, tokenizer = checkpoint
    prompt = tokenizer.encode_prompt("你好")
    monkeypatch.setattr(model.config, "max_sequence_length", len(prompt) + 7)
    engine = engines()
    engine.end_ids = set()
    answer = engine.submit(greedy(prompt, None))
    assert list(answer)[-1].finish_reason == "length" and answer.completion_tokens == 7
    with pytest.raises(PromptTooLongError, match="reduce the length"):
        engine.submit(Request(prompt + [5] * 7))


# Prompts


def test_prompt_read_in_slices_equals_forward(checkpoint):
    model, tokenizer = checkpoint
    prompt = tokenizer.encode_prompt("天气" * 40)
    with torch.inference_mode():
        read = Prompt(prompt)
        reading, slices = Prefill(model, [read]), 1
        while not reading.advance(0):
            slices += 1
        expected = model(torch.tensor([prompt]), output_hidden_states=True)
    assert slices == len(model.transformer.layers)
    torch.testing.assert_close(read.logits, expected.logits[0, -1])
    hidden = model.transformer(torch.tensor([prompt])).last_hidden_state
    torch.testing.assert_close(read.embedding, hidden[0].mean(0).detach())


def test_prompt_reading_looks_at_the_devices_clock(checkpoint, monkeypatch):
    """A GPU takes requests at once and computes later: time passes only when an event of it is waited for."""
    model, tokenizer = checkpoint
    now, done, prompts = [0.0], [], serving_engine.prompts

    class Event:
        def __init__(self, device):
            self.number = len(made)
            made.append(self)

        def synchronize(self):
            now[0] += 1.0  # a block takes a second
            done.append(self.number)

    made: list[Event] = []
    monkeypatch.setattr(prompts, "record_event", Event)
    monkeypatch.setattr(prompts, "LAYERS_AHEAD", 0)
    monkeypatch.setattr(prompts.time, "monotonic", lambda: now[0])
    with torch.inference_mode():
        reading = Prefill(model, [Prompt(tokenizer.encode_prompt("你好"))])
        assert not reading.advance(0.5)
    assert done == [0]  # it stopped after the block that took the time
    assert len(made) == 1 < len(model.transformer.layers)


def test_running_answers_go_on_while_a_long_prompt_is_read(checkpoint, engines, monkeypatch):
    """Between two layers of the long prompt, each running answer gets a token."""
    model, tokenizer = checkpoint
    monkeypatch.setattr(serving_engine.engine, "SHORTEST_SLICE", 0.0)
    engine, events = engines(), []
    long_prompt = tokenizer.encode_prompt("天气" * 300)

    def note(module, inputs) -> None:
        events.append("layer of the prompt" if inputs[0].shape[1] > 100 else "token")

    hooks = [layer.register_forward_pre_hook(note) for layer in model.transformer.layers]
    first_hook = SlowModel(model, 0.005)
    try:
        engine.end_ids = set()
        running = engine.submit(greedy(tokenizer.encode_prompt("你好"), 100))
        next(running)
        engine.step_seconds = 0.0
        late = engine.submit(greedy(long_prompt, 2))
        list(late)
        running.cancel()
        list(running)
    finally:
        first_hook.hook.remove()
        for hook in hooks:
            hook.remove()
    places = [index for index, name in enumerate(events) if name == "layer of the prompt"]
    assert len(places) == len(model.transformer.layers)
    assert all("token" in events[one:other] for one, other in zip(places, places[1:], strict=False))


def mixed_prompts(tokenizer) -> list[list[int]]:
    """Return prompts of different lengths: with either mask token, and with the beginning of an answer."""
    long, short, question, other = map(tokenizer.encode_prompt, ("天气" * 9, "a", "x y z", "1 + 1"))
    masked = [*question[:2], tokenizer.mask_token_id, *question[2:-2], tokenizer.bos_token_id]
    return [long, short, masked, question, [*other, 200, 201, 202]]


@pytest.mark.parametrize("count", [4, 5])  # the last one makes the context lengths differ
@pytest.mark.parametrize("prefix", [False, True])
def test_prompts_read_together_are_as_alone(checkpoint, prefix, count):
    model, tokenizer = checkpoint
    model = with_prefix(model) if prefix else model
    together, alone = ([Prompt(ids) for ids in mixed_prompts(tokenizer)[:count]] for _ in range(2))
    with torch.inference_mode():
        reading = Prefill(model, together)
        while not reading.advance(0):
            assert all(prompt.logits is None for prompt in together)
        for prompt in alone:
            Prefill(model, [prompt]).advance(60)
    for one, other in zip(together, alone, strict=True):
        assert one.cache.lengths == other.cache.lengths == [len(one.prompt_ids) + 5 * prefix] * 2
        assert one.cache.prefix_length == 5 * prefix
        assert (one.context_length, one.mask_position) == (other.context_length, other.mask_position)
        assert one.bytes() == other.bytes()  # nothing of the padding is kept
        found, expected = ((p.logits, p.embedding, *p.cache.keys, *p.cache.values) for p in (one, other))
        torch.testing.assert_close([*found], [*expected], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", [False, True])
def test_greedy_equals_alone_where_prompts_are_read_together(checkpoint, engines, prefix):
    model, tokenizer = checkpoint
    model = with_prefix(model) if prefix else model
    prompts = [*mixed_prompts(tokenizer), *map(tokenizer.encode_prompt, QUESTIONS)]
    expected = [generate(model, prompt) for prompt in prompts]
    hidden = model.transformer(torch.tensor([prompts[3]])).last_hidden_state
    with Reads(model) as reads:
        engine = engines(model)
        engine.pass_tokens = 1000
        answers = engine.submit(*map(greedy, prompts), Request(prompts[3], embedding=True))
        assert [ids_of(answer) for answer in answers[:-1]] == expected
    # what a row takes is known once there is one; two prompts of the list are in it twice
    assert reads.rows == [1, len({*map(tuple, prompts)}) - 1]
    torch.testing.assert_close(torch.tensor(next(answers[-1]).embedding), hidden[0].mean(0).detach())


def test_prompts_read_together_are_bounded_and_keep_their_order(checkpoint, engines):
    model, tokenizer = checkpoint
    engine = engines()
    prompts = [tokenizer.encode_prompt(text) for text in ("a", "b", "c", "d", "天" * 60, "e", "f", "g")]
    expected = [generate(model, prompt) for prompt in prompts]
    engine.pass_tokens = 3 * max(len(prompt) for prompt in prompts if prompt != prompts[4])
    with Reads(model) as reads:
        answers = engine.submit(*map(greedy, prompts), greedy(prompts[4]))
        assert [ids_of(answer) for answer in answers] == [*expected, expected[4]]
    assert reads.rows == [1, 3, 1, 3]
    assert [answer.cached for answer in answers] == [False] * 8 + [True]
    times = [answer.first_token for answer in answers]
    assert times[:-1] == sorted(times[:-1])


def test_on_a_cpu_prompts_are_read_one_by_one(checkpoint, engines):
    model, tokenizer = checkpoint
    with Reads(model) as reads:
        for answer in engines().submit(*(greedy(tokenizer.encode_prompt(question)) for question in QUESTIONS)):
            list(answer)
    assert reads.rows == [1] * len(QUESTIONS)


def reads_together(engines, checkpoint, questions):
    """Return an engine that has answered the first of some questions and will read the others in one pass; prompts."""
    engine, prompts = engines(), [checkpoint[1].encode_prompt(question) for question in questions]
    engine.pass_tokens = 1000
    list(engine.submit(greedy(prompts[0])))  # now it knows what a row takes
    return engine, prompts


@pytest.mark.parametrize("cancelled", [1, 4])
def test_cancel_while_prompts_are_read_together(checkpoint, engines, monkeypatch, cancelled):
    """Between two blocks some are cancelled, or all: then the pass is given up."""
    model, _ = checkpoint
    monkeypatch.setattr(serving_engine.engine, "SHORTEST_SLICE", 0.0)
    # on the class, for the engine's thread may be about to write how long the first question's last step took
    no_time = property(lambda engine: 0.0, lambda engine, seconds: None)
    monkeypatch.setattr(serving_engine.Engine, "step_seconds", no_time, raising=False)
    engine, prompts = reads_together(engines, checkpoint, QUESTIONS[:5])

    def cancel(rows: int) -> None:
        for answer in [*engine.reading][:cancelled]:
            answer.cancel()

    with Reads(model, cancel) as reads:
        answers = engine.submit(*map(greedy, prompts[1:]))
        found = [ids_of(answer) for answer in answers]
    assert found == [[]] * cancelled + [generate(model, prompt) for prompt in prompts[1 + cancelled :]]
    assert [answer.finish_reason for answer in answers[:cancelled]] == ["cancelled"] * cancelled
    assert reads.rows == [4] and reads.whole == [4] * (cancelled < 4)
    wait_until(lambda: engine.batch_size == 0)
    assert engine.prefill is None


def test_a_prompt_that_cannot_be_read_ends_no_other_answer_of_its_pass(checkpoint, engines):
    model, _ = checkpoint
    engine, prompts = reads_together(engines, checkpoint, QUESTIONS[:4])
    expected = [generate(model, prompt) for prompt in prompts]
    with Reads(model) as reads:
        *answers, bad, last = engine.submit(*map(greedy, prompts[1:3]), greedy([7, 8, 9]), greedy(prompts[3]))
        with pytest.raises(serving_engine.StepError, match="ValueError"):
            list(bad)
        assert [ids_of(answer) for answer in (*answers, last)] == expected[1:]
    assert reads.rows == [1, 1, 1]


def test_a_pass_that_fails_is_made_prompt_by_prompt(checkpoint, engines):
    model, tokenizer = checkpoint
    engine, prompts = reads_together(engines, checkpoint, QUESTIONS[:4])
    expected = [generate(model, prompt) for prompt in prompts]

    def fail(rows: int) -> None:
        if rows > 1:
            raise RuntimeError("CUDA out of memory")

    with Reads(model, fail) as reads:
        answers = engine.submit(*map(greedy, prompts[1:]))
        assert [ids_of(answer) for answer in answers] == expected[1:]
    assert reads.rows == [3, 1, 1, 1]
    with Reads(model) as reads:  # the next ones together again
        for answer in engine.submit(*(greedy(tokenizer.encode_prompt(text)) for text in "xyz")):
            list(answer)
    assert reads.rows == [3]


def test_identical_prompts_are_read_once(checkpoint, engines):
    model, tokenizer = checkpoint
    engine, prompt, reads = engines(), tokenizer.encode_prompt("你好" * 20), []
    hook = model.transformer.layers[0].register_forward_pre_hook(lambda _, inputs: reads.append(inputs[0].shape[1]))
    try:
        expected = ids_of(engine.submit(greedy(prompt)))
        answers = engine.submit(*(greedy(prompt) for _ in range(3)))
        assert all(ids_of(answer) == expected for answer in answers)
    finally:
        hook.remove()
    assert reads.count(len(prompt)) == 1 and all(answer.cached for answer in answers)


def test_prompt_cache_is_bounded(checkpoint, engines):
    _, tokenizer = checkpoint
    engine = engines(prompt_cache_bytes=600_000)  # a prompt of up to 256 tokens takes 128 KiB here
    for number in range(30):
        list(engine.submit(greedy(tokenizer.encode_prompt(f"天气{number}" * 5), 1)))
    held = sum(prompt.bytes() for prompt in engine.prompts.prompts.values())
    assert held == engine.prompts.size <= 600_000 and len(engine.prompts.prompts) > 1


def test_batch_cache_leaves_nothing_behind(checkpoint):
    """After rows have come and gone, what the columns beyond a row's tokens hold is zero."""
    model, tokenizer = checkpoint
    dice, cache = random.Random(0), BatchCache()
    with torch.inference_mode():
        for _ in range(40):
            if cache.row_lengths and dice.random() < 0.45:
                cache.remove_row(dice.randrange(len(cache.row_lengths)))
            else:
                prompt = Prompt(tokenizer.encode_prompt("天" * dice.randint(1, 60)))
                Prefill(model, [prompt]).advance(60)
                cache.append_row(prompt)
            for buffer in cache.keys + cache.values:
                for row in range(buffer.shape[0]):
                    length = cache.row_lengths[row] if row < len(cache.row_lengths) else 0
                    assert not buffer[row, :, length:].any() and (length == 0 or buffer[row, :, :length].any())


def test_quantised_rows_of_different_lengths_get_what_each_gets_alone(checkpoint, monkeypatch):
    """By the CPU kernels, which take a whole block at once where they can be compiled.

    Sums in another order can change how an activation is rounded to 8 bits, which moves a few logits a little.
    """
    calls, decode_block = [], cpu_kernels.decode_block
    monkeypatch.setattr(cpu_kernels, "decode_block", lambda *a: calls.append(len(a[0])) or decode_block(*a))
    model, cache, alone, errors = copy.deepcopy(checkpoint[0]).quantize(8), BatchCache(), [], []
    with torch.inference_mode():
        for question in QUESTIONS:
            ids = checkpoint[1].encode_prompt(question)
            prompt = Prompt(ids)
            Prefill(model, [prompt]).advance(60)
            cache.append_row(prompt)
            past = model(torch.tensor([ids]), use_cache=True).cache
            alone.append([model(torch.tensor([[token]]), cache=past).logits[0, 0] for token in (7, 8, 9)])
        for step, token in enumerate((7, 8, 9)):
            cache.prepare()
            together = model(torch.full((len(QUESTIONS), 1), token), cache=cache).logits[:, 0]
            cache.advance()
            errors += [
                float((row - steps[step]).norm() / row.norm()) for row, steps in zip(together, alone, strict=True)
            ]
    assert max(errors) < 0.05 and statistics.median(errors) < 1e-4
    if cpu_kernels.available(torch.float32):
        assert set(calls) == {1, len(QUESTIONS)}
    assert len(set(cache.row_lengths)) > 3


# Memory


def cache_numbers(model) -> int:
    """Return how many numbers a token's keys and values are."""
    return 2 * model.config.num_layers * model.config.hidden_size


@pytest.mark.parametrize("pass_tokens", [0, 4096])
def test_answers_that_do_not_fit_wait_and_say_the_same(checkpoint, engines, monkeypatch, pass_tokens):
    """With memory for two answers of 256 tokens or one that is longer, three that become longer."""
    model, tokenizer = checkpoint
    most, seen = [], []
    preempt = BatchCache.preempt
    monkeypatch.setattr(BatchCache, "preempt", lambda self, row: seen.append(row) or preempt(self, row))
    resize = BatchCache._resize

    def watch(self, rows, length):
        resize(self, rows, length)
        most.append(sum(buffer.numel() * buffer.element_size() for buffer in (*self.keys, *self.values)))

    monkeypatch.setattr(BatchCache, "_resize", watch)
    limit = 2 * CACHE_STEP * cache_numbers(model) * 4
    engine = engines(cache_bytes=limit)
    engine.pass_tokens, engine.end_ids = pass_tokens, set()
    prompts = [tokenizer.encode_prompt("天" * (CACHE_STEP - less)) for less in (80, 70, 60)]
    answers = engine.submit(*(greedy(ids, 100) for ids in prompts))
    together = [ids_of(answer) for answer in answers]
    engine.close(cancel=False)
    roomy = engines()
    roomy.end_ids = set()
    assert together == [ids_of(roomy.submit(greedy(ids, 100))) for ids in prompts]
    assert max(most) <= limit and seen and engine.batch_size == 0


def test_cancel_ends_an_answer_that_was_set_aside(checkpoint, engines):
    model, tokenizer = checkpoint
    engine = engines(cache_bytes=2 * CACHE_STEP * cache_numbers(model) * 4)
    engine.end_ids = set()
    prompt_ids = tokenizer.encode_prompt("天" * (CACHE_STEP - 40))
    slow = SlowModel(model, 0.005)
    first, second = engine.submit(greedy(prompt_ids, 200), greedy(prompt_ids, 200))
    wait_until(lambda: engine.preempted and engine.batch_size == 2)  # in the midst of it the answer counts twice
    assert [row.answer for row in engine.rows] == [first]
    second.cancel()
    assert len(ids_of(second)) < 200 and second.finish_reason == "cancelled"
    slow.hook.remove()
    assert len(ids_of(first)) == 200
    wait_until(lambda: engine.batch_size == 0)


def test_an_answer_alone_runs_whatever_the_limit(checkpoint, engines):
    model, tokenizer = checkpoint
    engine = engines(cache_bytes=1)
    answers = engine.submit(*(greedy(tokenizer.encode_prompt(question), 12) for question in QUESTIONS[:3]))
    assert [ids_of(answer) for answer in answers] == [
        generate(model, answer.request.prompt_ids, 12) for answer in answers
    ]


def test_free_memory_is_the_computers(checkpoint):
    assert 0 < free_memory(checkpoint[0]) < psutil.virtual_memory().total


# Leaving early


def test_cancel_frees_the_place_within_two_tokens(checkpoint, engines):
    model, tokenizer = checkpoint
    engine = engines(max_batch_size=1)
    engine.end_ids = set()
    with SlowModel(model, 0.02) as slow:
        answer = engine.submit(greedy(tokenizer.encode_prompt("你好"), 1000))
        next(answer)
        answer.cancel()
        passes = slow.passes
        wait_until(lambda: engine.batch_size == 0)
        assert slow.passes - passes <= 2
    assert list(answer)[-1].finish_reason == "cancelled"


def test_cancel_in_the_queue_and_while_reading(checkpoint, engines):
    model, tokenizer = checkpoint
    engine = engines(max_batch_size=1)
    engine.end_ids = set()
    with SlowModel(model, 0.02):
        first = engine.submit(greedy(tokenizer.encode_prompt("你好"), 1000))
        second = engine.submit(greedy(tokenizer.encode_prompt("1"), 5))
        next(first)
        second.cancel()
        assert list(second)[-1].finish_reason == "cancelled"
        assert engine.batch_size == 1 and engine.queue_length == 0
        first.cancel()


def test_queue_position(checkpoint, engines):
    model, tokenizer = checkpoint
    engine, prompt = engines(max_batch_size=1), tokenizer.encode_prompt("你好")
    engine.end_ids = set()
    with SlowModel(model, 0.02):
        first, second, third = (engine.submit(greedy(prompt, 1000)) for _ in range(3))
        next(first)
        assert [engine.queue_position(answer) for answer in (first, second, third)] == [0, 1, 2]
        second.cancel()
        wait_until(lambda: engine.queue_position(third) == 1)
        assert engine.queue_position(second) == 0
        third.cancel()
        first.cancel()


@pytest.mark.parametrize("max_new_tokens, expected", [(None, 90), (7, 7), (1000, 90)])
def test_chat_request_keeps_to_both_limits(checkpoint, max_new_tokens, expected):
    tokenizer, rounds = checkpoint[1], [("a" * 300, "b"), ("c", "d")]
    kept, dropped = tokenizer.encode_chat("你好", rounds, 120)
    assert dropped == 1
    max_length = len(kept) + 90
    request, dropped = chat_request(tokenizer, "你好", rounds, max_length, max_new_tokens, top_p=0.5, seed=3)
    assert request == Request(kept, expected, top_p=0.5, seed=3) and dropped == 1


def test_queue_limit(checkpoint, engines):
    model, tokenizer = checkpoint
    engine, prompt = engines(max_batch_size=1, max_queue=2), tokenizer.encode_prompt("你好")
    engine.end_ids = set()
    with SlowModel(model, 0.02):
        first = engine.submit(greedy(prompt, 1000))
        next(first)
        engine.submit(greedy(prompt, 1), greedy(prompt, 1))
        with pytest.raises(serving_engine.QueueFullError, match="at most 2 may"):
            engine.submit(greedy(prompt, 1))
        first.cancel()


def test_timeouts(checkpoint, engines):
    model, tokenizer = checkpoint
    engine = engines(max_batch_size=1, queue_seconds=0.2, total_seconds=4.0)
    engine.end_ids = set()
    with SlowModel(model, 0.02):
        first = engine.submit(greedy(tokenizer.encode_prompt("你好"), 1000))
        next(first)
        second = engine.submit(greedy(tokenizer.encode_prompt("1"), 5))
        with pytest.raises(serving_engine.QueueTimeoutError, match=r"0\.2 seconds"):
            list(second)
        with pytest.raises(serving_engine.AnswerTimeoutError, match="4 seconds"):
            list(first)
    wait_until(lambda: engine.batch_size == 0)


def test_close_lets_answers_finish_or_cancels_them(checkpoint, engines):
    _, tokenizer = checkpoint
    engine, prompt = engines(), tokenizer.encode_prompt("你好")
    answer = engine.submit(greedy(prompt, 50))
    engine.close(cancel=False)
    assert len(ids_of(answer)) == answer.completion_tokens > 0 and not engine.alive
    with pytest.raises(serving_engine.ClosedError):
        engine.submit(greedy(prompt))


# Failures


def test_nan_ends_the_request_and_no_other(checkpoint, engines):
    """A poisoned embedding of one token: the answer whose prompt has it fails, its neighbours' are as ever."""
    model, tokenizer = checkpoint
    good = [tokenizer.encode_prompt(question) for question in QUESTIONS[:4]]
    expected = [generate(model, prompt) for prompt in good]
    bad_id = next(index for index in range(150, 400) if all(index not in ids for ids in good + expected))
    poisoned = ChatGLMForConditionalGeneration(model.config).eval()
    poisoned.load_state_dict(model.state_dict())
    poisoned.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        poisoned.transformer.word_embeddings.weight[bad_id] = float("nan")
    engine = engines(poisoned)
    bad = [bad_id, tokenizer.gmask_token_id, tokenizer.bos_token_id]
    answers = engine.submit(*(greedy(prompt) for prompt in good[:2]), greedy(bad), *map(greedy, good[2:]))
    with pytest.raises(InvalidLogitsError, match="NaN"):
        list(answers.pop(2))
    assert [ids_of(answer) for answer in answers] == expected


def test_a_failed_step_is_reported_and_the_engine_goes_on(checkpoint, engines):
    model, tokenizer = checkpoint
    engine, prompt = engines(), tokenizer.encode_prompt("你好")

    def fail(*_):
        raise RuntimeError("not enough memory: you tried to allocate 1 TB")

    hook = model.transformer.final_layernorm.register_forward_pre_hook(fail)
    try:
        with pytest.raises(serving_engine.StepError, match="out of memory"):
            list(engine.submit(greedy(prompt)))
    finally:
        hook.remove()
    assert ids_of(engine.submit(greedy(prompt))) == generate(model, prompt)


def test_a_prompt_that_cannot_be_read_ends_no_other_answer(checkpoint, engines):
    model, tokenizer = checkpoint
    engine, prompt = engines(), tokenizer.encode_prompt("你好")
    long_prompt = tokenizer.encode_prompt("天气" * 100)

    def fail(_, inputs) -> None:
        if inputs[0].shape[1] == len(long_prompt):
            raise RuntimeError("CUDA out of memory")

    hook = model.transformer.layers[1].register_forward_pre_hook(fail)
    try:
        with SlowModel(model, 0.005):
            running = engine.submit(greedy(prompt))
            first = next(running)
            with pytest.raises(serving_engine.StepError, match="out of memory"):
                list(engine.submit(greedy(long_prompt)))
            assert [token.token_id for token in first.logprobs] + ids_of(running) == generate(model, prompt)
    finally:
        hook.remove()


def test_whoever_counts_cannot_stop_the_engine(checkpoint, engines):
    model, tokenizer = checkpoint

    def fail(_) -> None:
        raise ZeroDivisionError

    engine, prompt = engines(on_finished=fail), tokenizer.encode_prompt("你好")
    for _ in range(2):
        assert ids_of(engine.submit(greedy(prompt))) == generate(model, prompt)


def test_arguments_are_checked(checkpoint):
    with pytest.raises(ValueError, match="max_batch_size must be at least 1, got 0"):
        Engine(*checkpoint, max_batch_size=0)


# Event loops


def test_answers_arrive_in_an_event_loop(checkpoint, engines):
    model, tokenizer = checkpoint
    engine = engines()

    async def ask(question: str) -> list[int]:
        answer = engine.submit(greedy(tokenizer.encode_prompt(question)))
        return [token.token_id async for piece in answer for token in piece.logprobs]

    async def ask_all() -> list[list[int]]:
        return await asyncio.gather(*map(ask, QUESTIONS))

    assert asyncio.run(ask_all()) == [generate(model, tokenizer.encode_prompt(question)) for question in QUESTIONS]


def test_a_closed_event_loop_cancels_its_answers(checkpoint, engines):
    model, tokenizer = checkpoint
    engine = engines()
    engine.end_ids = set()

    async def leave() -> None:
        await anext(engine.submit(greedy(tokenizer.encode_prompt("你好"), 1500)))

    with SlowModel(model, 0.005):
        asyncio.run(leave())
        wait_until(lambda: engine.batch_size == 0)
