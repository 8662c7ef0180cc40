"""Questions and answers as Markdown that a page shows without obeying what is in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

CODE_BLOCK = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,})[^\n]*(?:\n.*?(?:^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)|\Z)", re.M | re.S
)
CODE_SPAN_OR_FORMULA = re.compile(
    r"(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=ticks)(?!`)"
    r"|\$\$(?P<block>.+?)\$\$|\\\[(?P<block2>.+?)\\\]"
    r"|\\\((?P<inline>.+?)\\\)"
    # as in Pandoc, so that amounts of money stay text
    r"|(?<![\\$\w])\$(?![\s$])(?P<inline2>[^$\n]*[^$\s\\])\$(?![\d$])",
    re.S,
)
LITERAL = re.compile(r"[!-/:-@\[-`{-~]|^[ \t]", re.M)  # whatever has a meaning in Markdown
NUMBERED = re.compile(r"&#(\d+);")


class Dialect(NamedTuple):
    """How a page's Markdown is written.

    Attributes:
        active: what must become text: what begins a tag, an image, a character's number, and the page's own marks.
        in_formula: what must become text in a formula; None: nothing.
        inline_formula, block_formula: templates of formulas.
        line_break: the end of a line that is not joined with the next one.
    """

    active: re.Pattern
    in_formula: re.Pattern | None
    inline_formula: str
    block_formula: str
    line_break: str


HTML_OR_IMAGE = r"<(?=[A-Za-z/!?])|!(?=\[)|&(?=#)"
# Gradio puts formulas into the page as HTML, which older versions do not escape.
GRADIO = Dialect(re.compile(HTML_OR_IMAGE), re.compile(r"[<&]"), r"\({}\)", "$${}$$", "\n")
STREAMLIT = Dialect(re.compile(HTML_OR_IMAGE + r"|\$|:(?=[A-Za-z][\w/+-]*[:\[])"), None, "${}$", "$${}$$", "  \n")


def numbered(found: re.Match) -> str:
    """Return a character as HTML's number for it, which Markdown takes for text."""
    return f"&#{ord(found[0])};"


def answer_markdown(text: str, dialect: Dialect) -> str:
    """Return an answer as Markdown with its code and formulas, but with HTML tags and pictures as text.

    Pictures, because looking at one would ask another computer for it.
    """
    return convert_prose(text, lambda prose: answer_prose(prose, dialect))


def question_markdown(text: str, dialect: Dialect) -> str:
    """Return a question as Markdown that shows it as it was typed, with code blocks."""
    return convert_prose(text, lambda prose: LITERAL.sub(numbered, prose).replace("\n", dialect.line_break))


def typed_text(markdown: str) -> str:
    """Return the text that `question_markdown` was given, if its dialect ends lines by a bare newline."""
    return NUMBERED.sub(lambda found: chr(int(found[1])), markdown)


def convert_prose(text: str, convert: Callable[[str], str]) -> str:
    """Return a text with what is outside of its code blocks converted."""
    parts, end = [], 0
    for block in CODE_BLOCK.finditer(text):
        parts += [convert(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, convert(text[end:])])


def answer_prose(text: str, dialect: Dialect) -> str:
    """Return an answer's part without code blocks as `answer_markdown` does."""

    def plain(part: str) -> str:
        return re.sub(r"(?<!\n)\n(?!\n)", lambda _: dialect.line_break, dialect.active.sub(numbered, part))

    parts, end = [], 0
    for found in CODE_SPAN_OR_FORMULA.finditer(text):
        block, inline = found["block"] or found["block2"], found["inline"] or found["inline2"]
        if block or inline:
            formula = dialect.in_formula.sub(numbered, block or inline) if dialect.in_formula else block or inline
            kept = (dialect.block_formula if block else dialect.inline_formula).format(formula)
        else:
            kept = found[0]
        parts += [plain(text[end : found.start()]), kept]
        end = found.end()
    return "".join([*parts, plain(text[end:])])
