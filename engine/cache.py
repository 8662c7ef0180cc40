"""Keys and values of the running answers, as one batch.

Shapes: `b` running answers, `h` heads, `t` tokens so far, `d` head size.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chatglm import ChatGLMCache
from chatglm.cache import grown_capacity, whole_steps
from chatglm.host_transfer import upload
from chatglm.int8_states import from_buffer, to_buffer

if TYPE_CHECKING:
    from .prompts import Prompt


FREE_SHARE = 0.7  # of the free memory is for running answers; prompts being read and programs beside need some, too


@dataclass
class Preempted:
    """A row that has left the batch for a while; its keys and values lie in main memory. Joins as a prompt does."""

    cache: ChatGLMCache
    context_length: int
    mask_position: int


class RowsLayout:
    """The `PromptLayout` of a batch whose rows have different lengths and get one token each, or one row a few."""

    uniform_context_length = 0  # every new token belongs to an answer

    def __init__(self, cache: BatchCache) -> None:
        self.cache = cache

    def position_ids(self, start: int, count: int) -> Tensor:
        """Return the position channels of each row's next `count` tokens, int64 [b, 2, count]."""
        rows = zip(self.cache.row_lengths, self.cache.context_lengths, self.cache.mask_positions, strict=True)
        positions = [
            [[mask_position] * count, [length - self.cache.prefix_length - context + 1 + i for i in range(count)]]
            for length, context, mask_position in rows
        ]
        return upload(positions, self.cache.keys[0].device)

    def visible_keys(self, length: int) -> Tensor | None:
        """Return which columns hold a row's tokens, the new one included, bool [b, length]; None if all do."""
        if len(set(self.cache.row_lengths)) == 1:
            return None
        ends = upload(self.cache.row_lengths, self.cache.keys[0].device) - self.cache.prefix_length
        ends = ends[:, None]  # [b, 1]
        return torch.arange(length, device=ends.device) <= ends


class BatchCache(ChatGLMCache):
    """Keys and values of answers of different lengths, one row each, which decode together one token at a time.

    One row alone may have a few tokens in a pass, where the CPU kernels write them; see `append`.

    Args:
        limit: bytes that the buffers should not exceed, None for any number; see `has_room`.
        expected_length: see the base class.

    Attributes:
        row_lengths: tokens of each row, P-Tuning prefix included.
        context_lengths, mask_positions: of each row's prompt, as in `PromptLayout`.
    """

    def __init__(self, limit: int | None = None, expected_length: int | None = None) -> None:
        super().__init__()
        self.limit, self.expected_length = limit, expected_length
        self.layout = RowsLayout(weakref.proxy(self))
        self.row_lengths: list[int] = []
        self.context_lengths: list[int] = []
        self.mask_positions: list[int] = []
        self.token_bytes = math.inf  # of a token's keys and values, not known before the first row
        self.indices: dict[torch.device, tuple[Tensor, Tensor]] = {}

    # what the model calls

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs=None):
        """Append each row's key and value [b, h, 1, d] at its own end; return all up to the longest row's."""
        device = key_states.device
        if device not in self.indices:
            rows = torch.arange(len(self.row_lengths), device=device)
            self.indices[device] = rows, upload(self.row_lengths, device)
        rows, columns = self.indices[device]
        key, value = self.keys[layer_idx], self.values[layer_idx]
        key[rows, :, columns] = to_buffer(key_states[:, :, 0], key.dtype)
        value[rows, :, columns] = to_buffer(value_states[:, :, 0], value.dtype)
        b, t = len(self.row_lengths), max(self.row_lengths) + 1
        return from_buffer(key[:b, :, :t], key_states.dtype), from_buffer(value[:b, :, :t], value_states.dtype)

    def append(self, layer_idx: int, count: int = 1) -> tuple[Tensor, Tensor, list[int]]:
        """Return a layer's buffers and the columns behind the rows, where the CPU kernels write what `update` would."""
        columns = [length + i for length in self.row_lengths for i in range(count)]
        return self.keys[layer_idx], self.values[layer_idx], columns

    @property
    def batch_size(self) -> int:
        """Number of running answers."""
        return len(self.row_lengths)

    def next_columns(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return where each row's next token goes; see the base class. Every row begins in the first column."""
        columns = [length - self.prefix_length for length in self.row_lengths]
        rows = [columns, [0] * len(columns), self.context_lengths, self.mask_positions]
        columns, *prompts = upload(rows, self.keys[0].device).split([1, 3])
        return columns[0], prompts[0], None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the length of the longest row, P-Tuning prefix not counted."""
        return max(self.row_lengths) - self.prefix_length

    # what the engine calls

    def has_room(self, *lengths: int) -> bool:
        """Return whether rows of these lengths can join, and every row can have another token, within the limit.

        What a token takes is learnt from the first row; until then there is room for none.
        """
        return self._fits(len(self.row_lengths) + len(lengths), max([*self.row_lengths, *lengths]) + 1)

    def prepare(self, count: int = 1) -> None:
        """Make room for `count` more tokens in each row."""
        self.indices.clear()
        self._resize(len(self.row_lengths), max(self.row_lengths) + count)

    def advance(self, count: int = 1) -> None:
        """Take note that each row has `count` more tokens."""
        self.row_lengths = [length + count for length in self.row_lengths]

    def shorten_row(self, row: int, count: int) -> None:
        """Forget the last `count` tokens of a row; what is left behind is zero, see `remove_row`."""
        end = self.row_lengths[row]
        for buffer in (*self.keys, *self.values):
            buffer[row, :, end - count : end] = 0
        self.row_lengths[row] = end - count

    def append_row(self, prompt: Prompt | Preempted) -> None:
        """Copy a prompt's keys and values, or those of a row that was preempted, into a new row."""
        self.prefix_length = prompt.cache.prefix_length
        length = prompt.cache.lengths[0]
        if not self.keys:
            self.keys = [key.new_zeros(0, key.shape[1], 0, key.shape[3]) for key in prompt.cache.keys]
            self.values = [value.new_zeros(0, value.shape[1], 0, value.shape[3]) for value in prompt.cache.values]
            numbers = sum(buffer.shape[1] * buffer.shape[3] for buffer in (*self.keys, *self.values))
            self.token_bytes = numbers * self.keys[0].element_size()
        row = len(self.row_lengths)
        self._resize(row + 1, max([length + 1, *self.row_lengths]))
        for own, other in ((self.keys, prompt.cache.keys), (self.values, prompt.cache.values)):
            for buffer, read in zip(own, other, strict=True):
                buffer[row, :, :length] = read[0, :, :length]
        self.row_lengths.append(length)
        self.context_lengths.append(prompt.context_length)
        self.mask_positions.append(prompt.mask_position)

    def preempt(self, row: int) -> Preempted:
        """Return what `append_row` needs to bring a row back after `remove_row`."""
        cache, length = ChatGLMCache(), self.row_lengths[row]
        cache.prefix_length = self.prefix_length
        for own, kept in ((self.keys, cache.keys), (self.values, cache.values)):
            kept += [buffer[row, None, :, :length].to("cpu", copy=True) for buffer in own]
        cache.lengths = [length] * len(self.keys)
        return Preempted(cache, self.context_lengths[row], self.mask_positions[row])

    def remove_row(self, row: int) -> None:
        """Forget a row; the last one takes its place. What is left behind is zero, as NaN would reach other rows."""
        last = len(self.row_lengths) - 1
        length = self.row_lengths[last]
        for buffer in (*self.keys, *self.values):
            if row != last:
                buffer[row, :, : self.row_lengths[row]] = 0
                buffer[row, :, :length] = buffer[last, :, :length]
            buffer[last, :, :length] = 0
        for values in (self.row_lengths, self.context_lengths, self.mask_positions):
            values[row] = values[last]
            values.pop()
        if not self.row_lengths:  # give the memory back when nobody is served
            self.keys, self.values = [], []

    def _fits(self, rows: int, length: int) -> bool:
        return self.limit is None or rows * whole_steps(length) * self.token_bytes <= self.limit

    def _resize(self, rows: int, length: int) -> None:
        """Make the buffers hold at least this; rows by doubling, columns as in `grown_capacity`. New room is zero.

        Where that would be more than the limit, they are made no larger than needed, which may be smaller than before.
        """
        held_rows, _, held, _ = self.keys[0].shape
        if rows <= held_rows and length <= held:
            return
        capacity_rows = held_rows if rows <= held_rows else max(rows, 2 * held_rows)
        capacity = held
        if length > held:
            expected = self.expected_length and self.expected_length + self.prefix_length
            capacity = grown_capacity(length, held, self.keys[0].device, max(2, capacity_rows), expected)
        if not self._fits(capacity_rows, capacity):
            capacity_rows, capacity = rows, whole_steps(length)
        kept_rows, kept = min(held_rows, capacity_rows), min(held, capacity)
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                resized = buffer.new_zeros(capacity_rows, buffer.shape[1], capacity, buffer.shape[3])
                resized[:kept_rows, :, :kept] = buffer[:kept_rows, :, :kept]
                buffers[layer] = resized
