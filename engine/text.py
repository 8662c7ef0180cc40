"""The text of an answer as it grows: what is final already, and where a stop text ends it."""

from __future__ import annotations

import re
from collections.abc import Callable

# What `process_response` may still change when more text comes: half-width punctuation, the date's placeholder.
UNSETTLED_END = re.compile(r"(?:[,!:;?]|\[|\[\[(?:训(?:练(?:时(?:间\]?)?)?)?)?)\Z")


class TidyText:
    """Apply the model's `process_response` to text that comes in parts: what is returned will not change any more.

    Args:
        process_response: the model's.
        map_punctuation: see there.
    """

    def __init__(self, process_response: Callable[[str, bool], str], map_punctuation: bool) -> None:
        self.process_response, self.map_punctuation = process_response, map_punctuation
        self.pending = ""
        self.last = ""  # the character before the pending text, as it was returned

    def put(self, text: str, ended: bool = False) -> str:
        """Take more text and return what is final now."""
        self.pending += text
        if not self.last:
            self.pending = self.pending.lstrip()
        body = self.pending.rstrip()
        unsettled = None if ended else UNSETTLED_END.search(body)
        end = unsettled.start() if unsettled else len(body)
        end = len(self.pending[:end].rstrip())
        if not end:
            return ""
        # what comes before the unsettled end has all the neighbours that decide about it
        final = self.process_response(self.last + self.pending[:end], self.map_punctuation)[len(self.last) :]
        self.pending, self.last = self.pending[end:], final[-1]
        return final


class StopText:
    """Find the first of some texts in text that comes in parts, and hold back what may still become one of them."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stop = stop
        self.pending = ""
        self.found = False

    def put(self, text: str, ended: bool = False) -> str:
        """Take more text and return what certainly comes before a stop text; `found` says that one is complete."""
        if not self.stop or not text and not ended:
            return text
        self.pending += text
        ends = [(start + len(word), start) for word in self.stop if (start := self.pending.find(word)) >= 0]
        if ends:  # the one that is complete first, however the text was cut
            self.found, end = True, min(ends)[1]
        elif ended:
            end = len(self.pending)
        else:
            held = (
                size
                for word in self.stop
                for size in range(1, min(len(word), len(self.pending) + 1))
                if self.pending.endswith(word[:size])
            )
            end = len(self.pending) - max(held, default=0)
        final, self.pending = self.pending[:end], self.pending[end:]
        return final
