"""Tests of what the web pages share."""

from __future__ import annotations

import html
import re

import pytest

from engine import QueueFullError
from loading.arguments import SamplingArguments
from pages.content import HISTORY_CHARACTERS, HISTORY_ROUNDS, WrongChatError, check_history, describe, newest, sliders
from pages.markdown import GRADIO, STREAMLIT, answer_markdown, question_markdown
from pages.texts import EXAMPLES, TEXTS


def test_texts_and_examples_are_there_in_both_languages():
    assert TEXTS["zh"].keys() == TEXTS["en"].keys() and EXAMPLES["zh"].keys() == EXAMPLES["en"].keys()
    for name, text in TEXTS["zh"].items():
        assert text.count("{}") == TEXTS["en"][name].count("{}"), name


def test_sliders_are_the_originals_within_the_models_limit():
    assert [tuple(slider) for slider in sliders(SamplingArguments(), 8192).values()] == [
        (2, 4096, 2048, 1),
        (0.01, 1.0, 0.7, 0.01),
        (0.0, 1.0, 0.95, 0.01),
        (0, 200, 50, 1),
        (1.0, 2.0, 1.0, 0.01),
        (0.0, 1.0, 0.0, 0.01),
        (-2.0, 2.0, 0.0, 0.01),
        (-2.0, 2.0, 0.0, 0.01),
    ]
    assert sliders(SamplingArguments(), 2048)["max_length"].most == 2048
    assert sliders(SamplingArguments(max_length=4000), 512)["max_length"][:3] == (2, 512, 512)
    assert sliders(SamplingArguments(temperature=1.5), 2048)["temperature"][:3] == (0.0, 1.5, 1.5)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<b>x</b> a < b, <!-- c -->", "&#60;b>x&#60;/b> a < b, &#60;!-- c -->"),
        ("![x](http://a/b.png) and !x", "&#33;[x](http://a/b.png) and !x"),
        ("&#60;b> &lt;", "&#38;#60;b> &lt;"),
        ("`<b>` and ``<i>`</i>``", "`<b>` and ``<i>`</i>``"),
        ("a\n```html\n<b>\n```\n<i>", "a\n```html\n<b>\n```\n&#60;i>"),
        ("```html\n<b> (still being written", "```html\n<b> (still being written"),
        ("~~~\n```\n<b>\n~~~\n<i>", "~~~\n```\n<b>\n~~~\n&#60;i>"),
        ("`not code\n\n<b>`", "`not code\n\n&#60;b>`"),
        ("$a<b$, \\(a&b\\)", r"\(a&#60;b\), \(a&#38;b\)"),
        ("\\[a<b\\] $$a_1$$", "$$a&#60;b$$ $$a_1$$"),
        ("it costs $5 and <b>$6</b>", "it costs $5 and &#60;b>$6&#60;/b>"),
        ("1. a\n2. b", "1. a\n2. b"),
        (
            "$10; 25$ and PATH=$PATH: or $PATH:/a:$HOME, $5 and 6$ <b>",
            "$10; 25$ and PATH=$PATH: or $PATH:/a:$HOME, $5 and 6$ &#60;b>",
        ),
        ("$2x+1$ $x$, $0.5$", r"\(2x+1\) \(x\), \(0.5\)"),
        ("设$x<y$，则$y>x$。", r"设\(x&#60;y\)，则\(y>x\)。"),
        ("\\`<b>\\` and \\\\`<b>`", "\\`&#60;b>\\` and \\\\`<b>`"),
        ("```a``` <b>", "```a``` &#60;b>"),
        ("```mermaid\ngraph\n```\n> - ~~~ Mermaid\n", "```text\ngraph\n```\n> - ~~~ text\n"),
        ("\\(a \\(b", "\\(a \\(b"),
    ],
)
def test_answer_markdown_keeps_code_and_formulas_and_nothing_active(text, expected):
    assert answer_markdown(text, GRADIO) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a\nb\n\nc", "a  \nb\n\nc"),
        ("```\na\nb\n```", "```\na\nb\n```"),
        ("\\(x\\) $x<y$ \\[y\\]", "$x$ $x<y$ $$y$$"),
        ("it costs $5 and $6", "it costs &#36;5 and &#36;6"),
        (":red[x] :smile: 10:30 a: b", "&#58;red[x] &#58;smile: 10:30 a: b"),
    ],
)
def test_answer_markdown_for_streamlit(text, expected):
    assert answer_markdown(text, STREAMLIT) == expected


@pytest.mark.parametrize(
    "text",
    ["类型#裙*风格#简约*图案#条纹", "<script>alert(1)</script> &lt; &#60;", "    # _a_ `b` $c$\n1. d\n\te", "a\n\nb"],
)
def test_question_markdown_is_reversible_and_leaves_no_mark(text):
    shown = question_markdown(text, GRADIO)
    assert html.unescape(shown) == text
    assert not set(shown.replace("&#", "").replace(";", "")) & set("<>*_`$#![]")
    assert not any(line.startswith((" ", "\t")) for line in shown.split("\n"))


def test_question_markdown_keeps_code_blocks():
    text = "why?\n```python\nx = a < b  # *c*\n```\n*d*"
    assert question_markdown(text, GRADIO).split("\n")[1:4] == text.split("\n")[1:4]


@pytest.mark.parametrize("mark", ["\\(", "\\[", "$$", "$", "`", "``` ", "` ``", "\\(a$", "$1", "```mermaid\n", "\n\n`"])
def test_answer_markdown_takes_linear_time(mark):
    """What has no end is not looked for again and again: this would take hours, as 60,000 characters took 9 seconds."""
    text = mark * (1_000_000 // len(mark))
    assert answer_markdown(text, GRADIO)


def test_check_history_keeps_the_newest_rounds():
    rounds = [["你好", "你好👋"], ["a", ""]]
    assert check_history(rounds) == rounds
    assert len(check_history([["a", "b"]] * (HISTORY_ROUNDS + 5))) == HISTORY_ROUNDS


@pytest.mark.parametrize(
    "content, message",
    [
        (3, "no list"),
        (None, "no list"),
        ([["a", "b"], ["a"]], "Round 2"),
        ([["a", 1]], "Round 1"),
        ([["a", "b" * HISTORY_CHARACTERS]], "1,000,000 characters"),
    ],
)
def test_check_history_refuses_what_is_none(content, message):
    with pytest.raises(WrongChatError, match=message) as caught:
        check_history(content)
    in_chinese = describe(caught.value, TEXTS["zh"])
    assert in_chinese.startswith("无法显示这个对话：") and not re.search("[A-Za-z]", in_chinese)


def test_newest_keeps_so_many_rounds_and_characters_as_a_page_takes():
    half = "b" * (HISTORY_CHARACTERS // 2)
    kept = newest([["a", "b"]] * HISTORY_ROUNDS + [["c", "d"]])
    assert len(kept) == HISTORY_ROUNDS and kept[-1] == ["c", "d"]
    assert check_history(newest([["1", half], ["2", half], ["3", "a"]])) == [["2", half], ["3", "a"]]
    assert newest([["1", half + half]]) == [] == newest([])


def test_describe_tells_errors_in_the_pages_language():
    assert describe(QueueFullError("the server is busy"), TEXTS["zh"]) == TEXTS["zh"]["busy"]
    assert "top_p" in describe(ValueError("top_p must be"), TEXTS["zh"])
