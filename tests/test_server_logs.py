"""server/logs.py: what clients send cannot begin a line of the log, nor move a terminal's cursor."""

from __future__ import annotations

import io
import logging

import pytest

from server.logs import EscapingFormatter, escape


@pytest.mark.parametrize(
    "character",
    ["\n", "\r", "\x00", "\x08", "\x0b", "\x0c", "\x1b", "\x7f", "\x80", "\x85", "\x9b", "\x9f", "\u2028", "\u2029"]
    + ["\u200e", "\u202e", "\u2066", "\ufeff", "\ud800"],
)
def test_escape_shows_what_cannot_be_seen(character):
    escaped = escape(f"a{character}b")
    assert escaped.isprintable() and escaped.isascii() and escaped.startswith("a\\") and escaped.endswith("b")
    assert escaped.encode("ascii").decode("unicode_escape") == f"a{character}b"


@pytest.mark.parametrize("text", ["", "plain", "中文，标点。", "🙂", "a\tb", "é", "back\\slash", "\xa0"])
def test_escape_leaves_text(text):
    assert escape(text) == text


def test_a_message_is_one_line_and_a_traceback_keeps_its_lines():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(EscapingFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.info("path %s", "/a\nINFO forged\u2028\x9b31m")
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        logger.exception("failed")
    first, second, *traceback = stream.getvalue().splitlines()
    assert first == r"INFO path /a\nINFO forged\u2028\x9b31m" and second == "ERROR failed"
    assert len(traceback) > 2 and traceback[-1] == r"ValueError: \x1b[2J"
