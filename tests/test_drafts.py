"""Tests of chatglm/drafts.py: what is drafted, and that answers are the same, to the last bit, with and without."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from chatglm import ChatGLMCache, ChatGLMForConditionalGeneration, cpu_decode, cpu_kernels
from chatglm.drafts import SHORTEST_MATCH, Drafts
from chatglm.generation_chatglm import decode
from chatglm.modeling_chatglm import Pass
from chatglm.sampler import Sampler
from chatglm.sampling import Sampling
from engine import Engine, Request
from engine.cache import BatchCache
from engine.prompts import Prefill, Prompt

PROMPT = [10, 11, 12, 13, 101, 104]  # of `random_model`
COPYING = "repeat: 1234567890 1234567890"


@pytest.fixture(scope="module")
def quantised(mini_model):
    """Return the embedded checkpoint at INT4."""
    return copy.deepcopy(mini_model).quantize(4)


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Return the tokens of each pass through a model's blocks, as they come."""
    counted, begin = [], Pass.__init__

    def count(self, *arguments, **keywords):
        begin(self, *arguments, **keywords)
        counted.append(self.hidden_states.shape[1])

    monkeypatch.setattr(Pass, "__init__", count)
    return counted


# -- what is drafted ---------------------------------------------------------------------------------------------------


def ends_of(ids: list[int], part: list[int]) -> list[int]:
    """Return where the text goes on behind each occurrence of a part but the one at its end."""
    return [end for end in range(len(part), len(ids)) if ids[end - len(part) : end] == part]


@pytest.mark.parametrize("alphabet", [2, 4, 30])
def test_drafts_are_what_followed_the_last_tokens_before(alphabet):
    """Against a search through the whole text for every token."""
    dice = random.Random(alphabet)
    ids = [dice.randrange(alphabet) for _ in range(20)]
    drafts = Drafts(ids, longest=7)
    for _ in range(300):
        before = ends_of(ids, ids[-SHORTEST_MATCH:])
        assert (drafts.match > 0) == bool(before)
        if before:
            assert drafts.source in before and drafts.source in ends_of(ids, ids[-drafts.match :])
        if drafts.match == SHORTEST_MATCH:  # found just now: the latest
            assert drafts.source == before[-1]
        draft = drafts.propose(limit=5)
        assert len(draft) <= 5 and draft == ids[drafts.source :][: len(draft)]
        ids.append(dice.choice([dice.randrange(alphabet), *draft[:1]]))
        drafts.take(ids[-1])
        assert drafts.ids == ids


def test_drafts_grow_with_what_was_right_and_end_where_they_do_not_pay():
    text = list(range(100, 140))
    right = Drafts([*text, 100, 101], longest=7)
    lengths = []
    for token_id in text[2:30]:
        right.take(token_id)
        lengths.append(len(right.propose(limit=100)))
    assert lengths[0] and lengths[-1] == 7 and lengths == sorted(lengths)
    assert len(right.propose(limit=2)) == 2 and right.propose(limit=0) == []
    wrong, other = Drafts(text, longest=7), 200
    for _ in range(20):  # three tokens of the text, and then something else
        for token_id in (100, 101, 102, other := other + 1):
            wrong.take(token_id)
            if token_id == 102:
                lengths.append(len(wrong.propose(limit=100)))
    assert lengths[-20] and not lengths[-1]


# -- a pass of several tokens ------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("path", ["portable", None])
@pytest.mark.parametrize(("bits", "embeddings", "prefix"), [(4, False, None), (8, True, 3), (4, True, None)])
def test_tokens_together_have_the_bits_that_they_have_one_by_one(
    random_model, monkeypatch, path, bits, embeddings, prefix, dtype
):
    if path is not None:
        monkeypatch.setattr(cpu_kernels, "supported_paths", lambda: (path,))
    model = with_prefix(random_model, prefix).quantize(bits, embeddings).to(dtype)
    together = cpu_decode.tokens_together(model)
    assert together >= 6
    new = torch.tensor([[20, 30, 40, 50, 60, 70, 80, 90]])
    for count in range(2, together + 1):
        caches = ChatGLMCache(), ChatGLMCache()
        for cache in caches:
            model(torch.tensor([PROMPT]), cache=cache)
        alone = torch.cat([model(token[None, None], cache=caches[0]).logits for token in new[0, :count]], dim=1)
        assert torch.equal(model(new[:, :count], cache=caches[1]).logits, alone), count
        for one, other in zip(*caches, strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def with_prefix(model, length: int | None):
    """Return a copy of a model with random P-Tuning tokens."""
    config = copy.deepcopy(model.config)
    config.pre_seq_len = length
    other = ChatGLMForConditionalGeneration(config)
    other.load_state_dict(model.state_dict(), strict=False)
    if length is not None:
        other.transformer.prefix_encoder.embedding.weight.data.normal_()
    return other.eval()


def test_tokens_together_is_one_where_the_bits_may_differ(random_model):
    assert cpu_decode.tokens_together(random_model) == 1  # float
    model = copy.deepcopy(random_model).quantize(8)
    assert cpu_decode.tokens_together(model) > 1
    handle = model.transformer.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert cpu_decode.tokens_together(model) == 1
    handle.remove()
    model.lm_head.exact = True
    assert cpu_decode.tokens_together(model) == 1


# -- answers -----------------------------------------------------------------------------------------------------------


def answer_ids(model, prompt, drafts, limit=30, logits_processor=None, **sampling) -> list[int]:
    sampler = Sampler(Sampling(**sampling), None, prompt, [105], None, limit)
    inputs = torch.tensor([prompt]), None, [sampler], limit, [105], 3, logits_processor
    return [token_id for (token_id,) in decode(model, *inputs, Drafts.of(model, prompt) if drafts else None)]


FEW = {"logit_bias": dict.fromkeys(range(20, 24), 60.0)}  # a text of four tokens has much to draft and to refuse
SAMPLINGS = {
    "greedy": {"temperature": 0},
    "sampled": {"seed": 1, **FEW},
    "hot": {"seed": 2, "temperature": 3.0, "top_k": 0, "top_p": 0.95, **FEW},
    "penalties": {"temperature": 0, "repetition_penalty": 1.1, "presence_penalty": 0.3, **FEW},
    "sampled with penalties": {"seed": 3, "frequency_penalty": 0.1, "min_p": 0.02, **FEW},
    "long": {"seed": 4, "min_tokens": 30, "temperature": 0.5},
    "endless": {"seed": 5, "ignore_eos": True, "temperature": 0.5},
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize(("bits", "prefix"), [(8, None), (4, 3)])
def test_decode_yields_the_same_tokens_with_drafts(random_model, passes, bits, prefix, sampling):
    model, dice, drafted = with_prefix(random_model, prefix).quantize(bits), random.Random(0), 0
    for number in range(8):
        prompt = [*dice.choices(range(20, 28), k=30), *PROMPT[-2:]]
        more = dict(sampling, seed=10 * number + sampling["seed"]) if "seed" in sampling else sampling
        plain = answer_ids(model, prompt, False, **more)
        passes.clear()
        assert answer_ids(model, prompt, True, **more) == plain
        drafted += sum(passes[1:]) - len(passes[1:])
        assert len(passes) <= len(plain)
        assert sum(passes) <= len(prompt) + 8 * len(plain)
    assert drafted  # otherwise nothing was tested


def test_decode_hands_processors_all_tokens_before_each(random_model):
    model = random_model.quantize(4)
    processor = RepetitionPenaltyLogitsProcessor(1.05)
    plain, drafted = ([], [])
    for seen, drafts in ((plain, False), (drafted, True)):

        def watch(input_ids, scores, seen=seen):
            seen.append(input_ids[0].tolist())
            return processor(input_ids, scores)

        seen.append(answer_ids(model, PROMPT, drafts, temperature=0, ignore_eos=True, logits_processor=[watch]))
    assert plain == drafted and len(plain) == 31


@pytest.mark.parametrize(
    "arguments",
    [
        {"do_sample": False},
        {"seed": 7, "temperature": 2.0},
        {"do_sample": False, "stop": ["七"]},
        {"do_sample": False, "stop": "五六", "min_tokens": 4},
        {"seed": 7, "temperature": 2.0, "response_format": {"type": "json_object"}},
        {"do_sample": False, "ignore_eos": True},
    ],
)
def test_chat_and_stream_chat_answer_the_same_with_drafts(quantised, mini_tokenizer, arguments):
    arguments = {"max_new_tokens": 40, **arguments}
    for question in (COPYING, "介绍一下你自己"):
        plain = quantised.chat(mini_tokenizer, question, drafts=False, **arguments)
        assert quantised.chat(mini_tokenizer, question, **arguments) == plain
        assert [*quantised.stream_chat(mini_tokenizer, question, **arguments)][-1] == plain


def test_chat_takes_fewer_passes_where_it_copies(quantised, mini_tokenizer, passes, monkeypatch):
    def count(**arguments) -> tuple[str, int]:
        passes.clear()
        return quantised.chat(mini_tokenizer, COPYING, do_sample=False, **arguments)[0], len(passes)

    answer, few = count()
    same, plain = count(drafts=False)
    assert same == answer and set(passes[1:]) == {1}
    assert few <= 0.7 * plain
    monkeypatch.setattr(quantised, "drafts", False)
    assert count() == (answer, plain)


def test_float_models_answer_one_token_at_a_time(mini_model, mini_tokenizer, passes):
    mini_model.chat(mini_tokenizer, COPYING, do_sample=False)
    assert set(passes[1:]) == {1}


# -- the engine --------------------------------------------------------------------------------------------------------


def test_engine_answers_the_same_with_drafts_and_drafts_alone_only(quantised, mini_tokenizer, passes, monkeypatch):
    def answers() -> list[tuple]:
        engine, found = Engine(quantised, mini_tokenizer), []
        prompts = [mini_tokenizer.encode_prompt(text) for text in (COPYING, "Repeat: one two three four five")]
        ways = {"temperature": 0}, {"seed": 5, "temperature": 2.0}, {"temperature": 0, "ignore_eos": True}
        try:
            for prompt in prompts:
                for way in ways:
                    answer = engine.submit(Request(prompt, 50, logprobs=2, **way))
                    pieces = list(answer)
                    found.append((pieces[-1].finish_reason, answer.completion_tokens))
                    found += [(piece.text, piece.logprobs) for piece in pieces]
            found += [max(passes[1:])]
            several = engine.submit(*(Request(prompt, 50, ignore_eos=True, temperature=0) for prompt in prompts))
            found += ["".join(piece.text for piece in answer) for answer in several]
        finally:
            engine.close()
        return found

    drafted, few = answers(), len(passes)
    monkeypatch.setattr(quantised, "drafts", False)
    passes.clear()
    plain = answers()
    assert [each for each in drafted if isinstance(each, tuple | str)] == [
        each for each in plain if isinstance(each, tuple | str)
    ]
    assert few < len(passes)


@torch.no_grad()
def test_shorten_row_leaves_zeros_and_the_row_before(random_model):
    model, cache = random_model.quantize(8), BatchCache()
    prompt = Prompt(PROMPT)
    Prefill(model, [prompt]).advance(60)
    cache.append_row(prompt)

    def step(ids: list[int]):
        cache.prepare(len(ids))
        logits = model(input_ids=torch.tensor([ids]), cache=cache, use_cache=True).logits
        cache.advance(len(ids))
        return logits

    step([20])
    before, length = [buffer.clone() for buffer in (*cache.keys, *cache.values)], cache.row_lengths[0]
    first = step([30, 40, 50, 60])
    cache.shorten_row(0, 4)
    assert cache.row_lengths == [length]
    assert all(map(torch.equal, before, (*cache.keys, *cache.values)))
    assert torch.equal(torch.cat([step([token_id]) for token_id in (30, 40, 50, 60)], dim=1), first)
