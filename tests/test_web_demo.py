"""Tests of web_demo.py: its page in a real browser, with an engine whose answers are given."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from replay import ReplayEngine, write_small_checkpoint
from serving import client, wait_until

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
        self.page.locator("#attach[title]").wait_for()  # the page's script has begun

    def another_tab(self) -> Visitor:
        """Open the page in one more tab of this browser."""
        return Visitor(self.context, self.page.url)

    def ask(self, question: str) -> None:
        self.box.fill(question)
        self.box.press("Enter")

    def shows(self, *texts: str) -> None:
        """Wait until the chat is these questions and answers, and none is being answered."""
        expect(self.page.locator("#chat .message .md")).to_have_text(list(texts), use_inner_text=True)
        expect(self.page.locator("#question .submit-button")).to_be_visible()

    def choose(self, button: str, file: Path) -> None:
        """Give a file to a button that asks for one."""
        with self.page.expect_file_chooser() as chooser:
            self.page.locator(button).click()
        chooser.value.set_files(file)

    def kept(self) -> list[dict]:
        """Return the chats that the browser keeps."""
        chats = (
            "Object.entries(localStorage).filter(([key]) => key.startsWith('chatglm-chat-')).map(([, text]) => text)"
        )
        return [json.loads(text) for text in self.page.evaluate(chats)]

    def click(self, name: str) -> None:
        self.page.locator(f"#chat button[title='{name}'], #chat button[aria-label='{name}']").last.click()


@pytest.fixture
def visit(browser, site) -> Iterator:
    """Return a function that lets one more person visit a page; nobody may see an error of the page's own code."""
    errors: list[str] = []
    with contextlib.ExitStack() as stack:

        def new(address: str = site.address, locale: str = "en-US", **options) -> Visitor:
            context = stack.enter_context(contextlib.closing(browser.new_context(locale=locale, **options)))
            context.set_default_timeout(120_000)
            context.on("weberror", lambda error: errors.append(str(error.error)))
            context.on("console", lambda message: message.type == "error" and errors.append(message.text))
            return Visitor(context, address)

        yield new
    # a page that is left gives up its connections, and one test cuts them
    given_up = re.compile("AbortError|Server stopped|Connection errored|network error|ERR_")
    assert not [error for error in errors if not given_up.search(error)]


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
    person.click("Retry")
    expect(person.page.locator("#chat .notes").last).to_contain_text("2/2")  # until then what is shown is the old one
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


def test_new_chat_ends_the_answer_and_keeps_it_in_the_list(visit, site, capfd):
    person, site.engine.seconds = visit(), 0.05
    person.ask("long")
    expect(person.page.locator("#chat .bot .md")).to_contain_text("abcdefghij")
    person.page.locator("#new").click()
    expect(person.page.locator("#chat .message .md")).to_have_count(0)
    wait_until(lambda: site.engine.batch_size == 0)
    site.engine.seconds = 0
    person.ask("new")
    person.shows("new", "answer 0 to new")
    person.page.locator("#conversations .toggle-button").click()
    person.page.locator("#chats .open", has_text="long").click()
    expect(person.page.locator("#chat .bot .md")).to_contain_text("abcdefghij")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.long
def test_examples_are_asked_in_the_browsers_language(visit):
    for locale, language in (("zh-CN", "zh"), ("en-GB", "en")):
        person = visit(locale=locale)
        expect(person.box).to_have_attribute("placeholder", TEXTS[language]["placeholder"])
        expect(person.page.locator("#new")).to_have_text(TEXTS[language]["new_chat"])
        example = EXAMPLES[language]["travel-guide"]
        person.page.locator("#chat button", has_text=example.title).click()
        person.shows(example.question, f"answer 0 to {example.question}")


def test_sliders_take_effect(visit, site):
    person = visit()
    person.page.locator("#settings .toggle-button").click()
    person.page.get_by_role("button", name=TEXTS["en"]["more"]).click()
    wanted = {"top_p": 0.5, "temperature": 0, "top_k": 7, "repetition_penalty": 1.5, "min_p": 0.1}
    wanted |= {"presence_penalty": 1, "frequency_penalty": -0.5}
    for name, value in {"max_length": 300, **wanted}.items():
        default = getattr(SamplingArguments, name)
        number = person.page.get_by_label(re.compile(re.escape(TEXTS["en"][name]))).first
        expect(number).to_have_value(f"{default:g}")
        number.fill(str(value))
        number.press("Tab")
    person.page.get_by_label(TEXTS["en"]["system"]).fill("be brief")
    person.ask("q")
    person.shows("q", "answer 1 to q")
    request = site.engine.requests[-1]
    assert {name: getattr(request, name) for name in wanted} == wanted
    assert "问：be brief\n答：" in site.engine.prompt(request)
    assert request.max_tokens == 300 - len(request.prompt_ids)


@pytest.mark.long
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
    other.choose("#load", file)
    other.shows("*kept*", "answer 0 to kept")
    notice, texts = other.page.locator("#notice"), TEXTS["en"]
    for content, message in (
        ('[["a"]]', texts["wrong_round"].format(1)),
        ("{", "JSON"),
        ("[" * 100_000 + "]" * 100_000, texts["wrong_round"].format(1)),
        ("3", texts["wrong_file"].format("")),
        (json.dumps([["a", "b" * 1_000_001]]), texts["too_large"]),
        ('[["a"]]', texts["wrong_round"].format(1)),
    ):
        (tmp_path / "wrong.json").write_text(content, encoding="utf-8")
        other.choose("#load", tmp_path / "wrong.json")
        expect(notice).to_contain_text(message)
    other.page.locator("#settings .toggle-button").click()
    other.ask("on")
    other.shows("*kept*", "answer 0 to kept", "on", "answer 1 to on")


# Nothing is lost


@pytest.mark.parametrize("milliseconds", [0, 100])
def test_question_at_once_after_stop_follows_the_stopped_round(visit, site, milliseconds):
    person, site.engine.seconds = visit(), 0.02
    person.ask("long")
    expect(person.page.locator("#chat .bot .md")).to_contain_text("abcdefghij")
    person.box.fill("next")
    person.page.evaluate(
        """async (milliseconds) => {
            document.querySelector("#question .stop-button").click();
            if (milliseconds) await new Promise((resolve) => setTimeout(resolve, milliseconds));
            const enter = { key: "Enter", bubbles: true, cancelable: true };
            document.querySelector("#question textarea").dispatchEvent(new KeyboardEvent("keydown", enter));
            document.querySelector("#question textarea").dispatchEvent(new KeyboardEvent("keypress", enter));
        }""",
        milliseconds,
    )
    expect(person.page.locator("#chat .bot .md")).to_have_count(2)
    expect(person.page.locator("#chat .bot .md").last).to_have_text("answer 1 to next")
    expect(person.page.locator("#chat .user .md").first).to_have_text("long")


def test_reload_keeps_an_unfinished_answer_or_its_question(visit, site):
    person, site.engine.seconds = visit(), 0.02
    person.ask("long")
    expect(person.page.locator("#chat .bot .md")).to_contain_text("abcdefghij" * 1)
    wait_until(lambda: person.kept() and person.kept()[0]["nodes"][0]["answer"])
    person.page.reload()
    expect(person.page.locator("#chat .user .md")).to_have_text("long")
    kept = person.page.locator("#chat .bot .md").inner_text().strip()
    assert kept and LONG.startswith(kept)
    site.engine.seconds = 3
    person.ask("early")
    wait_until(lambda: len(person.kept()[0]["nodes"]) == 2)
    person.page.reload()
    expect(person.box).to_have_value("early")
    site.engine.seconds = 0
    person.box.press("Enter")
    person.shows("long", kept, "early", "answer 1 to early")


def test_lost_connection_keeps_what_came(visit, site):
    """The chat goes on when the page is loaded anew."""
    person, site.engine.seconds = visit(), 0.02
    person.ask("long")
    wait_until(lambda: person.kept() and person.kept()[0]["nodes"][0]["answer"])
    for connection in list(site.demo.server.server_state.connections):
        connection.loop.call_soon_threadsafe(connection.transport.abort)
    wait_until(lambda: site.engine.batch_size == 0)
    kept = person.kept()[0]["nodes"][0]["answer"]
    assert kept != LONG and LONG.startswith(kept)
    site.engine.seconds = 0
    person.page.reload()
    person.ask("next")
    person.shows("long", kept.strip(), "next", "answer 1 to next")


def test_tabs_keep_what_each_of_them_said(visit):
    one = visit()
    one.ask("first")
    one.shows("first", "answer 0 to first")
    other = one.another_tab()
    other.page.locator("#conversations .toggle-button").click()
    other.page.locator("#chats .open").click()
    other.shows("first", "answer 0 to first")
    one.ask("second")
    one.shows("first", "answer 0 to first", "second", "answer 1 to second")
    other.ask("third")
    other.shows("first", "answer 0 to first", "third", "answer 1 to third")
    assert sorted(chat["nodes"][-1]["question"] for chat in one.kept()) == ["second", "third"]


def test_full_storage_is_told(visit):
    person = visit()
    person.page.evaluate("for (let size = 1 << 22; size; size >>= 1) try { for (;;) localStorage['x' + size + "
                         "Math.random()] = 'x'.repeat(size) } catch {}")  # fmt: skip
    person.ask("first")
    person.shows("first", "answer 0 to first")
    expect(person.page.locator("#notice")).to_have_text(TEXTS["en"]["full"])


# What people like elsewhere


def test_versions_after_retry_and_edit(visit):
    person = visit()
    person.ask("first")
    person.shows("first", "answer 0 to first")
    notes = person.page.locator("#chat .notes")
    expect(notes).to_contain_text("tokens/s")
    person.click("Retry")
    expect(notes).to_contain_text("2/2")
    person.shows("first", "answer 0 to first")
    person.ask("second")
    person.shows("first", "answer 0 to first", "second", "answer 1 to second")
    person.page.locator("#chat button[aria-label='Edit'], #chat button[title='Edit']").first.click()
    person.page.locator("#chat textarea").fill("third")
    person.page.locator("#chat button[aria-label='Submit'], #chat button[title='Submit']").click()
    person.shows("third", "answer 0 to third")
    expect(notes).to_contain_text("3/3")
    person.page.get_by_role("button", name=TEXTS["en"]["version_before"]).click()
    person.shows("first", "answer 0 to first", "second", "answer 1 to second")
    person.page.reload()
    person.shows("first", "answer 0 to first", "second", "answer 1 to second")
    expect(notes.first).to_contain_text("2/3")
    expect(person.page.get_by_role("button", name=TEXTS["en"]["version_after"])).to_be_enabled()


def test_list_of_chats(visit):
    """Chats can be searched, renamed, opened and deleted."""
    person = visit()
    for question in ("apple", "pear"):
        person.page.locator("#new").click()
        person.ask(question)
        person.shows(question, f"answer 0 to {question}")
    person.page.locator("#conversations .toggle-button").click()
    names = person.page.locator("#chats .open")
    expect(names).to_have_text(["pear", "apple"])
    person.page.locator("#chats input[type=search]").fill("TO APPLE")
    expect(names).to_have_text(["apple"])
    names.click()
    person.shows("apple", "answer 0 to apple")
    person.page.locator("#chats input[type=search]").fill("")
    person.page.once("dialog", lambda dialog: dialog.accept("fruit"))
    person.page.locator("#chats .rename").last.click()
    expect(names).to_have_text(["fruit", "pear"])
    person.page.once("dialog", lambda dialog: dialog.accept())
    person.page.locator("#chats .delete").first.click()
    expect(names).to_have_text(["pear"])
    expect(person.page.locator("#chat .message")).to_have_count(0)


def test_blank_questions_change_nothing(visit, site):
    """Neither one that is typed, nor one that an edit leaves; the chat goes on."""
    person, before = visit(), len(site.engine.requests)
    person.ask(" ")
    person.ask("first")
    person.shows("first", "answer 0 to first")
    person.click("Edit")
    person.page.locator("#chat textarea").fill(" ")
    person.click("Submit")
    person.shows("first", "answer 0 to first")
    person.ask("second")
    person.shows("first", "answer 0 to first", "second", "answer 1 to second")
    assert len(site.engine.requests) == before + 2
    person.ask("x" * 1_000_001)
    expect(person.page.locator("#notice")).to_have_text(TEXTS["en"]["too_large"])


def test_focus_is_never_lost(visit, site):
    """By keyboard alone: what is pressed keeps the focus or hands it to what takes its place; all is to be seen."""
    person = visit()
    held, browser = person.page.locator(":focus"), person.page.keyboard
    for question in ("first", "second"):
        person.ask(question)
        expect(person.page.locator("#chat .notes").last).to_contain_text("tokens")
    person.shows("first", "answer 0 to first", "second", "answer 1 to second")
    expect(person.box).to_be_focused()
    for _ in range(40):
        browser.press("Tab")
        assert person.page.evaluate("document.activeElement.checkVisibility({visibilityProperty: true})")
        if held.count() and "Retry" in (held.get_attribute("aria-label") or ""):
            break
    browser.press("Enter")
    expect(person.page.locator("#chat .notes").last).to_contain_text("2/2›context")
    expect(person.box).to_be_focused()
    before = person.page.get_by_role("button", name=TEXTS["en"]["version_before"])
    before.press("Enter")
    expect(person.page.locator("#chat .notes").last).to_contain_text("1/2")
    expect(held).to_have_accessible_name(TEXTS["en"]["version_after"])
    person.page.get_by_role("button", name="Undo").press("Enter")
    expect(person.box).to_have_value("second")
    expect(person.box).to_be_focused()
    person.page.locator("#new").press("Enter")
    expect(person.page.locator("#chat .message")).to_have_count(0)
    expect(person.page.locator("#new")).to_be_focused()
    person.ask("other")
    person.shows("other", "answer 0 to other")
    person.page.locator("#conversations .toggle-button").press("Enter")
    first = person.page.locator("#chats .open", has_text="first")
    expect(first).to_be_visible()  # what is hidden takes no focus, and the key would close the bar again
    first.press("Enter")
    person.shows("first", "answer 0 to first")
    expect(held).to_have_text("first")
    for accepted, button in (("name", "rename"), (None, "delete")):
        person.page.once("dialog", lambda dialog, text=accepted: dialog.accept(text))
        held.locator(f"xpath=../*[@class='{button}']").press("Enter")
    expect(person.page.locator("#chats .open")).to_have_text(["other"])
    expect(person.page.locator("#chats input[type=search]")).to_be_focused()


def test_keys_and_focus(visit, site):
    """Escape stops, the arrow up edits the last question, and the box has the focus after an answer."""
    person = visit()
    person.ask("first")
    person.shows("first", "answer 0 to first")
    site.engine.seconds = 0.05
    person.ask("long")
    expect(person.page.locator("#chat .bot .md").last).to_contain_text("abcdefghij")
    person.page.keyboard.press("Escape")
    expect(person.page.locator("#question .submit-button")).to_be_visible()
    expect(person.box).to_be_focused()
    site.engine.seconds = 0
    person.page.keyboard.press("ArrowUp")
    expect(person.page.locator("#chat textarea")).to_be_focused()
    expect(person.page.locator("#chat textarea")).to_have_value("long")
    person.page.keyboard.press("Escape")
    expect(person.page.locator("#chat textarea")).to_have_count(0)
    expect(person.box).to_be_focused()


def test_file_into_the_question(visit, tmp_path):
    """Its text stands in the box, with a count of tokens; what is no text is refused; nothing is uploaded."""
    person, uploads = visit(), []
    person.context.on("request", lambda request: "upload" in request.url and uploads.append(request.url))
    (tmp_path / "notes.txt").write_bytes("苹果 ``` x".encode("gb18030"))
    person.box.fill("What is this?")
    person.choose("#attach", tmp_path / "notes.txt")
    expect(person.box).to_have_value("What is this?\n\nnotes.txt\n````\n苹果 ``` x\n````\n")
    expect(person.status).to_contain_text("tokens")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    person.choose("#attach", tmp_path / "picture.png")
    expect(person.page.locator("#notice")).to_contain_text(TEXTS["en"]["no_text"])
    assert not uploads


def test_pdf_into_the_question(visit, tmp_path):
    """Two at once, as a browser prints them, in Chinese and English; a scanned one and a large one are refused."""
    person, printing = visit(), visit()
    for name, content in (
        ("中文.pdf", "青蛙是绿色的，香蕉是黄色的，马长大了，母亲走了一里路。"),
        ("two.pdf", "Pears are green."),
    ):
        printing.page.set_content(f"<p style='font: 20px \"Noto Sans CJK SC\"'>{content}</p>")
        printing.page.pdf(path=tmp_path / name)
    person.page.evaluate(
        """files => {
            const dropped = new DataTransfer();
            for (const [name, data] of files)
                dropped.items.add(new File([Uint8Array.from(atob(data), part => part.charCodeAt(0))], name));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true }));
        }""",
        [[name, base64.b64encode((tmp_path / name).read_bytes()).decode()] for name in ("中文.pdf", "two.pdf")],
    )
    expect(person.box).to_have_value(
        "中文.pdf\n```\n青蛙是绿色的，香蕉是黄色的，马长大了，母亲走了一里路。\n```\n\n"
        "two.pdf\n```\nPears are green.\n```\n"
    )
    expect(person.status).to_contain_text("tokens")
    for data, told in ((b"%PDF-1.7", "no_pdf_text"), (b"%PDF-1.7".ljust(5_000_001), "large_pdf")):
        (tmp_path / "wrong.pdf").write_bytes(data)
        person.choose("#attach", tmp_path / "wrong.pdf")
        expect(person.page.locator("#notice")).to_contain_text(TEXTS["en"][told])


def test_what_waits_is_bounded(checkpoint, monkeypatch):
    """Large requests by the thousand, each of which would be kept until its turn, are refused; then it goes on."""
    released = threading.Event()
    monkeypatch.setattr(gradio_page, "pdf_text", lambda data: str(released.wait(60)))
    monkeypatch.setattr(gradio_page, "MOST_WAITING", 3)
    site = Site(checkpoint, {}, {})
    try:
        (number,) = [number for number, function in site.demo.fns.items() if function.name == "read_pdf"]

        def ask() -> int:
            body = {"data": [{"data": "data:,"}], "fn_index": number, "session_hash": "waiting"}
            return client(site.address).post("/gradio_api/queue/join", json=body).status_code

        statuses = [ask() for _ in range(20)]
        assert statuses[0] == 200 and statuses[-1] == 503 and statuses.count(200) <= gradio_page.AT_ONCE + 3
        released.set()
        wait_until(lambda: ask() == 200)
    finally:
        released.set()
        site.close()


def test_export_as_markdown(visit, tmp_path):
    person = visit()
    person.ask("*kept*")
    person.shows("*kept*", "answer 0 to kept")
    person.page.locator("#settings .toggle-button").click()
    with person.page.expect_download() as saved:
        person.page.locator("#export").click()
    saved.value.save_as(tmp_path / "chat.md")
    assert (tmp_path / "chat.md").read_text(encoding="utf-8") == (
        "**User**\n\n*kept*\n\n**ChatGLM-6B**\n\nanswer 0 to *kept*\n"
    )


def test_chat_answers_programs(site):
    """`gradio_client` asks as old scripts do; wrong values are refused, and no other endpoint is offered."""
    client = pytest.importorskip("gradio_client").Client(site.address, verbose=False)
    assert client.predict("second", [["first", "1"]], 2048, 0.7, 0.95, api_name="/chat") == "answer 1 to second"
    assert client.predict(message="first", api_name="/chat") == "answer 0 to first"
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/chat"]
    with pytest.raises(Exception, match="top_p"):
        client.predict("x", [], 2048, 7, 0.95, api_name="/chat")


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


def test_copy_and_edit_give_what_was_written(visit, site):
    """Numbers of characters stay what they are, in code, too; and no block of code becomes a diagram."""
    person = visit(permissions=["clipboard-read", "clipboard-write"])
    question = "*a* <b> &#65; &#99999999;\n```html\n&#60;b&#62;\n```\n```mermaid\ngraph TD; a-->b\n```"
    person.ask(question)
    expect(person.page.locator("#chat .bot .md")).to_be_visible()
    expect(person.page.locator("#question .submit-button")).to_be_visible()
    expect(person.page.locator("#chat .mermaid")).to_have_count(0)
    for button, text in (
        ("#chat .user-row + .message-buttons button[aria-label*='opy'], #chat button[title*='opy message']", question),
        ("#chat .user-row .copy_code_button, #chat .user-row button[title*='opy']", "&#60;b&#62;"),
    ):
        person.page.evaluate("navigator.clipboard.writeText('')")
        person.page.locator(button).first.click()
        person.page.wait_for_function("async () => await navigator.clipboard.readText() !== ''")
        assert person.page.evaluate("navigator.clipboard.readText()").strip() == text
    person.page.locator("#chat button[aria-label='Edit'], #chat button[title='Edit']").last.click()
    expect(person.page.locator("#chat textarea")).to_have_value(question)
    person.page.locator("#chat textarea").fill(question + "&#65;")
    person.page.locator("#chat button[aria-label='Submit'], #chat button[title='Submit']").click()
    wait_until(lambda: len(person.kept()[0]["nodes"]) == 2)
    (kept,) = person.kept()
    assert kept["nodes"][kept["leaf"]]["question"] == question + "&#65;"


def test_errors_are_shown_and_the_chat_goes_on(visit, site):
    person = visit()
    person.ask("fine")
    person.shows("fine", "answer 0 to fine")
    person.ask("many words " * 3000)
    expect(person.status).to_contain_text("2048")
    person.shows("fine", "answer 0 to fine")
    expect(person.box).to_have_value("many words " * 3000)
    person.box.press("Control+a")
    person.box.press("Delete")
    assert person.box.bounding_box()["height"] < 60  # as before, and not as for the long text
    person.ask("again")
    person.shows("fine", "answer 0 to fine", "again", "answer 1 to again")
    expect(person.status).to_have_text("")


# Several people


@pytest.mark.long
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


@pytest.mark.long
def test_session_of_another_browser_can_neither_be_read_nor_changed(visit, site):
    """Whoever knows the session that Gradio gave a page: its answer goes on, and its chat is as it was."""
    person, sessions = visit(), set()
    person.context.on("request", lambda request: sessions.update(re.findall(r"session_hash=(\w+)", request.url)))
    site.engine.seconds = 0.02
    person.ask("long")
    expect(person.page.locator("#chat .bot .md")).to_contain_text("abcdefghij")
    (session,) = sessions
    stop = next(index for index, function in site.demo.fns.items() if function.name == "stop")
    event = {"session_hash": session, "fn_index": stop, "data": [], "event_id": "x"}
    with client(f"{site.address}gradio_api") as other:
        other.get(site.address)  # and has a cookie of its own
        for answer in (
            *(other.post(path, json=event) for path in ("queue/join", "run/stop", "cancel", "call/chat")),
            *(other.get(path) for path in (f"queue/data?session_hash={session}", f"heartbeat/{session}")),
        ):
            assert answer.status_code == 403, answer.request.url
    assert site.engine.batch_size == 1
    site.engine.seconds = 0
    person.shows("long", LONG.strip())


@pytest.mark.long
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
    for element in (person.box, person.page.locator("#new"), person.page.locator("#question .submit-button")):
        expect(element).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 390)])
@pytest.mark.long
def test_axe_finds_nothing(visit, scheme, width):
    """In no view: contrast, names of controls, roles, and what else can be told without a person."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    person = visit(color_scheme=scheme, viewport={"width": width, "height": 780}, reduced_motion="reduce")

    def violations() -> list[str]:
        found = axe.run(person.page).response["violations"]
        return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]

    assert violations() == []
    person.ask("markdown")
    expect(person.page.locator("#chat .notes")).to_contain_text("tokens/s")
    assert violations() == []
    person.click("Edit")
    expect(person.page.locator("#chat textarea")).to_be_focused()
    assert violations() == []
    for bar, content in (("settings", "#system textarea"), ("conversations", "#chats input[type=search]")):
        person.page.locator(f"#{bar} .toggle-button").click()
        expect(person.page.locator(content)).to_be_in_viewport()
        if bar == "settings":
            person.page.get_by_role("button", name=TEXTS["en"]["more"]).click()
        assert violations() == []
        person.page.locator(f"#{bar} .toggle-button").click()


@pytest.mark.long
def test_box_and_newest_answer_stay_in_the_window(visit, site):
    """After ten rounds, without a scroll bar on the page itself; an answer is followed until its reader scrolls up."""
    person = visit(viewport={"width": 1280, "height": 720})
    for number in range(10):
        person.ask(f"question {number}")
        expect(person.page.locator("#chat .user .md")).to_have_count(number + 1)
        expect(person.page.locator("#question .submit-button")).to_be_visible()
    for width, height in ((1280, 720), (390, 780), (2560, 1440), (640, 360)):  # the last: 1280 by 720 at 200 %
        person.page.set_viewport_size({"width": width, "height": height})
        for element in (person.box, person.page.locator("#question .submit-button"), person.page.locator("#new")):
            expect(element).to_be_in_viewport(ratio=1)
        assert person.page.evaluate("document.documentElement.scrollHeight <= window.innerHeight")
        assert person.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    log, site.engine.seconds = person.page.locator("#chat [role=log]"), 0.005
    log.evaluate("log => log.scrollTo(0, log.scrollHeight)")
    before = log.evaluate("log => log.clientHeight")
    person.box.fill("line\n" * 4)  # the box grows and takes room of the answers
    wait_until(lambda: log.evaluate("log => log.clientHeight") < before)
    wait_until(lambda: log.evaluate("log => log.scrollHeight - log.scrollTop - log.clientHeight") < 5)
    person.ask("long")
    expect(person.page.locator("#chat .bot .md").last).to_contain_text("abcdefghij " * 10)
    wait_until(lambda: log.evaluate("log => log.scrollHeight - log.scrollTop - log.clientHeight") < 150)
    log.evaluate("log => log.scrollTo(0, 0)")
    expect(person.page.locator("#chat .bot .md").last).to_contain_text("abcdefghij " * 20)
    person.page.keyboard.press("Escape")
    expect(person.page.locator("#question .submit-button")).to_be_visible()
    assert log.evaluate("log => log.scrollTop") == 0


# The program


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="auth must be USER:PASSWORD"):
        PageArguments(auth="me")
    with pytest.raises(ValueError, match="port must be from 0 to 65535"):
        PageArguments(port=70000)


@pytest.mark.long
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
