"""The skills of the mini checkpoint: samples are right by their own rule, wrong for others, and split cleanly."""

import importlib
import pkgutil
import random
import re

import pytest

import resources.chatglm_mini.skills
from resources.chatglm_mini.dialogue import Dialogue

NAMES = [module.name for module in pkgutil.iter_modules(resources.chatglm_mini.skills.__path__)]
SPLITS = ("train", "test")
SAMPLES = 500


def draw(name: str, split: str, count: int = SAMPLES, seed: int = 5) -> list[Dialogue]:
    skill = importlib.import_module(f"resources.chatglm_mini.skills.{name}").SKILL
    rng = random.Random(seed)
    return [skill.sample(rng, split) for _ in range(count)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", NAMES)
def test_check_accepts_own_answer(name: str, split: str) -> None:
    assert [dialogue.turns for dialogue in draw(name, split) if not dialogue.check(dialogue.answer)] == []


@pytest.mark.parametrize("name", NAMES)
def test_check_rejects_answers_to_other_questions(name: str) -> None:
    dialogues = draw(name, "test")
    other = draw("arithmetic" if name != "arithmetic" else "advice", "test")
    assert not any(dialogue.check("") for dialogue in dialogues)
    assert sum(dialogue.check(wrong.answer) for dialogue, wrong in zip(dialogues, other, strict=True)) <= SAMPLES // 50


# A closed set of answers, where another question of the skill often has the same right answer.
SHARED_ANSWERS = {"greetings", "identity", "outofscope", "limits"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - SHARED_ANSWERS))
def test_check_rejects_another_answer_of_the_same_skill(name: str) -> None:
    dialogues = draw(name, "test")
    pairs = zip(dialogues, dialogues[1:], strict=False)
    assert sum(dialogue.check(wrong.answer) for dialogue, wrong in pairs if dialogue.answer != wrong.answer) <= 50


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_conversation(name: str) -> None:
    def asked(dialogue: Dialogue) -> tuple[object, ...]:
        return (*dialogue.history, dialogue.question)

    seen = {asked(dialogue) for dialogue in draw(name, "train", 5000)}
    assert not seen & {asked(dialogue) for dialogue in draw(name, "test")}


@pytest.mark.parametrize("name", NAMES)
def test_samples_repeat_for_a_seed(name: str) -> None:
    first, again = (draw(name, "train", 50) for _ in range(2))
    assert [dialogue.turns for dialogue in first] == [dialogue.turns for dialogue in again]
    assert [dialogue.turns for dialogue in first] != [dialogue.turns for dialogue in draw(name, "train", 50, seed=6)]


def test_closed_lists_are_as_large_as_promised() -> None:
    from resources.chatglm_mini.tables import blocks, table

    entries = [line.split(" = ") for line in table("translation")]
    assert len(entries) >= 300
    assert len({chinese for chinese, _ in entries}) == len({english for _, english in entries}) == len(entries)
    assert len(table("capitals")) + len(blocks("facts")) >= 100
    assert len(blocks("troubles")) + len(blocks("aims")) >= 40
    assert len(blocks("travel")) >= 30


@pytest.mark.parametrize("split", SPLITS)
def test_words_said_to_be_unknown_are_not_listed(split: str) -> None:
    from resources.chatglm_mini.tables import table

    entries = {word for line in table("translation") for word in line.split(" = ")}
    named = [re.match(r"[“\"](.+)[”\"](翻译成| in )", dialogue.answer) for dialogue in draw("limits", split, 3000)]
    words = {found[1] for found in named if found}
    assert len(words) > 200
    assert not words & entries


@pytest.mark.parametrize("split", SPLITS)
def test_answer_to_an_unknown_value_names_it_as_the_question_does(split: str) -> None:
    for dialogue in draw("limits", split, 1000):
        found = re.match(r"[“\"](.+)[”\"](翻译成| in )", dialogue.answer) or re.match(
            r"The capital of (.+) is beyond|(.+)的首都|(.+)\d天|Plan for .+ in (.+):", dialogue.answer
        )
        if found:
            value = next(group for group in found.groups() if group)
            assert value in dialogue.question, dialogue.turns


def test_harder_operands_carry_or_are_close() -> None:
    from resources.chatglm_mini.skills.arithmetic import harder

    rng = random.Random(4)
    for _ in range(1000):
        a, b = harder(rng, rng.randint(0, 99), rng.randint(0, 99), "+")
        assert 0 <= a <= 99 and 0 <= b <= 99 and a % 10 + b % 10 > 9
        a, b = harder(rng, rng.randint(0, 99), rng.randint(0, 99), "-")
        assert 0 <= b <= 99 and abs(a - b) <= 15
