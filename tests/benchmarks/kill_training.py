"""Kill a training at random moments as `kill -9` does, resume it each time, and compare its losses with a whole run's.

    python -m tests.benchmarks.kill_training                      ten times, P-Tuning v2 of the embedded checkpoint
    python -m tests.benchmarks.kill_training --kills 24 --flags "--quantization_bit 4"

The moments are drawn from the time that a process takes to start, to train and to save. The exit status is 1 if a loss
or the result differs, to the last bit.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent.parent
TEXTS = ("你好", "白色的上衣", "我很高兴", "牛仔裤", "今天天气很好", "再见", "是的", "好的好的")
FLAGS = shlex.split(
    "--do_train --prompt_column q --response_column a --device cpu --report_to none --pre_seq_len 16 --logging_steps 1 "
    "--save_steps 3 --learning_rate 0.02 --per_device_train_batch_size 2 --seed 3"
)
RESULT = "ptuning_prefix.safetensors"


def start(rows: Path, folder: Path, steps: int, more: Sequence[str]) -> subprocess.Popen:
    """Start the training in a process of its own."""
    words = [sys.executable, "ptuning/main.py", *FLAGS, "--train_file", rows, "--output_dir", folder]
    words += ["--max_steps", str(steps), *more]
    return subprocess.Popen(list(map(str, words)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> str:
    """Wait for a training and return what it said.

    Raises:
        SystemExit: it failed.
    """
    said = process.communicate()[1].decode("utf-8", "replace")
    if process.returncode:
        raise SystemExit(f"the training ended with {process.returncode}:\n{said[-3000:]}")
    return said


def losses(folder: Path) -> list[float]:
    """Return the loss of each step."""
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [row["loss"] for row in history if "loss" in row]


def main() -> int:
    """Train once undisturbed and once with kills, print what came of it, and return 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="how often (10)")
    parser.add_argument("--steps", type=int, default=60, help="of the training (60)")
    parser.add_argument("--flags", default="", help="more flags of ptuning/main.py")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    arguments = parser.parse_args()
    dice, more = random.Random(arguments.seed), shlex.split(arguments.flags)
    with tempfile.TemporaryDirectory() as place:
        rows, whole, killed = (Path(place) / name for name in ("rows.jsonl", "whole", "killed"))
        pairs = zip(TEXTS, reversed(TEXTS), strict=True)
        rows.write_text("\n".join(json.dumps({"q": asked, "a": answered}) for asked, answered in pairs), "utf-8")
        begun = time.monotonic()
        finish(start(rows, whole, arguments.steps, more))
        seconds = time.monotonic() - begun
        print(f"undisturbed: {arguments.steps} steps, {seconds:.0f} s", flush=True)
        for number in range(1, arguments.kills + 1):
            process, moment = start(rows, killed, arguments.steps, more), dice.uniform(0, seconds)
            time.sleep(moment)
            process.kill()
            process.communicate()
            saved = max((int(folder.name.rpartition("-")[2]) for folder in killed.glob("checkpoint-*")), default=0)
            print(f"{number}: killed after {moment:.1f} s; last checkpoint: step {saved}", flush=True)
            if saved == arguments.steps:
                print("   that was its end; begun anew", flush=True)
                shutil.rmtree(killed)
        finish(start(rows, killed, arguments.steps, more))
        same = losses(killed) == losses(whole)
        first, second = (load_file(folder / RESULT) for folder in (whole, killed))
        equal = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        print(f"{len(losses(killed))} losses {'equal' if same else 'DIFFER'}, result {'equal' if equal else 'DIFFERS'}")
        return 0 if same and equal else 1


if __name__ == "__main__":
    sys.exit(main())
