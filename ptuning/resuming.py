"""Which checkpoint a run goes on from, and whether it is the same run: same data, same base, same learning rate."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from chatglm import ChatGLMForConditionalGeneration
from loading.adapters import fingerprint
from loading.checkpoint import LoadError, check_file, read_json
from ptuning.arguments import DataArguments, TrainingArguments
from ptuning.trainer import TrainingError, checkpoints

RUN_FILE = "run.json"
# What the library reads when it resumes, and goes on without in silence; some are named after the process.
PARTS = {
    "optimizer.pt": "its averages start anew",
    "scheduler.pt": "the learning rate's schedule starts anew",
    "rng_state*.pth": "dropout draws other numbers",
}


def describe_run(
    model: ChatGLMForConditionalGeneration, files: DataArguments, training: TrainingArguments
) -> dict[str, str]:
    """Return what makes a run another one, by the names that a message gives it."""
    content = b"".join(Path(file).read_bytes() for file in (files.train_file, files.general_data) if file)
    return {
        "base model": f"{model.config.name_or_path} ({fingerprint(model)})",
        "data": f"{files.train_file} ({hashlib.sha256(content).hexdigest()[:8]})",
        "learning rate": f"{training.learning_rate:g}",
        "quantization_bit": str(model.config.quantization_bit or "none"),
    }


def check_same_run(output_dir: Path, described: dict[str, str]) -> None:
    """Refuse to go on in a folder whose run was another one.

    Raises:
        TrainingError: names what differs, and the ways out.
    """
    file = output_dir / RUN_FILE
    before = read_json(file) if file.exists() else described  # older runs have none
    for name, value in described.items():
        if identity(before.get(name, value)) != identity(value):
            raise TrainingError(
                f"another run? {output_dir} holds checkpoints whose {name} was {before[name]}, now it is {value}: "
                "--overwrite_output_dir starts anew, --resume_from_checkpoint CHECKPOINT goes on with it, "
                "another --output_dir keeps both"
            )


def identity(described: str) -> str:
    """Return the part of a description that counts: the hash, as files may have moved."""
    return described.rpartition(" (")[2]


def damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, None if all can be read."""
    for file in sorted(checkpoint.iterdir()):
        try:
            if file.suffix == ".json":
                read_json(file)
            elif file.suffix in (".safetensors", ".bin"):
                check_file(file)
            elif file.suffix in (".pt", ".pth") and not zipfile.is_zipfile(file):
                return f"{file} is damaged or cut short"
        except LoadError as error:
            return str(error).removesuffix(": download it again")
    return None


def choose_checkpoint(output_dir: Path, report: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint that can be read, None if the folder has none; say which are passed over.

    Raises:
        TrainingError: there are checkpoints, and all are damaged.
    """
    found = checkpoints(output_dir)
    for checkpoint in reversed(found):
        wrong = damage(checkpoint)
        if wrong is None:
            report(f"resuming from {checkpoint}; --overwrite_output_dir starts anew")
            return checkpoint
        report(f"not resuming from {checkpoint}: {wrong}")
    if found:
        raise TrainingError(f"no checkpoint in {output_dir} can be read: --overwrite_output_dir starts anew")
    return None


def report_missing(checkpoint: Path, report: Callable[[str], None]) -> None:
    """Say which parts of a checkpoint, other than weights, are not there to resume from."""
    for name, consequence in PARTS.items():
        if not any(checkpoint.glob(name)):
            report(f"{checkpoint} lacks {name.replace('*', '')}: {consequence}")
