"""Tests of web_demo2.py: its page in a real browser, with an engine whose answers are given."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from replay import write_small_checkpoint

pytest.importorskip("streamlit", reason="needs streamlit")
from browsing import BLOCKED, expect, open_browser  # noqa: E402  (after the check for Playwright in it)

from pages.texts import TEXTS  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
# The page with an engine in place of the checkpoint's: with a pause before each token, a long one in answers to `slow`.
PROGRAM = """
import sys
import streamlit as st
from replay import ReplayEngine
from test_web_demo import reply
from pages import streamlit_page
from loading.arguments import ModelArguments, SamplingArguments
from loading.load import load_model_and_tokenizer

@st.cache_resource
def engine():
    made = ReplayEngine(*load_model_and_tokenizer(ModelArguments({folder!r}, device="cpu")), reply, seconds=0.01)
    submit = made.submit

    def told(*requests):
        for request in requests:
            made.seconds = 1.0 if made.prompt(request).endswith("slow") else 0.01
            print("asked", repr(made.prompt(request)), request.top_p, request.temperature, flush=True)
        return submit(*requests)

    made.submit = told
    made.on_finished = lambda answer: print("ended", answer.finish_reason, flush=True)
    return made

streamlit_page.draw_page(engine(), SamplingArguments(), "auto")
"""


class Program:
    """A Streamlit server with the page."""

    def __init__(self, script: Path, *words: str) -> None:
        code = BLOCKED + f"import sys; sys.argv = {['streamlit', 'run', str(script), *words]!r}\n"
        code += "from streamlit.web.cli import main; main()"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,  # where .streamlit/config.toml is
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self.log: list[str] = []
        self.address = re.search(r"http://\S+", self.read_until("http://127.0.0.1"))[0]

    def read_until(self, text: str) -> str:
        """Return the next line of the log with a text in it; fail if the program ends before."""
        for line in self.process.stdout:
            self.log.append(line)
            if text in line:
                return line
        raise AssertionError("".join(self.log))

    def close(self) -> str:
        """End the program and return its log."""
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=60)
        return "".join(self.log) + rest


# What Streamlit's server says of a browser that left while a message was on its way there.
LEFT = re.compile(
    r"Task exception was never retrieved\nfuture: .*WebSocketProtocol.*\n"
    r"(?:(?!Task exception).*\n)*?tornado\.websocket\.WebSocketClosedError\n"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streamlit")
    write_small_checkpoint(folder / "model")
    script = folder / "page.py"
    script.write_text(PROGRAM.format(folder=str(folder / "model")), encoding="utf-8")
    made = Program(script, "--server.port", str(free_port()))
    yield made
    log = LEFT.sub("", made.close())
    assert "Traceback" not in log and "blocked" not in log, log


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


class Visitor:
    """A person with a browser of their own."""

    def __init__(self, context, address: str) -> None:
        self.context = context
        self.asked: list[str] = []
        context.on("request", lambda request: self.asked.append(request.url))
        self.page = context.new_page()
        self.page.goto(address)
        self.box = self.page.get_by_test_id("stChatInputTextArea")
        expect(self.box).to_be_visible()

    def ask(self, question: str) -> None:
        self.box.fill(question)
        self.box.press("Enter")

    def shows(self, *texts: str) -> None:
        """Wait until the chat is these questions and answers."""
        messages = self.page.get_by_test_id("stChatMessageContent").get_by_test_id("stMarkdownContainer")
        expect(messages).to_have_text(list(texts))


@pytest.fixture
def visit(browser, program):
    with contextlib.ExitStack() as stack:

        def new(locale: str = "en-US", **options) -> Visitor:
            context = stack.enter_context(contextlib.closing(browser.new_context(locale=locale, **options)))
            context.set_default_timeout(120_000)
            return Visitor(context, program.address)

        yield new


def test_ask_with_history_sliders_and_clear(visit, program):
    """Rounds follow one another, the model is asked with the history and with what the sliders are set to."""
    person = visit()
    for name, value in (("max_length", "2048"), ("top_p", "0.70"), ("temperature", "0.95")):
        slider = person.page.get_by_test_id("stSlider").filter(has_text=TEXTS["en"][name])
        expect(slider).to_contain_text(value)
    person.ask("first")
    person.shows("first", "answer 0 to first")
    slider = person.page.get_by_test_id("stSlider").filter(has_text=TEXTS["en"]["temperature"])
    slider.get_by_role("slider").press("ArrowLeft")
    expect(slider).to_contain_text("0.94")
    person.page.wait_for_timeout(1500)  # the value reaches the program a moment after it is shown
    person.ask("second")
    person.shows("first", "answer 0 to first", "second", "answer 1 to second")
    while "second" not in (line := program.read_until("asked")):
        pass
    assert "first" in line and line.strip().endswith("0.7 0.94")
    person.page.get_by_role("button", name=TEXTS["en"]["clear"]).click()
    person.shows()
    person.ask("third")
    person.shows("third", "answer 0 to third")


@pytest.mark.long
def test_stream_stop_and_separate_people(visit, program):
    """Text is seen as it comes; Streamlit's Stop ends the generation; nobody sees another's chat."""
    person, other = visit(), visit("zh-CN")
    expect(other.box).to_have_attribute("placeholder", TEXTS["zh"]["placeholder"])
    person.ask("long")
    expect(person.page.get_by_test_id("stChatMessageContent").last).to_contain_text("abcdefghij abc")
    person.page.get_by_role("button", name=TEXTS["en"]["clear"]).click()
    while "cancelled" not in program.read_until("ended"):
        pass
    person.shows()
    other.ask("mine")
    other.shows("mine", "answer 0 to mine")
    person.shows()


@pytest.mark.long
def test_reload_keeps_the_chat_and_no_name_can_be_chosen(visit, program):
    person, other = visit(), visit()
    person.ask("first")
    person.shows("first", "answer 0 to first")
    person.page.reload()
    person.shows("first", "answer 0 to first")
    person.ask("second")
    person.shows("first", "answer 0 to first", "second", "answer 1 to second")
    other.page.goto(program.address + "/?chat=mine")
    expect(other.page).not_to_have_url(re.compile("chat=mine"))
    other.shows()


@pytest.mark.long
def test_what_comes_while_an_answer_is_slow_waits_for_its_end(visit):
    """Streamlit runs the page anew in another thread: a stopped answer is neither lost nor comes back after Clear."""
    person = visit()
    answers = person.page.get_by_test_id("stChatMessageContent")
    person.ask("slow")
    expect(answers.last).to_contain_text("a")
    person.page.get_by_role("button", name=TEXTS["en"]["clear"]).click()
    person.shows()
    person.ask("next")
    person.shows("next", "answer 0 to next")
    person.page.get_by_role("button", name=TEXTS["en"]["clear"]).click()
    person.shows()  # or the "a" of the old answer would be taken for the next one's
    person.ask("slow")
    expect(answers.last).to_contain_text("a")
    person.ask("next")
    expect(answers.last).to_have_text("answer 1 to next")
    expect(answers.first).to_have_text("slow")
    expect(answers).to_have_count(4)


@pytest.mark.long
def test_html_stays_text_and_nothing_is_fetched_from_other_computers(visit, program):
    person = visit(viewport={"width": 390, "height": 800})
    question = "<b>markdown</b> *x* <script>window.attacked = 4</script>"
    person.ask(question)
    expect(person.page.get_by_test_id("stChatMessageContent").first).to_have_text(question)
    person.ask("markdown")
    answer = person.page.get_by_test_id("stChatMessageContent").last
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator(".katex").first).to_be_visible()
    expect(answer.locator("pre code")).to_contain_text("return x < 1")
    expect(answer).to_contain_text("<b>tag</b>")
    expect(answer).to_contain_text("<script>window.attacked = 1</script>")
    expect(answer.locator("img")).to_have_count(0)
    assert person.page.evaluate("window.attacked") is None
    assert person.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert [url for url in person.asked if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url)] == []


@pytest.mark.long
def test_errors_are_shown_and_the_chat_goes_on(visit):
    person = visit()
    person.ask("many words " * 3000)
    expect(person.page.get_by_test_id("stAlert")).to_contain_text("2048")
    person.ask("x" * 1_000_001)
    expect(person.page.get_by_test_id("stAlert")).to_have_text(TEXTS["en"]["too_large"])
    person.ask("again")
    person.shows("again", "answer 0 to again")


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 390)])
@pytest.mark.long
def test_axe_finds_nothing_serious(visit, scheme, width):
    """In an empty view, and with an answer of every kind of text and the settings open.

    Left out are the colours of code: they are Streamlit's own, and no setting reaches them.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    version = importlib.metadata.version("streamlit")
    if tuple(map(int, version.split(".")[:2])) < (1, 67):
        pytest.skip(f"Streamlit {version} may have faults of its own, as 1.51 has: looked at from 1.67 on")
    person = visit(color_scheme=scheme, viewport={"width": width, "height": 780}, reduced_motion="reduce")

    def violations() -> list[str]:
        person.page.wait_for_function("document.getAnimations().every(each => each.playState === 'finished')")
        found = axe.run(person.page, context={"exclude": [["pre .token"]]}).response["violations"]
        serious = [rule for rule in found if rule["impact"] in ("serious", "critical")]
        return [f"{rule['id']}: {node['html'][:200]}" for rule in serious for node in rule["nodes"]]

    assert violations() == []
    person.ask("markdown")
    expect(person.page.get_by_test_id("stChatMessageContent").locator("strong")).to_be_visible()
    if width < 800:
        person.page.get_by_test_id("stExpandSidebarButton").click()
    expect(person.page.locator("[data-test-script-state=notRunning]")).to_be_visible()  # it greys what it draws anew
    person.page.get_by_text(TEXTS["en"]["more"], exact=True).click()
    expect(person.page.get_by_text(TEXTS["en"]["min_p"])).to_be_visible()
    assert violations() == []
