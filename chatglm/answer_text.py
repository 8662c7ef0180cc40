"""The text of an answer as its tokens come: what is final already, and where a stop text ends it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # not `from .name`: transformers 5.8 looks for the files named so, uncopied
    from . import grammar as grammars
    from . import tokenization_chatglm

WORD_START = "▁"
REPLACEMENT_CHARACTER = "\ufffd"

# What `process_response` may still change when more text comes: half-width punctuation, the date's placeholder.
UNSETTLED_END = re.compile(r"(?:[,!:;?]|\[|\[\[(?:训(?:练(?:时(?:间\]?)?)?)?)?)\Z")


class IncrementalDecoder:
    """Turn token ids into text one at a time, in constant time for each.

    The pieces that `put` and `end` return add up to `tokenizer.decode(ids)`, whatever the ids are. A character whose
    bytes are spread over several tokens is returned when it is complete; U+FFFD appears only for bytes that can no
    longer become a character (one for each byte, as SentencePiece does).

    Args:
        tokenizer: the tokenizer that the ids belong to.
        started: whether the ids go on from a text, so that a space at their start counts.
    """

    def __init__(self, tokenizer: tokenization_chatglm.ChatGLMTokenizer, started: bool = False) -> None:
        self._tokenizer = tokenizer
        self._bytes = b""
        self._started = started

    def put(self, token_id: int) -> str:
        """Take the next token id and return the text that is final now, possibly ""."""
        return self.put_surface(self._tokenizer.surface(token_id))

    def put_surface(self, surface: str | bytes | None) -> str:
        """Take the next token as `ChatGLMTokenizer.surface` gives it and return the text that is final now."""
        if surface is None:
            return ""
        if isinstance(surface, bytes):
            self._bytes += surface
            text = self._take_characters(ended=False)
        else:
            text = self._take_characters(ended=True)
            if not self._started and not text:
                surface = surface.removeprefix(WORD_START)  # the dummy space that encoding put before the text
            text += surface.replace(WORD_START, " ")
        self._started = self._started or text != ""
        return text

    def end(self) -> str:
        """Return what is left when no more tokens come: U+FFFD for each byte of an unfinished character."""
        text = self._take_characters(ended=True)
        self._started = self._started or text != ""
        return text

    def _take_characters(self, ended: bool) -> str:
        """Decode pending bytes up to the first character that is unfinished but still possible."""
        text = ""
        while self._bytes:
            try:
                text += self._bytes.decode("utf-8")
                self._bytes = b""
            except UnicodeDecodeError as error:
                text += self._bytes[: error.start].decode("utf-8")
                self._bytes = self._bytes[error.start :]
                if error.reason == "unexpected end of data" and not ended:
                    break
                text += REPLACEMENT_CHARACTER
                self._bytes = self._bytes[1:]
        return text


def process_response(response: str, map_punctuation: bool = True) -> str:
    """Return an answer as the original shows it: stripped, the training date filled in, and `,!:;?` in full width
    beside a Chinese character (switch this off for code and JSON)."""
    response = response.strip().replace("[[训练时间]]", "2023年")
    if map_punctuation:
        for half, full in (",，", "!！", ":：", ";；", "?？"):
            response = re.sub(rf"([\u4e00-\u9fff])\{half}", rf"\1{full}", response)
            response = re.sub(rf"\{half}([\u4e00-\u9fff])", rf"{full}\1", response)
    return response


class SettledText:
    """Apply `process_response` to text that comes in parts: what is returned will not change any more.

    Args:
        map_punctuation: see `process_response`.
        before: text that is there already.
    """

    def __init__(self, map_punctuation: bool = True, before: str = "") -> None:
        self.map_punctuation = map_punctuation
        self.pending = ""
        # the character before the pending text, as it was returned; white space would be stripped with the text's
        self.last = "." if before[-1:].isspace() else before[-1:]

    def put(self, text: str, ended: bool = False) -> str:
        """Take more text and return what is final now."""
        self.pending += text
        if not self.last:
            self.pending = self.pending.lstrip()
        body = self.pending.rstrip()
        unsettled = None if ended else UNSETTLED_END.search(body)
        if unsettled and not UNSETTLED_END.search(process_response(self.last + body, self.map_punctuation)):
            unsettled = None  # punctuation behind a Chinese character is in full width already
        end = unsettled.start() if unsettled else len(body)
        end = len(self.pending[:end].rstrip())
        if not end:
            return ""
        # what comes before the unsettled end has all the neighbours that decide about it
        final = process_response(self.last + self.pending[:end], self.map_punctuation)[len(self.last) :]
        self.pending, self.last = self.pending[end:], final[-1]
        return final


class StopText:
    """Find the first of some texts in text that comes in parts, and hold back what may still become one of them."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = tuple(stop)
        self.pending = ""
        self.found: str | None = None

    def put(self, text: str, ended: bool = False) -> str:
        """Take more text and return what certainly comes before a stop text; `found` is the one that is complete."""
        if not self.stop or not text and not ended:
            return text
        self.pending += text
        ends = [(start + len(word), start, word) for word in self.stop if (start := self.pending.find(word)) >= 0]
        if ends:  # the one that is complete first, however the text was cut
            _, end, self.found = min(ends)
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


class AnswerText:
    """The text of one answer as its tokens come; the parts that are returned are final and add up to the answer.

    Args:
        tokenizer: the model's.
        map_punctuation: see `process_response`.
        stop: texts that end the answer, which does not include them.
        min_tokens: tokens before stop texts count.
        before: text that the answer goes on from.
        grammar: the answer's form, which holds for the text as it is; None for plain text.
    """

    def __init__(
        self,
        tokenizer: tokenization_chatglm.ChatGLMTokenizer,
        map_punctuation: bool = True,
        stop: Sequence[str] = (),
        min_tokens: int = 0,
        before: str = "",
        grammar: grammars.Grammar | None = None,
    ) -> None:
        self.special_ids = set(tokenizer.all_special_ids)
        self.grammar, self.exact = grammar, None if grammar else False  # None: the text's start will say
        started = before != "" if grammar is None else grammar.keeps_space
        self.decoder = IncrementalDecoder(tokenizer, started)
        self.settled, self.stop, self.unstopped = SettledText(map_punctuation, before), StopText(stop), min_tokens

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come, and with it the end."""
        return self.stop.found is not None

    def put(self, token_id: int) -> str:
        """Take the next token and return the text that is final now, possibly ""."""
        text = "" if token_id in self.special_ids else self.decoder.put(token_id)
        text = self._settle(text)
        if self.unstopped:
            self.unstopped -= 1
            return text
        return self.stop.put(text)

    def end(self) -> str:
        """Return what was held back when no more tokens come."""
        return "" if self.stopped else self.stop.put(self._settle(self.decoder.end(), ended=True), ended=True)

    def _settle(self, text: str, ended: bool = False) -> str:
        if self.exact is None and text:
            self.exact = text.startswith(self.grammar.exact_start)
        return text if self.exact else self.settled.put(text, ended)
