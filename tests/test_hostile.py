"""A part of the cases of `hostile.py`; `python -m tests.hostile` tries all of them and prints a table."""

from __future__ import annotations

import hostile
import pytest

EVERY = 12  # so many-th case; which ones changes with each case that is added


@pytest.mark.parametrize("cases", [*hostile.FILES, hostile.request_cases], ids=lambda cases: cases.__name__)
def test_hostile_cases_are_held(tmp_path, cases):
    made = cases(tmp_path if cases is hostile.request_cases else hostile.Checkpoints(tmp_path))
    tried = [(case.name, hostile.attempt(case)) for number, case in enumerate(made) if number % EVERY == 0]
    assert tried and not [(name, why) for name, why in tried if why is not None]
