"""Make the pictures of the web page from real chats: resources/web-demo.png and .gif, and those of examples/.

In Chinese; the examples also in English, in examples/en/ (all but the e-mail, which README shows in Chinese).

    python resources/make_web_pictures.py                    asks the embedded checkpoint
    python resources/make_web_pictures.py --model PATH       asks another one

Needs what requirements-dev.txt names, Chromium, and the fonts Noto Sans CJK and Noto Color Emoji (Debian: chromium
fonts-noto-cjk fonts-noto-color-emoji). What was asked and answered is also written to standard output, as text.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pages.texts import EXAMPLES  # noqa: E402

LANGUAGE, LOCALES = "zh", {"zh": "zh-CN", "en": "en-US"}
GREETING = ("你好", "晚上睡不着应该怎么办")
FURTHER = {  # questions that follow an example's own
    "zh": {"role-play": ("我头疼",), "self-introduction": ("你会做什么",)},
    "en": {"role-play": ("I have a headache",), "self-introduction": ("What can you do?",)},
}
WIDTH, HEIGHT, FILM_SIZE = 760, 320, (720, 540)  # pixels of the page; as high as its chat needs, but not less
SCALE = 1.5  # pixels of a picture for one of the page
FILM_WIDTH, FILM_COLOURS, FILM_SECONDS = 720, 64, 0.08  # seconds: least between two pictures of the film
BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Program:
    """`python web_demo.py`, running."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "web_demo.py"), "--port", "0", *flags],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if line.startswith("http://"):
                break
        else:
            sys.exit("web_demo.py did not start:\n" + "".join(lines))
        self.address = lines[-1].strip()

    def close(self) -> None:
        """End the program."""
        self.process.terminate()
        self.process.wait()


def ask(page: Page, question: str) -> None:
    """Ask a question, and wait for the end of its answer."""
    box, ended = page.locator("#question textarea"), page.locator("#chat .notes:not(:empty)")  # counts below answers
    before = ended.count()
    box.fill(question)
    box.press("Enter")
    expect(ended).to_have_count(before + 1)
    expect(page.locator("#question .submit-button")).to_be_visible()


def show_all(page: Page) -> None:
    """Make the page as high as its chat."""
    log = page.locator("#chat [role=log]")
    hidden = log.evaluate("box => box.scrollHeight - box.clientHeight")
    size = page.viewport_size
    page.set_viewport_size({"width": size["width"], "height": size["height"] + max(0, hidden)})
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)


def report(page: Page) -> None:
    """Print the chat."""
    print(*page.locator("#chat .message .md").all_inner_texts(), "", sep="\n", flush=True)


def save(screenshot: bytes, file: Path) -> None:
    """Write a picture with few colours, which is a third of the size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(screenshot)).convert("RGB").quantize(128).save(file, optimize=True)


def film(page: Page, file: Path) -> None:
    """Write a film of a question that is typed and answered, at its real speed."""
    pictures, times = [], []

    def take() -> None:
        times.append(time.monotonic())
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        pictures.append(picture.resize((FILM_WIDTH, FILM_WIDTH * picture.height // picture.width), Image.LANCZOS))
        page.wait_for_timeout(max(0.0, 1000 * (FILM_SECONDS - (time.monotonic() - times[-1]))))

    box = page.locator("#question textarea")
    for question in GREETING:
        for character in question:
            box.press_sequentially(character)
            take()
        box.press("Enter")
        answers = page.locator("#chat .bot .md").count()
        while not (
            page.locator("#question .submit-button").is_visible() and answers < page.locator("#chat .bot .md").count()
        ):
            take()
        for _ in range(5):
            take()
    durations = [round(1000 * (after - before)) for before, after in zip(times, times[1:], strict=False)] + [2500]
    palette = pictures[-1].quantize(FILM_COLOURS)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)


def main() -> None:
    """Start the program, hold the chats, and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder (default: the embedded one)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    parser.add_argument("--output", type=Path, default=ROOT, help="folder to write resources/ and examples/ into")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("needs Chromium")
    expect.set_options(timeout=600_000)
    program = Program("--seed", str(arguments.seed), *(["--model", arguments.model] if arguments.model else []))
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=BROWSER_FLAGS)

            def open_page(width: int, height: int, scale: float, language: str = LANGUAGE) -> Page:
                size = {"width": width, "height": height}
                page = browser.new_page(viewport=size, device_scale_factor=scale, locale=LOCALES[language])
                page.goto(program.address)
                expect(page.locator("#chat .placeholder-content")).to_be_visible()
                return page

            chats = {"resources/web-demo.png": (LANGUAGE, GREETING)}
            for language, folder in (("zh", "examples"), ("en", "examples/en")):
                for name, item in EXAMPLES[language].items():
                    questions = (item.question, *FURTHER[language].get(name, ()))
                    if (language, name) != ("en", "e-mail"):
                        chats[f"{folder}/{name}.png"] = language, questions
            for file, (language, questions) in chats.items():
                page = open_page(WIDTH, HEIGHT, SCALE, language)
                for question in questions:
                    ask(page, question)
                show_all(page)
                save(page.screenshot(), arguments.output / file)
                print(f"== {file}")
                report(page)
                page.close()
            page = open_page(*FILM_SIZE, 1.0)
            film(page, arguments.output / "resources" / "web-demo.gif")
            browser.close()
    finally:
        program.close()


if __name__ == "__main__":
    main()
