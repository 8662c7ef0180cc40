"""Do on the Gradio page what people do, in Chromium, and print what became of it; a picture of each view is written.

    python -m tests.benchmarks.page_actions                     the list of actions, each held or fallen
    python -m tests.benchmarks.page_actions --output FOLDER     and pictures: narrow, wide, light, dark

The engine replays answers. The exit status is 0 if each action held and the browser's console has no error.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parents[2])]

from browsing import expect, open_browser  # noqa: E402
from replay import write_small_checkpoint  # noqa: E402
from test_web_demo import LONG, Site, Visitor  # noqa: E402

from chatglm import ChatGLMTokenizer  # noqa: E402
from pages.texts import EXAMPLES, TEXTS  # noqa: E402

VIEWS = {"wide": (1280, 720), "phone": (390, 780), "large": (2560, 1440), "zoom": (640, 360)}  # wide, at 200 %
EN = TEXTS["en"]
TABLE = (
    "| 名称 | 说明 | 价格 |\n|---|---|---|\n| 苹果 | 一种常见的水果，味道甜美 | 10 |\n| 梨 | 多汁的水果 | 20 |\n\n"
    "```python\n# 注释\nfor i in range(10):\n    print(i)\n```\n\n$$\\sum_{i=1}^n i = \\frac{n(n+1)}{2}$$"
)


def actions(person: Visitor, site: Site, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what is done and how; each follows the one before."""
    page, box = person.page, person.box
    chat, submit = page.locator("#chat"), page.locator("#question .submit-button")
    last, names, notice = chat.locator(".bot .md").last, page.locator("#chats .open"), page.locator("#notice")
    (folder / "chat.json").write_text(json.dumps([["a", "b"], ["c", "d"]]), encoding="utf-8")
    (folder / "wrong.json").write_text("[[1]]", encoding="utf-8")
    (folder / "notes.txt").write_text("some notes", encoding="utf-8")

    def ask(question: str, answer: str | None = None) -> None:
        person.ask(question)
        expect(chat.locator(".user .md").last).to_have_text(question)
        expect(submit).to_be_visible()
        if answer:
            expect(last).to_contain_text(answer)

    def stream(question: str) -> None:
        site.engine.seconds, before = 0.02, chat.locator(".bot .md").count()
        person.ask(question)
        expect(chat.locator(".bot .md")).to_have_count(before + 1)
        expect(last).to_contain_text("abcdefghij")

    def stopped() -> None:
        expect(submit).to_be_visible()
        site.engine.seconds = 0
        page.wait_for_timeout(300)

    def edit(text: str) -> None:
        chat.locator("button[aria-label='Edit']").last.click()
        chat.locator("textarea").fill(text)
        chat.locator("button[aria-label='Submit']").click()
        expect(chat.locator(".user .md").last).to_have_text(text)
        expect(submit).to_be_visible()

    def dialog(button: str, act: Callable) -> None:
        page.once("dialog", act)
        page.locator(button).first.click()

    def set_slider(name: str, value: str) -> None:
        page.get_by_label(EN[name]).first.fill(value)
        page.keyboard.press("Tab")

    def download(button: str) -> None:
        with page.expect_download():
            page.locator(button).click()

    toggle_settings = page.locator("#settings .toggle-button").click
    yield (
        "an example",
        lambda: chat.get_by_text(EXAMPLES["en"]["outline"].title).click() or expect(last).to_be_visible(),
    )
    yield "wait for its end", lambda: expect(submit).to_be_visible()
    yield "a question", lambda: ask("first", "answer 1 to first")
    yield "Markdown, code, formulas", lambda: ask("markdown", "return x < 1")
    yield "a table", lambda: ask("table", "苹果")
    yield "retry", lambda: person.click("Retry")
    yield "two versions", lambda: expect(chat.locator(".notes").last).to_contain_text("2/2")
    yield "the version before", lambda: chat.locator(".notes button").first.click()
    yield "edit", lambda: edit("edited")
    yield "undo", lambda: person.click("Undo")
    yield "its question is in the box", lambda: expect(box).to_have_value("edited")
    yield "ask it again", lambda: ask("edited", "to edited")
    yield "stream", lambda: stream("long")
    yield "stop", lambda: page.locator("#question .stop-button").click() or stopped()
    yield "stream again", lambda: stream("long")
    yield "Escape", lambda: page.keyboard.press("Escape") or stopped()
    yield "arrow up", lambda: box.press("ArrowUp") or expect(chat.locator("textarea")).to_have_value("long")
    yield (
        "Escape ends the edit",
        lambda: page.keyboard.press("Escape") or expect(chat.locator("textarea")).to_have_count(0),
    )
    yield "copy", lambda: chat.locator("button[aria-label='Copy message']").first.click()
    yield "open the settings", toggle_settings
    yield "system prompt", lambda: page.locator("#system textarea").fill("be brief")
    yield "a slider", lambda: set_slider("top_p", "0.5")
    yield "save", lambda: download("#save")
    yield "export", lambda: download("#export")
    yield "a wrong file", lambda: person.choose("#load", folder / "wrong.json") or expect(notice).not_to_be_empty()
    yield "load", lambda: person.choose("#load", folder / "chat.json") or expect(last).to_have_text("d")
    yield "close the settings", toggle_settings
    yield (
        "attach a file",
        lambda: person.choose("#attach", folder / "notes.txt") or expect(person.status).to_contain_text("tokens"),
    )
    yield (
        "too long a question",
        lambda: person.ask("many words " * 3000) or expect(person.status).to_contain_text("2048") or box.fill(""),
    )
    yield "a new chat", lambda: page.locator("#new").click() or expect(chat.locator(".message")).to_have_count(0)
    yield "open the list", lambda: page.locator("#conversations .toggle-button").click()
    yield "search", lambda: page.locator("#chats input[type=search]").fill("edited") or expect(names).to_have_count(1)
    yield "open a chat", lambda: names.first.click() or expect(last).to_contain_text(LONG[:10])
    yield "rename", lambda: dialog("#chats .rename", lambda shown: shown.accept("edited name"))
    yield "its new name", lambda: expect(names.first).to_have_text("edited name")
    yield "delete", lambda: dialog("#chats .delete", lambda shown: shown.accept()) or expect(names).to_have_count(0)
    yield "reload", lambda: page.reload() or expect(box).to_be_visible()


def picture(browser, site: Site, folder: Path, name: str, scheme: str) -> None:
    """Write pictures of the page's views in one size, light or dark."""
    width, height = VIEWS[name]
    options = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "locale": "zh-CN"}
    context = browser.new_context(**options, reduced_motion="reduce")
    person = Visitor(context, site.address)
    shoot = lambda view: person.page.screenshot(path=folder / f"{name}-{scheme}-{view}.png")  # noqa: E731
    shoot("empty")
    person.ask("table")
    expect(person.page.locator("#chat .katex").first).to_be_visible()
    person.page.wait_for_timeout(600)
    shoot("table")
    site.engine.seconds = 0.02
    person.ask("long")
    expect(person.page.locator("#chat .bot .md").last).to_contain_text("abcdefghij " * 4)
    shoot("streaming")
    person.page.keyboard.press("Escape")
    expect(person.page.locator("#question .submit-button")).to_be_visible()
    site.engine.seconds = 0
    person.ask("many words " * 3000)
    expect(person.status).to_contain_text("2048")
    shoot("error")
    person.box.press("Control+a")
    person.box.press("Delete")
    for bar in ("settings", "conversations"):
        person.page.locator(f"#{bar} .toggle-button").click()
        person.page.wait_for_timeout(500)
        shoot(bar)
        person.page.locator(f"#{bar} .toggle-button").click()
        person.page.wait_for_timeout(500)
    context.close()


def main() -> int:
    """Do the actions, print the list, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for pictures")
    output = parser.parse_args().output
    expect.set_options(timeout=30_000)
    errors, fallen = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_small_checkpoint(folder / "model")
        site = Site((model, ChatGLMTokenizer.from_pretrained(folder / "model")), {}, {})
        given = site.engine.answer
        site.engine.answer = lambda prompt: TABLE if prompt.endswith(("table", "table\n答：")) else given(prompt)
        with open_browser(folder / "home") as browser:
            context = browser.new_context(locale="en-US", permissions=["clipboard-read", "clipboard-write"])
            context.on("weberror", lambda error: errors.append(str(error.error)))
            context.on("console", lambda message: message.type == "error" and errors.append(message.text))
            given_up = re.compile("AbortError|Connection errored")  # by a page that is left
            for number, (name, act) in enumerate(actions(Visitor(context, site.address), site, folder), 1):
                try:
                    act()
                    print(f"{number:3} held    {name}", flush=True)
                except Exception as error:  # whatever it is, the list goes on
                    fallen += 1
                    print(f"{number:3} FALLEN  {name}: {str(error).splitlines()[0]}", flush=True)
            context.close()
            if output:
                output.mkdir(parents=True, exist_ok=True)
                for name in VIEWS:
                    for scheme in ("light", "dark"):
                        picture(browser, site, output, name, scheme)
        site.close()
    errors = [error for error in errors if not given_up.search(error)]
    print(f"{fallen} fallen; errors in the console: {errors or 'none'}")
    return 1 if fallen or errors else 0


if __name__ == "__main__":
    sys.exit(main())
