"""Measure how long a person waits for the first character on web_demo.py's page, and how much of that is the model.

    python -m tests.benchmarks.web_page                 the embedded checkpoint
    python -m tests.benchmarks.web_page --model PATH    another one

In a browser's clock: from the press of Enter to the picture with the answer's first character. In the engine's, for the
same questions: from the request to the first token. Medians of --rounds questions of one chat, after one that does not
count. Needs what requirements-dev.txt names, and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys

from playwright.sync_api import expect, sync_playwright

from engine import Answer, Engine
from loading.arguments import EMBEDDED_CHECKPOINT, ModelArguments
from loading.load import load_model_and_tokenizer
from pages import gradio_page
from pages.arguments import PageArguments

# Resolves with the milliseconds from Enter to the first frame that shows text in the answer of a number.
WATCH = """number => new Promise(resolve => {
    let pressed = null;
    document.querySelector("#question textarea").addEventListener("keydown", event => {
        if (event.key === "Enter") pressed = performance.now();
    }, { once: true });
    const look = () => {
        const answer = document.querySelectorAll("#chat .bot .md")[number];
        if (pressed !== null && answer && answer.textContent.trim()) resolve(performance.now() - pressed);
        else requestAnimationFrame(look);
    };
    look();
})"""


def main() -> None:
    """Ask in a browser, and print the two times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED_CHECKPOINT, help="checkpoint folder")
    parser.add_argument("--rounds", type=int, default=7, help="questions to measure")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("needs Chromium")
    answers: list[Answer] = []
    engine = Engine(*load_model_and_tokenizer(ModelArguments(arguments.model)), on_finished=answers.append)
    demo = gradio_page.build_demo(engine)
    address = gradio_page.launch(demo, PageArguments(port=0), prevent_thread_lock=True)
    seen = []
    with sync_playwright() as driver:
        flags = ["--headless", "--no-sandbox", "--disable-gpu"]
        page = driver.chromium.launch(executable_path=chromium, args=flags).new_page()
        page.goto(address)
        expect(page.locator("#chat .placeholder-content")).to_be_visible(timeout=120_000)
        box = page.locator("#question textarea")
        for number in range(arguments.rounds + 1):
            box.fill(f"{number} + 4 = ?")
            page.evaluate(f"void (window.watched = ({WATCH})({number}))")  # not waited for here
            box.press("Enter")
            seen.append(page.evaluate("window.watched") / 1000)
            expect(page.locator("#question .submit-button")).to_be_visible(timeout=120_000)
    demo.close(verbose=False)
    engine.close()
    page_time = 1000 * statistics.median(seen[1:])
    model_time = 1000 * statistics.median([answer.first_token - answer.submitted for answer in answers[1:]])
    print(f"first character on the page after {page_time:.0f} ms, first token of the model after {model_time:.0f} ms")
    print(f"the page adds {page_time - model_time:.0f} ms; {page_time / model_time:.1f} times the model's")


if __name__ == "__main__":
    main()
