"""How much room the buffers of keys and values have."""

from __future__ import annotations

import pytest
import torch

from chatglm.cache import expected_length, grown_capacity

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
