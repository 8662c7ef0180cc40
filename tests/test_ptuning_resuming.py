"""Tests of ptuning/resuming.py on folders that look like checkpoints."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("datasets", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")

from ptuning import resuming  # noqa: E402
from ptuning.arguments import parse_training_arguments  # noqa: E402
from ptuning.trainer import TrainingError  # noqa: E402


@pytest.fixture
def output_dir(tmp_path):
    """Return a folder of two whole checkpoints."""
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}", encoding="utf-8")
        save_file({"weight": torch.ones(100)}, folder / "ptuning_prefix.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"step": step}, folder / name)
    return tmp_path


@pytest.mark.parametrize("name", ["ptuning_prefix.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_damaged_checkpoint_is_passed_over_and_named(output_dir, name):
    file, said = output_dir / "checkpoint-4" / name, []
    file.write_bytes(file.read_bytes()[:-1])
    assert resuming.choose_checkpoint(output_dir, said.append) == output_dir / "checkpoint-2"
    assert str(file) in said[0] and "checkpoint-2" in said[1] and len(said) == 2


def test_only_damaged_checkpoints_are_refused(output_dir):
    for step in (2, 4):
        (output_dir / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match="--overwrite_output_dir starts anew"):
        resuming.choose_checkpoint(output_dir, lambda text: None)


def test_missing_parts_are_said(output_dir):
    said, folder = [], output_dir / "checkpoint-4"
    resuming.report_missing(folder, said.append)
    assert said == []
    (folder / "optimizer.pt").unlink()
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    resuming.report_missing(folder, said.append)
    assert len(said) == 1 and "lacks optimizer.pt" in said[0]


@pytest.mark.parametrize("changed", ["learning rate", "data", "base model"])
def test_another_run_in_the_same_folder_is_a_question(output_dir, small_model, changed):
    data = output_dir / "rows.json"
    data.write_text("1", encoding="utf-8")

    def described(rate="0.1"):
        words = ["--output_dir", str(output_dir), "--train_file", str(data), "--learning_rate", rate]
        return resuming.describe_run(small_model, *parse_training_arguments("", words)[1:])

    (output_dir / resuming.RUN_FILE).write_text(json.dumps(described()), encoding="utf-8")
    resuming.check_same_run(output_dir, described())
    if changed == "data":
        data.write_text("2", encoding="utf-8")
    now = described("0.2" if changed == "learning rate" else "0.1")
    if changed == "base model":
        now["base model"] = "other (0123)"
    with pytest.raises(TrainingError, match=f"another run.*{changed} was.*--overwrite_output_dir"):
        resuming.check_same_run(output_dir, now)
