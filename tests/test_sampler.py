"""How logits become a token: biases, penalties and limits against the formulas, computed here once more by numpy."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from chatglm.sampler import Sampler, sample
from chatglm.sampling import Sampling
from engine import Engine, Request

ENDS = (3,)
MANY = {"repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": -0.4, "logit_bias": {2: 4.0, 9: -3.5}}


def adjusted(logits: np.ndarray, prompt: list[int], answer: list[int], ends=ENDS, **given) -> np.ndarray:
    """Return logits after the formulas of OpenAI's and vLLM's documentation, token by token."""
    result = logits.astype(np.float64).copy()
    for token, bias in given.get("logit_bias", {}).items():
        result[token] += bias
    for token in {*prompt, *answer}:
        penalty = given.get("repetition_penalty", 1)
        result[token] = result[token] / penalty if result[token] > 0 else result[token] * penalty
    for token, count in Counter(answer).items():
        result[token] -= count * given.get("frequency_penalty", 0) + given.get("presence_penalty", 0)
    if given.get("ignore_eos") or len(answer) < given.get("min_tokens", 0):
        result[list(ends)] = -np.inf
    return result


def probabilities(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """Return what vLLM samples from: temperature, then min_p, then top_k, then top_p."""
    shares = np.exp((logits - logits.max()) / temperature)
    shares[shares < min_p * shares.max()] = 0
    order = np.argsort(-shares)
    shares[order[top_k or len(order) :]] = 0
    shares /= shares.sum()
    before = np.cumsum(shares[order]) - shares[order]
    shares[order[before >= top_p]] = 0
    return shares / shares.sum()


@pytest.mark.parametrize(
    "given",
    [
        {"presence_penalty": 1.2},
        {"frequency_penalty": 0.8},
        {"frequency_penalty": -2.0},
        {"logit_bias": {0: 100.0, 5: -100.0}},
        {"min_tokens": 6},
        {"min_tokens": 5},
        {"ignore_eos": True},
        MANY,
    ],
)
def test_adjust_equals_the_formulas(given):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3)) * 3
    prompt, answer = [1, 2, 2, 7], [5, 5, 5, 2, 0]
    sampler = Sampler(Sampling(temperature=0, **given), prompt_ids=prompt, end_ids=ENDS)
    for token in answer:
        sampler.take(token)
    expected = adjusted(logits.numpy(), prompt, answer, **given)
    sampler.adjust(logits)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(0.7, 0, 1.0, 0.3), (2.0, 0, 0.8, 0.2), (1.3, 4, 0.9, 0.05)],
)
def test_min_p_has_vllms_distribution(temperature, top_k, top_p, min_p):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(1)) * 2
    expected = probabilities(logits.double().numpy(), temperature, top_k, top_p, min_p)
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    samplers = [Sampler(Sampling(seed=seed, **given)) for seed in range(6_000)]
    sampled = sample(logits.expand(6_000, -1).clone(), samplers)
    frequencies = np.bincount(sampled, minlength=12) / 6_000
    assert np.abs(frequencies - expected).max() < 0.025 and (frequencies[expected == 0] == 0).all()


def test_sample_takes_any_top_k():
    """A number beyond 64 bits, as JSON may have, is no limit as well."""
    logits = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    found = [
        sample(logits.clone(), [Sampler(Sampling(top_k=top_k, seed=seed)) for seed in range(2)])
        for top_k in (0, 12, 10**30)
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"presence_penalty": 2.1}, "presence_penalty must be from -2 to 2, got 2.1"),
        ({"frequency_penalty": math.nan}, "frequency_penalty must be from -2 to 2, got nan"),
        ({"min_p": -0.1}, "min_p must be from 0 to 1"),
        ({"min_tokens": -1}, "min_tokens must be at least 0"),
        ({"ignore_eos": 1}, "ignore_eos must be true or false, got 1"),
        ({"logit_bias": {5: 101}}, "logit_bias must be from -100 to 100, got 101"),
        ({"logit_bias": {"5": 1}}, "logit_bias is a number for each of some token ids, got '5'"),
        ({"logit_bias": {-1: 1}}, "logit_bias is a number for each of some token ids, got -1"),
        ({"logit_bias": [1]}, "logit_bias must be a number"),
    ],
)
def test_sampling_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**given)


def test_all_ways_in_answer_as_the_formulas_say(mini_model, mini_tokenizer):
    """Greedy answers of `chat`, of the library's `generate` inside it, and of the engine."""
    bias = {mini_tokenizer.encode_text("好")[-1]: 25.0}
    given = MANY | {"frequency_penalty": 2.0, "logit_bias": bias, "min_tokens": 12}
    prompt, ends, answer = mini_tokenizer.encode_prompt("你好"), [mini_tokenizer.eos_token_id], []
    for _ in range(16):
        with torch.no_grad():
            logits = mini_model(torch.tensor([prompt + answer])).logits[0, -1].numpy()
        answer.append(int(adjusted(logits, prompt, answer, ends, **given).argmax()))
        if answer[-1] in ends:
            break
    expected = mini_model.process_response(mini_tokenizer.decode(answer, skip_special_tokens=True))
    plain, _ = mini_model.chat(mini_tokenizer, "你好", temperature=0, max_new_tokens=16)
    assert expected != plain
    for way in ({}, {"no_repeat_ngram_size": 0}):
        assert mini_model.chat(mini_tokenizer, "你好", temperature=0, max_new_tokens=16, **way, **given)[0] == expected
    engine = Engine(mini_model, mini_tokenizer)
    pieces = [piece.text for piece in engine.submit(Request(prompt, 16, temperature=0, **given))]
    engine.close()
    assert "".join(pieces) == expected


def test_min_tokens_holds_back_stop_texts(mini_model, mini_tokenizer):
    whole, _ = mini_model.chat(mini_tokenizer, "你好", temperature=0)
    stop = whole[2]
    early, _ = mini_model.chat(mini_tokenizer, "你好", temperature=0, stop=stop)
    late, _ = mini_model.chat(mini_tokenizer, "你好", temperature=0, stop=stop, min_tokens=6)
    assert early == whole[: whole.index(stop)].strip() and whole.startswith(late) and len(late) > len(early)


def test_chat_refuses_token_ids_beyond_the_vocabulary(mini_model, mini_tokenizer):
    with pytest.raises(ValueError, match="logit_bias takes token ids below 4992, got 4992"):
        mini_model.chat(mini_tokenizer, "你好", logit_bias={4992: 1})
