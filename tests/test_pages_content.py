"""Tests of what the web pages share."""

from __future__ import annotations

import json

import pytest

from loading.arguments import SamplingArguments
from pages.content import HISTORY_ROUNDS, read_history, sliders
from pages.markdown import GRADIO, STREAMLIT, answer_markdown, question_markdown, typed_text
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
    assert typed_text(shown) == text
    assert not set(shown.replace("&#", "").replace(";", "")) & set("<>*_`$#![]")
    assert not any(line.startswith((" ", "\t")) for line in shown.split("\n"))


def test_question_markdown_keeps_code_blocks():
    text = "why?\n```python\nx = a < b  # *c*\n```\n*d*"
    assert question_markdown(text, GRADIO).split("\n")[1:4] == text.split("\n")[1:4]


def test_read_history_reads_what_the_api_writes():
    rounds = [["你好", "你好👋"], ["a", ""]]
    for content in (rounds, {"response": "", "history": rounds, "status": 200}):
        for bom in (b"", b"\xef\xbb\xbf"):
            assert read_history(bom + json.dumps(content, ensure_ascii=False).encode()) == rounds
    assert len(read_history(json.dumps([["a", "b"]] * (HISTORY_ROUNDS + 5)).encode())) == HISTORY_ROUNDS


@pytest.mark.parametrize(
    "data, message",
    [
        (b"{", "Expecting"),
        (b"\xff\xfe[", "utf-8"),
        (b"3", "int"),
        (b"{}", "NoneType"),
        (b'[["a", "b"], ["a"]]', "round 2"),
        (b'[["a", 1]]', "round 1"),
    ],
)
def test_read_history_refuses_other_files(data, message):
    with pytest.raises(ValueError, match=message):
        read_history(data)
