"""Tests of cli_demo.py: on a model that replays answers, on a small real one, and in a pseudo terminal."""

from __future__ import annotations

import io
import os
import random
import re
import subprocess
import sys
import threading

import pytest
import torch
import warm
from replay import ROOT, ReplayModel, Terminal, write_small_checkpoint

import cli_demo
from chatglm import ChatGLMForConditionalGeneration, ChatGLMTokenizer, InvalidLogitsError, PromptTooLongError
from loading.arguments import run_main
from pages import terminal as terminal_chat
from pages.texts import TERMINAL_TEXTS


def chat_with(model, tokenizer=None, lang="zh", **keywords) -> terminal_chat.Chat:
    return terminal_chat.Chat(model, tokenizer, keywords, TERMINAL_TEXTS[lang])


def fail_with(error: Exception):
    def answer(query, history):
        raise error

    return answer


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a random model, its tokenizer and the folder with both."""
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    model = write_small_checkpoint(folder)
    return model, ChatGLMTokenizer.from_pretrained(folder), folder


# Chat


def test_texts_have_the_same_keys_in_both_languages():
    assert TERMINAL_TEXTS["zh"].keys() == TERMINAL_TEXTS["en"].keys()
    assert TERMINAL_TEXTS["zh"]["user"] == "用户：" and TERMINAL_TEXTS["zh"]["model"] == "ChatGLM-6B："


def test_ask_writes_the_answer_and_keeps_the_round(capsys):
    model = ReplayModel(["你好👋!", "第二个回答\n有两行"])
    chat = chat_with(model, top_p=0.5)
    chat.ask("你好")
    chat.ask("再来")
    assert capsys.readouterr().out == "你好👋!\n第二个回答\n有两行\n"
    assert model.calls == [("你好", [], {"top_p": 0.5}), ("再来", [("你好", "你好👋!")], {"top_p": 0.5})]
    assert chat.history == [("你好", "你好👋!"), ("再来", "第二个回答\n有两行")]


def test_ask_never_takes_back_what_it_wrote(monkeypatch, capsys):
    """Whatever the punctuation mapping does later, the pieces add up to the final answer."""
    generator = random.Random(0)
    parts = ["a", "中", ",", "!", ":", ";", "?", "[[训练时间]]", "[", "训", " ", "\n", "好,", ",好", "[["]
    for _ in range(300):
        text = "".join(generator.choices(parts, k=12))
        model = ReplayModel([text])
        chat_with(model).ask("问")
        assert capsys.readouterr().out == ChatGLMForConditionalGeneration.process_response(text) + "\n", repr(text)


def test_ask_writes_each_character_when_it_is_settled(monkeypatch):
    pieces = []
    monkeypatch.setattr(terminal_chat, "write", pieces.append)
    chat_with(ReplayModel(["1,2中,3:中"])).ask("问")
    assert pieces == ["1", ",2", "中", "，", "3", "：中", "\n"]


def test_ask_keeps_what_was_said_when_interrupted(monkeypatch, capsys):
    model = ReplayModel(["这个回答会被打断"])
    written = []

    def interrupt_after_four(text):
        written.append(text)
        if len(written) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(terminal_chat, "write", interrupt_after_four)
    chat = chat_with(model)
    with pytest.raises(KeyboardInterrupt):
        chat.ask("问")
    assert chat.history == [("问", "这个回答")]
    assert model.closed == 1


def test_ask_keeps_the_history_when_interrupted_before_the_first_word():
    chat = chat_with(ReplayModel(["一", fail_with(KeyboardInterrupt())]))
    chat.ask("问")
    with pytest.raises(KeyboardInterrupt):
        chat.ask("又问")
    assert chat.history == [("问", "一")]


def test_ask_ends_the_generation_when_interrupted(small, monkeypatch):
    model, tokenizer, _ = small
    written = []

    def interrupt_at_once(text):
        written.append(text)
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(terminal_chat, "write", interrupt_at_once)
    steps = []
    hook = model.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(KeyboardInterrupt):
        chat_with(model, tokenizer, max_length=2000, temperature=0).ask("今天天气很好")
    ended_after = len(steps)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("chatglm")]
    hook.remove()
    assert 0 < ended_after < 1000  # of up to 1,990


def test_ask_drops_the_rounds_that_the_model_dropped_and_says_so_once(capsys):
    model = ReplayModel(["一", "二", "三", "四", "五"], dropped=[0, 1, 1, 0, 1])
    chat = chat_with(model)
    for query in "甲乙丙":
        chat.ask(query)
    assert chat.history == [("丙", "三")]
    assert capsys.readouterr().err.count(TERMINAL_TEXTS["zh"]["dropped"]) == 1
    chat.clear()
    chat.ask("丁")
    chat.ask("戊")
    assert capsys.readouterr().err.count(TERMINAL_TEXTS["zh"]["dropped"]) == 1


@pytest.mark.long
def test_ask_over_many_rounds_stays_within_the_limit(small, capsys):
    """60 rounds neither fail nor let the history grow: what the model cannot read is not kept."""
    model, tokenizer, _ = small
    chat = chat_with(model, tokenizer, max_length=120, max_new_tokens=4, temperature=0)
    longest = 0
    for number in range(60):
        chat.ask(f"今天天气很好 {number}")
        longest = max(longest, len(chat.history))
        assert chat.history[-1][0] == f"今天天气很好 {number}"
    assert longest < 12
    assert capsys.readouterr().err.count(TERMINAL_TEXTS["zh"]["dropped"]) == 1


def test_ask_gives_what_chat_gives(small, capsys):
    model, tokenizer, _ = small
    chat = chat_with(model, tokenizer, max_length=60, temperature=0)
    history = []
    for query in ("今天天气很好", "Hello, world!", "def add(a, b)"):
        chat.ask(query)
        response, history = model.chat(tokenizer, query, history, max_length=60, do_sample=False)
        assert capsys.readouterr().out == response + "\n"
    assert chat.history == history[-len(chat.history) :]


def test_write_keeps_control_characters_from_a_terminal_only(monkeypatch):
    class TerminalText(io.StringIO):
        def isatty(self):
            return True

    text = "a\x1b[2Jb\x07c\r\n\t中\x9b"
    for stream, expected in ((TerminalText(), "a[2Jbc\n\t中"), (io.StringIO(), text)):
        monkeypatch.setattr(sys, "stdout", stream)
        terminal_chat.write(text)
        assert stream.getvalue() == expected


# Questions from a file or a pipe


def answers_to(monkeypatch, capsys, text: str, model, lang="zh") -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    status = terminal_chat.answer_lines(chat_with(model, lang=lang))
    return status, *capsys.readouterr()


def test_answer_lines_writes_nothing_but_answers(monkeypatch, capsys):
    model = ReplayModel(["一", "二\n行"])
    assert answers_to(monkeypatch, capsys, "\ufeff问题一\r\n\n  问题二", model) == (0, "一\n二\n行\n", "")
    assert [query for query, _, _ in model.calls] == ["问题一", "问题二"]


def test_answer_lines_obeys_clear_and_stop(monkeypatch, capsys):
    model = ReplayModel(["一", "二"])
    assert answers_to(monkeypatch, capsys, "甲\nclear\n乙\nstop\n丙\n", model) == (0, "一\n二\n", "")
    assert [history for _, history, _ in model.calls] == [[], []]


@pytest.mark.parametrize(
    "error",
    [
        InvalidLogitsError("NaN"),
        RuntimeError("CUDA out of memory"),
        MemoryError("full"),
    ],
)
def test_answer_lines_goes_on_after_an_error(monkeypatch, capsys, error):
    model = ReplayModel([fail_with(error), "二"])
    status, out, err = answers_to(monkeypatch, capsys, "甲\n乙\n", model, lang="en")
    assert (status, out, err) == (1, "\n二\n", f"Error: {error}\n")


def test_too_long_a_question_is_told_in_both_languages():
    for lang, texts in TERMINAL_TEXTS.items():
        told = chat_with(None, lang=lang).describe(PromptTooLongError(3000, 2048))
        assert told == texts["too_long"].format(3000, 2048) and "--max-length" in told


def test_answer_lines_says_that_a_question_is_too_long(small, monkeypatch, capsys):
    model, tokenizer, _ = small
    monkeypatch.setattr(sys, "stdin", io.StringIO("公园散步" * 200 + "\n今天\n"))
    chat = chat_with(model, tokenizer, max_length=50, temperature=0)
    assert terminal_chat.answer_lines(chat) == 1
    out, err = capsys.readouterr()
    assert err.startswith("问题有 ") and " 50，" in err
    assert [query for query, _ in chat.history] == ["今天"] and len(out.splitlines()) >= 2


def test_a_limit_that_is_the_models_own_is_not_to_be_raised():
    for texts in TERMINAL_TEXTS.values():
        chat = terminal_chat.Chat(None, None, {}, texts, model_limit=2048)
        told = chat.describe(PromptTooLongError(3000, 2048))
        assert "3000" in told and "2048" in told and "--max-length" not in told
        assert "--max-length" in chat.describe(PromptTooLongError(3000, 1000))


@pytest.mark.parametrize("word", ["stop", "exit", "quit", "Stop", " QUIT "])
def test_words_that_end_the_chat_are_commands(monkeypatch, capsys, word):
    model = ReplayModel(["一", "二", "三"])
    assert answers_to(monkeypatch, capsys, f"甲\n CLEAR \n乙\n{word}\n丙\n", model) == (0, "一\n二\n", "")
    assert [history for _, history, _ in model.calls] == [[], []]


def test_word_wrap_breaks_between_words_however_the_text_comes():
    generator = random.Random(0)
    parts = ["a", "word", "中文", "international", "，", "4,000", "\n", "https://example.com/a/long/address"]
    for _ in range(200):
        text = "".join(part + generator.choice(["", " "]) for part in generator.choices(parts, k=40))
        for size in (1, 3, 1000):
            wrap, width = terminal_chat.WordWrap(12), 40
            pieces = [text[start : start + size] for start in range(0, len(text), size)]
            shown = "".join(wrap.add(piece, width) for piece in pieces) + wrap.kept
            assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", text)
            for word in re.findall(r"[!-~]+", text):
                assert len(word) >= 20 or word in shown, (text, shown)
        wrap = terminal_chat.WordWrap(12)
        assert wrap.add(text, float("inf")) + wrap.kept == text  # what is not a terminal gets the text as it is


# The program


def run_cli(monkeypatch, capsys, *arguments: str, text: str = "今天\n") -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["cli_demo.py", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    with pytest.raises(SystemExit) as ended:
        run_main(cli_demo.main)
    return ended.value.code, *capsys.readouterr()


def test_main_answers_by_the_arguments(small, monkeypatch, capsys):
    model, tokenizer, folder = small
    common = ["--model", str(folder), "--device", "cpu", "--max-new-tokens", "12"]
    status, greedy, err = run_cli(monkeypatch, capsys, *common, "--temperature", "0")
    assert (status, greedy) == (0, model.chat(tokenizer, "今天", temperature=0, max_new_tokens=12)[0] + "\n")
    assert "cpu" in err and "float32" in err
    answers = {
        seed: run_cli(monkeypatch, capsys, *common, "--seed", seed, "--temperature", "5", "--top-p", "1.0")[1]
        for seed in ("1", "2")
    }
    torch.rand(3)
    again = run_cli(monkeypatch, capsys, *common, "--seed", "1", "--temperature", "5", "--top_p", "1.0")[1]
    assert answers["1"] == again != answers["2"]


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
@pytest.mark.long
def test_pipe_works_offline_in_a_c_locale(small, tmp_path, locale):
    """A path with spaces, dots and (where file names can be Chinese at all) Chinese, no network, an ASCII locale."""
    model, tokenizer, folder = small
    name = "model v1.1 (copy).d" if "PYTHONUTF8" in locale else "模型 v1.1 (副本).d"
    (tmp_path / name).symlink_to(folder, target_is_directory=True)
    environment = os.environ | locale | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONIOENCODING", None)
    command = [sys.executable, ROOT / "cli_demo.py", "--model", name, "--max-length", "40", "--temperature", "0"]
    done = subprocess.run(command, input="今天天气很好\n".encode(), capture_output=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == model.chat(tokenizer, "今天天气很好", max_length=40, temperature=0)[0] + "\n"


def test_pipe_whose_reader_leaves_ends_quietly(small, tmp_path):
    script = " ".join([*warm.python(), str(ROOT / "cli_demo.py")])
    command = f"{script} --model {small[2]} --max-new-tokens 200 | head -c 1 > {os.devnull}"
    done = subprocess.run(["bash", "-c", command], input="今天\n".encode() * 50, capture_output=True, cwd=tmp_path)
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr


# In a terminal

REPLAY = """
import replay
from pages import terminal as terminal_chat
from pages.texts import TERMINAL_TEXTS
from loading.arguments import run_main
model = replay.ReplayModel({answers}, seconds={seconds})
run_main(lambda: terminal_chat.converse(terminal_chat.Chat(model, None, {{}}, TERMINAL_TEXTS["zh"])))
"""
HISTORY = "lambda query, history: query + repr(history)"


@pytest.fixture
def terminal(request):
    terminals = []

    def start(answers: str, seconds: float = 0.0, **environment: str) -> Terminal:
        code = REPLAY.format(answers=answers, seconds=seconds)
        terminals.append(Terminal(code, **{"NO_COLOR": "1"} | environment))
        return terminals[-1]

    yield start
    for started in terminals:
        started.close()


needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo terminals")


@needs_terminal
@pytest.mark.parametrize("locale", [{"LC_ALL": "C.UTF-8"}, pytest.param({"LC_ALL": "C"}, marks=pytest.mark.long)])
def test_terminal_edits_wide_characters_and_recalls_questions(terminal, locale):
    pytest.importorskip("readline", reason="line editing needs readline")
    screen = terminal(f"[{HISTORY}, '二', {HISTORY}, {HISTORY}, {HISTORY}]", **locale)
    screen.read_until("stop 终止程序")
    screen.read_until("用户：")
    screen.type("你好世界啊\x7f\x7f\x1b[D\x1b[D早，\r")  # Backspace and left, twice each, move by characters
    screen.read_until("ChatGLM-6B：")
    assert screen.read_until("\r\n") == "你早，好世[]"
    screen.read_until("用户：")
    screen.type("第二问\r")
    screen.read_until("ChatGLM-6B：二\r\n")
    screen.read_until("用户：")
    screen.type("clear\r")
    screen.read_until("对话历史已清空\r\n")
    screen.read_until("用户：")
    screen.type("\x1b[A\x1b[A\r")  # up twice: over `clear` to the second question
    screen.read_until("ChatGLM-6B：")
    assert screen.read_until("\r\n") == "第二问[]"
    screen.read_until("用户：")
    screen.type("\x1b[200~一行\n二行\x1b[201~\r")  # a paste of two lines is one question
    screen.read_until("ChatGLM-6B：")
    assert screen.read_until("\r\n") == "一行"
    assert screen.read_until("\r\n") == "二行[('第二问', '第二问[]')]"
    screen.read_until("用户：")
    screen.type("stop\r")
    assert screen.wait() == 0


@needs_terminal
def test_terminal_streams_without_redrawing_and_stops_an_answer_on_ctrl_c(terminal):
    screen = terminal(f"['一二三四五六七八九十' * 400, {HISTORY}]", seconds=0.01)
    screen.read_until("用户：")
    screen.type("数数\r")
    screen.read_until("ChatGLM-6B：")
    shown = screen.read_until("十一二三")
    screen.type("\x03")
    shown += "十一二三" + screen.read_until("（回答已中断）").replace("^C", "").rstrip("\r\n")
    assert ("一二三四五六七八九十" * 400).startswith(shown)  # no escape sequence, nothing written twice
    assert len(shown) < 4000
    screen.read_until("用户：")
    screen.type("什么\r")
    screen.read_until("ChatGLM-6B：")
    assert screen.read_until("\r\n") == f"什么{[('数数', shown)]!r}"
    screen.read_until("用户：")
    assert screen.interrupt() == 0


@needs_terminal
def test_terminal_ends_on_ctrl_d_and_shows_errors(terminal):
    screen = terminal("[lambda query, history: (_ for _ in ()).throw(RuntimeError('out of memory')), '二']")
    screen.read_until("用户：")
    screen.type("甲\r")
    screen.read_until("错误：out of memory\r\n")
    screen.read_until("用户：")
    screen.type("乙\r")
    screen.read_until("ChatGLM-6B：二\r\n")
    screen.read_until("用户：")
    screen.type("\x04")
    assert screen.wait() == 0
    assert "Traceback" not in screen.output


@needs_terminal
def test_terminal_wraps_english_and_keeps_pressed_keys_out_of_the_answer(terminal):
    answer = "one two three four five " * 8
    screen = terminal(f"[{answer!r}, {HISTORY}]", seconds=0.01)
    screen.read_until("用户：")
    screen.type("count\r")
    screen.read_until("ChatGLM-6B：")
    screen.type("next")  # during the answer: it is the beginning of the next question
    shown = screen.read_until("用户：")
    lines = ("ChatGLM-6B：" + shown).removesuffix("\x1b[?2004h").rstrip().split("\r\n")  # readline takes pastes again
    assert " ".join(line.strip() for line in lines) == "ChatGLM-6B：" + answer.strip()
    assert len(lines) > 2 and all(len(line) <= 80 for line in lines)
    screen.type("?\r")
    screen.read_until("ChatGLM-6B：next?")
    screen.read_until("用户：")
    screen.type("Exit\r")
    assert screen.wait() == 0


@needs_terminal
@pytest.mark.parametrize("ended_by", ["Ctrl-C", "SIGTERM"])
def test_terminal_echoes_again_whatever_ends_the_answer(terminal, ended_by):
    import signal
    import termios

    def echoes() -> bool:
        return bool(termios.tcgetattr(screen.screen)[3] & termios.ECHO)

    screen = terminal("['一二三四五六七八九十' * 400]", seconds=0.01)
    screen.read_until("用户：")
    screen.type("数数\r")
    screen.read_until("一二三")
    assert not echoes()
    if ended_by == "Ctrl-C":
        screen.type("\x03")
        screen.read_until("用户：")
        screen.type("\x04")  # at the prompt, readline echoes by itself
    else:
        screen.process.send_signal(signal.SIGTERM)
    screen.process.wait(timeout=60)
    assert echoes()


@needs_terminal
@pytest.mark.parametrize(
    ("environment", "colours"),
    [({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": "", "TERM": "dumb"}, False)],
)
def test_terminal_shows_colours_unless_told_not_to(terminal, environment, colours):
    screen = terminal("['一']", **environment)
    screen.read_until("用户：")
    screen.type("甲\r")
    screen.read_until("ChatGLM-6B：")
    assert ("\x1b[36m" in screen.output, "\x1b[32m" in screen.output) == (colours, colours)
