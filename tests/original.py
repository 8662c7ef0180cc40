"""What the original computes on the small checkpoint in `tests/reference`; that folder's README says what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "reference"
PREFIXES = ("prefix_projection_False", "prefix_projection_True")
PROMPTS = ("single0", "single1", "single2", "single3", "mask")
# Relative to the largest value. Ways to add the same float32 numbers differ by less than 1e-5 here; rotary frequencies
# that are not rounded as the original's, by 6e-4 in the longest prompt; another form of GELU, by 4e-4 in the shortest.
TOLERANCE = 3e-5

with np.load(FOLDER / "forward.npz") as arrays:
    FORWARD = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
GENERATION = json.loads((FOLDER / "generation.json").read_text(encoding="utf-8"))


def assert_close(actual: torch.Tensor, expected: torch.Tensor | np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Assert that no element is further from the expected one than a part of the largest."""
    expected = torch.as_tensor(expected)
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"relative error {error:.1e}"


def greedy_answers(generate) -> list[list[int]]:
    """Return the ids that `generate(input_ids [1, s], max_length)`, which gives int64 [1, t], makes of each prompt."""
    cases = GENERATION["greedy"]
    return [generate(torch.tensor([case["input_ids"]]), case["max_length"])[0].tolist() for case in cases]


GREEDY = [case["output_ids"] for case in GENERATION["greedy"]]


@torch.no_grad()
def assert_computes_the_same(model) -> None:
    """Assert that a model of the checkpoint gives the original's logits and greedy answers."""
    for prompt in PROMPTS:
        assert_close(model(FORWARD[f"{prompt}.input_ids"]).logits[0], FORWARD[f"{prompt}.logits"])
    answers = greedy_answers(lambda ids, length: model.generate(ids, max_length=length, do_sample=False))
    assert answers == GREEDY


@torch.no_grad()
def assert_computes_the_same_with_prefix(model, name: str) -> None:
    """Assert that a model of the checkpoint with one of the prefixes gives the original's loss, logits and answer."""
    output = model(FORWARD["loss.input_ids"], labels=FORWARD["loss.labels"])
    assert_close(output.loss, FORWARD[f"{name}.loss"])
    assert_close(output.logits[0], FORWARD[f"{name}.logits"])
    case = GENERATION[name]
    answer = model.generate(torch.tensor([case["input_ids"]]), max_length=case["max_length"], do_sample=False)
    assert answer[0].tolist() == case["output_ids"]
