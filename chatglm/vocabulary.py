"""The SentencePiece vocabulary of ChatGLM-6B: how it spells white space, and reading and checking its file."""

from __future__ import annotations

import os
from collections.abc import Sequence

import sentencepiece

VOCAB_FILES_NAMES = {"vocab_file": "ice_text.model"}

# The vocabulary spells white space that SentencePiece would drop as tokens of their own.
NEW_LINE = "<n>"
TAB = "<|tab|>"
LONGEST_BLANK = 80
FORMATTING = {NEW_LINE: "\n", TAB: "\t"} | {f"<|blank_{k}|>": " " * k for k in range(2, LONGEST_BLANK + 1)}


def load_vocabulary(
    vocab_file: str | None, control_tokens: Sequence[str], name_or_path: str = ""
) -> sentencepiece.SentencePieceProcessor:
    """Read a SentencePiece model and check that it is ChatGLM's.

    Args:
        vocab_file: its path.
        control_tokens: spellings that it must hold as control tokens.
        name_or_path: where the tokenizer is loaded from, for messages.

    Raises:
        ValueError: it is missing, a Git LFS pointer, no SentencePiece model, or lacks tokens.
    """
    download = "download ice_text.model of THUDM/chatglm-6b (about 2.7 MB) to this place"
    if vocab_file is None or not os.path.isfile(vocab_file):
        place = vocab_file or os.path.join(name_or_path, VOCAB_FILES_NAMES["vocab_file"])
        raise ValueError(f"vocabulary file {place} is missing: {download}")
    with open(vocab_file, "rb") as file:
        data = file.read()
    if data.startswith(b"version https://git-lfs"):
        raise ValueError(f"vocabulary file {vocab_file} is a Git LFS pointer: run `git lfs pull`, or {download}")
    processor = sentencepiece.SentencePieceProcessor()
    try:
        # From bytes, so that Python and not the C++ library opens paths with unusual characters.
        processor.LoadFromSerializedProto(data)
    except RuntimeError as error:
        raise ValueError(
            f"vocabulary file {vocab_file} ({len(data)} bytes) is not a SentencePiece model: {download}"
        ) from error
    missing = [token for token in control_tokens if not processor.is_control(processor.piece_to_id(token))]
    missing += [token for token in FORMATTING if processor.piece_to_id(token) == processor.unk_id()]
    if missing:
        raise ValueError(
            f"vocabulary file {vocab_file} is not ChatGLM's: it lacks the special tokens {', '.join(missing[:6])}"
            f"{f' and {len(missing) - 6} more' if len(missing) > 6 else ''}; {download}"
        )
    return processor
