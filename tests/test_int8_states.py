"""Keys and values in INT8: what is kept, by hand and by its error, and the caches that hold it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chatglm import ChatGLMCache
from chatglm.int8_states import from_buffer, pack_states, to_buffer, unpack_states
from engine.cache import BatchCache
from engine.prompts import Prompt


def test_pack_states_by_hand():
    packed = pack_states(torch.tensor([31.75, -15.9, 0.3, 0.125]))
    assert packed.tolist()[:4] == [127, -64, 1, 0]  # 127, -63.6, 1.2 and 0.5 times 0.25
    assert packed[4:].numpy().view(np.float16)[0] == 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_unpacked_states_err_by_half_an_integer(dtype):
    torch.manual_seed(0)
    states = (torch.randn(2, 3, 50, 64) * torch.logspace(-3, 3, 50)[:, None]).to(dtype)
    states[0, 0, 7] = 0
    packed = pack_states(states)
    unpacked = unpack_states(packed, torch.float32)
    step = states.float().abs().amax(dim=-1, keepdim=True) / 127
    assert packed.shape == (2, 3, 50, 66) and packed.dtype == torch.int8
    assert ((unpacked - states.float()).abs() <= 0.57 * step).all()  # a scale in half precision errs, too
    assert unpack_states(packed, dtype).dtype == dtype


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e9])
def test_what_has_no_scale_does_not_become_a_number(value):
    states = torch.ones(3, 16)
    states[1, 4] = value
    unpacked = unpack_states(pack_states(states), torch.float32)
    assert not unpacked[1].isfinite().any() and unpacked[[0, 2]].isfinite().all()


def test_buffers_of_float_dtypes_hold_the_states_themselves():
    states = torch.randn(2, 4)
    assert to_buffer(states, torch.float32) is states and from_buffer(states, torch.float32) is states
    assert torch.equal(to_buffer(states, torch.float16), states.half())


def filled(states, dtype):
    """Return a cache of one layer that has got keys and values [2, b, h, t, d] in two parts."""
    cache = ChatGLMCache()
    cache.dtype = dtype
    for part in states.split([5, states.shape[3] - 5], dim=3):
        held = cache.update(part[0], part[1], 0)
    return cache, held


def test_cache_returns_what_it_keeps():
    torch.manual_seed(0)
    states = torch.randn(2, 3, 2, 9, 16)
    cache, held = filled(states, torch.int8)
    expected = unpack_states(pack_states(states), torch.float32)
    assert cache.keys[0].shape == (3, 2, 256, 18)
    for pair in (held, cache[0], next(iter(cache))):
        assert torch.equal(torch.stack(pair), expected)
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.crop(4)
    assert torch.equal(torch.stack(cache[0]), expected[:, [2, 0], :, :4])


def test_running_answers_keep_what_their_prompts_had():
    """A row joins, another, the first leaves for a while and comes back: nothing is packed twice."""
    torch.manual_seed(0)
    batch, expected = BatchCache(), []
    for length in (9, 6):
        states = torch.randn(2, 1, 2, length, 16)
        batch.append_row(Prompt([], filled(states, torch.int8)[0]))
        expected.append(unpack_states(pack_states(states), torch.float32)[:, 0])
    assert batch.token_bytes == 2 * 2 * 18
    preempted = batch.preempt(0)
    batch.remove_row(0)
    batch.append_row(preempted)
    for row, kept in ((0, expected[1]), (1, expected[0])):
        for buffers, part in ((batch.keys, kept[0]), (batch.values, kept[1])):
            assert torch.equal(from_buffer(buffers[0][row, :, : part.shape[1]], torch.float32), part)
    token = torch.randn(2, 2, 2, 1, 16)
    batch.prepare()
    keys, values = batch.update(*token, 0)
    new = unpack_states(pack_states(token), torch.float32)[:, :, :, 0]
    for row, column in ((0, 6), (1, 9)):
        assert torch.equal(torch.stack([keys[row, :, column], values[row, :, column]]), new[:, row])
