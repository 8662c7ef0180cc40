"""Fine-tune a small checkpoint on AdvertiseGen by P-Tuning v2, LoRA and all parameters; print the before/after table.

    python -m tests.benchmarks.adgen [--model chatglm] [--data ../shared/data/AdvertiseGen] [--output output/adgen]

Runs ptuning/main.py once for each way, the last of which mixes in general dialogue, with the command that is printed,
on two CPU cores in about half an hour. A way that is finished in the output folder is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data" / "AdvertiseGen"
WAYS = {
    "P-Tuning v2": "--pre_seq_len 64 --learning_rate 0.3",  # 2e-2, the original's for 6B, does next to nothing here
    "P-Tuning v2, INT4": "--pre_seq_len 64 --learning_rate 0.3 --quantization_bit 4",
    "LoRA": "--lora_rank 8 --learning_rate 4e-3",
    "LoRA, INT4": "--lora_rank 8 --learning_rate 4e-3 --quantization_bit 4",
    "all parameters": "--learning_rate 2e-3",
    "all parameters, half general": "--learning_rate 2e-3 --general_data {general} --general_share 0.5",
}
METRICS = ("predict_bleu-4", "predict_rouge-1", "predict_rouge-2", "predict_rouge-l")
# Source: the original's ptuning/README.md, ADGEN, measured on the 6B model.
PUBLISHED = {
    "P-Tuning v2, 6B, published": (8.10, 31.12, 7.11, 24.97),
}


def command(way: str, arguments: argparse.Namespace, output: Path) -> list[str]:
    """Return the command of one way."""
    flags = (
        f"--do_train --do_predict --predict_with_generate --evaluate_before --prompt_column content "
        f"--response_column summary --max_source_length 64 --max_target_length 96 --max_steps {arguments.steps} "
        f"--per_device_train_batch_size 8 --per_device_eval_batch_size 30 --logging_steps 10 "
        f"--save_steps {arguments.steps} "
        f"--max_predict_samples {arguments.rows} --report_to none --device cpu "
    )
    files = ["--train_file", str(arguments.data / "train.json"), "--test_file", str(arguments.data / "dev.json")]
    places = ["--model", arguments.model, "--output_dir", str(output)]
    general, cases = arguments.output / "general.jsonl", arguments.output / "cases.jsonl"
    kept = ["--forgetting_cases", str(cases)] if arguments.cases else []
    return ["ptuning/main.py", *places, *files, *kept, *(flags + WAYS[way].format(general=general)).split()]


def write_files(arguments: argparse.Namespace) -> None:
    """Let the embedded checkpoint's recipe write dialogues to mix in, and questions with the answers to keep."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    commands = [
        ["corpus", str(arguments.output / "general.jsonl"), "--count", "800"],
        ["evaluate", "--cases", str(arguments.cases), "--write_right", str(arguments.output / "cases.jsonl")],
    ]
    for command in commands if arguments.cases else commands[:1]:
        words = [sys.executable, "-m", f"resources.chatglm_mini.{command[0]}", *command[1:]]
        subprocess.run(words, cwd=ROOT, check=True)


def table_row(way: str, output: Path) -> str:
    """Return a way's row, read from the files that the run has written."""
    measured = json.loads((output / "measured.json").read_text(encoding="utf-8"))
    run = json.loads((output / "train_results.json").read_text(encoding="utf-8"))
    before, after = measured["before"], measured["after"]
    cells = [f"{before[name]:.2f} / {after[name]:.2f}" for name in (*METRICS, "predict_loss")]
    skills = [name for name in after if name.startswith("skill ")]
    kept = [f"{sum(part[name] for name in skills) / max(1, len(skills)):.0%}" for part in (before, after)]
    cells += [" / ".join(kept) if skills else "not measured", f"{run['seconds_per_step']:.2f}"]
    cells += [f"{run['trainable_parameters']:,}", f"{run['peak_memory_bytes'] / 1e9:.2f} GB"]
    return f"| {way} | " + " | ".join(cells) + " |"


def main() -> None:
    """Run what is not there yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="chatglm", help="checkpoint folder (default: the embedded one)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of train.json and dev.json")
    parser.add_argument("--output", type=Path, default=ROOT / "output/adgen", help="where runs go")
    parser.add_argument("--steps", type=int, default=600, help="of training, 8 rows each (default 600)")
    parser.add_argument("--rows", type=int, default=120, help="of the test file to answer (default 120, all)")
    parser.add_argument("--cases", type=int, default=6, help="per skill, to see what is forgotten (default 6; 0: none)")
    arguments = parser.parse_args()
    rows = []
    write_files(arguments)
    for way in WAYS:
        output = arguments.output / way.replace(",", "").replace(" ", "-")
        words = command(way, arguments, output)
        print("python", *words, flush=True)
        if not (output / "measured.json").exists():
            subprocess.run([sys.executable, *words], cwd=ROOT, check=True, env=os.environ | {"PYTHONUTF8": "1"})
        rows.append(table_row(way, output))
    columns = [*METRICS, "loss", "skills kept", "s/step", "trained", "peak memory"]
    print("\nbefore / after\n\n| way | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    print("\n".join(rows))
    for name, values in PUBLISHED.items():
        cells = [f"– / {value:.2f}" for value in values] + ["not published"] * (len(columns) - len(values))
        print(f"| {name}, not reproduced here | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
