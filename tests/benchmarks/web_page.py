"""Measure how long a person waits for the first character on web_demo.py's page, and how much of that is the model.

    python tests/benchmarks/web_page.py                 the embedded checkpoint
    python tests/benchmarks/web_page.py --model PATH    another one

In a browser's clock: from the press of Enter to the picture with the answer's first character. In the engine's, for the
same questions: from the request to the first token. Medians of --rounds questions of one chat, after one that does not
count. Needs what requirements-dev.txt names, and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import web_demo  # noqa: E402
from engine import Answer, Engine  # noqa: E402
from utils import EMBEDDED_CHECKPOINT, ModelArguments, load_model_and_tokenizer  # noqa: E402

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
    demo = web_demo.build_demo(engine)
    address = web_demo.launch(demo, web_demo.PageArguments(port=0), prevent_thread_lock=True)
    seen = []
    with sync_playwright() as driver:
        flags = ["--headless", "--no-sandbox", "--disable-gpu"]
        page = driver.chromium.launch(executable_path=chromium, args=flags).new_page()
        page.goto(address)
        expect(page.locator("#chat .placeholder-content")).to_be_visible(timeout=120_000)
        box = page.locator("#question textarea")
        for number in range(arguments.rounds + 1):
            box.fill(f"{number} + 4 = ?")
            page.evaluate(f"window.watched = ({WATCH})({number})")
            box.press("Enter")
            seen.append(page.evaluate("window.watched") / 1000)
            expect(page.locator("#question .submit-button")).to_be_visible(timeout=120_000)
    demo.close(verbose=False)
    engine.close()
    page_seconds = statistics.median(seen[1:])
    model_seconds = statistics.median([answer.first_token - answer.submitted for answer in answers[1:]])
    print(
        f"first character on the page {1000 * page_seconds:.0f} ms, first token of the model {1000 * model_seconds:.0f} ms"
    )
    print(
        f"the page adds {1000 * (page_seconds - model_seconds):.0f} ms: {page_seconds / model_seconds:.1f} times the model's"
    )


if __name__ == "__main__":
    main()
