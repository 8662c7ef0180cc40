"""Fine-tune a small checkpoint on AdvertiseGen by P-Tuning v2, LoRA and all parameters, on float and on INT4.

    python -m tests.benchmarks.adgen [--model chatglm] [--data ../shared/data/AdvertiseGen] [--output output/adgen]
    python -m tests.benchmarks.adgen --steps 200 --cases 0 --ways "P-Tuning v2" "P-Tuning v2, INT4" LoRA "LoRA, INT4" \
        "all parameters" --picture resources/adgen-loss.png          # about twelve minutes on two CPU cores

Runs ptuning/main.py once for each way, the last of which mixes in general dialogue, with the command that is printed,
on two CPU cores in about 45 minutes. The before/after table is printed and written, as Markdown, and the curves of all
ways are drawn into one picture. A way that is finished in the output folder is not run again. Quantised weights are
not trained themselves, so that all parameters are for float only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from ptuning.evaluation import loss_points, plot_curves
from ptuning.trainer import STATE_FILE
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
    ours = WAYS[way].format(general=general).split()
    return ["ptuning/main.py", *places, *files, *kept, *flags.split(), *ours]


def write_files(arguments: argparse.Namespace) -> None:
    """Let the embedded checkpoint's recipe write dialogues to mix in, and questions with the answers to keep."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    commands = []
    if any("{general}" in WAYS[way] for way in arguments.ways):
        commands.append(["corpus", str(arguments.output / "general.jsonl"), "--count", "800"])
    if arguments.cases:
        cases = ["--cases", str(arguments.cases), "--write_right", str(arguments.output / "cases.jsonl")]
        commands.append(["evaluate", *cases])
    for command in commands:
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
    flags = WAYS[way].format(general="general.jsonl")
    return f"| {way} | `{flags}` | " + " | ".join(cells) + " |"


def table(folders: dict[str, Path]) -> str:
    """Return the table of the ways that were run, and of what the original published."""
    columns = [
        "flags",
        *(name.removeprefix("predict_") for name in METRICS),
        "loss",
        "skills kept",
        "s/step",
        "trained",
        "peak memory",
    ]
    lines = ["| way | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    lines += [table_row(way, output) for way, output in folders.items()]
    for name, values in PUBLISHED.items():
        cells = ["", *(f"– / {value:.2f}" for value in values)]
        lines.append(f"| {name}, not reproduced here | " + " | ".join(cells) + " |" * (len(columns) - len(cells) + 1))
    return "\n".join(lines) + "\n"


def curve(output: Path) -> list[tuple[float, float]]:
    """Return a run's training losses by step."""
    return loss_points(json.loads((output / STATE_FILE).read_text(encoding="utf-8"))["log_history"])


def main() -> None:
    """Run what is not there yet; print and write the table, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="chatglm", help="checkpoint folder (default: the embedded one)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of train.json and dev.json")
    parser.add_argument("--output", type=Path, default=ROOT / "output/adgen", help="where runs go")
    parser.add_argument("--steps", type=int, default=600, help="of training, 8 rows each (default 600)")
    parser.add_argument("--rows", type=int, default=120, help="of the test file to answer (default 120, all)")
    parser.add_argument("--cases", type=int, default=6, help="per skill, to see what is forgotten (default 6; 0: none)")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="default: all")
    parser.add_argument("--picture", type=Path, help="of the loss curves (default: loss.png in OUTPUT)")
    arguments = parser.parse_args()
    arguments.picture = arguments.picture or arguments.output / "loss.png"
    write_files(arguments)
    folders = {way: arguments.output / way.replace(",", "").replace(" ", "-") for way in arguments.ways}
    for way, output in folders.items():
        words = command(way, arguments, output)
        print("python", *words, flush=True)
        if not (output / "measured.json").exists():
            subprocess.run([sys.executable, *words], cwd=ROOT, check=True, env=os.environ | {"PYTHONUTF8": "1"})
    made = table(folders)
    print(f"\nbefore / after\n\n{made}")
    (arguments.output / "table.md").write_text(made, encoding="utf-8")
    plot_curves({way: curve(output) for way, output in folders.items()}, arguments.picture)


if __name__ == "__main__":
    main()
