"""Tests of tests/benchmarks/adgen.py: its commands parse, its table and picture are made of what runs have written."""

from __future__ import annotations

import argparse
import json

import pytest

for package in ("datasets", "matplotlib", "rouge_chinese"):
    pytest.importorskip(package, reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")

from ptuning.arguments import parse_training_arguments  # noqa: E402
from ptuning.evaluation import plot_curves  # noqa: E402
from tests.benchmarks import adgen  # noqa: E402


@pytest.mark.parametrize("way", adgen.WAYS)
def test_command_is_one_of_the_trainer(tmp_path, way):
    arguments = argparse.Namespace(model="chatglm", data=tmp_path, output=tmp_path, steps=7, rows=5, cases=2)
    script, *words = adgen.command(way, arguments, tmp_path / "out")
    model, files, training = parse_training_arguments("", words)
    assert script == "ptuning/main.py" and training.max_steps == 7 and files.max_predict_samples == 5
    assert (model.quantization_bit == 4) == way.endswith("INT4")
    assert (model.pre_seq_len is not None) == way.startswith("P-Tuning")
    assert (model.lora_rank is not None) == way.startswith("LoRA")


def test_table_and_curve_are_those_of_the_runs(tmp_path):
    metrics = dict.fromkeys((*adgen.METRICS, "predict_loss"), 1.0)
    measured = {"before": metrics | {"skill a": 1.0}, "after": dict.fromkeys(metrics, 2.5) | {"skill a": 0.5}}
    run = {"seconds_per_step": 0.25, "trainable_parameters": 4096, "peak_memory_bytes": 2e9}
    log = [{"step": 1, "loss": 9.0}, {"step": 2, "eval_loss": 3.0}, {"step": 2, "loss": 8.0}]
    contents = {"measured": measured, "train_results": run, "trainer_state": {"log_history": log}}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    head, rule, row, published = adgen.table({"LoRA, INT4": tmp_path}).splitlines()
    assert {line.count("|") for line in (head, rule, row, published)} == {head.count("|")}
    assert row.count("1.00 / 2.50") == 5 and "100% / 50% | 0.25 | 4,096 | 2.00 GB" in row
    assert "`--lora_rank 8 --learning_rate 4e-3 --quantization_bit 4`" in row
    assert adgen.curve(tmp_path) == [(1, 9.0), (2, 8.0)]
    plot_curves({"a": adgen.curve(tmp_path), "none": []}, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
