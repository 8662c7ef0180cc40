"""Tests of web_demo.py: its page in a real browser, with an engine whose answers are given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from replay import ReplayEngine, write_small_checkpoint
from serving import wait_until

from chatglm import ChatGLMTokenizer
from loading.arguments import SamplingArguments

gradio = pytest.importorskip("gradio", reason="needs gradio")
from browsing import BLOCKED, expect, open_browser  # noqa: E402  (after the check for Playwright in it)

from pages import gradio_page  # noqa: E402
from pages.arguments import PageArguments  # noqa: E402
from pages.texts import EXAMPLES, TEXTS  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
MARKDOWN = """**bold** and `code` <b>tag</b>

```python
def f(x):
    return x < 1  # <b>
```

\\(a^2<b\\) and $$c^2$$

<script>window.attacked = 1</script><img src="http://evil.example/a.png" onerror="window.attacked = 2">
![picture](http://evil.example/b.png) [link](javascript:window.attacked=3)"""
LONG = "abcdefghij " * 100


def reply(prompt: str) -> str:
    """Return what the test's engine answers: by the last question of the prompt, and how many rounds came before."""
    question = prompt.rsplit("问：", 1)[-1].removesuffix("\n答：")
    answers = {"long": LONG, "markdown": MARKDOWN}
    return answers.get(question) or f"answer {prompt.count('答：') - 1 if '问：' in prompt else 0} to {question}"


class Site:
    """A page that is served from a thread of this process."""

    def __init__(self, checkpoint, arguments: dict, sampling: dict, **engine) -> None:
        self.engine = ReplayEngine(*checkpoint, reply, **engine)
        arguments = PageArguments(port=0, **arguments)
        self.demo = gradio_page.build_demo(self.engine, SamplingArguments(**sampling), arguments.lang)
        self.address = gradio_page.launch(self.demo, arguments, prevent_thread_lock=True)

    def close(self) -> None:
        self.demo.close(verbose=False)
        self.engine.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model = write_small_checkpoint(folder)
    return model, ChatGLMTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def site(checkpoint):
    made = Site(checkpoint, {}, {})
    yield made
    made.close()


@pytest.fixture(autouse=True)
def at_full_speed(site):
    yield
    site.engine.seconds = 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


class Visitor:
    """A person with a browser of their own, by a narrow screen or a wide one."""

    def __init__(self, context, address: str) -> None:
        self.context = context
        self.page = context.new_page()
        self.page.goto(address)
        self.box = self.page.locator("#question textarea")
        self.status = self.page.locator("#status")
        expect(self.page.locator("#chat .placeholder-content, #chat .message").first).to_be_visible()

    def ask(self, question: str) -> None:
        self.box.fill(question)
        self.box.press("Enter")

    def shows(self, *texts: str) -> None:
        """Wait until the chat is these questions and answers, and none is being answered."""
        expect(self.page.locator("#question .submit-button")).to_be_visible()
        expect(self.page.locator("#chat .message .md")).to_have_text(list(texts), use_inner_text=True)

    def click(self, name: str) -> None:
        self.page.locator(f"#chat button[title='{name}'], #chat button[aria-label='{name}']").last.click()


@pytest.fixture
def visit(browser, site) -> Iterator:
    """Return a function that lets one more person visit a page; nobody may see an error of the page's own code."""
    with contextlib.ExitStack() as stack:

        def new(address: str = site.address, locale: str = "en-US", **options) -> Visitor:
            context = stack.enter_context(contextlib.closing(browser.new_context(locale=locale, **options)))
            context.set_default_timeout(120_000)
            context.on("weberror", lambda error: pytest.fail(str(error.error)))
            return Visitor(context, address)

        yield new


# A chat


def test_ask_and_go_on(visit, site):
    """Questions and answers alternate, the model is asked with the history, and the box is ready for the next."""
    person = visit()
    person.ask("first")
    person.shows("first", "answer 0 to first")
    expect(person.box).to_have_value("")
    person.ask("second")
    person.shows("first", "answer 0 to first", "second", "answer 1 to second")
    assert site.engine.prompt(site.engine.requests[-1]).startswith("[Round 0]\n问：first\n答：answer 0 to first\n")


def test_stream_and_stop(visit, site):
    """Text is seen while the answer is generated; Stop ends the generation, keeps the text, and the chat goes on."""
    person, site.engine.seconds = visit(), 0.05
    person.ask("long")
    answer = person.page.locator("#chat .bot .md")
    expect(answer).to_contain_text("abcdefghij abc")
    person.ask("next")  # too early: it stays where it was typed
    seen = answer.inner_text()
    person.page.locator("#question .stop-button").click()
    expect(person.page.locator("#question .submit-button")).to_be_visible()
    wait_until(lambda: site.engine.batch_size == 0)
    kept = answer.inner_text()
    assert len(seen) < len(LONG) and kept.startswith(seen.strip()) and LONG.startswith(kept) and kept != LONG
    site.engine.seconds = 0
    expect(person.box).to_have_value("next")
    person.box.press("Enter")
    person.shows("long", kept, "next", "answer 1 to next")


def test_shift_enter_does_not_send(visit, site):
    person, before = visit(), len(site.engine.requests)
    person.box.fill("a")
    person.box.press("Shift+Enter")
    person.box.press_sequentially("b")
    expect(person.box).to_have_value("a\nb")
    person.box.press("Enter")
    person.shows("a\nb", "answer 0 to a\nb")
    assert len(site.engine.requests) == before + 1


def test_retry_undo_and_edit(visit, site):
    person = visit()
    person.ask("first")
    person.shows("first", "answer 0 to first")
    person.ask("*second*")
    chat = ("first", "answer 0 to first", "*second*", "answer 1 to *second*")
    person.shows("first", "answer 0 to first", "*second*", "answer 1 to second")  # in italics
    before = len(site.engine.requests)
    person.click("Retry")
    wait_until(lambda: len(site.engine.requests) == before + 1)
    person.shows(*chat[:3], "answer 1 to second")
    assert site.engine.requests[-1].prompt_ids == site.engine.requests[-2].prompt_ids
    person.click("Undo")
    person.shows(*chat[:2])
    expect(person.box).to_have_value("*second*")
    person.ask("third*")
    person.shows(*chat[:2], "third*", "answer 1 to third*")
    person.page.locator("#chat button[aria-label='Edit'], #chat button[title='Edit']").last.click()
    editor = person.page.locator("#chat textarea")
    expect(editor).to_have_value("third*")
    editor.fill("fourth")
    person.page.locator("#chat button[aria-label='Submit'], #chat button[title='Submit']").click()
    person.shows(*chat[:2], "fourth", "answer 1 to fourth")
    person.page.locator("#chat button[aria-label='Edit'], #chat button[title='Edit']").first.click()
    editor.fill("fifth")
    person.page.locator("#chat button[aria-label='Submit'], #chat button[title='Submit']").click()
    person.shows("fifth", "answer 0 to fifth")


def test_clear_ends_the_answer_and_the_history(visit, site, capfd):
    person, site.engine.seconds = visit(), 0.05
    person.ask("long")
    expect(person.page.locator("#chat .bot .md")).to_contain_text("abcdefghij")
    person.page.locator("#clear").click()
    expect(person.page.locator("#chat .message .md")).to_have_count(0)
    wait_until(lambda: site.engine.batch_size == 0)
    site.engine.seconds = 0
    person.ask("new")
    person.shows("new", "answer 0 to new")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("another", [False, True])
def test_forgotten_answer_ends_with_what_took_its_place(site, another):
    with gradio.Blocks():
        page = gradio_page.Page(site.engine, SamplingArguments(), "en")
    visitor, site.engine.seconds = SimpleNamespace(session_hash="tab", headers={}), 0.05

    async def ask_and_clear() -> tuple[dict, list[dict]]:
        views = page.ask(visitor, "long", [], 2048, 0.7, 0.95)
        assert (await anext(views))[page.chatbot]
        cleared = page.forget(visitor)
        if another:
            page.asking["tab"] = gradio_page.Asking()
        return cleared, [changes async for changes in views]

    with ThreadPoolExecutor() as executor:  # in this thread Playwright has a loop that runs
        cleared, after = executor.submit(asyncio.run, ask_and_clear()).result()
    assert cleared[page.chatbot] == cleared[page.history] == []
    assert after[-1] == (gradio.skip() if another else cleared)


def test_examples_are_asked_in_the_browsers_language(visit):
    for locale, language in (("zh-CN", "zh"), ("en-GB", "en")):
        person = visit(locale=locale)
        expect(person.box).to_have_attribute("placeholder", TEXTS[language]["placeholder"])
        expect(person.page.locator("#clear")).to_have_text(TEXTS[language]["clear"])
        example = EXAMPLES[language]["travel-guide"]
        person.page.locator("#chat button", has_text=example.title).click()
        person.shows(example.question, f"answer 0 to {example.question}")


def test_sliders_take_effect(visit, site):
    person = visit()
    person.page.locator("#settings .toggle-button").click()
    for name, default, value in (("max_length", 2048, 300), ("top_p", 0.7, 0.5), ("temperature", 0.95, 0)):
        number = person.page.get_by_label(re.compile(re.escape(TEXTS["en"][name]))).first
        expect(number).to_have_value(str(default))
        number.fill(str(value))
        number.press("Tab")
    person.ask("q")
    person.shows("q", "answer 0 to q")
    request = site.engine.requests[-1]
    assert (request.top_p, request.temperature) == (0.5, 0)
    assert request.max_tokens == 300 - len(request.prompt_ids)


def test_save_and_load(visit, site, tmp_path):
    person = visit()
    person.ask("*kept*")
    person.shows("*kept*", "answer 0 to kept")
    person.page.locator("#settings .toggle-button").click()
    with person.page.expect_download() as saved:
        person.page.locator("#save").click()
    file = tmp_path / saved.value.suggested_filename
    saved.value.save_as(file)
    assert json.loads(file.read_text(encoding="utf-8")) == [["*kept*", "answer 0 to *kept*"]]
    other = visit()
    other.page.locator("#settings .toggle-button").click()
    other.page.locator("input[type=file]").set_input_files(file)
    other.shows("*kept*", "answer 0 to kept")
    wrong = tmp_path / "wrong.json"
    wrong.write_text('[["a"]]', encoding="utf-8")
    other.page.locator("input[type=file]").set_input_files(wrong)
    expect(other.status).to_contain_text("round 1")
    other.page.locator("#settings .toggle-button").click()
    other.ask("on")
    other.shows("*kept*", "answer 0 to kept", "on", "answer 1 to on")


# What is shown


def test_markdown_is_rendered_and_html_stays_text(visit):
    """Bold, code in colours, formulas; tags, scripts and pictures are text, and nothing of them runs or is fetched."""
    person, requests = visit(), []
    person.context.on("request", lambda request: requests.append(request.url))
    question = '<b>markdown</b> <script>window.attacked = 4</script><img src="http://evil.example/c.png">'
    person.ask(question)
    expect(person.page.locator("#chat .user .md")).to_have_text(question)
    expect(person.page.locator("#chat .bot .md")).to_contain_text("answer 0 to")
    expect(person.page.locator("#question .submit-button")).to_be_visible()
    person.ask("markdown")
    answer = person.page.locator("#chat .bot .md").last
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator("pre code")).to_have_text("def f(x):\n    return x < 1  # <b>")
    expect(answer.locator("pre code .token.keyword").first).to_have_text("def")
    expect(answer.locator(".katex")).to_have_count(2)
    expect(answer).to_contain_text("<b>tag</b>")
    expect(answer).to_contain_text("<script>window.attacked = 1</script><img src=")
    expect(person.page.locator("#chat .message img, #chat .message script")).to_have_count(0)
    expect(answer.locator("a[href^=javascript]")).to_have_count(0)
    assert person.page.evaluate("window.attacked") is None
    assert not [url for url in requests if "evil.example" in url]


def test_copy_gives_what_was_typed(visit):
    person = visit(permissions=["clipboard-read", "clipboard-write"])
    person.ask("*a* <b>")
    expect(person.page.locator("#chat .bot .md")).to_be_visible()
    person.page.locator("#chat button[aria-label*='opy'], #chat button[title*='opy']").first.click()
    person.page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('<b>')")
    assert "*a* <b>" in person.page.evaluate("navigator.clipboard.readText()")


def test_errors_are_shown_and_the_chat_goes_on(visit, site):
    person = visit()
    person.ask("fine")
    person.shows("fine", "answer 0 to fine")
    person.ask("many words " * 3000)
    expect(person.status).to_contain_text("2048")
    person.shows("fine", "answer 0 to fine")
    expect(person.box).to_have_value("many words " * 3000)
    person.ask("again")
    person.shows("fine", "answer 0 to fine", "again", "answer 1 to again")
    expect(person.status).to_have_text("")


# Several people


def test_browsers_do_not_mix_and_a_reload_keeps_the_chat(visit):
    one, other = visit(), visit()
    one.ask("from one")
    other.ask("from other")
    one.shows("from one", "answer 0 to from one")
    other.shows("from other", "answer 0 to from other")
    one.page.reload()
    one.shows("from one", "answer 0 to from one")
    one.ask("more")
    one.shows("from one", "answer 0 to from one", "more", "answer 1 to more")
    other.shows("from other", "answer 0 to from other")


def test_queue_place_is_shown_and_a_closed_page_leaves_it(visit, checkpoint):
    site = Site(checkpoint, {"lang": "zh"}, {}, max_batch_size=1, seconds=0.05)
    try:
        people = [visit(site.address) for _ in range(3)]
        for person in people:
            person.ask("long")
            wait_until(lambda: site.engine.batch_size == 1)
        expect(people[1].status).to_have_text(TEXTS["zh"]["next"])
        expect(people[2].status).to_have_text(TEXTS["zh"]["queue"].format(1))
        people[0].context.close()  # whose answer was running
        expect(people[2].status).to_have_text(TEXTS["zh"]["next"])
        expect(people[1].page.locator("#chat .bot .md")).to_contain_text("abcdefghij")
        expect(people[1].status).to_have_text("")
        people[1].page.locator("#question .stop-button").click()
        expect(people[2].page.locator("#chat .bot .md")).to_contain_text("abcdefghij")
    finally:
        site.close()


def test_narrow_screen(visit):
    """On a phone nothing has to be scrolled sideways, and what is needed is in view."""
    person = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    person.ask("markdown")
    expect(person.page.locator("#chat .bot .md strong")).to_be_visible()
    assert person.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for element in (person.box, person.page.locator("#clear"), person.page.locator("#question .submit-button")):
        expect(element).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("size", [(1280, 720), (390, 780), (2560, 1440)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_box_and_newest_answer_stay_in_the_window(visit, size):
    """After ten rounds, without a scroll bar on the page itself."""
    person = visit(viewport={"width": size[0], "height": size[1]})
    for number in range(10):
        person.ask(f"question {number}")
        expect(person.page.locator("#chat .user .md")).to_have_count(number + 1)
        expect(person.page.locator("#question .submit-button")).to_be_visible()
        expect(person.box).to_be_in_viewport(ratio=1)
    expect(person.page.locator("#chat .bot .md").last).to_be_in_viewport()
    assert person.page.evaluate("document.documentElement.scrollHeight <= window.innerHeight")


# The program


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="auth must be USER:PASSWORD"):
        PageArguments(auth="me")
    with pytest.raises(ValueError, match="port must be from 0 to 65535"):
        PageArguments(port=70000)


def test_program_serves_behind_a_password_without_asking_other_computers(browser, checkpoint, tmp_path):
    """The whole program: page and server talk to this computer only; SIGTERM ends it with status 0."""
    checkpoint[0].half().save_pretrained(tmp_path / "model")
    checkpoint[0].float()
    checkpoint[1].save_pretrained(tmp_path / "model")
    words = [
        "--model",
        str(tmp_path / "model"),
        "--port",
        "0",
        "--device",
        "cpu",
        "--max-new-tokens",
        "40",
        "--temperature",
        "0",
    ]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            BLOCKED + "import web_demo as page; page.run_main(page.main)",
            *words,
        ],
        cwd=ROOT,
        env=os.environ | {"CHATGLM_AUTH": "me:secret", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    log = []
    for line in process.stderr:
        log.append(line)
        if line.startswith("http://"):
            break
    assert log and log[-1].startswith("http://127.0.0.1:"), "".join(log)
    context = browser.new_context(locale="en-US")
    context.set_default_timeout(120_000)
    asked, failed = [], []
    context.on("request", lambda request: asked.append(request.url))
    context.on("requestfailed", lambda request: failed.append((request.url, request.failure)))
    page = context.new_page()
    page.goto(log[-1].strip())
    page.get_by_label("username").fill("me")
    page.get_by_label("password").fill("secret")
    page.get_by_role("button", name=re.compile("login", re.I)).click()
    box = page.locator("#question textarea")
    box.fill("hello")
    box.press("Enter")
    expect(page.locator("#chat .bot .md")).not_to_be_empty()
    expect(page.locator("#status")).to_contain_text(TEXTS["en"]["length"][:20])
    page.wait_for_load_state("networkidle")
    context.close()
    assert [url for url in asked if not url.startswith((log[-1].strip(), "data:", "blob:"))] == []
    # the page itself gives up requests to its own server when it moves on
    assert [(url, reason) for url, reason in failed if reason != "net::ERR_ABORTED"] == []
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 0, rest
    assert "blocked" not in "".join(log) + rest
