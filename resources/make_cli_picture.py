"""Make resources/cli-demo.png: a real chat with cli_demo.py in a tmux terminal, drawn as the terminal shows it.

    python resources/make_cli_picture.py                    asks the embedded checkpoint
    python resources/make_cli_picture.py --model PATH       asks another one

Needs tmux, Pillow, fontconfig and the fonts Noto Sans Mono CJK and Noto Color Emoji (Debian: tmux fontconfig
fonts-noto-cjk fonts-noto-color-emoji). What the terminal showed is also written to standard output, as text.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
# (question, text that its answer must show before Ctrl-C is pressed; None lets it end)
CHAT = (
    ("你好", None),
    ("Who are you?", None),
    ("晚上睡不着应该怎么办", "2."),
    ("35 + 48 = ?", None),
    ("Translate into Chinese: thank you", None),
)
COLUMNS, ROWS = 92, 50
PROMPT, LABEL = "用户：", "ChatGLM-6B："
CELL_WIDTH, CELL_HEIGHT, MARGIN, FONT_SIZE = 13, 34, 26, 26  # pixels; a wide character takes two cells
BACKGROUND, FOREGROUND, PROMPT_COLOUR, LABEL_COLOUR = "#14161b", "#d8dee9", "#8fbcbb", "#a3be8c"
EMOJI_SIZE = 109  # the only size that Noto Color Emoji has


class Terminal:
    """A program in a tmux server of its own."""

    def __init__(self, command: str) -> None:
        self.server = ["tmux", "-L", "make_cli_picture", "-f", "/dev/null", "-u"]
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        subprocess.run([*self.server, "new-session", "-d", *size, "-c", str(ROOT), command], check=True)

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names for them."""
        subprocess.run([*self.server, "send-keys", *keys], check=True)

    def lines(self) -> list[str]:
        """Return the lines that the terminal shows, without empty ones at the end."""
        shown = subprocess.run([*self.server, "capture-pane", "-p"], check=True, capture_output=True, encoding="utf-8")
        return shown.stdout.rstrip("\n").split("\n")

    def wait_for(self, condition, seconds: float = 600.0) -> None:
        """Wait until the shown lines meet a condition."""
        deadline = time.monotonic() + seconds
        while not condition(self.lines()):
            if time.monotonic() > deadline:
                sys.exit("the chat did not go on:\n" + "\n".join(self.lines()))
            time.sleep(0.01)

    def close(self) -> None:
        """End the server and the program in it."""
        subprocess.run([*self.server, "kill-server"], check=True)


def record_chat(model: str | None, seed: int) -> list[str]:
    """Hold the chat and return what the terminal shows at its end."""
    command = [sys.executable, "cli_demo.py", "--seed", str(seed), *(["--model", model] if model else [])]
    terminal = Terminal(shlex.join(command) + " 2>/dev/null")
    try:
        for question, interrupt_at in CHAT:
            terminal.wait_for(lambda lines: lines[-1].rstrip() == PROMPT)
            answers = sum(line.startswith(LABEL) for line in terminal.lines())
            terminal.type("-l", question)
            terminal.type("Enter")
            if interrupt_at:
                terminal.wait_for(lambda lines, text=interrupt_at: text in "\n".join(lines))
                terminal.type("C-c")
            terminal.wait_for(
                lambda lines, count=answers: (
                    sum(line.startswith(LABEL) for line in lines) == count + 1 and lines[-1].rstrip() == PROMPT
                )
            )
        return terminal.lines()
    finally:
        terminal.close()


def find_font(family: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of the system."""
    found = subprocess.run(["fc-match", "-f", "%{family}|%{file}|%{index}", family], capture_output=True, text=True)
    names, file, index = found.stdout.split("|")
    if family not in names:
        sys.exit(f"font {family} is not installed, fontconfig offers {names}: see the top of this script")
    return ImageFont.truetype(file, size, index=int(index))


def draw(lines: list[str]) -> Image.Image:
    """Draw lines as a terminal does, on a grid of cells."""
    text_font, emoji_font = find_font("Noto Sans Mono CJK SC", FONT_SIZE), find_font("Noto Color Emoji", EMOJI_SIZE)
    size = (COLUMNS * CELL_WIDTH + 2 * MARGIN, len(lines) * CELL_HEIGHT + 2 * MARGIN)
    picture = Image.new("RGB", size, BACKGROUND)
    canvas = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        x, y = MARGIN, MARGIN + row * CELL_HEIGHT
        for column, character in enumerate(line):
            wide = unicodedata.east_asian_width(character) in "WF"
            if wide and ord(character) >= 0x1F000:
                emoji = Image.new("RGBA", (136, 128))
                ImageDraw.Draw(emoji).text((0, 0), character, font=emoji_font, embedded_color=True)
                emoji = emoji.resize((2 * CELL_WIDTH, 2 * CELL_WIDTH))
                picture.paste(emoji, (x, y + (CELL_HEIGHT - 2 * CELL_WIDTH) // 2), emoji)
            else:
                colour = FOREGROUND
                for prefix, prefix_colour in ((PROMPT, PROMPT_COLOUR), (LABEL, LABEL_COLOUR)):
                    if line.startswith(prefix) and column < len(prefix):
                        colour = prefix_colour
                canvas.text((x, y + CELL_HEIGHT - 9), character, font=text_font, fill=colour, anchor="ls")
            x += CELL_WIDTH * (2 if wide else 1)
    return picture


def main() -> None:
    """Record the chat, print it, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder (default: the embedded one)")
    parser.add_argument("--output", type=Path, default=ROOT / "resources" / "cli-demo.png", help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    arguments = parser.parse_args()
    lines = record_chat(arguments.model, arguments.seed)
    print("\n".join(lines))
    draw(lines).quantize(64).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
