"""ChatGLM-6B's tokenizer.

A text's way through this file: `ChatGLMTokenizer.encode_chat` takes a question and its history, drops the oldest rounds
until the prompt (`dialogue.build_prompt`) fits, and returns ids; `answer_text.IncrementalDecoder` turns generated ids
into text again.

Shape legend: `b` batch, `s` tokens in a sequence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import AddedToken, BatchEncoding, PreTrainedTokenizer
from transformers.utils import is_torch_tensor, to_py_obj

from .answer_text import IncrementalDecoder
from .dialogue import (
    CHAT_TEMPLATE,
    History,
    PromptTooLongError,
    build_prompt,
    checked_history,
    read_messages,
    round_text,
)
from .vocabulary import FORMATTING, LONGEST_BLANK, NEW_LINE, TAB, VOCAB_FILES_NAMES, load_vocabulary

_BLANKS = re.compile(f" {{2,{LONGEST_BLANK}}}")
_SPACE_BEFORE_PUNCTUATION = re.compile(r" [.?!,]| ' | n't| '(?:m|s|ve|re)")  # compat: the library's own list
_SURROGATE = re.compile("[\ud800-\udfff]")
_FORMATTING_SPELLING = re.compile("(?<=<)(?=" + "|".join(re.escape(token[1:]) for token in FORMATTING) + ")")

# A mask over s tokens has s * s elements: beyond this length (64 MiB) an ordinary 0/1 mask says the same.
LONGEST_FULL_MASK = 8192
LONGEST_TOKEN = LONGEST_BLANK  # characters; no piece of a vocabulary is longer than its run of blanks


class ChatGLMTokenizer(PreTrainedTokenizer):
    """SentencePiece tokenizer of ChatGLM-6B, for its current and its first vocabulary layout.

    Calling it gives the original's ids, `[gMASK] <sop>` at the end, left padding, 2-D `position_ids` [b, 2, s] and a
    bool `attention_mask` [b, 1, s, s] where True means blocked. In a plain call the spellings `<sop>`, `<eop>`,
    `<pad>`, `<unk>` and `[MASK]` are control tokens, as in the original; text that people type goes through
    `encode_text`, `encode_prompt` or `encode_chat`, where they stay text.

    Args:
        vocab_file: path of the SentencePiece model `ice_text.model`.
        do_lower_case: lower-case text before encoding it.
        remove_space: join words by single spaces before encoding text.
        bos_token, eos_token, end_token, gmask_token, mask_token, pad_token, unk_token: spellings in the vocabulary.
        num_image_tokens: ids before the text vocabulary: 0 today, 20000 in the first release, whose
            tokenizer_config.json does not name it (hence the default).

    A pipeline of the library that loads this tokenizer gets ids only: it pads batches itself, which it can do with no
    [b, 1, s, s] mask, and the model recognises padding by its token. Set `tokenizer.model_input_names = ["input_ids"]`
    for the same with a tokenizer that you hand to a pipeline.

    Raises:
        ValueError: the vocabulary file is missing, a Git LFS pointer, no SentencePiece model, or another model's.
    """

    vocab_files_names = VOCAB_FILES_NAMES
    model_input_names = ["input_ids", "attention_mask", "position_ids"]
    padding_side = "left"

    def __init__(
        self,
        vocab_file: str | None = None,
        do_lower_case: bool = False,
        remove_space: bool = False,
        bos_token: str | AddedToken = "<sop>",
        eos_token: str | AddedToken = "<eop>",
        end_token: str | AddedToken = "</s>",
        gmask_token: str | AddedToken = "[gMASK]",
        mask_token: str | AddedToken = "[MASK]",
        pad_token: str | AddedToken = "<pad>",
        unk_token: str | AddedToken = "<unk>",
        num_image_tokens: int = 20000,
        **kwargs: Any,
    ) -> None:
        # transformers 5 hands over tokens that it has no attribute for under this key. They must not reach the base
        # class, which would match their spelling in text: the original gives "[gMASK]" in a plain call as text.
        own_tokens = dict(kwargs.pop("model_specific_special_tokens", None) or {})
        if isinstance(kwargs.get("extra_special_tokens"), dict):  # transformers 5.0
            own_tokens |= kwargs.pop("extra_special_tokens")
        end_token = own_tokens.pop("end_token", end_token)
        gmask_token = own_tokens.pop("gmask_token", gmask_token)
        eop_token = own_tokens.pop("eop_token", kwargs.pop("eop_token", None))
        if eop_token is not None:  # compat: the first release called </s> eos_token and <eop> eop_token
            end_token, eos_token = eos_token, eop_token
        if own_tokens:
            kwargs["model_specific_special_tokens"] = own_tokens

        if num_image_tokens < 0:
            raise ValueError(f"num_image_tokens must be at least 0, got {num_image_tokens}")
        self.vocab_file = vocab_file
        self.do_lower_case = do_lower_case
        self.remove_space = remove_space
        self.end_token = str(end_token)
        self.gmask_token = str(gmask_token)
        self.num_image_tokens = num_image_tokens
        # The base class asks for the vocabulary while it is set up, so it has to be there before.
        control_tokens = [str(token) for token in (bos_token, eos_token, end_token, gmask_token, mask_token, pad_token)]
        self.sentencepiece = load_vocabulary(vocab_file, control_tokens, str(kwargs.get("name_or_path", "")))

        named = {"bos_token": bos_token, "eos_token": eos_token, "mask_token": mask_token}
        named = {name: str(token) for name, token in (named | {"pad_token": pad_token, "unk_token": unk_token}).items()}
        added = dict(kwargs.get("added_tokens_decoder", {}))
        for token in named.values():
            # compat: a control token in a plain call swallows the white space on both sides.
            token_id = num_image_tokens + self.sentencepiece.piece_to_id(token)
            added[token_id] = AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=True)
        kwargs["added_tokens_decoder"] = added
        # Answers hold code and numbers: " ." must not become "." in them.
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        kwargs["chat_template"] = kwargs.get("chat_template") or CHAT_TEMPLATE
        super().__init__(**named, **kwargs)
        self.init_kwargs.update(
            do_lower_case=do_lower_case,
            remove_space=remove_space,
            end_token=self.end_token,
            gmask_token=self.gmask_token,
            num_image_tokens=num_image_tokens,
        )

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> ChatGLMTokenizer:
        """Load a tokenizer as the base class does."""
        loaded_by_pipeline = kwargs.get("_from_pipeline") is not None
        tokenizer = super().from_pretrained(*args, **kwargs)
        if loaded_by_pipeline:
            tokenizer.model_input_names = ["input_ids"]
        return tokenizer

    # Vocabulary

    @property
    def vocab_size(self) -> int:
        """Number of ids before added tokens, image tokens included."""
        return self.num_image_tokens + self.sentencepiece.get_piece_size()

    @property
    def gmask_token_id(self) -> int:
        """Id of [gMASK], after which the answer is generated."""
        return self.convert_tokens_to_ids(self.gmask_token)

    @property
    def end_token_id(self) -> int:
        """Id of </s>."""
        return self.convert_tokens_to_ids(self.end_token)

    @property
    def sp_tokenizer(self) -> SPTokenizer:
        """compat: the original's name for the part that knows the vocabulary."""
        return SPTokenizer(self)

    def get_command(self, token: str) -> int:
        """Return the id of a control token, as `[gMASK]`. compat: the original's name for it.

        Raises:
            ValueError: the vocabulary has no such token.
        """
        if token not in self.get_vocab():
            raise ValueError(f"get_command takes a token of the vocabulary, as [gMASK] or <sop>; got {token!r:.80}")
        return self.convert_tokens_to_ids(token)

    def get_vocab(self) -> dict[str, int]:
        """Return every token's id, added tokens included."""
        images = [f"<image_{index}>" for index in range(self.num_image_tokens)]
        pieces = self.sentencepiece.id_to_piece(list(range(self.sentencepiece.get_piece_size())))
        return {token: index for index, token in enumerate(images + pieces)} | self.added_tokens_encoder

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write the SentencePiece model into a folder and return its path."""
        name = (f"{filename_prefix}-" if filename_prefix else "") + VOCAB_FILES_NAMES["vocab_file"]
        path = os.path.join(save_directory, name)
        with open(path, "wb") as file:
            file.write(self.sentencepiece.serialized_model_proto())
        return (path,)

    def _convert_token_to_id(self, token: str) -> int:
        if token.startswith("<image_") and token[7:-1].isdecimal() and int(token[7:-1]) < self.num_image_tokens:
            return int(token[7:-1])
        return self.num_image_tokens + self.sentencepiece.piece_to_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        if 0 <= index < self.num_image_tokens:
            return f"<image_{index}>"
        if self.num_image_tokens <= index < self.vocab_size:
            return self.sentencepiece.id_to_piece(index - self.num_image_tokens)
        return ""  # a padding row of the embedding

    # Text to ids

    def _spell_formatting(self, text: str) -> str:
        """Spell line breaks, tabs and runs of spaces as the vocabulary's tokens."""
        if _SURROGATE.search(text):  # SentencePiece takes valid Unicode only: join pairs, replace single ones
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if self.remove_space:
            text = " ".join(text.split())
        if self.do_lower_case:
            text = text.lower()
        text = text.replace("\n", NEW_LINE).replace("\t", TAB)
        return _BLANKS.sub(lambda blanks: f"<|blank_{len(blanks.group())}|>", text)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.sentencepiece.encode(self._spell_formatting(text), out_type=str)

    def encode(self, *args: Any, **kwargs: Any) -> list[int]:
        """Return the ids alone (see the base class), without computing a mask that nobody gets."""
        kwargs.setdefault("return_attention_mask", False)
        return super().encode(*args, **kwargs)

    def encode_text(self, text: str) -> list[int]:
        """Encode what a person typed; no part of it becomes a control token, and none is added.

        Equal to `encode(text, add_special_tokens=False)` unless the text spells tokens: `<sop>`, `<eop>`, `<pad>`,
        `<unk>`, `[MASK]` and `[gMASK]` stay text, and so do `<n>`, `<|tab|>` and `<|blank_k|>`, which the plain call
        turns into white space.

        Args:
            text: any text.

        Returns:
            ids, int[s].
        """
        first, *others = _FORMATTING_SPELLING.split(text)
        ids = self.sentencepiece.encode(self._spell_formatting(first), out_type=int)
        new_line = self.sentencepiece.piece_to_id(NEW_LINE)
        for part in others:
            # Encoded after a line break, a part gets no dummy space; the break's ids are dropped again.
            after_break = self.sentencepiece.encode(NEW_LINE + self._spell_formatting(part), out_type=int)
            ids += after_break[after_break.index(new_line) + 1 :]
        return [self.num_image_tokens + index for index in ids]

    def encode_prompt(self, prompt: str) -> list[int]:
        """Encode a prompt text for generation: `encode_text(prompt)`, then [gMASK] and <sop>."""
        return self.encode_text(prompt) + [self.gmask_token_id, self.bos_token_id]

    def encode_chat(
        self,
        query: str,
        history: History | None = None,
        max_length: int | None = None,
        reserve: int | None = None,
    ) -> tuple[list[int], int]:
        """Encode a question and as many of the newest rounds before it as leave room for the answer.

        Args:
            query: the newest question, never cut.
            history: earlier rounds, oldest first, as for `build_prompt`.
            max_length: tokens that prompt and answer may have together; None for no limit.
            reserve: tokens kept free for the answer, at least 1; by default an eighth of max_length. A question that
                reaches into them is still answered, with its history dropped.

        Returns:
            (ids int[s], number of rounds dropped from the start of history).

        Raises:
            PromptTooLongError: the question alone leaves no token for an answer.
            ValueError: query or history has a wrong type, or max_length or reserve is below 1.
        """
        rounds = checked_history(history)
        if max_length is None:
            return self.encode_prompt(build_prompt(query, rounds)), 0
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        reserve = max(1, max_length // 8) if reserve is None else reserve
        if reserve < 1:
            raise ValueError(f"reserve must be at least 1, got {reserve}")

        bare = self.encode_prompt(build_prompt(query))
        if len(bare) >= max_length:
            raise PromptTooLongError(len(bare), max_length)
        if not rounds:
            return bare, 0

        # Count rounds from the newest until they fill the budget, so that a long history costs no more than a prompt.
        # Rounds are numbered anew, so each counts at least as it does with the number 0 ...
        budget = max_length - reserve
        line_start = len(self.encode_text("\n"))
        used, dropped = len(bare), len(rounds)
        while dropped and used <= budget:
            dropped -= 1
            text = f"\n{round_text(0, *rounds[dropped])}\n"
            least = len(text) // LONGEST_TOKEN  # a round that cannot fit is not encoded
            used += least if used + least > budget else len(self.encode_text(text)) - line_start
        # ... and the prompts themselves decide.
        while dropped < len(rounds):
            ids = self.encode_prompt(build_prompt(query, rounds[dropped:]))
            if len(ids) <= budget:
                return ids, dropped
            dropped += 1
        return bare, dropped

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Any = None,
        documents: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: Any = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: Any = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Turn messages into a prompt: its text, or the ids that `encode_chat` gives for its rounds.

        Control tokens spelled in a message stay text. A dialogue that ends with the assistant's message gives an
        example to learn from: the prompt, [gMASK] <sop>, the answer, and <eop> unless `continue_final_message`.

        Args:
            conversation: a list of `{"role": …, "content": text or text parts}`, or a list of such lists; see
                `messages_to_rounds` for what becomes of roles.
            chat_template: another template than this tokenizer's own; then everything is as in the base class.
            add_generation_prompt: no effect, as a question is always followed by where its answer starts.
            truncation: leave out the oldest rounds that are too much for `max_length` tokens.
            tokenize, padding, max_length, return_tensors, return_dict: as in the base class.
            kwargs: handed to the base class.

        Returns:
            A text; or ids int[s]; or, with `return_dict`, `input_ids` and an `attention_mask` of the same shape, 1 for
            tokens and 0 for padding. Lists of these, or tensors [b, s], for several dialogues.

        Raises:
            ValueError: tools or documents, which the prompt format has no place for; a wrong message.
            PromptTooLongError: the newest question alone is longer than `max_length`.
        """
        template = chat_template or self.chat_template
        if template != CHAT_TEMPLATE:
            own = {"tools": tools, "documents": documents, "chat_template": chat_template, "truncation": truncation}
            own |= {"add_generation_prompt": add_generation_prompt, "continue_final_message": continue_final_message}
            own |= {"tokenize": tokenize, "padding": padding, "max_length": max_length}
            own |= {"return_tensors": return_tensors, "return_dict": return_dict}
            return super().apply_chat_template(conversation, **own, **kwargs)
        refused = {"tools": tools, "documents": documents} | kwargs
        for name in ("tools", "documents", "return_assistant_tokens_mask"):
            if refused.get(name):
                raise ValueError(f"ChatGLM-6B's prompt format has no {name}: leave it out, or give a chat_template")
        several = bool(conversation) and not isinstance(conversation[0], Mapping)
        dialogues = [read_messages(messages) for messages in (conversation if several else [conversation])]
        if not tokenize:
            texts = [build_prompt(question, rounds) + (answer or "") for question, rounds, answer in dialogues]
            return texts if several else texts[0]

        limit = max_length if truncation else None
        rows = []
        for question, rounds, answer in dialogues:
            ids, _ = self.encode_chat(question, rounds, None if limit is None else limit + 1, reserve=1)
            if answer is not None:
                ids = ids + self.encode_text(answer) + ([] if continue_final_message else [self.eos_token_id])
            rows.append(ids)
        encoded = super().pad({"input_ids": rows}, padding, max_length, return_attention_mask=False)
        lengths = zip(encoded["input_ids"], rows, strict=True)
        encoded["attention_mask"] = [[0] * (len(padded) - len(ids)) + [1] * len(ids) for padded, ids in lengths]
        if return_tensors is not None:
            encoded = BatchEncoding(dict(encoded), tensor_type=return_tensors)
        elif not several:
            encoded = BatchEncoding({name: values[0] for name, values in encoded.items()})
        return encoded if return_dict else encoded["input_ids"]

    # Special tokens, padding, masks

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return `prompt [gMASK] <sop>`, and for a pair `prompt [gMASK] <sop> answer <eop>`."""
        ids = list(token_ids_0) + [self.gmask_token_id, self.bos_token_id]
        return ids if token_ids_1 is None else ids + list(token_ids_1) + [self.eos_token_id]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 where `build_inputs_with_special_tokens` adds a token and 0 elsewhere."""
        if already_has_special_tokens:
            added = {self.gmask_token_id, *self.all_special_ids}
            return [int(token_id in added) for token_id in token_ids_0]
        mask = [0] * len(token_ids_0) + [1, 1]
        return mask if token_ids_1 is None else mask + [0] * len(token_ids_1) + [1]

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        *,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Pad `input_ids` on the left and derive `attention_mask` and `position_ids` from them.

        Masks and positions that come in are replaced: both follow from the ids.

        Args:
            encoded_inputs: one encoding, a batch of them as a dict of lists, or a list of dicts.
            padding, max_length, pad_to_multiple_of, return_attention_mask, return_tensors: as in the base class.

        Returns:
            `input_ids`, `attention_mask` bool[1, s, s] (True is blocked; above 8192 tokens an ordinary int64[s] where
            1 is a token) and `position_ids` int64[2, s], of one sequence or as lists over a batch; tensors get a
            leading dimension b.

        Raises:
            ValueError: pads are needed and `padding_side` is right.
        """
        if isinstance(encoded_inputs, (list, tuple)) and encoded_inputs:
            encoded_inputs = {key: [example[key] for example in encoded_inputs] for key in encoded_inputs[0]}
        features = {
            key: value for key, value in encoded_inputs.items() if key not in ("attention_mask", "position_ids")
        }
        features = super().pad(features, padding, max_length, pad_to_multiple_of, return_attention_mask=False, **kwargs)
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        input_ids = features["input_ids"]
        if return_tensors is None:  # tensors come back as they came in
            return_tensors = "pt" if is_torch_tensor(input_ids) else "np" if isinstance(input_ids, np.ndarray) else None
        if return_attention_mask:
            input_ids = to_py_obj(input_ids)
            if input_ids and isinstance(input_ids[0], (list, tuple)):
                features["attention_mask"] = [self._attention_mask(ids) for ids in input_ids]
                features["position_ids"] = [self._position_ids(ids) for ids in input_ids]
            else:
                features["attention_mask"] = self._attention_mask(input_ids)
                features["position_ids"] = self._position_ids(input_ids)
        return BatchEncoding(dict(features), tensor_type=return_tensors)

    def _pad(self, encoded_inputs: Any, *args: Any, padding_side: str | None = None, **kwargs: Any) -> dict:
        length = len(encoded_inputs["input_ids"])
        padded = super()._pad(encoded_inputs, *args, padding_side=padding_side, **kwargs)
        if (padding_side or self.padding_side) == "right" and len(padded["input_ids"]) > length:
            raise ValueError(
                "padding_side must be left, got right: answers are generated at the right end of a prompt "
                '(tokenizer.padding_side = "left")'
            )
        return padded

    def _context(self, ids: list[int]) -> tuple[int, int]:
        """Return how many pads stand at the start of ids, and how many tokens before <sop>."""
        pad_token_id, bos_token_id = self.pad_token_id, self.bos_token_id
        pads = next((index for index, token_id in enumerate(ids) if token_id != pad_token_id), len(ids))
        return pads, ids.index(bos_token_id) if bos_token_id in ids else len(ids)

    def _attention_mask(self, ids: list[int]) -> np.ndarray:
        """Block pads, and what comes later than a token unless it belongs to the prompt."""
        pads, context = self._context(ids)
        if len(ids) > LONGEST_FULL_MASK:
            return (np.arange(len(ids)) >= pads).astype(np.int64)
        blocked = ~np.tri(len(ids), dtype=bool)
        blocked[:, :context] = False
        blocked[:, :pads] = True
        blocked[:pads] = True
        return blocked[None]  # [1, s, s]

    def _position_ids(self, ids: list[int]) -> np.ndarray:
        """Count prompt positions, which stop at the mask token, and answer positions, which start at <sop>."""
        pads, context = self._context(ids)
        positions = np.maximum(np.arange(len(ids), dtype=np.int64) - pads, 0)
        mask_token_id = self.gmask_token_id if self.gmask_token_id in ids else self.mask_token_id
        if mask_token_id in ids:
            positions[context:] = positions[ids.index(mask_token_id)]
        answer_positions = np.maximum(np.arange(len(ids), dtype=np.int64) - context + 1, 0)
        return np.stack([positions, answer_positions])  # [2, s]

    # Ids to text

    def surface(self, token_id: int) -> str | bytes | None:
        """Return what a token adds to a text.

        Returns:
            A string in which ▁ stands for a space ("" for a control token), one byte for a token of the byte
            fallback, or None where there is nothing to show: padding, image tokens, rows beyond the vocabulary.
        """
        if token_id >= self.vocab_size:
            return self.convert_ids_to_tokens(token_id) or None  # an added token, or a padding row of the embedding
        index = token_id - self.num_image_tokens
        if index < 0 or token_id == self.pad_token_id:
            return None
        return self._piece_surface(index)

    def surfaces(self) -> list[str | bytes | None]:
        """Return `surface` of every id of the vocabulary, much faster than one by one."""
        indices = list(range(self.sentencepiece.get_piece_size()))
        pieces, plain = self.sentencepiece.id_to_piece(indices), set(indices)
        plain -= {index for index in indices if pieces[index].startswith(("<", "["))}  # all that is special is so
        texts = [pieces[index] if index in plain else self.surface(self.num_image_tokens + index) for index in indices]
        return [None] * self.num_image_tokens + texts

    def _piece_surface(self, index: int) -> str | bytes:
        if self.sentencepiece.is_control(index):
            return ""
        piece = self.sentencepiece.id_to_piece(index)
        if self.sentencepiece.is_byte(index):
            return bytes([int(piece[3:-1], 16)])
        if self.sentencepiece.is_unknown(index):
            return self.sentencepiece.decode([index])
        return FORMATTING.get(piece, piece)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens into text; a token that the vocabulary does not have is text itself."""
        decoder = IncrementalDecoder(self)
        text = ""
        for token in tokens:
            token_id = self.convert_tokens_to_ids(token)
            unknown = token_id == self.unk_token_id and token != self.unk_token
            text += decoder.put_surface((token or None) if unknown else self.surface(token_id))
        return text + decoder.end()

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str | list[str]:
        """Turn ids into text.

        Args:
            token_ids: an id, a sequence of ids, or a batch of sequences; lists, arrays or tensors.
            skip_special_tokens: also leave out <unk>; other control tokens never show.
            clean_up_tokenization_spaces: remove spaces before English punctuation; off by default.
            kwargs: accepted as in the base class, without effect.

        Returns:
            The text, or a list of texts for a batch. Padding rows, image tokens and negative ids (labels that are
            ignored) give nothing.
        """
        ids = to_py_obj(token_ids)
        if isinstance(ids, int):
            ids = [ids]
        if len(ids) and isinstance(ids[0], (list, tuple)):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces, **kwargs) for row in ids]
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        decoder = IncrementalDecoder(self)
        text = "".join([decoder.put(int(token_id)) for token_id in ids if token_id not in skipped]) + decoder.end()
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces:  # transformers 5.0 has no method for it
            text = _SPACE_BEFORE_PUNCTUATION.sub(lambda found: found[0].strip(), text)
        return text


class SPTokenizer:
    """compat: what the original's `tokenizer.sp_tokenizer` offers to programs, by the tokenizer's own methods.

    Args:
        tokenizer: the tokenizer whose vocabulary it is.

    Attributes:
        num_image_tokens: ids before the text vocabulary.
        num_tokens: ids in all.
    """

    def __init__(self, tokenizer: ChatGLMTokenizer) -> None:
        self._tokenizer = tokenizer
        self.num_image_tokens, self.num_tokens = tokenizer.num_image_tokens, tokenizer.vocab_size

    def tokenize(self, text: str) -> list[str]:
        """Split a text into tokens, none of them a control token."""
        return self._tokenizer._tokenize(text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's tokens."""
        return self._tokenizer.convert_tokens_to_ids(self.tokenize(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return self._tokenizer.decode(ids)

    def __getitem__(self, key: int | str) -> str | int:
        """Return the token of an id, or the id of a token."""
        to_other = self._tokenizer.convert_ids_to_tokens, self._tokenizer.convert_tokens_to_ids
        return to_other[isinstance(key, str)](key)

    def __len__(self) -> int:
        return self.num_tokens


# save_pretrained then copies this file and names it in tokenizer_config.json, so that a saved folder loads by itself.
ChatGLMTokenizer.register_for_auto_class("AutoTokenizer")
