"""Answers in a given form: JSON that fits a schema, a text that matches a regular expression, or one of some texts.

`Grammar` is such a form for a vocabulary, compiled once; `Constraint` follows one answer: which tokens may come next,
and how the answer still ends in its form when its limit of tokens is near. What a grammar allows at a place is
computed by `llguidance` (https://github.com/guidance-ai/llguidance), which is imported when it is first needed.

Shapes: `v` vocabulary.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .answer_text import WORD_START

if TYPE_CHECKING:
    from .tokenization_chatglm import ChatGLMTokenizer

LARGEST_FORM = 1 << 15  # bytes of a schema, an expression, or of all texts together
DEEPEST_FORM = 48  # levels of a schema, or groups of an expression inside one another
LONGEST_WAY_OUT = 1024  # bytes of the shortest answer that a form may need
MOST_STEPS, MOST_LOOKS = 400, 150  # of a search for it, a few tens of microseconds each
MOST_REPEATS = 1000  # of a part of an expression
CAREFUL_TOKENS = 512  # so near to the limit, the way out is known at every token; else at every 64th
DEEPEST_ANSWER = 256  # tokens that the way out may grow by: keeps nested brackets within what parsers read
# compact, as a model with few tokens needs it, but with the blank that people and models write behind : and ,
SPELLING = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
LIMITS = {  # of work and memory: 20 ms to compile, 7 ms for a token, 40 MB; ordinary forms need a hundredth
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 100_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 60_000,
    "verbose_errors": False,
}
CLOSING = b'}]"'
SHORT_FIRST = [bytes([code]) for code in b'01nft[{-,: 2345.6789"}]aeE+_AZ\\/\n']  # the rest as the vocabulary has it


class GrammarError(ValueError):
    """A form of answers that is none, is too large, or cannot be followed; the message says which."""


def llguidance() -> Any:
    """Return the library.

    Raises:
        GrammarError: it is not installed.
    """
    try:
        return importlib.import_module("llguidance")
    except ImportError as error:
        raise GrammarError("structured answers need llguidance: pip install llguidance") from error


class Vocabulary:
    """A tokenizer's tokens as bytes, as grammars see them; tokens that are no text have none.

    Args:
        tokenizer: whose.
    """

    def __init__(self, tokenizer: ChatGLMTokenizer) -> None:
        special, texts = set(tokenizer.all_special_ids), tokenizer.surfaces()
        self.tokens = [
            b"" if token_id in special or not text else text if isinstance(text, bytes) else spelled(text)
            for token_id, text in enumerate(texts)
        ]
        self.ids = {text: token_id for token_id, text in reversed(list(enumerate(self.tokens))) if text}
        self.byte_ids = [(text, self.ids[text]) for text in (bytes([code]) for code in range(256)) if text in self.ids]
        self.longest = max(map(len, self.ids))
        self.encode = tokenizer.encode_text
        # what the library asks of a tokenizer
        self.eos_token_id, self.bos_token_id, self.special_token_ids = tokenizer.eos_token_id, None, ()
        self.is_tokenizer_wrapper = True
        self.library = llguidance().LLTokenizer(self)

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the tokens that a forced text is written with: as few as there can be."""
        data = text if isinstance(text, bytes) else text.encode("utf-8")
        best: list[tuple[int, int]] = [(0, 0)]  # for each length: number of tokens, where the last one starts
        for end in range(1, len(data) + 1):
            starts = range(max(0, end - self.longest), end)
            best.append(min((best[start][0] + 1, start) for start in starts if data[start:end] in self.ids))
        ids, end = [], len(data)
        while end:
            start = best[end][1]
            ids.append(self.ids[data[start:end]])
            end = start
        return ids[::-1]


def spelled(surface: str) -> bytes:
    """Return a token's bytes in a text."""
    return surface.replace(WORD_START, " ").encode("utf-8")


@functools.lru_cache(maxsize=4)
def vocabulary(tokenizer: ChatGLMTokenizer) -> Vocabulary:
    """Return a tokenizer's vocabulary for grammars, made once: seconds for 130,000 tokens."""
    return Vocabulary(tokenizer)


class Grammar:
    """A form of answers for a tokenizer.

    Args:
        tokenizer: the model's.
        lark: the rule `body` and those it uses, in llguidance's Lark.
        exact_start: answers that start so are given as they are; others are texts, see `process_response`.

    Attributes:
        keeps_space: whether answers may start with a blank. Where they may not, a token's blank at the answer's start
            is not part of it, as everywhere with this tokenizer.
        way_out: ids of a shortest answer, or nearly so.

    Raises:
        GrammarError: an error in it, too much work, or no answer of bearable length that has the form.
    """

    def __init__(self, tokenizer: ChatGLMTokenizer, lark: str, exact_start: str = "") -> None:
        library, self.vocabulary = llguidance(), vocabulary(tokenizer)
        self.lark, self.exact_start = lark, exact_start
        limits = library.LLParserLimits(**LIMITS)

        def compiled(start: str) -> Any:
            matcher = library.LLMatcher(self.vocabulary.library, f"start: {start}\n{lark}", log_level=0, limits=limits)
            if matcher.is_error():
                raise GrammarError(f"the form of answers cannot be used: {first_line(matcher.get_error())}")
            return matcher

        self.matcher = compiled("body")
        self.keeps_space = self.matcher.validate_tokens([self.vocabulary.ids[b" "]]) == 1
        if not self.keeps_space:
            self.matcher = compiled('" "? body')
        way_out = self.find_way_out(self.matcher, thorough=True)
        if way_out is None:
            raise GrammarError(
                "the form of answers cannot be used: it is too complex, or no answer of up to "
                f"{LONGEST_WAY_OUT} bytes has it"
            )
        self.way_out = way_out

    def find_way_out(self, matcher: Any, thorough: bool = False) -> list[int] | None:
        """Return a short row of tokens after which an answer has its form, None if none was found.

        Args:
            matcher: the library's, at some token; it is not changed.
            thorough: look for a shortest one, which takes longer.
        """
        found = self._greedy(matcher)
        if thorough and (found is None or len(found) > 2):
            found = self._shortest(matcher, len(found) if found is not None else LONGEST_WAY_OUT) or found
        return None if found is None else self.vocabulary(found)

    def _greedy(self, matcher: Any) -> bytes | None:
        """Close what is open, byte by byte: a bracket rather than a quotation mark, but in strings the mark."""
        matcher, way, steps = matcher.deep_copy(), b"", 0
        while not matcher.is_accepting():
            steps += 1
            step = matcher.compute_ff_bytes()
            if not step:
                closing = [code for code in CLOSING if self._allows(matcher, bytes([code]))]
                if closing:
                    step = bytes([closing[-1] if len(closing) == len(CLOSING) else closing[0]])
                else:
                    others = SHORT_FIRST + [data for data, _ in self.vocabulary.byte_ids]
                    step = next((data for data in others if self._allows(matcher, data)), b"")
            way += step
            if not step or len(way) > LONGEST_WAY_OUT or steps > MOST_STEPS or not self._advance(matcher, step):
                return None
        return way

    def _shortest(self, matcher: Any, limit: int) -> bytes | None:
        """Look at ways of up to `limit` bytes by their length, at a few of each length."""
        levels: list[list[tuple[Any, bytes]]] = [[] for _ in range(limit + 1)]
        levels[0].append((matcher.deep_copy(), b""))
        looks = 0
        for level in levels:
            for state, way in level[:: len(level) // 6 + 1]:  # spread over the ways before
                if state.is_accepting():
                    return way
                looks += 1
                if looks > MOST_LOOKS:
                    return None
                forced = state.compute_ff_bytes()
                steps = [forced] if forced else self._steps(state)
                for step in steps:
                    after = state.deep_copy()
                    if len(way) + len(step) < limit and self._advance(after, step):
                        levels[len(way) + len(step)].append((after, way + step))
        return None

    def _steps(self, matcher: Any, most: int = 6) -> list[bytes]:
        """Return some of the bytes that may come next, closing ones first."""
        found = []
        for data in [b'"', b"}", b"]", *SHORT_FIRST, *(data for data, _ in self.vocabulary.byte_ids)]:
            if data not in found and self._allows(matcher, data):
                found.append(data)
                if len(found) == most:
                    break
        return found

    def _allows(self, matcher: Any, data: bytes) -> bool:
        token_id = self.vocabulary.ids.get(data)
        return token_id is not None and matcher.validate_tokens([token_id]) == 1

    def _advance(self, matcher: Any, data: bytes) -> bool:
        return matcher.consume_tokens([self.vocabulary.ids[data[at : at + 1]] for at in range(len(data))])


class Constraint:
    """One answer that has a form: what may come next, and that it ends in time.

    Args:
        grammar: the form.
        limit: tokens that the answer may have.

    Attributes:
        error: why the form cannot be followed any more; None while it can.
    """

    def __init__(self, grammar: Grammar, limit: int) -> None:
        self.grammar, self.matcher = grammar, grammar.matcher.deep_copy()
        self.remaining, self.length = limit, 0
        self.way_out: list[int] | None = grammar.way_out
        self.next: tuple[int, list[int] | None] | None = None  # a token chosen, and the way out after it
        self.longest = len(grammar.way_out) + DEEPEST_ANSWER
        self.error: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the answer has its form, and can or may not go on."""
        return self.matcher.is_stopped() or self.remaining <= 0 and self.matcher.is_accepting()

    def allowed(self, forbidden: Iterable[np.ndarray] = ()) -> np.ndarray:
        """Return which tokens may come next, bool [v].

        Args:
            forbidden: bool [v] each, tokens that are left out as well if any others are left.
        """
        size, end = len(self.grammar.vocabulary.tokens), self.grammar.vocabulary.eos_token_id
        if self.matcher.is_stopped():
            allowed = np.zeros(size, dtype=bool)
            allowed[end] = True
            self.error = first_line(self.matcher.get_error()) or None
            return allowed
        bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, count=size, bitorder="little").astype(bool)
        for tokens in forbidden:
            rest = allowed.copy()
            rest[: len(tokens)] &= ~tokens[:size]
            allowed = rest if rest.any() else allowed
        if self.matcher.is_error():
            self.error = first_line(self.matcher.get_error())
        return allowed

    def choose(self, token_id: int) -> int:
        """Return a sampled token, or the way out's where the answer would not end in time with it."""
        if token_id == self.grammar.vocabulary.eos_token_id:
            fits = ends = self.matcher.is_accepting()
        else:
            fits, ends = self.matcher.validate_tokens([token_id]) == 1, False
        if ends or self.way_out and token_id == self.way_out[0]:
            return token_id
        careful = self.remaining < CAREFUL_TOKENS or self.length % 64 == 0
        if fits and not careful:
            return token_id
        if self.way_out is None:
            self.way_out = self.grammar.find_way_out(self.matcher)
        if not self.way_out:
            return token_id
        if fits:
            after = self.matcher.deep_copy()
            after.consume_token(token_id)
            self.next = token_id, self._way_out_after(after)
            room = min(self.remaining - 1, self.longest)
            if self.next[1] is not None and len(self.next[1]) <= room or len(self.way_out) > self.remaining:
                return token_id
        return self.way_out[0]

    def _way_out_after(self, after: Any) -> list[int] | None:
        """Return the way out after a token: the one before, where it still leads out, as within a string."""
        trial = after.deep_copy()
        if trial.validate_tokens(self.way_out) == len(self.way_out):
            trial.consume_tokens(self.way_out)
            if trial.is_accepting():
                return self.way_out
        return self.grammar.find_way_out(after)

    def take(self, token_id: int) -> None:
        """Note a token of the answer."""
        self.remaining -= 1
        self.length += 1
        if self.matcher.is_stopped():
            return
        self.matcher.consume_token(token_id)
        if self.next is not None and self.next[0] == token_id:
            self.way_out = self.next[1]
        else:
            self.way_out = self.way_out[1:] if self.way_out and self.way_out[0] == token_id else None
        self.next = None


def response_grammar(tokenizer: ChatGLMTokenizer, response_format: Mapping[str, Any] | None) -> Grammar | None:
    """Return the grammar of a form of answers, None for texts.

    Args:
        tokenizer: the model's.
        response_format: as OpenAI's: `{"type": "json_object"}`, or `{"type": "json_schema", "json_schema": {"schema":
            ..., "strict": true}}`, where strict refuses what cannot be followed to the letter and is otherwise
            followed as far as possible; or `{"type": "regex", "regex": ...}` or `{"type": "choice", "choice": [...]}`.

    Raises:
        GrammarError: a form that is none, or that cannot be followed.
    """
    if response_format is None:
        return None
    if not isinstance(response_format, Mapping):
        rule = 'response_format must be an object such as {"type": "json_object"}'
        raise GrammarError(f"{rule}, got {clip(response_format)}")
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return compile_json(tokenizer, '{"type": "object"}', False)
    if kind == "json_schema":
        given = response_format.get("json_schema")
        schema = given.get("schema") if isinstance(given, Mapping) else None
        if not isinstance(schema, dict):
            raise GrammarError("response_format.json_schema.schema must be a JSON schema, an object")
        return compile_json(tokenizer, checked_schema(schema), given.get("strict") is True)
    if kind == "regex":
        return compile_regex(tokenizer, checked_expression(response_format.get("regex"), "response_format.regex"))
    if kind == "choice":
        return compile_choice(tokenizer, checked_choice(response_format.get("choice")))
    raise GrammarError(
        f"response_format.type must be text, json_object, json_schema, regex or choice, got {clip(kind)}"
    )


@functools.lru_cache(maxsize=32)
def compile_json(tokenizer: ChatGLMTokenizer, schema: str, strict: bool) -> Grammar:
    """Return the grammar of the JSON texts that fit a schema."""
    return Grammar(tokenizer, f"body: {json_rule(schema, strict)}\n")


@functools.lru_cache(maxsize=32)
def compile_regex(tokenizer: ChatGLMTokenizer, expression: str) -> Grammar:
    """Return the grammar of the texts that match an expression as a whole."""
    return Grammar(tokenizer, f"body: TEXT\nTEXT: /{llguidance().regex_to_lark(expression, 'd')}/\n")


@functools.lru_cache(maxsize=32)
def compile_choice(tokenizer: ChatGLMTokenizer, texts: tuple[str, ...]) -> Grammar:
    """Return the grammar of some texts."""
    return Grammar(tokenizer, "body: " + " | ".join(map(lark_text, texts)) + "\n")


def json_rule(schema: str, strict: bool) -> str:
    """Return the right side of the rule of JSON texts that fit a schema."""
    options = SPELLING | {"lenient": not strict}
    return "%json " + json.dumps(json.loads(schema) | {"x-guidance": options}, ensure_ascii=False)


def lark_text(text: str) -> str:
    """Return a text as it stands in a rule."""
    return json.dumps(text, ensure_ascii=False)


def checked_schema(schema: Mapping[str, Any]) -> str:
    """Return a schema as a text.

    Raises:
        GrammarError: it is too large or too deep, or has an expression that is.
    """
    level: list[Any] = [schema]
    values = 0
    for _ in range(DEEPEST_FORM):
        values += len(level)
        if 2 * values > LARGEST_FORM:  # each is a character at least, with another one behind it
            raise too_large("the schema")
        for node in level:
            if not isinstance(node, dict):
                continue
            if isinstance(node.get("pattern"), str):
                checked_expression(node["pattern"], "a pattern of the schema")
            for key in ("minItems", "minLength", "minProperties"):
                if isinstance(node.get(key), int | float) and node[key] > LONGEST_WAY_OUT:
                    raise GrammarError(f"the schema's {key} may be {LONGEST_WAY_OUT}, got {node[key]}")
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            break
    else:
        raise GrammarError(f"the schema may have {DEEPEST_FORM} levels")
    text = json.dumps(schema, ensure_ascii=False, sort_keys=False)
    return checked_size(text, "the schema")


def checked_expression(expression: Any, name: str) -> str:
    """Return a regular expression without the anchors around it, which are implied.

    Raises:
        GrammarError: it is none, or is too large or too deep.
    """
    if not isinstance(expression, str) or not expression:
        raise GrammarError(f"{name} must be a regular expression, got {clip(expression)}")
    depth = deepest = 0
    for character in checked_size(expression, name):
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    if deepest > DEEPEST_FORM:
        raise GrammarError(f"{name} may have {DEEPEST_FORM} groups inside one another")
    if any(int(count) > MOST_REPEATS for count in re.findall(r"[{,](\d+)", expression)):
        raise GrammarError(f"{name} may repeat its parts {MOST_REPEATS} times")
    return expression.removeprefix("^").removesuffix("$")


def checked_choice(texts: Any) -> tuple[str, ...]:
    """Return the texts that an answer may be.

    Raises:
        GrammarError: there are none, or they are too many or too long together.
    """
    if not isinstance(texts, Sequence) or isinstance(texts, str) or not texts or len(texts) > 1024:
        raise GrammarError(f"response_format.choice must be a list of 1 to 1024 texts, got {clip(texts)}")
    for text in texts:
        if not isinstance(text, str) or not text:
            raise GrammarError(f"response_format.choice must be texts, got {clip(text)}")
    checked_size("".join(texts), "response_format.choice")
    return tuple(texts)


def checked_size(text: str, name: str) -> str:
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_FORM:
        raise too_large(name)
    return text


def too_large(name: str) -> GrammarError:
    return GrammarError(f"{name} may have {LARGEST_FORM} bytes")


def clip(value: Any) -> str:
    return f"{value!r:.80}"


def first_line(message: str) -> str:
    return message.strip().split("\n", 1)[0][:300]
