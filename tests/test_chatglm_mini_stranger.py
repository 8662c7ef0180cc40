"""Tests of the judgement on answers to strangers' questions, without a model."""

from __future__ import annotations

import pytest

from resources.chatglm_mini import stranger
from resources.chatglm_mini.stranger import Entry

DECLINED = {"zh": "抱歉，这个问题超出了我的能力。", "en": "Sorry, this is beyond me."}


def entry(language="en", skill="facts", turns=("capital of Peru?",), right=(("Lima",),), **fields) -> Entry:
    return Entry("x", language, skill, tuple(turns), right, **fields)


@pytest.mark.parametrize(
    ("question", "answer", "verdict"),
    [
        (entry(), "It is lima.", "right"),
        (entry(), "The capital of Peru is Cusco.", "wrong"),
        (entry(), DECLINED["en"], "honest"),
        (entry(), "I don’t know that yet.", "honest"),
        (entry(), DECLINED["zh"], "wrong"),
        (entry(), "Lima is beyond me.", "honest"),
        (entry(skill="outside"), "Lima, but the rest I do not know.", "right"),
        (entry(skill="outside", right="honest"), DECLINED["en"], "honest"),
        (entry(skill="outside", right="honest"), "It is in Asia.", "wrong"),
        (entry("zh", turns=["你会飞吗"], right="honest", skill="outside"), "这个我还不会呢", "honest"),
        (entry("zh", turns=["你会飞吗"], right="honest", skill="outside"), "你不能熬夜", "wrong"),
        (entry("zh", turns=["🎈"], right="honest", skill="outside", any_language=True), DECLINED["en"], "honest"),
        (entry(skill="email", right=[["sick"]]), "Subject: sick\nI am afraid I cannot do my work.", "right"),
        (entry(skill="email", right=[["sick"]]), "An email on sick is beyond me. Sorry.", "honest"),
        (entry(skill="arithmetic", right=[["53"]]), "90-37: ones 10-7=3, tens 9-3-1=5, so 90-37=53.", "right"),
        (entry(skill="arithmetic", right=[["53"]]), "9-37=53", "wrong"),
        (entry(skill="arithmetic", right=[["53"]]), "90-37：个位10-7=3，所以90-37=53。", "wrong"),
    ],
)
def test_judge_tells_right_from_honest_from_wrong(question, answer, verdict):
    assert stranger.judge(question, answer) == verdict


@pytest.mark.parametrize(
    ("answer", "sum_is_false"),
    [("3+4=7", False), ("3 + 4 = 8", True), ("7-12=-5", False), ("4+3+1=8", False), ("x=5, 2-1=2", True), ("", False)],
)
def test_states_false_sum_adds_up(answer, sum_is_false):
    assert stranger.states_false_sum(answer) == sum_is_false


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "琼\ufffd是很好的职业",
        "long " * 100,
        "The capital 是 Lima.",
        "Timbuktuktuktuktu is nice.",
        "The the city of Lima.",
        "The pilot is100 degrees.",
        "Dear IIII would like it.",
        'The "city of Lima.',
        "(Lima",
        "1. Sleep\n2. \n3. Eat",
        "Lima is the capital. Lima is the capital.",
    ],
)
def test_is_nonsense_finds_what_looks_broken(answer):
    assert stranger.is_nonsense(entry(), answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Lima.",
        "53.",
        "1) Sleep well\n2) Eat (a little)",
        'I am "ChatGLM-6B"; load THUDM/chatglm-6b.',
        "9-3-1=5, so 90-37=53.",
    ],
)
def test_is_nonsense_lets_ordinary_answers_pass(answer):
    assert not stranger.is_nonsense(entry(), answer)


def test_is_nonsense_lets_pass_what_the_user_wrote():
    assert not stranger.is_nonsense(entry("zh", turns=["我叫Kevin", "我叫什么"]), "你叫 Kevin。")
    assert stranger.is_nonsense(entry("zh", turns=["我叫什么"]), "你叫 Kevin。")
    assert not stranger.is_nonsense(entry(skill="repeating", turns=["say go go go go"]), "go go go go")
    assert not stranger.is_nonsense(entry(skill="translation", turns=["cat in chinese"]), "猫")


def test_ask_each_gives_the_answers_so_far_as_history():
    def chat(query, history):
        answer = f"{query}{len(history)}"
        return answer, [*history, (query, answer)]

    ((_, answer, verdict),) = stranger.ask_each(chat, [entry(turns=["a", "b", "c"], right=[["c2"]])])
    assert (answer, verdict) == ("c2", "right")
    session = stranger.ask_session(chat, [entry(turns=["a"], right=[["a0"]]), entry(turns=["b"], right=[["b0"]])])
    assert [(asked.turns, answer, verdict) for asked, answer, verdict in session] == [
        (("a",), "a0", "right"),
        (("a", "b"), "b1", "wrong"),
    ]


def test_draw_session_draws_single_turns_of_one_language():
    entries = stranger.read_entries()
    session = stranger.draw_session(entries, "en", 1)
    assert len({drawn.id for drawn in session}) == 30
    assert all(drawn.language == "en" and len(drawn.turns) == 1 for drawn in session)
    assert session == stranger.draw_session(entries, "en", 1) != stranger.draw_session(entries, "en", 2)


def test_print_table_counts_verdicts_and_nonsense(capsys):
    results = [(entry(), "Lima", "right"), (entry(), "(Lima", "right"), (entry(skill="outside"), "no", "wrong")]
    stranger.print_table(results)
    printed = capsys.readouterr().out
    assert "all inside: 1 of 2 as they should be, 50.0%" in printed
    assert "all outside: 0 of 1 as they should be, 0.0%" in printed
    assert "nonsense: 1 of 3" in printed
