"""Log lines that are lines: what clients sent cannot begin a new one, nor move a terminal's cursor."""

from __future__ import annotations

import logging
import re
import sys

CONTROLS = "\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f"  # C0 without tab, DEL, and C1 with U+0085
SEPARATORS = "\\u2028\\u2029\\ufeff\\ud800-\\udfff"
DIRECTIONS = "\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069"  # they turn the text that follows around
UNSEEN = re.compile(f"[{CONTROLS}{SEPARATORS}{DIRECTIONS}]")


def escape(text: str) -> str:
    """Return a text with its control characters as Python writes them in a string."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class EscapingFormatter(logging.Formatter):
    """Write each message on a line of its own; an exception's traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: D102, N802
        return escape(super().formatMessage(record))

    def formatException(self, ei) -> str:  # noqa: D102, N802
        return "\n".join(map(escape, super().formatException(ei).split("\n")))


def log_to_standard_error() -> None:
    """Let the process's log go to standard error, with times and levels."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EscapingFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
