"""Keys and values of the running answers, as one batch.

Shapes: `b` running answers, `h` heads, `t` tokens so far, `d` head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chatglm import ChatGLMCache
from chatglm.modeling_chatglm import CACHE_STEP

if TYPE_CHECKING:
    from .prompts import ReadPrompt


class BatchCache(ChatGLMCache):
    """Keys and values of answers of different lengths, one row each, which decode together one token at a time.

    It is its own layout: the model asks it for positions and visible columns as it asks a prompt's `PromptLayout`.

    Attributes:
        row_lengths: tokens of each row, P-Tuning prefix included.
        context_lengths, mask_positions: of each row's prompt, as in `PromptLayout`.
    """

    uniform_context_length = 0  # every new token belongs to an answer

    def __init__(self) -> None:
        super().__init__()
        self.layout = self
        self.row_lengths: list[int] = []
        self.context_lengths: list[int] = []
        self.mask_positions: list[int] = []
        self.indices: dict[torch.device, tuple[Tensor, Tensor]] = {}

    # what the model calls

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs=None):
        """Append each row's key and value [b, h, 1, d] at its own end; return views up to the longest row's."""
        device = key_states.device
        if device not in self.indices:
            rows = torch.arange(len(self.row_lengths), device=device)
            self.indices[device] = rows, torch.tensor(self.row_lengths, device=device)
        rows, columns = self.indices[device]
        key, value = self.keys[layer_idx], self.values[layer_idx]
        key[rows, :, columns] = key_states[:, :, 0]
        value[rows, :, columns] = value_states[:, :, 0]
        b, t = len(self.row_lengths), max(self.row_lengths) + 1
        return key[:b, :, :t], value[:b, :, :t]

    def append(self, layer_idx: int) -> tuple[Tensor, Tensor, list[int]]:
        """Return a layer's buffers and the rows' ends, where the CPU kernels write what `update` would."""
        return self.keys[layer_idx], self.values[layer_idx], self.row_lengths

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the length of the longest row, P-Tuning prefix not counted."""
        return max(self.row_lengths) - self.prefix_length

    def position_ids(self, start: int, count: int) -> Tensor:
        """Return the position channels of each row's next token, int64 [b, 2, 1]."""
        answered = [
            length - self.prefix_length - context + 1
            for length, context in zip(self.row_lengths, self.context_lengths, strict=True)
        ]
        positions = torch.tensor([self.mask_positions, answered], device=self.keys[0].device)  # [2, b]
        return positions.T[..., None]

    def visible_keys(self, length: int) -> Tensor | None:
        """Return which columns hold a row's tokens, the new one included, bool [b, length]; None if all do."""
        if len(set(self.row_lengths)) == 1:
            return None
        ends = torch.tensor(self.row_lengths, device=self.keys[0].device)[:, None] - self.prefix_length
        return torch.arange(length, device=ends.device) <= ends

    # what the engine calls

    def prepare(self) -> None:
        """Make room for one more token in each row."""
        self.indices.clear()
        self._resize(len(self.row_lengths), max(self.row_lengths) + 1)

    def advance(self) -> None:
        """Take note that each row has one more token."""
        self.row_lengths = [length + 1 for length in self.row_lengths]

    def append_row(self, prompt: ReadPrompt) -> None:
        """Copy a prompt's keys and values into a new row."""
        self.prefix_length = prompt.cache.prefix_length
        length = prompt.cache.lengths[0]
        if not self.keys:
            self.keys = [key.new_zeros(0, key.shape[1], 0, key.shape[3]) for key in prompt.cache.keys]
            self.values = [value.new_zeros(0, value.shape[1], 0, value.shape[3]) for value in prompt.cache.values]
        row = len(self.row_lengths)
        self._resize(row + 1, max([length + 1, *self.row_lengths]))
        for layer, (key, value) in enumerate(prompt.cache):
            self.keys[layer][row, :, :length] = key[0]
            self.values[layer][row, :, :length] = value[0]
        self.row_lengths.append(length)
        self.context_lengths.append(prompt.context_length)
        self.mask_positions.append(prompt.mask_position)

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

    def _resize(self, rows: int, length: int) -> None:
        """Grow the buffers to hold at least this; rows by doubling, columns by steps of 256. New room is zero."""
        capacity_rows, _, capacity, _ = self.keys[0].shape
        if rows <= capacity_rows and length <= capacity:
            return
        if rows > capacity_rows:
            capacity_rows = max(rows, 2 * capacity_rows)
        if length > capacity:
            capacity = -(-length // CACHE_STEP) * CACHE_STEP
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                b, h, t, d = buffer.shape
                grown = buffer.new_zeros(capacity_rows, h, capacity, d)
                grown[:b, :, :t] = buffer
                buffers[layer] = grown
