"""Test of tests/benchmarks/rehearsal.py: every step of it, at a tiny shape."""

from __future__ import annotations

import re
import subprocess
import sys

from conftest import ROOT
from replay import write_small_checkpoint


def test_rehearsal_at_a_tiny_shape(tmp_path):
    """One command runs all steps, each in its own process, and prints a table without a failure."""
    write_small_checkpoint(tmp_path / "vocabulary")
    shape = ["--num_layers", "2", "--hidden_size", "32", "--num_attention_heads", "2", "--tokens", "3"]
    command = [sys.executable, "-m", "tests.benchmarks.rehearsal", str(tmp_path / "made"), *shape]
    command += ["--tokenizer", str(tmp_path / "vocabulary"), "--max_memory", "cpu=9MB"]
    command += ["--calibration_tokens", "500"]
    # all kinds of steps, not all of each kind: a step costs the start of a process
    steps = "write,chat-3gb,calibrate-int4,convert-int4,one-file-int4,stream,p-tuning,api"
    done = subprocess.run([*command, "--only", steps], capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(re.findall(r"^\| ([\w-]+) \| [\d.]+ \| [\d.]+ GB \| [\d.]+ GB \| (.*) \|$", done.stdout, re.M))
    assert list(rows) == steps.split(",")
    assert re.fullmatch(r"0\.\d\d GB, calibrated on [5-9]\d\d tokens", rows["calibrate-int4"])
    assert "8 shards" in rows["write"] and "files: 1" in rows["one-file-int4"] and "tokens in" in rows["api"]
    assert not (tmp_path / "made" / "float16").exists()
