"""Tests of ptuning/diagnosis.py: what is broken on purpose is named."""

from __future__ import annotations

import pytest
import torch

from ptuning.diagnosis import broken_gradients, find_not_finite


class LosesItsGradient(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx, input):
        return input.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.nan


INPUTS = {"input_ids": torch.tensor([[7, 8, 101, 104, 9, 10]]), "labels": torch.tensor([[-100] * 4 + [9, 10]])}


def with_output(change):
    def hook(module, arguments, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return hook


def test_find_not_finite_names_the_weight(random_model):
    with torch.no_grad():
        random_model.transformer.layers[1].mlp.dense_h_to_4h.weight[3, 4] = torch.inf
    assert "transformer.layers.1.mlp.dense_h_to_4h.weight is not finite" in find_not_finite(random_model, INPUTS)


def test_find_not_finite_names_the_first_layer_whose_output_is_lost(random_model):
    random_model.transformer.layers[1].mlp.register_forward_hook(with_output(lambda hidden: hidden * torch.nan))
    assert "the output of layer 1" in find_not_finite(random_model, INPUTS)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_find_not_finite_names_where_the_gradient_is_lost(random_model, number):
    random_model.transformer.layers[number].mlp.register_forward_hook(with_output(LosesItsGradient.apply))
    below = f"layer {number - 1}" if number else "the word embedding"
    assert f"the gradient at the output of {below}" in find_not_finite(random_model, INPUTS)
    assert broken_gradients(random_model) and not any("lm_head" in name for name in broken_gradients(random_model))


def test_find_not_finite_says_so_if_all_is_well(random_model):
    assert "of a second run are finite" in find_not_finite(random_model, INPUTS)
    assert broken_gradients(random_model) == []
