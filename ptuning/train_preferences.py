"""Teach which of two answers is better: direct preference optimisation (DPO), by the package trl.

    python ptuning/train_preferences.py --train_file pairs.jsonl --lora_rank 8 --learning_rate 1e-5 \\
        --num_train_epochs 1 --output_dir output/preferred

A row has a `prompt` and its `chosen` and `rejected` answers, as texts or as messages. The reference is the model as it
is loaded, whose probabilities are computed once, before the first step. Flags are ptuning/main.py's for model and data,
and trl's DPOConfig's (`--beta`, `--loss_type`, …). Needs `pip install trl`, on Python 3.11 and later.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # run as a script: its own folder, whose names are short, gives way to the project's
    sys.path[0] = str(ROOT)

try:
    from trl import DPOConfig, DPOTrainer
except ImportError as error:
    raise SystemExit(
        f'train_preferences.py needs trl: pip install "trl>=1.16" (Python 3.11 and later); {error}'
    ) from error

from loading.arguments import run_main  # noqa: E402
from loading.checkpoint import LoadError  # noqa: E402
from ptuning import data  # noqa: E402
from ptuning import main as fine_tuning  # noqa: E402
from ptuning.arguments import DataArguments, ModelArguments, parse_training_arguments  # noqa: E402
from ptuning.trainer import ChatGLMTrainer  # noqa: E402

ANSWERS = ("chosen", "rejected")


@dataclasses.dataclass
class PreferenceArguments(DPOConfig):
    """trl's arguments, with what this project's trainer needs, and its defaults."""

    overwrite_output_dir: bool = dataclasses.field(default=False, metadata={"help": "start anew"})
    gradient_checkpointing: bool = dataclasses.field(default=False, metadata={"help": "less memory, more time"})
    bf16: bool | None = dataclasses.field(default=False, metadata={"help": "compute in bfloat16"})
    report_to: str | None = dataclasses.field(default="none", metadata={"help": "tensorboard, none, or another"})

    def __post_init__(self) -> None:
        self.precompute_ref_log_probs = True  # no second model in memory, for every kind of adapter
        super().__post_init__()


class PreferenceTrainer(ChatGLMTrainer, DPOTrainer):
    """trl's loss, with this project's checkpoints, adapters and stop where a number is not finite."""

    def __init__(self, *, tokenizer, **keywords) -> None:
        self._saving, self.step_loss, self.score_answers = False, 0.0, None
        DPOTrainer.__init__(self, processing_class=tokenizer, **keywords)

    def _prepare_dataset(self, dataset: Dataset, *arguments: Any) -> Dataset:
        return dataset  # encoded already: [gMASK] <sop> stands between prompt and answer

    def _send_telemetry(self) -> None:
        """Tell nobody of a run."""

    def create_model_card(self, *arguments: Any, **keywords: Any) -> None:
        """Write none: an adapter's header says what it belongs to."""

    def _stop(self, what: str, inputs: dict[str, Any]):
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, data.IGNORED)
        super()._stop(what, {name: inputs[name] for name in ("input_ids", "attention_mask")} | {"labels": labels})


def pair_of_row(place: str, row: dict[str, Any], files: DataArguments) -> list[data.Example]:
    """Return the better and the worse example of a row.

    Raises:
        data.DataError: begins with `place`.
    """
    if missing := [name for name in ANSWERS if name not in row]:
        raise data.DataError(f"{place}: no column {missing[0]!r}; there are {', '.join(map(repr, row))}")
    if isinstance(row["chosen"], list) and isinstance(row["rejected"], list):
        before = row.get("prompt") or []
        before = before if isinstance(before, list) else [{"role": "user", "content": before}]
        found = [data.examples_of_row(place, {"messages": [*before, *row[name]]}, files)[-1:] for name in ANSWERS]
    else:
        named = [dataclasses.replace(files, prompt_column="prompt", response_column=name) for name in ANSWERS]
        found = [data.examples_of_row(place, row, columns) for columns in named]
    pair = [example for examples in found for example in examples if example.query.strip() and example.answer.strip()]
    if len(pair) < len(ANSWERS):
        raise data.DataError(f"{place}: prompt, chosen or rejected is empty")
    if (pair[0].query, pair[0].history) != (pair[1].query, pair[1].history):
        raise data.DataError(f"{place}: chosen and rejected must answer the same question")
    return pair


def encoded_pairs(tokenizer, files: DataArguments) -> Dataset:
    """Return the rows of the training file as trl has them: `prompt_ids`, `chosen_ids` and `rejected_ids`."""
    rows, counts, limits = [], data.Counts(), (files.max_source_length, files.max_target_length)
    for line, row in data.read_rows(Path(files.train_file)):
        pair = pair_of_row(f"{files.train_file}, line {line}", row, files)
        encoded = [data.encode_example(tokenizer, example, *limits, counts) for example in pair]
        start = encoded[0]["labels"].count(data.IGNORED)
        ids = {f"{name}_ids": each["input_ids"][start:] for name, each in zip(ANSWERS, encoded, strict=True)}
        rows.append({"prompt_ids": encoded[0]["input_ids"][:start], **ids})
    fine_tuning.report(f"{files.train_file}: {counts}")
    return Dataset.from_list(rows[: files.max_train_samples])


def run(model_arguments: ModelArguments, files: DataArguments, training: PreferenceArguments) -> None:
    """Load, train, from the last checkpoint if there is one, and save."""
    training.do_train = True
    fine_tuning.check_arguments(model_arguments, files, training)
    if model_arguments.pre_seq_len and not model_arguments.ptuning_checkpoint:
        raise LoadError(
            "a new prefix changes the reference: give --lora_rank, or --ptuning_checkpoint with a trained one"
        )
    model, tokenizer = fine_tuning.load(model_arguments, training)
    trainer = PreferenceTrainer(
        model=model, args=training, tokenizer=tokenizer, train_dataset=encoded_pairs(tokenizer, files)
    )
    trainer.train(resume_from_checkpoint=fine_tuning.prepare_folder(model, files, training))
    trainer.save_model()
    trainer.save_state()


def main() -> None:
    """Parse the command line and run."""
    try:
        run(*parse_training_arguments(__doc__, sys.argv[1:], PreferenceArguments))
    except fine_tuning.EXPECTED_ERRORS as error:
        raise LoadError(str(error)) from error


if __name__ == "__main__":
    run_main(main)
