"""Measure calibrated INT4 where it is hard, and calibrate one block of the 6B shape; print two tables.

    python -m tests.benchmarks.calibration [--tokens 8192] [--tables layers block]

The layers have weights of Student's distribution, whose tails are heavy, and inputs of which a few directions have most
of the size; with channels 20 times larger, and with channels that are never near zero, too. A layer's error is that of
its outputs on inputs that were not calibrated on, relative to them, squared. "Scales from 0.7" chooses from the seven
scales of before, the largest seven of those that are tried now.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import torch
from torch import Tensor

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration
from chatglm.quantization import dequantize_weight, quantize_weight
from loading import calibration
from tests.benchmarks.peak_memory import PeakMemory

WIDTH, ROWS, CHANNELS = 1024, 4096, 8
INPUTS = ("correlated", "8 channels 20 times larger", "the same, far from zero")


def draw_inputs(kind: str) -> tuple[Tensor, Tensor]:
    """Return inputs `[n, i]` to calibrate on and others to measure on."""
    share = torch.arange(1, WIDTH + 1).float() ** -0.7
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
    inputs = torch.randn(2 * ROWS, WIDTH) * (share * WIDTH / share.sum()).sqrt() @ basis
    if kind != "correlated":
        channels = torch.randperm(WIDTH)[:CHANNELS]
        inputs[:, channels] *= 20
        if kind == "the same, far from zero":
            inputs += 0.5 * torch.randn(WIDTH)
            inputs[:, channels] += 15
    return inputs[:ROWS], inputs[ROWS:]


def print_layers() -> None:
    """Print the errors of layers: rounded, and calibrated with the scales of before and of now."""
    print("| weights' tails | inputs | rounded | scales from 0.7 | calibrated | of what those left, recovered |")
    print("|---|---|---|---|---|---|")
    for freedom in (4.0, 10.0):
        for kind in INPUTS:
            torch.manual_seed(0)
            seen, unseen = draw_inputs(kind)
            weight = torch.distributions.StudentT(freedom).sample((WIDTH, WIDTH)) * 0.02
            exact = unseen @ weight.T

            def error(packed: Tensor, scale: Tensor, weight=weight, unseen=unseen, exact=exact) -> float:
                output = unseen @ dequantize_weight(packed, scale, 4).float().T
                return float((output - exact).square().sum() / exact.square().sum())

            def calibrated(weight=weight, seen=seen, error=error) -> float:
                return error(*calibration.quantize_weight_calibrated(weight, seen.T @ seen / ROWS, 4))

            with mock.patch.object(calibration, "SCALE_PARTS", calibration.SCALE_PARTS[:7]):
                before = calibrated()
            after, rounded = calibrated(), error(*quantize_weight(weight, 4))
            row = f"{rounded:.4f} | {before:.4f} | {after:.4f} | {1 - after / before:.0%}"
            print(f"| Student's, {freedom:.0f} degrees of freedom | {kind} | {row} |", flush=True)


def print_block(tokens: int) -> None:
    """Print the time and the memory of calibrating one block of the 6B widths, with random weights."""
    memory = PeakMemory()
    torch.manual_seed(0)
    config = ChatGLMConfig(num_layers=1, vocab_size=4096, bos_token_id=4004, eos_token_id=4005)
    torch.set_default_dtype(torch.bfloat16)
    model = ChatGLMForConditionalGeneration(config).eval()
    torch.set_default_dtype(torch.float32)
    examples = list(torch.randint(10, 4000, (tokens // 1024, 1024)))
    for ids in examples:
        ids[-200], ids[-199] = config.gmask_token_id, config.bos_token_id
    calibrator = calibration.Calibration(examples)
    calibrator.begin(model)
    before, start = memory.resident, time.perf_counter()
    calibrator.quantize_block(model.transformer.layers[0], 4)
    seconds, after = time.perf_counter() - start, memory.resident
    print(
        "\n| a block of the 6B shape | tokens | seconds | peak memory, GB | of it before, GB |\n|---|---|---|---|---|"
    )
    print(f"| INT4, calibrated | {tokens} | {seconds:.0f} | {after / 1e9:.2f} | {before / 1e9:.2f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192, help="to calibrate the block on (default 8192)")
    tables = ("block", "layers")
    parser.add_argument("--tables", nargs="*", choices=tables, default=tables, help="which ones to print (both)")
    arguments = parser.parse_args()
    if "block" in arguments.tables:  # first: the record of memory is since the program's start
        print_block(arguments.tokens)
    if "layers" in arguments.tables:
        print_layers()


if __name__ == "__main__":
    main()
