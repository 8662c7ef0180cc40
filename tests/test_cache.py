"""How much room the buffers of keys and values have."""

from __future__ import annotations

import pytest
import torch

from chatglm.cache import ChatGLMCache, expected_length, grown_capacity

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("length", "held", "device", "rows", "expected", "capacity"),
    [
        (1, 0, CPU, 1, 2048, 256),  # main memory: by steps
        (257, 256, CPU, 8, None, 512),
        (10, 0, GPU, 1, 2048, 2048),  # one row: all that is expected
        (10, 0, GPU, 1, 1900, 2048),
        (2049, 2048, GPU, 1, 2048, 2304),  # more than expected
        (10, 0, GPU, 8, 2048, 256),  # several rows double
        (257, 256, GPU, 8, 2048, 512),
        (1025, 1024, GPU, 8, 1500, 1536),
        (513, 512, GPU, 1, None, 1024),
    ],
)
def test_grown_capacity(length, held, device, rows, expected, capacity):
    assert grown_capacity(length, held, device, rows, expected) == capacity


def test_doubling_keeps_outgrown_buffers_below_the_last_one():
    held, outgrown = 0, 0
    for length in range(1, 2049):
        if length > held:
            outgrown += held
            held = grown_capacity(length, held, GPU, 8)
    assert held == 2048 and outgrown < held


def test_expected_length_of_generate():
    class configuration:
        max_length, max_new_tokens = 20, None

    assert expected_length(5, configuration, {}) == 20
    assert expected_length(5, configuration, {"max_length": 30}) == 30
    assert expected_length(5, configuration, {"max_length": 30, "max_new_tokens": 7}) == 12
    configuration.max_new_tokens = 3
    assert expected_length(5, configuration, {"max_length": 30}) == 8


@torch.no_grad()
def test_allocate_makes_the_buffers_that_the_blocks_fill(small_model):
    config, prompt = small_model.config, torch.tensor([[20, 21, 22, small_model.config.gmask_token_id, 0]])
    prompt[0, -1] = config.bos_token_id
    cache = ChatGLMCache()
    cache.expected_length = 300
    head_size = config.hidden_size // config.num_attention_heads
    cache.allocate(config.num_layers, (1, config.num_attention_heads, head_size), torch.empty(0))
    assert cache.get_seq_length() == 0 and {tuple(key.shape[2:]) for key in cache.keys} == {(512, head_size)}
    before = [buffer.data_ptr() for buffer in (*cache.keys, *cache.values)]
    for tokens in (prompt, torch.tensor([[23]])):
        logits = small_model(tokens, cache=cache, use_cache=True).logits[:, -1]
    whole = small_model(torch.tensor([[*prompt[0].tolist(), 23]])).logits[:, -1]
    assert torch.allclose(logits, whole, atol=1e-5)
    assert [buffer.data_ptr() for buffer in (*cache.keys, *cache.values)] == before
    assert cache.get_seq_length() == 6
