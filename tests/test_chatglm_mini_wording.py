"""Wordings by composition: what a grammar can say, what typing does to it, and which split a question belongs to."""

from __future__ import annotations

import random
import re

import pytest

from resources.chatglm_mini import wording
from resources.chatglm_mini.wording import ask, belongs, expand, plain, typed

CAPITAL = "(What is|What's|Name) the capital [city] of {x}"


def texts(grammar: str, count: int = 400) -> set[str]:
    rng = random.Random(0)
    return {expand(rng, grammar) for _ in range(count)}


def test_expand_says_everything_a_grammar_can_say_and_nothing_else():
    heads = ("What is", "What's", "Name")
    assert texts(CAPITAL) == {f"{head} the capital{city} of {{x}}" for head in heads for city in ("", " city")}


def test_expand_nests_and_leaves_out():
    assert texts("a[(b|c)[d]]|e") == {"a", "ab", "ac", "abd", "acd", "e"}
    assert texts("[x|y]z|") == {"z", "xz", "yz", ""}


@pytest.mark.parametrize("grammar", ["(a|b", "a]b", "(a]", "[a|(b]"])
def test_expand_names_the_bracket_without_a_partner(grammar):
    with pytest.raises(ValueError, match=re.escape(repr(grammar))):
        expand(random.Random(0), grammar)


@pytest.mark.parametrize(
    ("language", "template"),
    [("en", "What is the Capital of {City} and why do you want to go to {x}"), ("zh", "{City}的首都在哪里{x}")],
)
def test_typed_changes_words_but_no_slot(language, template):
    rng = random.Random(1)
    variants = {typed(rng, template, language) for _ in range(500)}
    assert len(variants) > 30
    assert all(re.findall(r"\{\w*\}", variant) == ["{City}", "{x}"] for variant in variants)


def test_typed_keeps_most_of_a_question():
    """A slip changes one word, short forms and openers a few: whoever reads it still understands."""
    rng, template = random.Random(2), "How many days are there in the month of {x}"
    for _ in range(300):
        variant = set(re.findall(r"\w+", typed(rng, template, "en").lower()))
        assert len(variant & set(re.findall(r"\w+", template.lower()))) >= 7


def test_ask_never_asks_a_question_in_both_splits():
    rng = random.Random(3)
    train, test = (
        {plain(ask(rng, split, "en", CAPITAL, x=f"Country{n % 50}")) for n in range(3000)}
        for split in ("train", "test")
    )
    assert len(train) > 200 and len(test) > 20
    assert not train & test


def test_ask_says_so_where_a_split_has_no_question(monkeypatch):
    monkeypatch.setattr(wording, "typed", lambda rng, text, language: text)
    with pytest.raises(ValueError, match="no question of the split 'test' in '你好'"):
        ask(random.Random(0), "test", "zh", "你好")


def test_the_shortest_questions_are_always_trained():
    for text in ("你好", "谢谢你！", "hi", "Thank you", "who are you?"):
        assert belongs(text, "train") and not belongs(text, "test")
    assert any(belongs(f"question number {n} of a longer kind", "test") for n in range(50))
