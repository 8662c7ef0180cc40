"""The text of a PDF, read in a process of its own that gets neither much time nor much memory."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pypdf

ROOT = Path(__file__).resolve().parent.parent
MOST_CHARACTERS = 1_000_001  # one more than a chat may have, so that the page says so
SECONDS = 20.0  # for a file
MEMORY_BYTES = 1 << 30
AT_ONCE = 2  # files; others wait
# Browsers print some characters as the radicals that look like them, which no model has read. Unicode says which
# character a Kangxi radical is; for the others this follows its EquivalentUnifiedIdeograph.txt.
OTHER_RADICALS = (
    "⺠民⻁虎⻄西⻅见⻆角⻉贝⻋车⻑長⻓长⻔门⻘青⻙韦⻚页⻛风⻜飞⻝食⻢马⻣骨⻤鬼⻥鱼⻦鸟⻧卤⻨麦⻩黄⻪黾⻬齐⻮齿⻰龙"
)
RADICALS = dict(zip(map(ord, OTHER_RADICALS[::2]), OTHER_RADICALS[1::2], strict=True)) | {
    code: unicodedata.normalize("NFKC", chr(code)) for code in range(0x2E80, 0x2FE0) if chr(code) not in OTHER_RADICALS
}


class UnreadablePDFError(ValueError):
    """No text can be read from a PDF, or not within the limits."""


def pdf_text(data: bytes) -> str:
    """Return the text of a PDF's pages, of the first `MOST_CHARACTERS`.

    Raises:
        UnreadablePDFError: it is damaged, encrypted or has no text, or reading it takes too long or too much memory.
    """
    command = [sys.executable, "-m", "pages.pdf"]
    try:
        read = subprocess.run(
            command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS, cwd=ROOT
        )
    except subprocess.TimeoutExpired as error:
        raise UnreadablePDFError(f"reading the PDF took more than {SECONDS:g} s") from error
    text = read.stdout.decode("utf-8", "replace").strip()
    if read.returncode or not text:
        raise UnreadablePDFError("no text can be read from the PDF")
    return text[:MOST_CHARACTERS]


def main() -> int:
    """Write the text of the PDF that comes by standard input."""
    if sys.platform != "win32":
        import resource

        os.nice(19)  # answers come first
        with contextlib.suppress(ValueError, OSError):  # macOS sets no such limit
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    left = MOST_CHARACTERS
    for page in pypdf.PdfReader(io.BytesIO(sys.stdin.buffer.read())).pages:
        text = page.extract_text().translate(RADICALS).strip()[:left]
        sys.stdout.buffer.write(f"{text}\n\n".encode("utf-8", "replace"))
        left -= len(text)
        if left <= 0:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
