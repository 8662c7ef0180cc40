"""Tests of the strangers' questions, resources/chatglm_mini/questions.jsonl, without a model."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from resources.chatglm_mini.stranger import HONEST, LANGUAGES, OUTSIDE, QUESTIONS, fits, read_entries

SKILLS = {
    *("greetings", "identity", "facts", "arithmetic", "translation", "comparison", "advice", "outline", "travel"),
    *("email", "extraction", "advertisement", "role play", "repeating", "memory", OUTSIDE),
}


@pytest.fixture(scope="module")
def entries():
    return read_entries()


def test_questions_are_complete_objects():
    """Each line has the fields that its reader knows, and those that are not optional."""
    required = {"id", "language", "skill", "turns", "right"}
    for line in QUESTIONS.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        assert required <= fields.keys() <= required | {"any_language"}, line
        assert fields["turns"] and all(isinstance(turn, str) and turn.strip() for turn in fields["turns"]), line


def test_questions_are_distinct(entries):
    for of in (lambda entry: entry.id, lambda entry: entry.turns):
        assert [value for value, count in Counter(map(of, entries)).items() if count > 1] == []


def test_questions_are_many_enough(entries):
    skills = Counter(entry.skill for entry in entries)
    assert len(entries) >= 320
    assert set(skills) == SKILLS
    assert min(skills.values()) >= 12
    assert skills[OUTSIDE] >= 90


def test_questions_are_balanced_between_languages(entries):
    """Half of all are in each language, and about half of each skill."""
    languages = Counter(entry.language for entry in entries)
    assert set(languages) == set(LANGUAGES)
    assert abs(languages["zh"] - languages["en"]) <= 0.02 * len(entries)
    counts = Counter((entry.skill, entry.language) for entry in entries)
    for skill in SKILLS:
        assert abs(counts[skill, "zh"] - counts[skill, "en"]) <= 2, skill


def test_right_is_honest_or_patterns_that_compile(entries):
    """Only questions outside of the scope ask for honesty alone."""
    for entry in entries:
        if entry.right == HONEST:
            assert entry.skill == OUTSIDE, entry.id
            continue
        assert entry.right and all(entry.right), entry.id
        for pattern in (pattern for patterns in entry.right for pattern in patterns):
            re.compile(pattern)
        assert not fits(entry, ""), f"{entry.id}: an empty answer would be right"
