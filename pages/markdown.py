"""Questions and answers as Markdown that a page shows without obeying what is in them."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

CODE_BLOCK = re.compile(
    r"^ {0,3}(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})[^\n]*(?:\n.*?(?:^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)|\Z)", re.M | re.S
)
DIAGRAM = re.compile(r"^([ \t>*+\-\d.)]*(?:`{3,}|~{3,})[ \t]*)mermaid(?!\S)", re.M | re.I)  # in lists and quotes, too
# What may begin or end a code span or a formula, or be escaped so that it does not.
MARK = re.compile(r"`+|\\[(\[]|\\[!-/:-@\\\]-`{-~]|\$\$|\$")
PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
ENDS = {"$$": "$$", r"\(": r"\)", r"\[": r"\]"}
DOLLAR_FORMULA = re.compile(r"\$(?![\s$])([^$\n]*[^$\s\\])\$(?![$\w])")
# An amount of money, or a program's variable such as $PATH, between which and the next dollar there is no formula.
MONEY_OR_VARIABLE = re.compile(r"\d[\d.,]*[;,:.!?]? +[^\\^_={}]*$|[A-Z_]{2,}[^\w\s\\^{}=+*<>-]|[^$]*[\u4e00-\u9fff]")
LITERAL = re.compile(r"[!-/:-@\[-`{-~]|^[ \t]", re.M)  # whatever has a meaning in Markdown


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


def convert_prose(text: str, convert: Callable[[str], str]) -> str:
    """Return a text with what is outside of its code blocks converted; no block's language draws diagrams."""
    text, parts, end = DIAGRAM.sub(r"\1text", text), [], 0
    for block in CODE_BLOCK.finditer(text):
        parts += [convert(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, convert(text[end:])])


class Span(NamedTuple):
    """A code span or a formula in a text: from `start` to `end`; `formula` is None for code."""

    start: int
    end: int
    formula: str | None = None
    is_block: bool = False


def find_spans(text: str) -> Iterator[Span]:
    """Yield the code spans and formulas of a text without code blocks, in order.

    The time grows linearly with the text: what has no end is looked for once.
    """
    runs: dict[int, list[int]] = {}  # where backticks in such a number begin; the last first
    for run in re.finditer("`+", text):
        runs.setdefault(len(run[0]), []).append(run.start())
    for starts in runs.values():
        starts.reverse()
    paragraphs = [found.start() for found in PARAGRAPH_END.finditer(text)]
    endless: set[str] = set()
    position = 0
    while found := MARK.search(text, position):
        mark, position = found[0], found.end()
        span = None
        if mark[0] == "`":
            span = code_span(found, runs[len(mark)], paragraphs)
        elif mark in ENDS and mark not in endless:
            end = text.find(ENDS[mark], position + 1)
            if end < 0:
                endless.add(mark)
            else:
                span = Span(found.start(), end + 2, text[position:end], mark != r"\(")
        elif mark == "$":
            span = dollar_formula(text, found.start())
        if span:
            position = span.end
            yield span


def code_span(opening: re.Match, runs: list[int], paragraphs: list[int]) -> Span | None:
    """Return the code span that backticks begin, if there are as many once more in their paragraph.

    Args:
        opening: the backticks.
        runs: where as many begin, the last first; those before the opening's end are removed.
        paragraphs: where paragraphs end.
    """
    while runs and runs[-1] < opening.end():
        runs.pop()
    index = bisect.bisect(paragraphs, opening.start())
    if not runs or index < len(paragraphs) and paragraphs[index] < runs[-1]:
        return None
    return Span(opening.start(), runs[-1] + len(opening[0]))


def dollar_formula(text: str, start: int) -> Span | None:
    """Return the formula between a dollar and the next one; as in Pandoc, amounts of money stay text."""
    if start and (text[start - 1].isascii() and text[start - 1].isalnum() or text[start - 1] in "\\$=_"):
        return None
    found = DOLLAR_FORMULA.match(text, start)
    if found is None or MONEY_OR_VARIABLE.match(found[1]):
        return None
    return Span(start, found.end(), found[1])


def answer_prose(text: str, dialect: Dialect) -> str:
    """Return an answer's part without code blocks as `answer_markdown` does."""

    def plain(part: str) -> str:
        return re.sub(r"(?<!\n)\n(?!\n)", lambda _: dialect.line_break, dialect.active.sub(numbered, part))

    parts, end = [], 0
    for span in find_spans(text):
        kept = text[span.start : span.end]
        if span.formula is not None:
            formula = dialect.in_formula.sub(numbered, span.formula) if dialect.in_formula else span.formula
            kept = (dialect.block_formula if span.is_block else dialect.inline_formula).format(formula)
        parts += [plain(text[end : span.start]), kept]
        end = span.end
    return "".join([*parts, plain(text[end:])])
