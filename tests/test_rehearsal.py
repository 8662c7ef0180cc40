"""Test of tests/benchmarks/rehearsal.py: every kind of step, at a tiny shape."""

from __future__ import annotations

import re
import sys

import pytest
from replay import write_small_checkpoint

from tests.benchmarks import rehearsal


@pytest.mark.long
def test_rehearsal_at_a_tiny_shape(tmp_path, monkeypatch, capsys):
    """One command runs the steps, each in its own process, and prints a table without a failure."""
    write_small_checkpoint(tmp_path / "vocabulary")
    words = [str(tmp_path / "made"), "--num_layers", "2", "--hidden_size", "32", "--num_attention_heads", "2"]
    words += ["--tokenizer", str(tmp_path / "vocabulary"), "--tokens", "3", "--max_memory", "cpu=9MB"]
    words += ["--calibration_tokens", "500"]

    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["rehearsal", *words, *more])
        status, printed = rehearsal.main(), capsys.readouterr().out
        assert status == 0, printed
        return printed

    printed = run("--only", "write,chat-3gb", "--keep")
    rows = dict(re.findall(r"^\| ([\w-]+) \| [\d.]+ \| [\d.]+ GB \| [\d.]+ GB \| (.*) \|$", printed, re.M))
    assert list(rows) == ["write", "chat-3gb"] and "8 shards" in rows["write"]

    # the other kinds of steps in this process, as starting one takes longer than a step
    arguments = rehearsal.build_parser().parse_args(words)
    notes = {
        step: rehearsal.STEPS[step](arguments)
        for step in ("calibrate-int4", "convert-int4", "one-file-int4", "stream", "p-tuning", "api")
    }
    taken = re.fullmatch(r"0\.\d\d GB, calibrated on (\d+) tokens", notes["calibrate-int4"])
    assert 500 <= int(taken[1]) < 3000  # the last dialogue is taken whole, and is long in so small a vocabulary
    assert "files: 1" in notes["one-file-int4"] and "loss " in notes["p-tuning"] and "tokens in" in notes["api"]

    run("--only", "write")  # it is there; not kept
    assert not (tmp_path / "made" / "float16").exists()
