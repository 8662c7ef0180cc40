"""Examples: read from a file, checked row by row, and encoded as chat encodes them.

A row is `{prompt_column: …, response_column: …, history_column: [[question, answer], …]}` or, in the chat form,
`{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}`; or in the forms of ShareGPT
and Alpaca, see `examples_of_row`.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from chatglm import SYSTEM_REPLY, ChatGLMTokenizer, PromptTooLongError, build_prompt, messages_to_rounds
from chatglm.dialogue import message_pairs
from ptuning.arguments import DataArguments

IGNORED = -100  # label of a token that is not to be predicted
MESSAGES = "messages"
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
SUFFIXES = (".json", ".jsonl", ".csv")


class DataError(ValueError):
    """A file of examples that cannot be used. The message names file, line and column, and what was expected."""


@dataclass(frozen=True)
class Example:
    """A question, the answer to learn or to compare with, and the rounds before it."""

    query: str
    answer: str
    history: tuple[tuple[str, str], ...] = ()


@dataclass
class Counts:
    """What did not fit, of how many examples.

    Attributes:
        examples: number of examples.
        empty: rows left out, because their question or answer is empty.
        cut_questions, cut_answers: texts that were cut to the limit.
        shortened_histories: examples that lost their oldest rounds.
    """

    examples: int = 0
    empty: int = 0
    cut_questions: int = 0
    cut_answers: int = 0
    shortened_histories: int = 0

    def __str__(self) -> str:
        return (
            f"{self.examples} examples; {self.cut_answers} answers cut to max_target_length (not taught to end), "
            f"{self.cut_questions} questions cut to max_source_length, {self.shortened_histories} histories lost their "
            f"oldest rounds, {self.empty} rows with an empty question or answer left out"
        )


# ---- Reading ----


def read_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row) of a .json (an array or a row a line), .jsonl or .csv file in UTF-8.

    Raises:
        DataError: names the file and the line.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise DataError(f"{file}: the name must end in {', '.join(SUFFIXES)}, got {file.suffix or 'no suffix'}")
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8 (GBK?): save the file as UTF-8"
        ) from error
    if not text.strip():
        raise DataError(f"{file} is empty: expected one example a line")
    yield from csv_rows(file, text) if file.suffix.lower() == ".csv" else json_rows(file, text)


def csv_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row) of a .csv file's text."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if len(set(reader.fieldnames)) < len(reader.fieldnames):
            raise DataError(f"{file}, line 1: two columns have the same name, of {', '.join(reader.fieldnames)}")
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{file}, line {reader.line_num}: expected {len(reader.fieldnames)} columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num + 1}: not CSV ({error}; is a quote missing?)") from error


def json_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row) of an array's text, or of rows one after the other."""
    decoder, array = json.JSONDecoder(object_pairs_hook=_unique), text.lstrip().startswith("[")
    position, line, counted = (text.index("[") + 1 if array else 0), 1, 0
    while True:
        while position < len(text) and (text[position].isspace() or (array and text[position] == ",")):
            position += 1
        line, counted = line + text.count("\n", counted, position), position
        if position == len(text) or (array and text[position] == "]"):
            return
        try:
            row, position = decoder.raw_decode(text, position)
        except RecursionError as error:
            raise DataError(f"{file}, line {line}: lists in lists too deeply for JSON of examples") from error
        except json.JSONDecodeError as error:
            raise DataError(
                f"{file}, line {error.lineno}, character {error.colno}: not JSON ({error.msg}); the row starts in line "
                f"{line}"
            ) from error
        except ValueError as error:  # a key twice, a number of thousands of digits
            raise DataError(f"{file}, line {line}: {str(error).partition(';')[0]}") from error
        if not isinstance(row, dict):
            raise DataError(f'{file}, line {line}: expected an object {{"column": …}}, got {type(row).__name__}')
        yield line, row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return row


def read_examples(file: str | Path, arguments: DataArguments, counts: Counts | None = None) -> list[Example]:
    """Read the examples of a file; rows with an empty question or answer are counted and left out.

    Raises:
        DataError: names file, line and column.
    """
    file, counts, examples = Path(file), counts or Counts(), []
    for line, row in read_rows(file):
        found = examples_of_row(f"{file}, line {line}", row, arguments)
        kept = [example for example in found if example.query.strip() and example.answer.strip()]
        counts.empty += max(len(found), 1) - len(kept)
        examples += kept
    if not examples:
        raise DataError(f"{file} holds no example with a question and an answer")
    return examples


def examples_of_row(place: str, row: dict[str, Any], arguments: DataArguments) -> list[Example]:
    """Return the examples of a row: of its columns if they are named, else of the form that it is recognised by.

    Forms are the chat form (`messages`), ShareGPT's (`conversations`) and Alpaca's (`instruction`, `output`).

    Raises:
        DataError: begins with `place`.
    """
    if arguments.prompt_column in row:
        found = [_from_columns(place, row, arguments)]
    elif isinstance(row.get("conversations"), list):
        found = _from_messages(f"{place}, column 'conversations'", _from_sharegpt(row))
    elif MESSAGES in row:
        found = _from_messages(f"{place}, column {MESSAGES!r}", row[MESSAGES])
    elif isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        found = [_from_alpaca(place, row)]
    else:
        found = [_from_columns(place, row, arguments)]
    for text in (part for e in found for part in (e.query, e.answer, *itertools.chain(*e.history))):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: {text[error.start]!r} is half a character (a lone surrogate)") from error
    return found


def _from_columns(place: str, row: dict[str, Any], arguments: DataArguments) -> Example:
    texts = []
    for flag in ("prompt_column", "response_column"):
        name = getattr(arguments, flag)
        if name is None:
            raise DataError(f"{place}: which column is it? Give --{flag}, one of {', '.join(row)}")
        if name not in row:
            raise DataError(f"{place}: no column {name!r} (--{flag}); there are {', '.join(map(repr, row))}")
        if not isinstance(row[name], str | None):
            raise DataError(f"{place}, column {name!r}: expected text, got {type(row[name]).__name__}")
        texts.append(row[name] or "")
    name = arguments.history_column
    if name is not None and name not in row:
        raise DataError(f"{place}: no column {name!r} (--history_column); there are {', '.join(map(repr, row))}")
    rounds = _rounds(f"{place}, column {name!r}", row[name]) if name is not None else ()
    return Example(arguments.source_prefix + texts[0] if texts[0] else "", texts[1], rounds)


def _rounds(place: str, history: Any) -> tuple[tuple[str, str], ...]:
    try:
        history = (
            json.loads(history) if isinstance(history, str) and history else history or []
        )  # as .csv files have it
        build_prompt("", history)
    except ValueError as error:
        raise DataError(f"{place}: expected [question, answer] pairs; {error}") from error
    return tuple((question or "", answer or "") for question, answer in history)


def _from_alpaca(place: str, row: dict[str, Any]) -> Example:
    query = "\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))
    rounds = _rounds(f"{place}, column 'history'", row.get("history"))
    if row.get("system"):
        rounds = ((str(row["system"]), SYSTEM_REPLY), *rounds)
    return Example(query, row["output"], rounds)


def _from_sharegpt(row: dict[str, Any]) -> list[Any]:
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for turn in row["conversations"]:
        if isinstance(turn, dict) and "from" in turn:
            role = SHAREGPT_ROLES.get(turn["from"], turn["from"])
            turn = {"role": role, "content": turn.get("value"), "weight": turn.get("weight")}
        messages.append(turn)
    return messages


def _from_messages(place: str, messages: Any) -> list[Example]:
    """Make an example of every answer of a dialogue in the chat form, with the rounds that the API makes of it.

    Answers of weight 0 are not learnt; several in a row, which are one answer to the model, must have the same weight.
    """
    try:
        pairs = message_pairs(messages)
        weights = [message.get("weight") for message in messages]
        weights = [1 if weight is None else weight for weight in weights]
        if wrong := [weight for weight in weights if weight not in (0, 1)]:
            raise ValueError(f"a message's weight must be 0 or 1, got {wrong[0]!r:.60}")
        examples, first = [], None
        for number, (role, _) in enumerate(pairs):
            if role != "assistant":
                first = None
                continue
            first = number if first is None else first
            if weights[number] != weights[first]:
                raise ValueError(f"messages {first} to {number} are one answer and must have one weight")
            if weights[number] and (number + 1 == len(pairs) or pairs[number + 1][0] != "assistant"):
                _, rounds = messages_to_rounds(pairs[: number + 1])
                examples.append(Example(*rounds[-1], tuple(rounds[:-1])))
        messages_to_rounds(pairs)  # checks the roles behind the last answer
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error
    return examples


def general_examples(arguments: DataArguments, count: int, seed: int) -> list[Example]:
    """Return `count` general dialogues to mix in, from a file, in an order that the seed decides."""
    found = read_examples(arguments.general_data, arguments)
    random.Random(seed).shuffle(found)
    return [found[number % len(found)] for number in range(count)]


def read_cases(file: str | Path, arguments: DataArguments) -> dict[str, list[Example]]:
    """Return questions whose answers a model should keep, by the column `skill` of their rows ("all" without one).

    Of a dialogue, the last answer counts.
    """
    cases: dict[str, list[Example]] = {}
    for line, row in read_rows(Path(file)):
        found = examples_of_row(f"{file}, line {line}", row, arguments)
        cases.setdefault(str(row.get("skill", "all")), []).extend(found[-1:])
    return cases


# ---- Encoding ----


def encode_prompt(tokenizer: ChatGLMTokenizer, example: Example, limit: int, counts: Counts) -> list[int]:
    """Encode a question and what fits of its history, ending in [gMASK] <sop>, as chat does.

    Args:
        limit: `max_source_length`: up to one token less is text (compat: as in the original).
        counts: what was dropped or cut is added to them.
    """
    try:
        ids, dropped = tokenizer.encode_chat(example.query, example.history, max_length=limit + 2, reserve=1)
    except PromptTooLongError:
        counts.cut_questions += 1
        dropped = len(example.history)
        ids = tokenizer.encode_text(build_prompt(example.query))[: limit - 1]
        ids += [tokenizer.gmask_token_id, tokenizer.bos_token_id]
    counts.shortened_histories += dropped > 0
    return ids


def encode_example(
    tokenizer: ChatGLMTokenizer, example: Example, max_source_length: int, max_target_length: int, counts: Counts
) -> dict[str, list[int]]:
    """Encode an example to learn from: `prompt [gMASK] <sop> answer <eop>`, labels for answer and `<eop>` only.

    An answer of more than `max_target_length - 2` tokens (compat: the original's count) is cut, and then has no
    `<eop>`, which would teach the model to stop in mid-sentence.

    Returns:
        `input_ids` and `labels`, int[s] each.
    """
    prompt = encode_prompt(tokenizer, example, max_source_length, counts)
    answer = tokenizer.encode_text(example.answer)
    if len(answer) > max_target_length - 2:
        answer = answer[: max_target_length - 2]
        counts.cut_answers += 1
    else:
        answer = [*answer, tokenizer.eos_token_id]
    counts.examples += 1
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def encode_examples(
    tokenizer: ChatGLMTokenizer, examples: list[Example], arguments: DataArguments, counts: Counts
) -> Dataset:
    """Encode examples, in as many processes as `preprocessing_num_workers` says, and add up what was cut."""

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        of_row = Counts()
        example = Example(row["query"], row["answer"], tuple(map(tuple, row["history"])))
        limits = arguments.max_source_length, arguments.max_target_length
        encoded = encode_example(tokenizer, example, *limits, of_row)
        return encoded | {name: getattr(of_row, name) for name in summed}

    summed = ("examples", "cut_questions", "cut_answers", "shortened_histories")
    rows = [{"query": e.query, "answer": e.answer, "history": [list(pair) for pair in e.history]} for e in examples]
    encoded = Dataset.from_list(rows).map(
        encode,
        remove_columns=["query", "answer", "history"],
        num_proc=arguments.preprocessing_num_workers,
        desc="encoding",
        new_fingerprint=None if arguments.preprocessing_num_workers else "encoded",  # nothing is cached: hash nothing
    )
    for name in summed:
        setattr(counts, name, getattr(counts, name) + sum(encoded[name]))
    return encoded.remove_columns(list(summed))


@dataclass
class Collator:
    """Pad examples on the left to the longest of a batch (the model recognises padding by its token).

    Attributes:
        pad_token_id: the tokenizer's.
    """

    pad_token_id: int

    def __call__(self, features: list[dict[str, list[int]]]) -> dict[str, Any]:
        """Return `input_ids`, `attention_mask` (1 for tokens) and `labels`, int64 [b, s] each, and `logits_to_keep`.

        The last is the number of places on the right where any row has a label, and one before them: the output layer
        is as large as four blocks, and the logits of prompts are not needed.
        """
        longest = max(len(feature["input_ids"]) for feature in features)
        batch = {"input_ids": [], "attention_mask": [], "labels": []}
        for feature in features:
            ids, labels = list(feature["input_ids"]), list(feature["labels"])
            padding = longest - len(ids)
            batch["input_ids"].append([self.pad_token_id] * padding + ids)
            batch["attention_mask"].append([0] * padding + [1] * len(ids))
            batch["labels"].append([IGNORED] * padding + labels)
        answer = max(len(feature["labels"]) - feature["labels"].count(IGNORED) for feature in features)
        tensors: dict[str, Tensor] = {name: torch.tensor(rows) for name, rows in batch.items()}
        return {**tensors, "logits_to_keep": answer + 1}
