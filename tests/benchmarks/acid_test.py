"""Teach a checkpoint eight answers by heart, with P-Tuning v2 and LoRA on float, INT8 and INT4 weights; print a table.

    python -m tests.benchmarks.acid_test [--model chatglm] [--output output/acid]

An answer counts if greedy `chat` gives it back token by token. Losses are compared with float's at every tenth step.
About ten minutes on two CPU cores. A run that is finished in the output folder is not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from loading.arguments import EMBEDDED_CHECKPOINT, ModelArguments
from loading.load import load_model_and_tokenizer
from ptuning import main as ptuning
from ptuning.arguments import parse_training_arguments
from tests.conftest import ROOT

EXAMPLES = {
    "裙子，红色，长款": "这条红色长裙线条流畅，走起路来轻盈飘逸。",
    "上衣，白色，纯棉": "白色纯棉上衣柔软透气，夏天穿着很舒服。",
    "裤子，牛仔，直筒": "直筒牛仔裤修饰腿形，搭配什么都好看。",
    "外套，黑色，连帽": "黑色连帽外套挡风保暖，出门说走就走。",
    "shirt, blue": "A blue shirt for every day of the week.",
    "毛衣，灰色，高领": "灰色高领毛衣温暖贴身，冬天少不了它。",
    "鞋子，跑步，轻": "轻便的跑鞋缓震回弹，每一步都省力。",
    "帽子，草编，宽檐": "宽檐草帽遮住阳光，海边度假正合适。",
}
METHODS = {  # flags and steps
    "P-Tuning v2": ("--pre_seq_len 64 --learning_rate 0.3", 300),
    "LoRA": ("--lora_rank 8 --learning_rate 4e-3", 100),
}
WEIGHTS = {"float": "", "INT8": "--quantization_bit 8", "INT4": "--quantization_bit 4"}
TOLERANCE = 0.1  # of the loss that float starts from: what is learnt by heart has a loss near 0, where all runs differ


def write_rows(folder: Path, count: int = len(EXAMPLES)) -> Path:
    """Write the first examples into a file, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"q": question, "a": answer} for question, answer in list(EXAMPLES.items())[:count]]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return folder / "rows.jsonl"


def train(model: str, rows: Path, flags: str, steps: int, output: Path) -> list[float]:
    """Train by the flags, all examples in each step, and return the losses."""
    common = (
        "--do_train --prompt_column q --response_column a --device cpu --report_to none --disable_tqdm true "
        "--logging_steps 1 --save_steps 100000 --lr_scheduler_type linear --per_device_train_batch_size 8 --seed 1"
    )
    places = ["--model", model, "--train_file", str(rows), "--output_dir", str(output), "--max_steps", str(steps)]
    if not (output / "train_results.json").exists():
        ptuning.run(*parse_training_arguments("", [*common.split(), *places, *flags.split()]))
    history = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [row["loss"] for row in history if "loss" in row]


def count_right(model: str, bits: int | None, output: Path, count: int = len(EXAMPLES)) -> int:
    """Return how many of the examples greedy `chat` answers with the very tokens that were taught."""
    loaded, tokenizer = load_model_and_tokenizer(
        ModelArguments(model, "cpu", quantization_bit=bits, ptuning_checkpoint=str(output))
    )
    right = 0
    for question, answer in list(EXAMPLES.items())[:count]:
        given, _ = loaded.chat(tokenizer, question, do_sample=False, max_new_tokens=64)
        right += tokenizer.encode_text(given) == tokenizer.encode_text(answer)
    return right


def largest_difference(losses: list[float], expected: list[float]) -> float:
    """Return the largest difference at every tenth step, as a share of the first of the losses to be expected."""
    pairs = list(zip(losses, expected, strict=True))[9::10]
    return max(abs(loss - other) for loss, other in pairs) / expected[0]


def main() -> None:
    """Run what is not there yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED_CHECKPOINT, help="checkpoint folder (default: the embedded one)")
    parser.add_argument("--output", type=Path, default=ROOT / "output/acid", help="where runs go")
    arguments = parser.parse_args()
    rows = write_rows(arguments.output)
    lines = ["| way | weights | steps | first loss | at half | last | difference | right |", "|" + "---|" * 8]
    for method, (flags, steps) in METHODS.items():
        curves: dict[str, list[float]] = {}
        for weights, more in WEIGHTS.items():
            output = arguments.output / f"{method} {weights}".replace(" ", "-")
            curve = curves[weights] = train(arguments.model, rows, f"{flags} {more}", steps, output)
            right = count_right(arguments.model, int(more[-1]) if more else None, output)
            difference = largest_difference(curve, curves["float"])
            cells = [f"{value:.3g}" for value in (curve[0], curve[len(curve) // 2], curve[-1])]
            verdict = "" if difference <= TOLERANCE else " (too large)"
            lines.append(
                f"| {method} | {weights} | {steps} | {' | '.join(cells)} | {difference:.0%}{verdict} | {right} of 8 |"
            )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
