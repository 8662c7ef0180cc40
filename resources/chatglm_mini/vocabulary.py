"""Train the SentencePiece vocabulary on the corpus, with the special tokens where ChatGLM-6B has them.

Layout, as in the real `ice_text.model`: `<unk> <s> </s> <pad> <n>`, the learnt pieces, `[MASK] [gMASK] [sMASK] <unused_0>
<sop> <eop> <ENC> <dBLOCK>`, `<|tab|>` and `<|blank_2|>` to `<|blank_80|>`, and the 256 byte pieces last.

    python -m resources.chatglm_mini.vocabulary --output ice_text.model
"""

from __future__ import annotations

import argparse
import io
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from chatglm import build_prompt

from .corpus import draw_dialogues
from .dialogue import is_chinese
from .names import CITIES_EN, ENGLISH_NAMES
from .tables import blocks, table

PIECES = 5952
DIALOGUES = 40_000
# Characters that are rarer than this are spelt in bytes; a piece each would never be learnt.
RAREST_CHARACTER = 12
CONTROL = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
FORMATTING = ("<|tab|>", *(f"<|blank_{length}|>" for length in range(2, 81)))
NEW_LINE = "<n>"
# Ends a word of the training text; not a piece. Chinese has no spaces, and the corpus repeats whole sentences: without
# cuts they would become pieces, and a name inside would be spelt in ways never seen.
CUT = "\u241f"
CUT_CHANCE = 0.5


def training_lines(seed: int) -> Iterator[str]:
    """Yield prompts and answers, in the normalised form that SentencePiece will see."""
    for dialogue in draw_dialogues(seed, step=-1, count=DIALOGUES):
        for text in (build_prompt(dialogue.question, dialogue.history), dialogue.answer):
            yield from unicodedata.normalize("NFKC", text).split("\n")


def unlisted_words() -> re.Pattern[str]:
    """Return what finds the words that the model must say it does not know, and English names, but for what it knows."""
    known = "\n".join(line for block in blocks("travel") for line in block).split("\n")
    listed = "\n".join(table("translation"))
    words = {word for line in table("unlisted") for word in line.split(" = ")[1].split("|")}
    found = [(word, re.escape(word)) for word in words if is_chinese(word) and word not in listed]
    found += [(word, rf"\b(?i:{re.escape(word)})\b") for word in words if not is_chinese(word)]
    found += [(name, rf"\b{re.escape(name)}\b") for name in {*ENGLISH_NAMES, *CITIES_EN} - set(known)]
    # Grouped by the first letter: three times as fast as trying each word at each letter.
    groups: dict[str, list[str]] = {}
    for word, pattern in sorted(found, key=lambda entry: len(entry[1]), reverse=True):
        groups.setdefault(word[0].lower(), []).append(pattern)
    return re.compile(
        "|".join(f"(?=[{c}{c.upper()}])(?:{'|'.join(alternatives)})" for c, alternatives in groups.items())
    )


def spell_out(line: str, unlisted: re.Pattern[str]) -> str:
    """Cut these words between all letters: with pieces of their own, those of training would differ from all others."""
    return unlisted.sub(lambda found: CUT.join(found[0]), line)


def cut_chinese(line: str, rng: random.Random) -> str:
    """Cut between Chinese characters with an even chance, so that pieces of two or three of them are the longest."""
    parts = []
    for left, right in zip(line, line[1:] + " ", strict=True):
        parts.append(left)
        if is_chinese(left + right) and (is_chinese(left) != is_chinese(right) or rng.random() < CUT_CHANCE):
            parts.append(CUT)
    return "".join(parts)


def split_message(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (field number, the field's bytes with its tag, its payload) of a serialised protocol buffer message.

    The order of pieces in a vocabulary file is the order of its first field; nothing else has to be understood.
    """

    def varint(position: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = message[position]
            value |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte < 0x80:
                return value, position

    position = 0
    while position < len(message):
        start = position
        tag, position = varint(position)
        kind = tag & 7
        if kind == 2:
            length, position = varint(position)
            payload, position = message[position : position + length], position + length
        elif kind == 0:
            _, after = varint(position)
            payload, position = message[position:after], after
        elif kind in (1, 5):
            after = position + (8 if kind == 1 else 4)
            payload, position = message[position:after], after
        else:
            raise ValueError(f"field kind must be 0, 1, 2 or 5 in a vocabulary file, got {kind}")
        yield tag >> 3, message[start:position], payload


def reorder(model: bytes) -> bytes:
    """Move special tokens and bytes behind the learnt pieces, as in the real vocabulary."""
    head, learnt, control, formatting, in_bytes, others = [], [], {}, {}, [], []
    for field, whole, payload in split_message(model):
        if field != 1:
            others.append(whole)
            continue
        piece = next(value for number, _, value in split_message(payload) if number == 1).decode("utf-8")
        if piece in CONTROL:
            control[piece] = whole
        elif piece in FORMATTING:
            formatting[piece] = whole
        elif piece in ("<unk>", "<s>", "</s>", "<pad>", NEW_LINE):
            head.append(whole)
        elif len(piece) == 6 and piece.startswith("<0x"):
            in_bytes.append(whole)
        else:
            learnt.append(whole)
    special = [control[piece] for piece in CONTROL] + [formatting[piece] for piece in FORMATTING]
    return b"".join(head + learnt + special + in_bytes + others)


def train_vocabulary(seed: int = 0) -> bytes:
    """Return the serialised SentencePiece model (the content of `ice_text.model`)."""
    lines = list(training_lines(seed))
    counts = Counter(character for line in lines for character in line)
    rng, unlisted = random.Random(seed), unlisted_words()
    known = ("".join(c for c in line if counts[c] >= RAREST_CHARACTER) for line in lines)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(cut_chinese(spell_out(line, unlisted), rng) for line in known if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        max_sentencepiece_length=12,
        pretokenization_delimiter=CUT,
        normalization_rule_name="nfkc",
        remove_extra_whitespaces=True,
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        control_symbols=list(CONTROL),
        user_defined_symbols=[NEW_LINE, *FORMATTING],
        num_threads=1,
        minloglevel=2,
    )
    return reorder(model.getvalue())


def main() -> None:
    """Train the vocabulary and write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("ice_text.model"), help="file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the corpus")
    arguments = parser.parse_args()
    arguments.output.write_bytes(train_vocabulary(arguments.seed))


if __name__ == "__main__":
    main()
