"""The GPU check's dry run: all of it that needs no GPU."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import gpu_check


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """Run all parts at small widths once."""
    words = "--device cpu --num-layers 1 --bits 0 4 --batches 1 3 --output"
    return gpu_check.run(gpu_check.parse([*words.split(), str(tmp_path_factory.mktemp("gpu_check"))]))


def test_dry_run_measures_every_part_that_needs_no_gpu(dry_run):
    assert not dry_run.failed, "\n".join(dry_run.failed.values())
    assert set(dry_run.skipped) == {"kernels", "tests marked cuda"}
    assert set(dry_run.parts) | set(dry_run.skipped) == set(gpu_check.PARTS)
    assert all(dry_run.parts.values())
    assert {(row["weights"], row["batch"], row["context"]) for row in dry_run.parts["decode"]} == {
        (weights, batch, context) for weights in ("FP16", "INT4") for batch in (1, 3) for context in (8, 12)
    }


def test_dry_run_judges_nothing_and_says_so(dry_run):
    assert dry_run.passed and dry_run.goals
    assert all(goal.passed is None for goal in dry_run.goals)
    text = (dry_run.output / "gpu_check.md").read_text(encoding="utf-8")
    assert "not judged" in text and "skipped: kernels: needs a CUDA device" in text
    content = json.loads((dry_run.output / "gpu_check.json").read_text(encoding="utf-8"))
    assert content["passed"] and set(content["parts"]) == set(dry_run.parts)


def test_goals_are_judged_by_their_limits(tmp_path):
    report = gpu_check.Report(tmp_path, judged=True)
    report.judge("share", 0.6, 0.55)
    report.judge("GB", 5.0, 5.0, at_most=True)
    assert report.passed
    report.judge("GB", 5.1, 5.0, at_most=True)
    assert not report.passed
    assert [goal.passed for goal in report.goals] == [True, True, False]
    assert report.markdown().count("**fail**") == 1


def test_a_part_that_fails_is_reported_and_the_others_go_on(tmp_path, monkeypatch):
    def fail(check):
        raise ValueError("no such thing")

    monkeypatch.setitem(gpu_check.PARTS, "decode", fail)
    words = ["--device", "cpu", "--parts", "decode", "environment", "kernels", "--output", str(tmp_path)]
    report = gpu_check.run(gpu_check.parse(words))
    assert not report.passed
    assert "ValueError: no such thing" in report.markdown()
    assert set(report.parts) == {"environment"}


def test_a_part_without_time_left_is_skipped(tmp_path):
    words = ["--device", "cpu", "--parts", "environment", "--seconds", "-1", "--output", str(tmp_path)]
    report = gpu_check.run(gpu_check.parse(words))
    assert report.skipped == {"environment": "more than -1 s had passed"}


def test_test_counts_reads_the_last_line_of_pytest():
    output = "....\n= slowest =\n2 failed, 210 passed, 3 skipped, 900 deselected in 61.20s (0:01:01)\n"
    assert gpu_check.test_counts(output) == {"failed": 2, "passed": 210, "skipped": 3, "deselected": 900}
    assert gpu_check.test_counts("") == {}
