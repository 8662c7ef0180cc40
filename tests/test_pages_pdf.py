"""Tests of the text of PDFs: of files written here by hand, and of hostile ones."""

from __future__ import annotations

import zlib

import pytest

from pages import pdf
from pages.content import HISTORY_CHARACTERS
from pages.pdf import UnreadablePDFError, pdf_text


def written(*pages: bytes, packed: bool = False) -> bytes:
    """Return a PDF of which each page shows a text, by the format's own rules (ISO 32000-1)."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(len(pages)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%s]/Count %d/MediaBox[0 0 600 800]>>" % (kids, len(pages)),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for number, shown in enumerate(pages):
        content = b"BT /F 12 Tf 50 700 Td (%s) Tj ET" % shown
        kind = b"/Filter/FlateDecode" if packed else b""
        content = zlib.compress(content) if packed else content
        objects.append(b"<</Type/Page/Parent 2 0 R/Resources<</Font<</F 3 0 R>>>>/Contents %d 0 R>>" % (5 + 2 * number))
        objects.append(b"<</Length %d%s>>stream\n%s\nendstream" % (len(content), kind, content))
    made, places = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    count, start = len(objects) + 1, len(made)
    made += b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<</Size %d/Root 1 0 R>>\n" % (count, table, count)
    return made + b"startxref\n%d\n%%%%EOF\n" % start


@pytest.mark.parametrize("packed", [False, True])
def test_text_of_the_pages_in_their_order(packed):
    assert pdf_text(written(b"first page", b"second \\(page\\)", packed=packed)) == "first page\n\nsecond (page)"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%PDF-1.7",
        b"%PDF-1.7\n" + b"[" * 100_000,
        b"\0" * 100_000,
        written(),
        written(b""),
        written(b"cut off")[:300],
        written(b"a").replace(b"/Parent 2 0 R", b"/Parent 4 0 R").replace(b"[4 0 R]", b"[2 0 R]"),
    ],
    ids=["empty", "head", "nested", "zeros", "no pages", "no text", "cut off", "circle"],
)
def test_what_has_no_text_is_refused(data):
    with pytest.raises(UnreadablePDFError):
        pdf_text(data)


def test_time_and_size_are_bounded(monkeypatch):
    """A page of two million characters is cut after one more than a chat takes; a reader that is slow is ended."""
    assert len(pdf_text(written(b"a " * HISTORY_CHARACTERS, packed=True))) == HISTORY_CHARACTERS + 1
    monkeypatch.setattr(pdf, "SECONDS", 0.001)
    with pytest.raises(UnreadablePDFError, match=r"0\.001 s"):
        pdf_text(written(b"a"))


def test_memory_is_bounded():
    """A stream that unpacks to more than a gigabyte ends the reader, not the page."""
    bomb = zlib.compressobj(1)
    packed = b"".join(bomb.compress(b"\0" * (1 << 20)) for _ in range(1280)) + bomb.flush()
    data = written(b"a", packed=True)
    content = zlib.compress(b"BT /F 12 Tf 50 700 Td (a) Tj ET")
    data = data.replace(b"<</Length %d" % len(content), b"<</Length %d" % len(packed)).replace(content, packed)
    with pytest.raises(UnreadablePDFError):
        pdf_text(data)
