"""Teach the embedded checkpoint eight answers by heart, with P-Tuning v2 and LoRA on each kind of base.

    python -m tests.benchmarks.acid_test [--output output/acid]

An answer counts if greedy `chat` gives it back token by token. Losses are compared with float's at every tenth step,
as a share of float's at that step: of all steps, and of those where float's is still a tenth of its first. What is
learnt by heart has a loss near 0, which swings from step to step; how far float comes from float with another seed says
how much of a difference there is the base's. INT4 is measured rounded to nearest, and calibrated. Four minutes on two
CPU cores; a run that is finished in the output folder is not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from loading.arguments import EMBEDDED_CHECKPOINT, ModelArguments
from loading.calibration import Calibration, encode_dialogue
from loading.load import load_model_and_tokenizer
from ptuning import main as ptuning
from ptuning.arguments import parse_training_arguments
from resources.chatglm_mini.corpus import draw_dialogues
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
    "P-Tuning v2": ("--pre_seq_len 64 --learning_rate 0.02", 500),
    "LoRA": ("--lora_rank 8 --learning_rate 2e-3", 100),
}
CALIBRATED = "INT4, calibrated"
BASES = {  # flags
    "float": "",
    "float, another seed": "--seed 2",
    "INT8": "--quantization_bit 8",
    "INT4": "--quantization_bit 4",
    CALIBRATED: "",  # has its bits from the checkpoint
}
TOLERANCE = 0.1  # of float's loss, for the short form in tests/test_ptuning_training.py
LEARNING = 1 / 10  # of the first loss: below it, the answers are learnt by heart and losses swing


def calibrate(folder: Path, dialogues: int = 1600) -> Path:
    """Write the embedded checkpoint in INT4, calibrated on dialogues of its corpus, unless it is there."""
    if not folder.exists():
        model, tokenizer = load_model_and_tokenizer(ModelArguments(EMBEDDED_CHECKPOINT, "cpu", "float32"))
        drawn = draw_dialogues(0, 0, dialogues)
        examples = [encode_dialogue(tokenizer, each.question, each.answer, each.history) for each in drawn]
        model.quantize(4, calibration=Calibration(examples)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


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


def largest_difference(losses: list[float], expected: list[float], at_least: float = 0.0) -> float:
    """Return the largest difference at every tenth step, as a share of the loss to be expected there.

    Steps where that is less than `at_least` of its first do not count.
    """
    pairs = list(zip(losses, expected, strict=True))[9::10]
    return max(abs(loss - other) / other for loss, other in pairs if other >= at_least * expected[0])


def main() -> None:
    """Run what is not there yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "output/acid", help="where runs go")
    arguments = parser.parse_args()
    rows, calibrated = write_rows(arguments.output), calibrate(arguments.output / "int4")
    lines = ["| way | base | steps | first loss | at half | last | while learning | all | right |", "|" + "---|" * 9]
    for method, (flags, steps) in METHODS.items():
        expected: list[float] = []
        for base, more in BASES.items():
            model = str(calibrated) if base == CALIBRATED else EMBEDDED_CHECKPOINT
            output = arguments.output / f"{method} {base}".replace(" ", "-")
            curve = train(model, rows, f"{flags} {more}", steps, output)
            right = count_right(model, int(more[-1]) if "bit" in more else None, output)
            expected = expected or curve
            differences = [largest_difference(curve, expected, at_least) for at_least in (LEARNING, 0)]
            cells = [f"{value:.3g}" for value in (curve[0], curve[len(curve) // 2], curve[-1])]
            cells += [f"{value:.0%}" for value in differences]
            lines.append(f"| {method} | {base} | {steps} | {' | '.join(cells)} | {right} of 8 |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
