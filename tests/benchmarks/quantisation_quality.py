"""Measure what quantisation costs: the loss on unseen dialogues, the kernels' accuracy, and the greedy answers.

    python -m tests.benchmarks.quantisation_quality

Four tables in one run, all on the CPU with the embedded checkpoint (or `--model`, one with its vocabulary):
the loss and perplexity of the answers of unseen dialogues, computed exactly from the quantised weights, rounded to
nearest and calibrated on dialogues of the training split; each layer's error by the kernels against exact arithmetic on
the same unpacked weights, with ordinary inputs and with a few channels 100 times larger; attention's error with keys
and values in half precision and in INT8; and how many greedy answers by the kernels are those of the exact path.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import logging

from chatglm import ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm.bits import BITS
from chatglm.int8_states import from_buffer, to_buffer
from chatglm.quantization import QuantizedLinear, dequantize_weight, quantize_weight, quantized_linear, set_exact
from loading.calibration import Calibration, encode_dialogue, read_dialogues
from loading.devices import dtype_name
from resources.chatglm_mini.corpus import all_skills, draw_dialogues, unseen_dialogues
from resources.chatglm_mini.dialogue import Dialogue
from resources.chatglm_mini.evaluate import answer_all
from resources.chatglm_mini.train import answer_loss, encode, micro_batches
from tests.conftest import ROOT

CALIBRATION_SEED, TEST_SEED = 1000, 7
OUTLIER_CHANNELS, OUTLIER_SIZE = 8, 100.0
# Input features of the layers of the real 6B shape; outputs err alike, so that some of them tell.
INPUTS_6B, OUTPUTS = (4096, 16384), 1024
MICRO_TOKENS = 2048
NOTICEABLE_LOSS = 0.002  # nats; what is less than this, of a loss, there is no point in recovering


def unseen_mix(count: int) -> list[Dialogue]:
    """Return unseen dialogues, the same number of each skill as far as it has so many, `count` in all at most."""
    each = -(-count // len(all_skills()))
    by_skill = [list(unseen_dialogues(skill, each, TEST_SEED)) for skill in all_skills().values()]
    mixed = (dialogue for row in range(each) for skill in by_skill for dialogue in skill[row : row + 1])
    return list(islice(mixed, count))


@torch.no_grad()
def mean_loss(model: ChatGLMForConditionalGeneration, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the mean cross entropy of the answers' tokens, in nats."""
    total = tokens = 0.0
    for input_ids, labels in batches:
        total += float(answer_loss(model, input_ids, labels))
        tokens += int((labels != -100).sum())
    return total / tokens


def quantised(model: ChatGLMForConditionalGeneration, bits: int, calibration: Calibration | None = None):
    """Return a quantised copy of a model."""
    return copy.deepcopy(model).quantize(bits, calibration=calibration)


def ways(bits: int, examples: list) -> dict[str, Calibration | None]:
    """Return the ways to quantise by their names in the tables."""
    return {f"INT{bits}, rounded to nearest": None, f"INT{bits}, calibrated": Calibration(examples)}


def print_losses(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, examples: list, arguments
) -> None:
    """Print the table of losses: float, and rounded and calibrated at each number of bits."""
    unseen = unseen_mix(arguments.dialogues)
    batches = micro_batches([encode(tokenizer, each) for each in unseen], tokenizer.pad_token_id, MICRO_TOKENS)
    exact = mean_loss(model, batches)
    print(f"{len(unseen)} unseen dialogues; calibrated on {len(examples)}, {sum(map(len, examples))} tokens\n")
    print("| weights | loss | perplexity | more loss than float | of it recovered |\n|---|---|---|---|---|")
    print(f"| float | {exact:.4f} | {math.exp(exact):.4f} | | |", flush=True)
    for bits in reversed(BITS):
        increases = []
        for name, calibration in ways(bits, examples).items():
            other = quantised(model, bits, calibration)
            set_exact(other)
            loss = mean_loss(other, batches)
            increases.append(loss - exact)
            recovered = ""
            if calibration and increases[0] > NOTICEABLE_LOSS:
                recovered = f"{1 - increases[1] / increases[0]:.0%}"
            print(f"| {name} | {loss:.4f} | {math.exp(loss):.4f} | {loss - exact:+.4f} | {recovered} |", flush=True)


def relative_error(output: Tensor, input: Tensor, weight: Tensor, weight_scale: Tensor, bits: int) -> float:
    """Return the relative norm of a product's error, against exact arithmetic on the unpacked weights."""
    exact = input.double() @ dequantize_weight(weight, weight_scale, bits, torch.float64).T
    return float((output.double() - exact).norm() / exact.norm())


def outlier_input(rows: int, columns: int, outliers: bool) -> Tensor:
    """Return normal inputs, float32 `[rows, columns]`; with outliers, some channels are 100 times larger."""
    input = torch.randn(rows, columns)
    if outliers:
        input[:, torch.randperm(columns)[:OUTLIER_CHANNELS]] *= OUTLIER_SIZE
    return input


@torch.no_grad()
def print_layer_errors(model: ChatGLMForConditionalGeneration) -> None:
    """Print the largest error of any layer by the kernels: random ones of the 6B shape, and the model's own."""
    print("\n| largest relative error of a layer | rows | ordinary inputs | a few channels 100 times larger |")
    print("|---|---|---|---|")
    for bits in reversed(BITS):
        own = [each for each in quantised(model, bits).modules() if isinstance(each, QuantizedLinear)]
        shapes = {f"6B shape, INT{bits}": None, f"embedded checkpoint, INT{bits}": own}
        for name, layers in shapes.items():
            errors: dict[tuple[int, bool], float] = {}
            for index in range(len(layers or INPUTS_6B)):
                if layers is None:
                    columns = INPUTS_6B[index]
                    packed, weight_scale = quantize_weight(0.02 * torch.randn(OUTPUTS, columns), bits)
                else:
                    packed, weight_scale = layers[index].weight, layers[index].weight_scale
                    columns = layers[index].in_features
                for rows in (1, 64):
                    for outliers in (False, True):
                        input = outlier_input(rows, columns, outliers)
                        output = quantized_linear(input, packed, weight_scale, bits)
                        error = relative_error(output, input, packed, weight_scale, bits)
                        errors[rows, outliers] = max(error, errors.get((rows, outliers), 0.0))
            for rows in (1, 64):
                print(f"| {name} | {rows} | {errors[rows, False]:.2%} | {errors[rows, True]:.2%} |", flush=True)


@torch.no_grad()
def print_attention_errors() -> None:
    """Print the error of a token's attention to 2,000 others, at the 6B shape, by the dtype of keys and values."""
    print("\n| keys and values in | relative error of attention | a few channels of the keys 100 times larger |")
    print("|---|---|---|")
    heads, tokens, size = 32, 2000, 128
    for dtype in (torch.float16, torch.int8):
        errors = []
        for outliers in (False, True):
            torch.manual_seed(0)
            keys = outlier_input(heads * tokens, size, outliers).view(heads, tokens, size).double()
            query, values = torch.randn(heads, 1, size).double(), torch.randn(heads, tokens, size).double()
            query *= 2 / (query @ keys.mT).std()  # scores as far apart as a model's
            held_keys, held_values = (from_buffer(to_buffer(states, dtype), torch.float64) for states in (keys, values))
            exact = (query @ keys.mT).softmax(dim=-1) @ values
            context = (query @ held_keys.mT).softmax(dim=-1) @ held_values
            errors.append(float((context - exact).norm() / exact.norm()))
        print(f"| {dtype_name(dtype)} | {errors[0]:.3%} | {errors[1]:.3%} |", flush=True)


@torch.no_grad()
def print_agreement(
    model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, examples: list, arguments
) -> None:
    """Print how many greedy answers by the kernels are those of the exact path."""
    dialogues = unseen_mix(arguments.prompts)
    print("\n| weights | prompts | greedy answers by the kernels that the exact path gives | with an INT8 cache |")
    print("|---|---|---|---|")
    for bits in reversed(BITS):
        for name, calibration in ways(bits, examples).items():
            other = quantised(model, bits, calibration)
            by_kernels = []
            for cache_bits in (None, 8):
                other.transformer.cache_bits = cache_bits
                by_kernels.append(answer_all(other, tokenizer, dialogues))
            set_exact(other)
            exact = answer_all(other, tokenizer, dialogues)
            equal = [sum(a == b for a, b in zip(answers, exact, strict=True)) for answers in by_kernels]
            print(f"| {name} | {len(dialogues)} | {equal[0]} | {equal[1]} |", flush=True)


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "chatglm", help="folder of the checkpoint")
    parser.add_argument("--dialogues", type=int, default=400, help="unseen ones for the loss (default 400)")
    parser.add_argument("--calibration_dialogues", type=int, default=200, help="of the training split (default 200)")
    parser.add_argument("--calibration_file", help="calibrate on these dialogues instead, in the form of quantize.py's")
    parser.add_argument("--prompts", type=int, default=200, help="for greedy answers (default 200)")
    tables = ("loss", "layers", "attention", "answers")
    parser.add_argument("--tables", nargs="*", choices=tables, default=tables, help="which ones to print (all)")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = ChatGLMTokenizer.from_pretrained(arguments.model)
    model = ChatGLMForConditionalGeneration.from_pretrained(arguments.model).float().eval()
    if arguments.calibration_file is None:
        drawn = draw_dialogues(CALIBRATION_SEED, 0, arguments.calibration_dialogues)
        examples = [encode_dialogue(tokenizer, each.question, each.answer, each.history) for each in drawn]
    else:
        examples = read_dialogues(arguments.calibration_file, tokenizer)
    if "loss" in arguments.tables:
        print_losses(model, tokenizer, examples, arguments)
    if "layers" in arguments.tables:
        print_layer_errors(model)
    if "attention" in arguments.tables:
        print_attention_errors()
    if "answers" in arguments.tables:
        print_agreement(model, tokenizer, examples, arguments)


if __name__ == "__main__":
    main()
