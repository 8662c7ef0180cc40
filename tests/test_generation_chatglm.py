"""Sampling, the decoding loop of `chat` and `stream_chat`, which text is final, and `generate` of today's library."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest
import torch
import transformers
from transformers import (
    DynamicCache,
    LogitsProcessor,
    MaxLengthCriteria,
    RepetitionPenaltyLogitsProcessor,
    StaticCache,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatglm import ChatGLMCache, ChatGLMForConditionalGeneration, InvalidLogitsError
from chatglm import modeling_chatglm as modeling
from chatglm.answer_text import SettledText, StopText, process_response
from chatglm.cache import CACHE_NAME
from chatglm.sampler import Sampler, sample, sample_candidates
from chatglm.sampling import Sampling
from engine import Engine, Request

GMASK, SOP, EOP = 101, 104, 105  # of `random_model`
PROMPT = [10, 11, 12, 13, GMASK, SOP]
NO_END = {"eos_token_id": 119}


@pytest.fixture
def mini(mini_model, mini_tokenizer):
    """Return the embedded checkpoint and its tokenizer."""
    return mini_model, mini_tokenizer


class TokenCounter:
    """Count the tokens that models look up in their embeddings, whoever calls them."""

    def __init__(self, monkeypatch) -> None:
        self.total, lookup = 0, torch.nn.functional.embedding

        def count(input, *arguments, **keywords):
            self.total += input.numel()
            return lookup(input, *arguments, **keywords)

        monkeypatch.setattr(torch.nn.functional, "embedding", count)


@pytest.fixture
def tokens_read(monkeypatch) -> TokenCounter:
    return TokenCounter(monkeypatch)


# -- tokens read -------------------------------------------------------------------------------------------------------


GENERATE = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True},
    "cache=DynamicCache": {"do_sample": False, CACHE_NAME: DynamicCache},
    "cache=ChatGLMCache": {"do_sample": False, "cache": ChatGLMCache},
    "past_key_values=ChatGLMCache": {"do_sample": False, "past_key_values": ChatGLMCache},
    "static": {"do_sample": False, "cache_implementation": "static"},
}


@pytest.mark.parametrize("arguments", GENERATE.values(), ids=GENERATE)
def test_generate_reads_each_token_once(random_model, tokens_read, arguments):
    arguments = {name: value() if isinstance(value, type) else value for name, value in arguments.items()}
    output = random_model.generate(torch.tensor([PROMPT]), max_new_tokens=20, **NO_END, **arguments)
    assert output.shape[1] == len(PROMPT) + 20
    assert tokens_read.total == len(PROMPT) + 20 - 1


@pytest.mark.parametrize("arguments", [{"num_beams": 3, "do_sample": False}, {"num_return_sequences": 3}])
def test_generate_reads_each_token_of_each_row_once(random_model, tokens_read, arguments):
    arguments = {"do_sample": True, **arguments}
    output = random_model.generate(torch.tensor([PROMPT]), max_new_tokens=20, **NO_END, **arguments)
    assert tokens_read.total == 3 * (len(PROMPT) + output.shape[1] - len(PROMPT) - 1)


def test_generate_with_prompt_lookup_reads_tokens_and_drafts_once(random_model, tokens_read):
    """Every pass reads the tokens that are not cached and the draft; what is refused of the draft comes in addition."""
    passes = []
    handle = random_model.lm_head.register_forward_hook(lambda module, inputs, output: passes.append(output.shape[1]))
    ids = random_model.generate(
        torch.tensor([PROMPT]), max_new_tokens=40, do_sample=False, prompt_lookup_num_tokens=4, **NO_END
    )
    handle.remove()
    drafts = tokens_read.total - len(PROMPT) - (len(passes) - 1)
    assert 0 < drafts <= 4 * len(passes)
    plain = random_model.generate(torch.tensor([PROMPT]), max_new_tokens=40, do_sample=False, **NO_END)
    assert torch.equal(ids[:, : plain.shape[1]], plain)  # some versions of the library accept a draft beyond the limit


def test_chat_reads_each_token_once(mini, tokens_read):
    model, tokenizer = mini
    prompt, _ = tokenizer.encode_chat("请问今天天气怎么样", [("你好", "你好！")])
    for sampling in ({"do_sample": False}, {"seed": 3}, {"temperature": 0, "repetition_penalty": 1.1}):
        for way in ("chat", "stream_chat"):
            tokens_read.total = 0
            answer = getattr(model, way)(
                tokenizer, "请问今天天气怎么样", [("你好", "你好！")], max_new_tokens=7, **sampling
            )
            assert "".join(answer[0] if way == "chat" else list(answer)[-1][0])
            assert tokens_read.total == len(prompt) + 7 - 1, (way, sampling)


@pytest.mark.parametrize("library", [{"stopping_criteria": []}, {"num_beams": 2}, {"top_h": None}])
def test_chat_by_the_librarys_generate_reads_each_token_once(mini, tokens_read, library):
    model, tokenizer = mini
    prompt, _ = tokenizer.encode_chat("请问今天天气怎么样")
    model.chat(tokenizer, "请问今天天气怎么样", do_sample=False, max_new_tokens=7, **library)
    assert tokens_read.total == library.get("num_beams", 1) * (len(prompt) + 7 - 1)


def test_stream_generate_reads_each_token_once(random_model, tokens_read):
    list(random_model.stream_generate(torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False, **NO_END))
    assert tokens_read.total == len(PROMPT) + 20 - 1


def test_engine_reads_each_token_once(mini, tokens_read):
    model, tokenizer = mini
    prompt, _ = tokenizer.encode_chat("请问今天天气怎么样")
    engine = Engine(model, tokenizer)
    try:
        answer = engine.submit(Request(prompt, max_tokens=7, temperature=0))
        list(answer)
    finally:
        engine.close()
    assert tokens_read.total == len(prompt) + answer.completion_tokens - 1


def test_a_lost_cache_is_an_error_that_names_the_librarys_version(random_model, monkeypatch):
    """A library that renames the cache once more: the model must not read the whole sequence for every token."""
    prepare = random_model.prepare_inputs_for_generation

    def renamed(input_ids, **kwargs):
        kwargs["key_value_store"] = kwargs.pop(CACHE_NAME)
        return prepare(input_ids, **kwargs)

    monkeypatch.setattr(random_model, "prepare_inputs_for_generation", renamed)
    with pytest.raises(RuntimeError, match=f"transformers {transformers.__version__} .*key_value_store"):
        random_model.generate(torch.tensor([PROMPT]), max_new_tokens=3)


def test_a_library_that_returns_no_cache_costs_nothing(random_model, tokens_read, monkeypatch):
    """The library hands over our cache for every token even where it takes none from the outputs."""
    monkeypatch.setattr(
        random_model,
        "_update_model_kwargs_for_generation",
        lambda outputs, model_kwargs, **_: model_kwargs | {"attention_mask": None},
    )
    random_model.generate(torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False, **NO_END)
    assert tokens_read.total == len(PROMPT) + 8 - 1


# -- the cache's two names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_forward_takes_and_returns_the_cache_under_both_names(random_model, name):
    with torch.no_grad():
        full = random_model(torch.tensor([[*PROMPT, 20]])).logits[0, -1]
        for module in (random_model, random_model.transformer):
            output = module(torch.tensor([PROMPT]), use_cache=True)
            assert output.cache is output.past_key_values
            assert isinstance(output.cache, ChatGLMCache)
        output = random_model(torch.tensor([PROMPT]), use_cache=True)
        logits = random_model(torch.tensor([[20]]), **{name: getattr(output, name)}).logits[0, -1]
    assert torch.allclose(logits, full, atol=1e-4)


def test_forward_refuses_two_caches(random_model):
    with pytest.raises(ValueError, match="two names of one argument"):
        random_model(torch.tensor([PROMPT]), cache=ChatGLMCache(), past_key_values=ChatGLMCache())


def test_generate_continues_a_cache(random_model, tokens_read):
    expected = random_model.generate(torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, **NO_END)
    cache = ChatGLMCache()
    first = random_model.generate(torch.tensor([PROMPT]), max_new_tokens=5, do_sample=False, cache=cache, **NO_END)
    tokens_read.total = 0
    whole = random_model.generate(first, max_new_tokens=7, do_sample=False, cache=cache, **NO_END)
    assert torch.equal(whole, expected)
    assert tokens_read.total == 7


def test_generate_refuses_the_cache_of_another_prompt(random_model):
    cache = ChatGLMCache()
    random_model.generate(torch.tensor([PROMPT]), max_new_tokens=5, cache=cache)
    with pytest.raises(ValueError, match="another prompt"):
        random_model.generate(torch.tensor([[7, 8, 9, 10, 11, *PROMPT, 3, 4]]), max_new_tokens=5, cache=cache)
    with pytest.raises(ValueError, match="whole sequence"):
        random_model.generate(torch.tensor([PROMPT]), max_new_tokens=5, cache=cache)


def test_generate_refuses_a_cache_that_the_model_has_not(random_model):
    with pytest.raises(ValueError, match="cache_implementation must be dynamic or static"):
        random_model.generate(torch.tensor([PROMPT]), cache_implementation="quantized", max_new_tokens=2)


def test_generate_with_a_static_cache_of_the_librarys(random_model):
    expected = random_model.generate(torch.tensor([PROMPT]), max_new_tokens=6, do_sample=False)
    cache = StaticCache(config=random_model.config, max_cache_len=20)
    output = random_model.generate(torch.tensor([PROMPT]), max_new_tokens=6, do_sample=False, cache=cache)
    assert torch.equal(output, expected)
    random_model.generation_config.cache_implementation = "static"
    assert torch.equal(random_model.generate(torch.tensor([PROMPT]), max_new_tokens=6, do_sample=False), expected)


# -- what `generate` offers --------------------------------------------------------------------------------------------


def test_generate_returns_hidden_states_and_attentions(random_model):
    output = random_model.generate(
        torch.tensor([PROMPT]),
        max_new_tokens=3,
        do_sample=False,
        output_hidden_states=True,
        output_attentions=True,
        return_dict_in_generate=True,
        **NO_END,
    )
    s, config = len(PROMPT), random_model.config
    shapes = [(1, n, config.hidden_size) for n in (s, 1, 1)]
    assert [tuple(states[-1].shape) for states in output.hidden_states] == shapes
    shapes = [(1, config.num_attention_heads, n, t) for n, t in ((s, s), (1, s + 1), (1, s + 2))]
    assert [tuple(weights[-1].shape) for weights in output.attentions] == shapes
    with torch.no_grad():
        full = random_model(output.sequences[:, :-1], output_hidden_states=True, output_attentions=True)
    assert torch.allclose(output.hidden_states[-1][-1][0, -1], full.hidden_states[-1][0, -1], atol=1e-4)
    assert torch.allclose(output.attentions[-1][-1][0, :, -1], full.attentions[-1][0, :, -1], atol=1e-5)


def test_generate_with_an_assistant_model_equals_greedy(random_model):
    assistant = ChatGLMForConditionalGeneration(random_model.config).eval()
    assistant.load_state_dict(random_model.state_dict())
    with torch.no_grad():
        assistant.lm_head.weight += 0.05 * torch.randn_like(assistant.lm_head.weight)  # right often, not always
    expected = random_model.generate(torch.tensor([PROMPT]), max_new_tokens=30, do_sample=False, **NO_END)
    output = random_model.generate(
        torch.tensor([PROMPT]), max_new_tokens=30, do_sample=False, assistant_model=assistant, **NO_END
    )
    assert torch.equal(output, expected)


def test_chat_with_an_assistant_model_equals_chat(mini):
    model, tokenizer = mini
    expected = model.chat(tokenizer, "你好", do_sample=False)
    assert model.chat(tokenizer, "你好", do_sample=False, assistant_model=model) == expected


def test_generate_guidance_scale_moves_away_from_the_empty_prompt(random_model):
    """Against the formula: log p without the question + scale (log p - log p without the question)."""
    prompt, empty = torch.tensor([PROMPT]), torch.tensor([[GMASK, SOP]])
    more = {"max_new_tokens": 4, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    output = random_model.generate(prompt, guidance_scale=3, **more, **NO_END)
    answer = output.sequences[:, len(PROMPT) :]
    with torch.no_grad():
        for count, scores in enumerate(output.scores):
            asked, unasked = (
                random_model(torch.cat([start, answer[:, :count]], dim=1)).logits[:, -1].log_softmax(-1)
                for start in (prompt, empty)
            )
            assert torch.allclose(scores, unasked + 3 * (asked - unasked), atol=1e-3)
            assert not torch.allclose(asked, unasked, atol=1e-2)


@pytest.mark.parametrize("ends", [EOP, [EOP, 20]])
def test_stream_generate_yields_the_ids_so_far(random_model, ends):
    """As FastChat calls it; batches, too."""
    inputs = {"input_ids": torch.tensor([PROMPT, [3, 3, *PROMPT[2:]]])}
    arguments = {"max_length": 20, "do_sample": False, "eos_token_id": ends, "pad_token_id": 3}
    stream = random_model.stream_generate(**inputs, **arguments)
    assert isinstance(stream, Iterator)
    outputs, expected = list(stream), random_model.generate(**inputs, **arguments)
    assert [output.shape for output in outputs] == [(2, n) for n in range(len(PROMPT) + 1, expected.shape[1] + 1)]
    assert torch.equal(outputs[-1], expected)


def test_stream_generate_ends_when_it_is_closed(random_model):
    stream = random_model.stream_generate(torch.tensor([PROMPT]), max_length=2000, **NO_END)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "chatglm-generate"]


def test_invalid_score_logits_processor_is_the_originals_name():
    processor = modeling.InvalidScoreLogitsProcessor()
    scores = torch.randn(2, 5)
    assert torch.equal(processor(None, scores), scores)
    scores[1, 2] = torch.nan
    with pytest.raises(InvalidLogitsError):
        processor(None, scores)


# -- chat and stream_chat ----------------------------------------------------------------------------------------------


def test_chat_answers_as_the_engine_does_under_a_seed(mini):
    model, tokenizer = mini
    engine = Engine(model, tokenizer)
    try:
        for seed in range(6):
            sampling = {"temperature": 1.5, "top_p": 0.95, "seed": seed, "repetition_penalty": 1.0 + seed % 3 / 10}
            prompt, _ = tokenizer.encode_chat("介绍一下你自己", [("hi", "Hello!")])
            pieces = engine.submit(Request(prompt, max_tokens=40, **sampling))
            expected = "".join(piece.text for piece in pieces)
            chat = {"max_new_tokens": 40, **sampling}
            assert model.chat(tokenizer, "介绍一下你自己", [("hi", "Hello!")], **chat)[0] == expected
            stream = model.stream_chat(tokenizer, "介绍一下你自己", [("hi", "Hello!")], **chat)
            assert list(stream)[-1][0] == expected
    finally:
        engine.close()


def test_stream_chat_adds_final_text_only(mini):
    model, tokenizer = mini
    for seed in range(3):
        shown = ""
        for response, history in model.stream_chat(tokenizer, "写一个广告", seed=seed, max_new_tokens=60):
            assert response.startswith(shown) and response != shown
            assert history == [("写一个广告", response)]
            shown = response
        assert shown == model.chat(tokenizer, "写一个广告", seed=seed, max_new_tokens=60)[0]


def test_chat_follows_manual_seed_without_a_seed(mini):
    model, tokenizer = mini
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(model.chat(tokenizer, "你好", temperature=3.0, top_p=1.0, max_new_tokens=20)[0])
    assert answers[0] == answers[1] != answers[2]


def test_chat_stop_ends_the_answer_before_the_text(mini):
    model, tokenizer = mini
    whole = model.chat(tokenizer, "你好", do_sample=False)[0]
    stop = whole[3:6]
    expected = whole[: whole.index(stop)]
    assert model.chat(tokenizer, "你好", do_sample=False, stop=[stop])[0] == expected
    assert model.chat(tokenizer, "你好", do_sample=False, stop=stop)[0] == expected
    assert model.chat(tokenizer, "你好", do_sample=False, stop=stop, num_beams=1, top_h=None)[0] == expected
    assert list(model.stream_chat(tokenizer, "你好", do_sample=False, stop=[stop]))[-1][0] == expected


def test_chat_max_length_0_and_none_are_the_models_limit(mini):
    model, tokenizer = mini
    expected = model.chat(tokenizer, "你好", do_sample=False)
    for max_length in (0, None):
        assert model.chat(tokenizer, "你好", max_length=max_length, do_sample=False) == expected
        assert list(model.stream_chat(tokenizer, "你好", max_length=max_length, do_sample=False))[-1] == expected


@pytest.mark.parametrize("arguments", [{"num_return_sequences": 2}, {"return_dict_in_generate": True}])
def test_chat_refuses_more_than_one_answer_as_text(mini, arguments):
    model, tokenizer = mini
    for way in (model.chat, lambda *args, **kwargs: list(model.stream_chat(*args, **kwargs))):
        with pytest.raises(ValueError, match="one answer as text: call generate"):
            way(tokenizer, "你好", max_new_tokens=3, **arguments)


def test_stream_chat_refuses_beams(mini):
    model, tokenizer = mini
    with pytest.raises(ValueError, match="call chat for num_beams"):
        list(model.stream_chat(tokenizer, "你好", num_beams=2))


def test_chat_refuses_a_seed_for_the_librarys_generate(mini):
    model, tokenizer = mini
    with pytest.raises(ValueError, match="call torch.manual_seed"):
        model.chat(tokenizer, "你好", num_beams=2, seed=1)


def test_chat_refuses_arguments_that_nobody_has(mini):
    model, tokenizer = mini
    with pytest.raises(ValueError, match="temprature"):
        model.chat(tokenizer, "你好", temprature=1)


def test_chat_applies_a_logits_processor(mini):
    model, tokenizer = mini

    class OnlyEnd(LogitsProcessor):
        def __call__(self, input_ids, scores):
            self.lengths = [*getattr(self, "lengths", []), input_ids.shape[1]]
            return scores if input_ids.shape[1] < limit else scores.index_fill(1, torch.tensor([end]), 1e9)

    end, limit = model.config.eos_token_id, len(tokenizer.encode_prompt("你好")) + 3
    processor = OnlyEnd()
    answer = model.chat(tokenizer, "你好", do_sample=False, logits_processor=[processor])[0]
    assert model.chat(tokenizer, "你好", do_sample=False)[0].startswith(answer)
    assert processor.lengths == [limit - 3, limit - 2, limit - 1, limit]


def test_chat_stopping_criteria_of_the_users(mini):
    model, tokenizer = mini
    limit = len(tokenizer.encode_prompt("你好")) + 4
    criteria = StoppingCriteriaList([MaxLengthCriteria(limit)])
    expected = model.chat(tokenizer, "你好", do_sample=False, max_new_tokens=4)
    assert model.chat(tokenizer, "你好", do_sample=False, stopping_criteria=criteria) == expected
    stream = model.stream_chat(tokenizer, "你好", do_sample=False, stopping_criteria=criteria)
    assert list(stream)[-1] == expected


def test_tiny_temperature_in_float16_is_greedy(random_model):
    model = random_model.half()
    greedy = model.generate(torch.tensor([PROMPT]), max_new_tokens=10, do_sample=False)
    for temperature in (1e-4, 1e-30):
        sampled = model.generate(
            torch.tensor([PROMPT]), max_new_tokens=10, do_sample=True, temperature=temperature, top_k=0
        )
        assert torch.equal(sampled, greedy)


def test_tiny_temperature_in_a_chat_is_greedy(mini):
    model, tokenizer = mini
    half = ChatGLMForConditionalGeneration(model.config).half().eval()
    half.load_state_dict(model.state_dict())
    greedy = half.chat(tokenizer, "你好", do_sample=False, max_new_tokens=6)
    for temperature in (1e-4, 1e-40, 0):
        assert half.chat(tokenizer, "你好", temperature=temperature, max_new_tokens=6) == greedy


# -- sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "penalty"),
    [(1.0, 0, 1.0, 1.0), (0.7, 5, 1.0, 1.0), (1.3, 0, 0.8, 1.0), (0.95, 50, 0.7, 1.0), (1.5, 6, 0.9, 1.3)],
)
def test_sample_has_the_librarys_distribution(temperature, top_k, top_p, penalty):
    """Frequencies of 30,000 samples of one row against the probabilities that the library's processors leave."""
    generator = torch.Generator().manual_seed(1)
    logits, prompt = torch.randn(12, generator=generator) * 2, [3, 5, 7]
    scores, ids = logits[None].clone(), torch.tensor([prompt])
    warpers = [RepetitionPenaltyLogitsProcessor(penalty)] if penalty != 1 else []
    warpers += [TemperatureLogitsWarper(temperature)] + ([TopKLogitsWarper(top_k)] if top_k else [])
    for warper in [*warpers, TopPLogitsWarper(top_p)]:
        scores = warper(ids, scores)
    expected = scores.softmax(dim=-1)[0]
    parameters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition_penalty": penalty}
    samplers = [Sampler(Sampling(seed=seed, **parameters), prompt_ids=prompt) for seed in range(30_000)]
    sampled = torch.tensor(sample(logits.expand(30_000, -1).clone(), samplers))
    frequencies = torch.bincount(sampled, minlength=12) / 30_000
    assert (frequencies - expected).abs().max() < 0.012
    assert bool((frequencies[expected == 0] == 0).all())


def test_sample_gives_a_row_the_same_whatever_its_neighbours():
    logits = torch.randn(6, 400, generator=torch.Generator().manual_seed(0)) * 3

    def samplers():
        return [Sampler(Sampling(temperature=1.2, top_k=0 if row % 2 else 7, top_p=0.9, seed=row)) for row in range(6)]

    together = sample(logits.clone(), samplers())
    assert together == [sample(logits[row, None].clone(), [samplers()[row]])[0] for row in range(6)]


def test_sample_says_which_row_is_not_finite():
    logits = torch.zeros(3, 9)
    logits[1, 4] = torch.nan
    logits[2, 2] = 1.0
    assert sample(logits, [Sampler(Sampling(temperature=0)) for _ in range(3)])[1:] == [None, 2]


def test_sample_candidates_follows_the_distribution():
    """Frequencies of 20,000 samples against the nucleus computed by hand."""
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    numbers = torch.rand(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    no_limit = torch.full((20_000, 1), 4)
    rows = probabilities.expand(20_000, 4), torch.tensor([7, 2, 9, 4]).expand(20_000, 4)
    ids, covered = sample_candidates(*rows, no_limit, torch.full((20_000, 1), 0.7, dtype=torch.float64), numbers)
    assert all(covered) and set(ids) == {7, 2}  # 0.5 is too little, 0.8 is enough
    assert ids.count(7) / len(ids) == pytest.approx(0.5 / 0.8, abs=0.015)
    ids, _ = sample_candidates(*rows, no_limit, torch.full((20_000, 1), 1.0, dtype=torch.float64), numbers)
    for token, share in zip([7, 2, 9, 4], probabilities.tolist(), strict=True):
        assert ids.count(token) / len(ids) == pytest.approx(share, abs=0.015)
    ids, covered = sample_candidates(*rows, no_limit - 1, torch.full((20_000, 1), 1.0, dtype=torch.float64), numbers)
    assert all(covered) and set(ids) == {7, 2, 9}  # top_k 3
    assert ids.count(9) / len(ids) == pytest.approx(0.15 / 0.95, abs=0.015)
    ids, _ = sample_candidates(*rows, no_limit - 1, torch.full((20_000, 1), 0.85, dtype=torch.float64), numbers)
    assert set(ids) == {7, 2, 9}  # 0.8 is 84 % of what the three have together
    ids, _ = sample_candidates(*rows, no_limit - 1, torch.full((20_000, 1), 0.84, dtype=torch.float64), numbers)
    assert set(ids) == {7, 2}


def test_sample_candidates_says_when_they_do_not_suffice():
    some = torch.tensor([[0.2, 0.1]]), torch.tensor([[1, 2]])
    numbers, no_limit = torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([[100]])
    assert sample_candidates(*some, no_limit, torch.tensor([[0.29]], dtype=torch.float64), numbers)[1] == [True]
    assert sample_candidates(*some, no_limit, torch.tensor([[0.9]], dtype=torch.float64), numbers)[1] == [False]


# -- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("map_punctuation", [True, False])
def test_settled_text_adds_up_to_process_response(map_punctuation):
    """Random texts of the characters that matter, cut at random places."""
    dice = random.Random(0)
    alphabet = ["中", "文", ",", "!", ":", ";", "?", " ", "\n", "a", "[", "]", "[[训练时间]]", "[[训练", "，", "。"]
    for _ in range(3000):
        parts = [dice.choice(alphabet) for _ in range(dice.randint(0, 12))]
        stream = SettledText(map_punctuation)
        pieces = [stream.put(part) for part in parts] + [stream.put("", ended=True)]
        assert "".join(pieces) == process_response("".join(parts), map_punctuation), parts


def test_stop_text_is_found_across_parts():
    dice = random.Random(0)
    for _ in range(3000):
        text = "".join(dice.choice("abc") for _ in range(dice.randint(0, 14)))
        stop = tuple("".join(dice.choice("abc") for _ in range(dice.randint(1, 4))) for _ in range(dice.randint(0, 3)))
        # the text before the stop that is complete first; of several that end there, the longest
        ends = [(text.find(word) + len(word), text.find(word)) for word in stop if word in text]
        expected = text[: min(ends)[1]] if ends else text
        finder, found, rest = StopText(stop), "", text
        while rest and not finder.found:
            size = dice.randint(1, 3)
            found += finder.put(rest[:size])
            rest = rest[size:]
            assert expected.startswith(found)
        if not finder.found:
            found += finder.put("", ended=True)
        assert (found, finder.found is not None) == (expected, bool(ends)), (text, stop)
