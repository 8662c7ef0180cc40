"""Keys and values of the tokens read so far, and the two names that the library has for them.

Shapes: `b` batch, `s` new tokens, `t` tokens so far (prefix included), `h` heads, `d` head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .int8_states import SCALE_BYTES, from_buffer, to_buffer
from .positions import PromptLayout

CACHE_STEP = 256  # tokens by which the cache grows in main memory, and of which it is a multiple on a GPU

# compat: transformers 5.24 renamed the cache; this is what the library calls it in `generate` and in its outputs
CACHE_NAME = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"
OTHER_CACHE_NAME = {"cache": "past_key_values", "past_key_values": "cache"}[CACHE_NAME]


def whole_steps(length: int) -> int:
    """Return the columns of a buffer for at least `length` tokens."""
    return -(-length // CACHE_STEP) * CACHE_STEP


def expected_length(prompt_length: int, generation_config, arguments: dict) -> int | None:
    """Return how many tokens `generate` comes to at most; its arguments win over its configuration."""
    for name, before in (("max_new_tokens", prompt_length), ("max_length", 0)):
        limit = arguments.get(name)
        limit = getattr(generation_config, name, None) if limit is None else limit
        if limit is not None:
            return before + limit
    return None


def grown_capacity(length: int, held: int, device: torch.device, rows: int, expected_length: int | None = None) -> int:
    """Return the columns of a buffer that holds `held` columns and has to hold `length` tokens.

    On a GPU, PyTorch keeps each outgrown buffer for requests of its size, and the next ones are larger: growing by
    steps would hold four times the memory at 900 tokens. So one row has room at once for all that is expected, and
    several rows, whose answers may all be short, double theirs. In main memory what is released is free at once.
    """
    steps = whole_steps(length)
    if device.type != "cuda":
        return steps
    if rows == 1 and expected_length is not None:
        return max(steps, whole_steps(expected_length))
    doubled = 2 * held if expected_length is None else min(2 * held, whole_steps(expected_length))
    return max(steps, doubled)


class ChatGLMCache(Cache):
    """Keys and values of all layers in buffers with some room, so that a token costs no copy; see `grown_capacity`.

    Attributes:
        keys, values: a buffer [b, h, capacity, d] for each layer; in INT8 [b, h, capacity, d + 2], see `int8_states`.
        dtype: of buffers yet to be made, None for that of the keys.
        expected_length: tokens that there will be at most, prefix not counted; None if that is not known.
        prefix_length: number of P-Tuning prefix tokens at the front of the buffers.
        layout: of the prompt whose keys are held.
    """

    # what `generate` asks of a cache; the base class derives it from layers, which this one has not
    layers = ()
    is_compileable = False
    max_cache_len = -1  # without limit, as peft writes it
    is_croppable = True
    is_linear = (False,)
    is_sliding = ()

    def __init__(self) -> None:
        # compat: the base class' constructor differs between library versions and holds nothing that we need
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths: list[int] = []
        self.dtype: torch.dtype | None = None
        self.expected_length: int | None = None
        self.prefix_length = 0
        self.layout: PromptLayout | None = None

    @classmethod
    def from_past(cls, past_key_values) -> ChatGLMCache:
        """Return a `ChatGLMCache` with the keys and values [b, h, t, d] of any cache; one of ours as it is."""
        if isinstance(past_key_values, cls):
            return past_key_values
        cache = cls()
        if past_key_values is not None and len(past_key_values) and _holds_tokens(past_key_values):
            for layer, pair in enumerate(past_key_values):
                cache.update(pair[0], pair[1], layer)
        return cache

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs=None):
        """Append [b, h, s, d] keys and values of a layer; return all of that layer's, [b, h, t, d], in their dtype.

        Where the buffers are of that dtype, too, these are views.
        """
        b, h, s, d = key_states.shape
        if layer_idx == len(self.keys):
            width = d + SCALE_BYTES if self.dtype == torch.int8 else d
            self.keys.append(key_states.new_empty(b, h, 0, width, dtype=self.dtype))
            self.values.append(value_states.new_empty(b, h, 0, width, dtype=self.dtype))
            self.lengths.append(0)
        start, end = self.lengths[layer_idx], self.lengths[layer_idx] + s
        self._grow(layer_idx, end)
        key, value = self.keys[layer_idx], self.values[layer_idx]
        key[:, :, start:end] = to_buffer(key_states, key.dtype)
        value[:, :, start:end] = to_buffer(value_states, value.dtype)
        self.lengths[layer_idx] = end
        return from_buffer(key[:, :, :end], key_states.dtype), from_buffer(value[:, :, :end], value_states.dtype)

    def append(self, layer_idx: int, count: int = 1) -> tuple[Tensor, Tensor, list[int]]:
        """Make room for `count` tokens a row in a layer; return its buffers and the columns to be written, by rows."""
        start, end = self.lengths[layer_idx], self.lengths[layer_idx] + count
        self._grow(layer_idx, end)
        self.lengths[layer_idx] = end
        return self.keys[layer_idx], self.values[layer_idx], [*range(start, end)] * len(self.keys[layer_idx])

    def _grow(self, layer_idx: int, length: int) -> None:
        rows, _, held, _ = self.keys[layer_idx].shape
        if length > held:
            expected = self.expected_length and self.expected_length + self.prefix_length
            capacity = grown_capacity(length, held, self.keys[layer_idx].device, rows, expected)
            start = self.lengths[layer_idx]
            for buffers in (self.keys, self.values):
                b, h, _, d = buffers[layer_idx].shape
                grown = buffers[layer_idx].new_empty(b, h, capacity, d)
                grown[:, :, :start] = buffers[layer_idx][:, :, :start]
                buffers[layer_idx] = grown

    def allocate(self, layers: int, shape: tuple[int, int, int], states: Tensor) -> None:
        """Make the buffers of an empty cache for all layers and all tokens that are expected.

        On a GPU, buffers made between a block's other tensors would take room that these had left, so that the next
        block's needed new memory.

        Args:
            layers: number of layers.
            shape: batch, heads and head size.
            states: of the dtype and on the device of the keys.
        """
        b, h, d = shape
        capacity = whole_steps(self.expected_length + self.prefix_length)
        for buffers in (self.keys, self.values):
            buffers += [states.new_empty(b, h, capacity, d, dtype=self.dtype) for _ in range(layers)]
        self.lengths = [0] * layers

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens, P-Tuning prefix included, in the layers that have any."""
        for layer_idx in range(len(self.keys)):
            self._grow(layer_idx, length)

    @property
    def batch_size(self) -> int:
        """Number of rows, 0 before the first token."""
        return len(self.keys[0]) if self.keys else 0

    def next_columns(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return where the next token of each row goes, as the CUDA kernels take it.

        Returns:
            Its column, int64 [b]; padding, context length and mask position of the row's prompt, int64 [3, b]; which
            columns may be attended to, bool [b, more columns than there are tokens], None if all may.
        """
        start, layout = self.get_seq_length(), self.layout
        key_mask = None if layout.visible_keys(start + 1) is None else layout.key_mask
        prompts = torch.stack((layout.padding, layout.context_length, layout.mask_position))
        return layout.padding.new_full((self.batch_size,), start), prompts, key_mask

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of cached tokens, P-Tuning prefix not counted."""
        return self.lengths[layer_idx] - self.prefix_length if layer_idx < len(self.lengths) else 0

    def get_max_length(self, layer_idx: int | None = None) -> int | None:
        """Return None: the cache grows."""
        return None

    get_max_cache_shape = get_max_length

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` tokens; drop the last `-max_length` ones if it is not positive."""
        length = self.get_seq_length()
        keep = max_length if max_length > 0 else length + max_length
        self.lengths = [min(keep, length) + self.prefix_length] * len(self.lengths)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows, int64 [new b], in that order."""
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                used = buffer[:, :, : self.lengths[layer]].index_select(0, indices.to(buffer.device))
                if used.shape[0] == buffer.shape[0]:
                    buffer[:, :, : self.lengths[layer]] = used
                else:
                    buffers[layer] = used
        if self.layout is not None:
            self.layout = self.layout.select(indices.to(self.layout.padding.device))

    reorder_cache = batch_select_indices

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times."""
        if self.keys:
            rows = torch.arange(self.keys[0].shape[0], device=self.keys[0].device)
            self.batch_select_indices(rows.repeat_interleave(repeats))

    def activate_past_recording(self) -> None:
        """Do nothing: every token that was appended can be cropped again."""

    def reset(self) -> None:
        """Forget everything."""
        self.__init__()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        end, dtype = self.lengths[layer_idx], self.keys[layer_idx].dtype
        dtype = torch.float32 if dtype == torch.int8 else dtype
        return tuple(from_buffer(buffers[layer_idx][:, :, :end], dtype) for buffers in (self.keys, self.values))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[layer] for layer in range(len(self)))

    def __repr__(self) -> str:
        return f"ChatGLMCache({len(self)} layers, {self.get_seq_length()} tokens)"


def _holds_tokens(past_key_values) -> bool:
    if isinstance(past_key_values, Cache):
        return past_key_values.get_seq_length() > 0
    return past_key_values[0] is not None


def one_cache(cache, past_key_values):
    """Return the cache that a caller gave under either of its names, None if under neither.

    Raises:
        ValueError: two different ones.
    """
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError(
            "cache and past_key_values are two names of one argument: give one of them (peft's PREFIX_TUNING gives "
            "both, and does not fit this model: use pre_seq_len in the configuration, see ptuning/)"
        )
    return past_key_values if cache is None else cache


class ModelOutput(BaseModelOutputWithPast):
    """The library's output of the blocks, its cache under both names: `cache` and `past_key_values`."""


class CausalOutput(CausalLMOutputWithPast):
    """The library's output of the whole model, its cache under both names: `cache` and `past_key_values`."""


for _output in (ModelOutput, CausalOutput):
    setattr(_output, OTHER_CACHE_NAME, property(lambda output: getattr(output, CACHE_NAME)))
