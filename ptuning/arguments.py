"""The arguments of training and evaluation: the original's names and meanings on today's library."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, Seq2SeqTrainingArguments

from chatglm.sampling import Sampling
from loading import arguments
from loading.adapters import LORA_TARGETS, is_lora
from ptuning import original_flags

# Peak learning rates where none is given: prefix and LoRA as the original's scripts and peft's users have them.
LEARNING_RATES = {"prefix": 2e-2, "lora": 1e-3, "all": 1e-4}


@dataclass
class ModelArguments(arguments.ModelArguments):
    """Which checkpoint is trained, and which of its parts."""

    pre_seq_len: int | None = field(
        default=None, metadata={"help": "P-Tuning v2: virtual tokens before the prompt, 1 and up; None: no prefix"}
    )
    prefix_projection: bool = field(
        default=False, metadata={"help": "P-Tuning v2: compute the prefix by a two-layer network"}
    )
    lora_rank: int | None = field(default=None, metadata={"help": "LoRA: rank of the factors, 1 and up; None: none"})
    lora_alpha: float = field(default=32.0, metadata={"help": "LoRA: the product is scaled by alpha / rank; above 0"})
    lora_dropout: float = field(default=0.0, metadata={"help": "LoRA: dropout of the layers' inputs; 0 up to 1"})
    lora_target_modules: str = field(
        default=",".join(LORA_TARGETS), metadata={"help": "LoRA: the matrices of a block, separated by commas"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pre_seq_len", "lora_rank"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.pre_seq_len is not None and self.lora_rank is not None:
            raise ValueError("pre_seq_len (P-Tuning v2) and lora_rank (LoRA) exclude each other: leave one out")
        if self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                f"lora_alpha must be above 0 and lora_dropout 0 up to 1, got {self.lora_alpha}, {self.lora_dropout}"
            )
        unknown = set(self.lora_target_modules.split(",")) - set(LORA_TARGETS)
        if unknown:
            raise ValueError(f"lora_target_modules must be of {', '.join(LORA_TARGETS)}, got {', '.join(unknown)}")


@dataclass
class DataArguments:
    """Which examples are read, how long they may be, and what is measured on them."""

    train_file: str | None = field(default=None, metadata={"help": ".json, .jsonl or .csv file to train on"})
    validation_file: str | None = field(default=None, metadata={"help": "file to measure on with --do_eval"})
    test_file: str | None = field(default=None, metadata={"help": "file to measure on with --do_predict"})
    prompt_column: str | None = field(
        default=None, metadata={"help": "column of the question; chat, ShareGPT and Alpaca rows need none"}
    )
    response_column: str | None = field(default=None, metadata={"help": "column of the answer"})
    history_column: str | None = field(
        default=None, metadata={"help": "column of the rounds before the question: a list of [question, answer] pairs"}
    )
    source_prefix: str = field(default="", metadata={"help": "text put before every question"})
    max_source_length: int = field(
        default=1024, metadata={"help": "limit of a prompt in tokens; the oldest rounds are dropped to keep it"}
    )
    max_target_length: int = field(
        default=128, metadata={"help": "limit of an answer in tokens; a cut answer is not taught to end"}
    )
    val_max_target_length: int | None = field(
        default=None, metadata={"help": "limit of generated answers in tokens; None: max_target_length"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "train on the first so many examples"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "measure on the first so many examples"})
    max_predict_samples: int | None = field(default=None, metadata={"help": "answer the first so many examples"})
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "processes that encode the text"})
    overwrite_cache: bool = field(
        default=False, metadata={"help": "accepted for the original's command lines; examples are never cached on disk"}
    )
    num_beams: int = field(default=1, metadata={"help": "beams of the search when answering; 1 and up"})
    do_sample: bool = field(
        default=False,
        metadata={
            "help": f"sample answers (top_p {Sampling.top_p}, temperature {Sampling.temperature}), not the likeliest"
        },
    )
    evaluate_before: bool = field(
        default=False, metadata={"help": "measure the base, too, and write a before/after table"}
    )
    general_data: str | None = field(default=None, metadata={"help": "file of general dialogues to mix in"})
    general_share: float = field(
        default=0.2, metadata={"help": "share of general dialogues in what is trained on; above 0, below 1"}
    )
    forgetting_cases: str | None = field(
        default=None,
        metadata={"help": "file of questions with the base's answers: how many are kept, by the column `skill`"},
    )

    def __post_init__(self) -> None:
        limits = {"max_source_length": 2, "max_target_length": 3, "num_beams": 1}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.general_share < 1:
            raise ValueError(f"general_share must be above 0 and below 1, got {self.general_share}")
        if self.val_max_target_length is None:
            self.val_max_target_length = self.max_target_length


@dataclass
class TrainingArguments(Seq2SeqTrainingArguments):
    """The library's own arguments, with what it dropped and with defaults that fit."""

    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "start anew; else a run in a folder with checkpoints resumes by itself"}
    )
    learning_rate: float = field(
        default=LEARNING_RATES["all"],
        metadata={"help": "peak learning rate; not given, it is 2e-2 for P-Tuning v2, 1e-3 for LoRA, else 1e-4"},
    )
    logging_steps: float = field(
        default=0.02, metadata={"help": "steps between two points of the loss curve; below 1: as a share of all steps"}
    )
    report_to: str | None = field(default="tensorboard", metadata={"help": "tensorboard, none, or another logger"})

    def __post_init__(self) -> None:
        if self.save_total_limit is not None and self.save_total_limit < 1:
            raise ValueError(f"save_total_limit must be at least 1, got {self.save_total_limit}")
        self.logging_nan_inf_filter = False  # a loss that is not finite stops the run
        super().__post_init__()


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show the script's docstring as it is written, and each flag's default, where its help does not say it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        says_it = action.default is None or "(default" in (action.help or "")
        return (action.help or "") if says_it else super()._get_help_string(action)


def parse_training_arguments(
    description: str, words: list[str], training: type = TrainingArguments
) -> tuple[ModelArguments, DataArguments, Any]:
    """Parse a trainer's command line into `ModelArguments`, `DataArguments` and `training`.

    By the library's parser, as its own arguments are more than a hundred. Flags are the original's or today's, with
    dashes or underscores, or in one JSON file. A wrong value ends the process: one line, exit status 2.
    """
    types = ModelArguments, DataArguments, training
    usage = "%(prog)s --flag value … or %(prog)s arguments.json; --help lists all flags"
    parser = HfArgumentParser(
        types, description=description, usage=usage, formatter_class=HelpFormatter, allow_abbrev=False
    )
    try:
        words = original_flags.translate(words)
        words = with_learning_rate(words) if training is TrainingArguments else words
        return parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except ValueError as error:  # from a dataclass's own checks, or for a flag that does not exist
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def with_learning_rate(words: list[str]) -> list[str]:
    """Return a command line that names a learning rate: the one given, or the method's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("learning_rate", "lora_rank", "pre_seq_len", "ptuning_checkpoint"):
        parser.add_argument(f"--{name}")
    given, _ = parser.parse_known_args(words)
    if given.learning_rate is not None:
        return words
    adapter = given.ptuning_checkpoint
    has_lora = given.lora_rank or (adapter and is_lora(Path(adapter).expanduser()))
    method = "lora" if has_lora else "prefix" if given.pre_seq_len or adapter else "all"
    return [*words, "--learning_rate", str(LEARNING_RATES[method])]
