"""Command lines written for the original's scripts, in the words of today's library.

A flag is translated, or taken out with a line that says why it no longer matters. One JSON file of arguments does, too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments

LIBRARY_FIELDS = {item.name for item in dataclasses.fields(Seq2SeqTrainingArguments)}
# The library has renamed flags, some within 5.x; command lines with either name run on every version.
RENAMED = (
    ("evaluation_strategy", "eval_strategy"),
    ("no_cuda", "use_cpu"),
    ("warmup_ratio", "warmup_steps"),  # below 1 it is a share of all steps
    ("gradient_checkpointing", "activation_checkpointing"),
    ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
)
# Flags of the original's scripts, and of the library of its time, that have nothing left to decide.
OUTDATED = {
    "ignore_pad_token_for_loss": "padding is never learnt",
    "pad_to_max_length": "batches are padded to their longest row",
    "use_fast_tokenizer": "there is one tokenizer, this project's",
    "config_name": "config.json is read from the folder of --model_name_or_path",
    "tokenizer_name": "the vocabulary is read from the folder of --model_name_or_path",
    "cache_dir": "the environment variable HF_HOME says where downloads go",
    "model_revision": "`hf download NAME --revision …` fetches one: give its folder as --model_name_or_path",
    "use_auth_token": "`hf auth login` or the environment variable HF_TOKEN says who downloads",
    "lang": "it was for models of many languages",
    "forced_bos_token": "it was for models of many languages",
    "resize_position_embeddings": "rotary positions have no table to resize",
    "dataset_config_name": "examples are read from files",
    "save_safetensors": "weights are always saved so",
    "half_precision_backend": "PyTorch's own is the only one left",
    "fp16_backend": "PyTorch's own is the only one left",
    "fp16_opt_level": "PyTorch's own half precision has no levels",
}


def translate(words: list[str]) -> list[str]:
    """Return a command line in flags that the installed library and this project know.

    Args:
        words: flags with dashes or underscores and their values, or the name of one JSON file that holds them.

    Raises:
        ValueError: a JSON file that is none, or a flag that cannot be honoured; the message names the way out.
    """
    if len(words) == 1 and words[0].endswith(".json"):
        words = words_of_file(Path(words[0]))
    words = [re.sub(r"^--[^=]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), word) for word in words]
    if any(re.match("--dataset_name(=|$)", word) for word in words):
        raise ValueError("dataset_name: nothing is downloaded here; save the rows to a file and give --train_file")
    for name, reason in OUTDATED.items():
        if take_out(words, name) is not None:
            print(f"--{name} no longer matters: {reason}", file=sys.stderr)
    if take_out(words, "group_by_length") not in (None, "False", "false"):
        words += ["--train_sampling_strategy", "group_by_length"]
    if (folder := take_out(words, "logging_dir")) is not None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = folder  # where the library looks now
    for old, new in RENAMED:
        wrong, right = (old, new) if new in LIBRARY_FIELDS else (new, old)
        words = [re.sub(rf"^--{wrong}(?=$|=)", f"--{right}", word) for word in words]
    joined = " ".join(words)
    on_cpu = "--device cpu" in joined or "--device=cpu" in joined or not torch.accelerator.is_available()
    if (
        on_cpu and "--use_cpu" not in words
    ):  # without it, processes on a machine without a GPU would not find each other
        words.append("--use_cpu")
    return words


def take_out(words: list[str], name: str) -> str | None:
    """Remove a flag and its value from a command line, in place; return the value, "" if none, None if absent."""
    value = None
    for number in reversed(range(len(words))):
        flag, equals, given = words[number].partition("=")
        if flag == f"--{name}":
            follows = not equals and number + 1 < len(words) and not words[number + 1].startswith("--")
            value = words[number + 1] if follows else given
            del words[number : number + 1 + follows]
    return value


def words_of_file(file: Path) -> list[str]:
    """Return the arguments in a JSON file, {"flag": value, …}, as a command line has them."""
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: expected a JSON file of arguments; {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f'{file}: expected one object {{"flag": value, …}}, got {type(content).__name__}')
    words = []
    for name, value in content.items():
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        words += [] if value is None else [f"--{name}", *map(str, values)]
    return words
