"""Tests of web_demo.py: its page in a real browser, with an engine whose answers are given."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from replay import ReplayEngine, write_small_checkpoint
from serving import wait_until

from chatglm import ChatGLMTokenizer
from utils import SamplingArguments

gradio = pytest.importorskip("gradio", reason="needs gradio")
from browsing import BLOCKED, expect, open_browser  # noqa: E402  (after the check for Playwright in it)

import web_demo  # noqa: E402
from web_content import EXAMPLES, TEXTS  # noqa: E402

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
        arguments = web_demo.PageArguments(port=0, **arguments)
        self.demo = web_demo.build_demo(self.engine, SamplingArguments(**sampling), arguments.lang)
        self.address = web_demo.launch(self.demo, arguments, prevent_thread_lock=True)

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
        expect(self.page.locator("#chat .message .md")).to_have_text(list(texts))

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
