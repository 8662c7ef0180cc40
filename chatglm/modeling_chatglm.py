"""The ChatGLM-6B model: a prefix language model with two-dimensional rotary positions, and its chat front end.

Shapes: `b` batch, `s` new tokens, `t` tokens so far (prefix and cache included), `h` heads, `d` head size, `e` hidden,
`v` vocabulary, `l` layers, `p` P-Tuning prefix.

The prompt (everything before `<sop>`) is read once and bidirectionally; the answer, from `<sop>` on, is causal. Hence
a prompt needs no mask, an answer token sees everything before it, and a changed prompt has to be read anew.

Source: GLM (arXiv 2103.10360), GLM-130B (2210.02414), rotary positions (2104.09864), residual scaling (2203.00555),
P-Tuning v2 (2110.07602); parameter names and numbers of THUDM/chatglm-6b v1.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers import __version__ as transformers_version
from transformers.cache_utils import Cache
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import logging

from . import cpu_kernels

# the library copies the Python files of a checkpoint that this file names in just this form, no others
from .configuration_chatglm import ChatGLMConfig
from .cpu_kernels import KernelError  # noqa: F401
from .cuda_decode import decode_step, is_intercepted, release_graphs
from .cuda_kernels import linear  # noqa: F401
from .generation_chatglm import (
    AnswerText,
    FiniteLogits,
    ForbidTokens,
    GenerationThread,
    InvalidScoreLogitsProcessor,  # noqa: F401  (found here by programs written for the original)
    Sampler,
    StopWhen,
    decode,
    end_token_ids,
    foreign_tokens,
    process_response,
)
from .quantization import BlockQuantizer, QuantizedLinear, tie_quantized_embeddings
from .quantization import quantize as quantize_layers
from .tokenization_chatglm import ChatGLMTokenizer

logger = logging.get_logger(__name__)

CACHE_STEP = 256  # tokens by which the key/value cache grows
# compat: sqrt(2 l) of the 28-layer model; the original uses it whatever `num_layers` says
RESIDUAL_SCALE = math.sqrt(2 * 28)

# compat: transformers 5.24 renamed the cache; this is what the library calls it in `generate` and in its outputs
CACHE_NAME = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"
OTHER_CACHE_NAME = {"cache": "past_key_values", "past_key_values": "cache"}[CACHE_NAME]


# --------------------------------------------------------------------------------------------------------------------
# Prompt layout: where the prompt ends, which positions tokens have, what may be attended to
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class PromptLayout:
    """Where padding, prompt and answer lie in each row of a batch; columns count from the left, padding included.

    Attributes:
        padding: int64 [b], number of padding tokens on the left.
        context_length: int64 [b], column of `<sop>`: the tokens before it see one another.
        mask_position: int64 [b], position of `[gMASK]` or `[MASK]`, padding not counted; every answer token has it.
        uniform_context_length: the context length, if it is the same in all rows, else None.
        key_mask: bool [b, t] of the columns that may be attended to, or None if all may.
    """

    padding: Tensor
    context_length: Tensor
    mask_position: Tensor
    uniform_context_length: int | None
    key_mask: Tensor | None

    @classmethod
    def from_input_ids(cls, input_ids: Tensor, attention_mask: Tensor | None, config: ChatGLMConfig) -> PromptLayout:
        """Read the layout off a batch of prompts (with or without the beginning of an answer).

        Args:
            input_ids: int64 [b, s].
            attention_mask: 1 for tokens and 0 for padding [b, s]; or the tokenizer's own [b, 1, s, s], where true
                means blocked; or None, and padding is recognised by `pad_token_id` on the left.
            config: for the special token ids.

        Raises:
            ValueError: a row without `<sop>`, or with neither `[gMASK]` nor `[MASK]`.
        """
        if attention_mask is None:
            visible = (input_ids != config.pad_token_id).cumsum(dim=-1) > 0
        elif attention_mask.dim() == 4:  # the last row of the tokenizer's mask blocks the padding, and only that
            visible = ~attention_mask[:, 0, -1, :].bool()
        else:
            visible = attention_mask[:, : input_ids.shape[1]].bool()
        padding = (visible.cumsum(dim=-1) == 0).sum(dim=-1)  # [b]
        is_bos = input_ids == config.bos_token_id
        is_gmask, is_mask = input_ids == config.gmask_token_id, input_ids == config.mask_token_id
        has_gmask = is_gmask.any(dim=-1)
        context_length = is_bos.int().argmax(dim=-1)
        mask_column = torch.where(has_gmask, is_gmask.int().argmax(dim=-1), is_mask.int().argmax(dim=-1))
        # the only transfer to the host, once a prompt
        rows = torch.stack(
            [context_length, is_bos.any(dim=-1), has_gmask | is_mask.any(dim=-1), visible.all(dim=-1)], dim=-1
        ).tolist()
        for index, (_, bos, mask, _) in enumerate(rows):
            if not (bos and mask):
                missing = "[gMASK] or [MASK]" if bos else f"<sop> (bos_token_id {config.bos_token_id})"
                raise ValueError(
                    f"input_ids row {index} has no {missing}: encode prompts with the ChatGLM tokenizer, which ends "
                    "them with [gMASK] <sop>"
                )
        lengths = {row[0] for row in rows}
        return cls(
            padding=padding,
            context_length=context_length,
            mask_position=mask_column - padding,
            uniform_context_length=lengths.pop() if len(lengths) == 1 else None,
            key_mask=None if all(row[3] for row in rows) else visible,
        )

    def position_ids(self, start: int, count: int) -> Tensor:
        """Return the two position channels of the columns `start … start + count - 1`, int64 [b, 2, count]."""
        column = torch.arange(start, start + count, device=self.padding.device)
        context_length = self.context_length[:, None]
        in_prompt = (column - self.padding[:, None]).clamp(min=0)
        position = torch.where(column < context_length, in_prompt, self.mask_position[:, None])
        return torch.stack([position, (column - context_length + 1).clamp(min=0)], dim=1)

    def visible_keys(self, length: int) -> Tensor | None:
        """Return `key_mask` for the columns up to `length` (tokens after the prompt are visible), or None."""
        if self.key_mask is not None and self.key_mask.shape[1] < length:
            growth = max(length - self.key_mask.shape[1], CACHE_STEP)
            self.key_mask = F.pad(self.key_mask, (0, growth), value=True)
        return None if self.key_mask is None else self.key_mask[:, :length]

    def select(self, rows: Tensor) -> PromptLayout:
        """Return the layout of the given rows, int64 [new b]."""
        return PromptLayout(
            self.padding[rows],
            self.context_length[rows],
            self.mask_position[rows],
            self.uniform_context_length,
            None if self.key_mask is None else self.key_mask[rows],
        )


@dataclass
class AttentionPlan:
    """What the new tokens of one forward pass may attend to; the same for all layers.

    Attributes:
        split: the first `split` new tokens belong to the prompt and see the first `context` keys and no others.
        context: number of keys that the prompt's tokens see, P-Tuning prefix included.
        key_mask: bool [b, 1, 1, t], false for padding, or None.
        full_mask: bool [b, 1, s, t], used instead of the above where rows have different context lengths.
    """

    split: int
    context: int
    key_mask: Tensor | None = None
    full_mask: Tensor | None = None

    def to(self, device: torch.device | str | int) -> AttentionPlan:
        """Return the plan for layers on another device; accelerate calls it for the layers of a spread model."""
        masks = (None if mask is None else mask.to(device) for mask in (self.key_mask, self.full_mask))
        return AttentionPlan(self.split, self.context, *masks)

    @classmethod
    def build(cls, layout: PromptLayout | None, start: int, count: int, prefix: int, device: torch.device):
        """Plan the attention of `count` tokens from column `start` on, behind `prefix` P-Tuning tokens."""
        length = start + count
        if layout is None:  # a continuation of a cache whose prompt is unknown: causal
            return cls(split=0, context=0)
        visible = layout.visible_keys(length)  # [b, t - p]
        if visible is not None and prefix:
            visible = F.pad(visible, (prefix, 0), value=True)  # [b, t]
        key_mask = None if visible is None else visible[:, None, None, :]
        if layout.uniform_context_length is not None or count == 1:
            context_length = layout.uniform_context_length if layout.uniform_context_length is not None else 0
            split = min(max(context_length - start, 0), count)
            return cls(split=split, context=prefix + start + split, key_mask=key_mask)
        column = torch.arange(length, device=device)
        query, context_length = column[start:, None], layout.context_length[:, None, None]  # [s, 1], [b, 1, 1]
        allowed = (column <= query) | ((column < context_length) & (query < context_length))  # [b, s, t - p]
        if prefix:
            allowed = F.pad(allowed, (prefix, 0), value=True)
        allowed = allowed[:, None]  # [b, 1, s, t]
        return cls(split=0, context=0, full_mask=allowed if key_mask is None else allowed & key_mask)


# --------------------------------------------------------------------------------------------------------------------
# Key/value cache
# --------------------------------------------------------------------------------------------------------------------


class ChatGLMCache(Cache):
    """Keys and values of all layers in buffers that grow by steps of 256 tokens, so that a token costs no copy.

    Attributes:
        keys, values: a buffer [b, h, capacity, d] for each layer.
        prefix_length: number of P-Tuning prefix tokens at the front of the buffers.
        layout: of the prompt whose keys are held.
    """

    # what `generate` asks of a cache; the base class derives it from layers, which this one has not
    layers = ()
    is_compileable = False
    is_croppable = True
    is_linear = (False,)
    is_sliding = ()

    def __init__(self) -> None:
        # compat: the base class' constructor differs between library versions and holds nothing that we need
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths: list[int] = []
        self.prefix_length = 0
        self.layout: PromptLayout | None = None

    @classmethod
    def from_past(cls, past_key_values) -> ChatGLMCache:
        """Take over a cache, or the (key, value) [b, h, t, d] pairs of another one; without copying what is ours."""
        if isinstance(past_key_values, cls):
            return past_key_values
        cache = cls()
        if past_key_values is not None and len(past_key_values) and _holds_tokens(past_key_values):
            for layer, pair in enumerate(past_key_values):
                cache.update(pair[0], pair[1], layer)
        return cache

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        cache_kwargs=None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Append [b, h, s, d] keys and values of a layer; return all of that layer's, [b, h, t, d], in their dtype.

        Where the buffers are of that dtype, too, these are views. `dtype` is of buffers yet to be made, that of the
        keys if not given.
        """
        b, h, s, d = key_states.shape
        if layer_idx == len(self.keys):
            self.keys.append(key_states.new_empty(b, h, 0, d, dtype=dtype))
            self.values.append(value_states.new_empty(b, h, 0, d, dtype=dtype))
            self.lengths.append(0)
        start, end = self.lengths[layer_idx], self.lengths[layer_idx] + s
        self._grow(layer_idx, end)
        key, value = self.keys[layer_idx], self.values[layer_idx]
        key[:, :, start:end] = key_states
        value[:, :, start:end] = value_states
        self.lengths[layer_idx] = end
        return key[:, :, :end].to(key_states.dtype), value[:, :, :end].to(value_states.dtype)

    def append(self, layer_idx: int) -> tuple[Tensor, Tensor, list[int]]:
        """Make place for one token a row in a layer; return its buffers and the rows' places, to be written."""
        position = self.lengths[layer_idx]
        self._grow(layer_idx, position + 1)
        self.lengths[layer_idx] = position + 1
        return self.keys[layer_idx], self.values[layer_idx], [position] * len(self.keys[layer_idx])

    def _grow(self, layer_idx: int, length: int) -> None:
        if length > self.keys[layer_idx].shape[2]:
            capacity, start = -(-length // CACHE_STEP) * CACHE_STEP, self.lengths[layer_idx]
            for buffers in (self.keys, self.values):
                b, h, _, d = buffers[layer_idx].shape
                grown = buffers[layer_idx].new_empty(b, h, capacity, d)
                grown[:, :, :start] = buffers[layer_idx][:, :, :start]
                buffers[layer_idx] = grown

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens, P-Tuning prefix included, in the layers that have any."""
        for layer_idx in range(len(self.keys)):
            self._grow(layer_idx, length)

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
        end = self.lengths[layer_idx]
        return self.keys[layer_idx][:, :, :end], self.values[layer_idx][:, :, :end]

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
        raise ValueError("cache and past_key_values are two names of one argument: give one of them")
    return past_key_values if cache is None else cache


class ModelOutput(BaseModelOutputWithPast):
    """The library's output of the blocks, its cache under both names: `cache` and `past_key_values`."""


class CausalOutput(CausalLMOutputWithPast):
    """The library's output of the whole model, its cache under both names: `cache` and `past_key_values`."""


for _output in (ModelOutput, CausalOutput):
    setattr(_output, OTHER_CACHE_NAME, property(lambda output: getattr(output, CACHE_NAME)))


# --------------------------------------------------------------------------------------------------------------------
# Rotary positions
# --------------------------------------------------------------------------------------------------------------------


def rotary_frequency(head_size: int, device: torch.device) -> Tensor:
    """Return the angles by which the pairs of one position channel turn from a position to the next, float32 [d/4]."""
    exponent = torch.arange(0, head_size // 2, 2, device=device).float() / (head_size // 2)
    # compat: the original keeps the frequencies in half precision
    return (1.0 / 10000**exponent).half().float()


def rotary_tables(position_ids: Tensor, head_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the cosine and the signed sine of every angle, each [b, s, 1, 1, d].

    The first half of a head turns with the first position channel, the second half with the second; within a half,
    number `i` pairs with `i + d/4`. The sine of a pair's first member is negative, so that
    `x * cos + swap(x) * sin` is the rotation.

    Args:
        position_ids: int64 [b, 2, s].
        head_size: `d`, a multiple of 4.
        dtype: of the result; the angles are computed in float32.
    """
    frequency = rotary_frequency(head_size, position_ids.device)  # [d/4]
    angle = position_ids.transpose(1, 2)[..., None].float() * frequency  # [b, s, 2, d/4]
    cos, sin = angle.cos(), angle.sin()
    cos = torch.cat([cos, cos], dim=-1).flatten(-2)  # [b, s, d]
    sin = torch.cat([-sin, sin], dim=-1).flatten(-2)
    return cos[:, :, None, None].to(dtype), sin[:, :, None, None].to(dtype)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `x` [b, s, h, n, d] by the tables of `rotary_tables`."""
    swapped = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return x * cos + swapped * sin


# --------------------------------------------------------------------------------------------------------------------
# Attention, feed-forward, block
# --------------------------------------------------------------------------------------------------------------------


def prefix_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    """Attend as the plan allows, with no mask in memory where none is needed.

    Args:
        query: [b, h, s, d], the last `s` of the `t` tokens.
        key, value: [b, h, t, d].

    Returns:
        [b, h, s, d].
    """
    if plan.full_mask is not None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=_open_empty_rows(plan.full_mask))
    split, s, t, parts = plan.split, query.shape[2], key.shape[2], []
    if split:  # the prompt: bidirectional
        mask = None if plan.key_mask is None else plan.key_mask[..., : plan.context]
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, :split], key[:, :, : plan.context], value[:, :, : plan.context], attn_mask=mask
            )
        )
    if split < s:  # the answer: causal
        mask = plan.key_mask
        if s - split > 1:
            causal = torch.ones(s - split, t, dtype=torch.bool, device=query.device).tril(t - (s - split))
            mask = causal if mask is None else causal & mask
        parts.append(F.scaled_dot_product_attention(query[:, :, split:], key, value, attn_mask=mask))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def attention_probabilities(query: Tensor, key: Tensor, plan: AttentionPlan) -> Tensor:
    """Return the attention weights [b, h, s, t] that `prefix_attention` uses but does not give out."""
    s, t = query.shape[2], key.shape[2]
    if plan.full_mask is not None:
        mask = _open_empty_rows(plan.full_mask)
    else:
        mask = torch.ones(s, t, dtype=torch.bool, device=query.device).tril(t - s)
        mask[: plan.split] = torch.arange(t, device=query.device) < plan.context
        mask = mask if plan.key_mask is None else mask & plan.key_mask
    scores = query.float() @ key.float().transpose(-1, -2) / math.sqrt(query.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1).to(query.dtype)


def _open_empty_rows(mask: Tensor) -> Tensor:
    """Let rows that see nothing (padding) see everything: their output is not used, but must not be NaN."""
    return mask | ~mask.any(dim=-1, keepdim=True)


class SelfAttention(nn.Module):
    """Multi-head attention with rotary positions over a prefix language model's tokens."""

    def __init__(self, config: ChatGLMConfig, layer_id: int) -> None:
        super().__init__()
        self.layer_id = layer_id
        self.num_attention_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,  # [b, s, e]
        rotary: tuple[Tensor, Tensor],
        plan: AttentionPlan,
        cache: ChatGLMCache | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,  # P-Tuning keys and values [b, h, p, d], where there is no cache
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        b, s, _ = hidden_states.shape
        mixed = self.query_key_value(hidden_states).view(b, s, self.num_attention_heads, 3, self.head_size)
        if prefix is None and not output_attentions and self.decodes_in_c(mixed, cache):
            context = cpu_kernels.decode_attention(
                mixed[:, 0], *self.decode_arguments(rotary, plan, cache)
            )  # [b, h, d]
            return self.dense(context.view(b, 1, -1)), None
        rotated = apply_rotary(mixed[..., :2, :], *rotary)  # [b, s, h, 2, d]
        query, key = rotated[..., 0, :].transpose(1, 2), rotated[..., 1, :].transpose(1, 2)  # [b, h, s, d]
        value = mixed[..., 2, :].transpose(1, 2)
        if prefix is not None:
            key, value = torch.cat([prefix[0], key], dim=2), torch.cat([prefix[1], value], dim=2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_id, dtype=self._cache_dtype(key))  # [b, h, t, d]
        context = prefix_attention(query, key, value, plan)  # [b, h, s, d]
        probabilities = attention_probabilities(query, key, plan) if output_attentions else None
        return self.dense(context.transpose(1, 2).reshape(b, s, -1)), probabilities

    def _cache_dtype(self, key: Tensor) -> torch.dtype:
        """Return the dtype to keep keys and values in: half precision where kernels decode with 8-bit activations.

        Rounding those costs ten times the accuracy that float16 costs; and at 2,048 tokens of ChatGLM-6B, keys and
        values in float32 would add 1.9 GB to the 3.2 GB of INT4 weights that a token reads.
        """
        if key.dtype == torch.float32 and self._attends_in_c(key) and not self.dense.exact:
            return torch.float16 if cpu_kernels.activation_bits_for(self.dense.weight) == 8 else key.dtype
        return key.dtype

    def _attends_in_c(self, tensor: Tensor) -> bool:
        return isinstance(self.dense, QuantizedLinear) and cpu_kernels.can_attend(self.head_size, tensor)

    def decodes_in_c(self, hidden_states: Tensor, cache: ChatGLMCache | None) -> bool:
        """Return whether `cpu_kernels` can attend for these hidden states [b, s, ...]: those of a token a row."""
        # PyTorch's attention of a single token can take as long as all of an INT4 block's products
        is_token = hidden_states.shape[1] == 1 and cache is not None and len(cache.keys) > self.layer_id
        return is_token and self._attends_in_c(hidden_states)

    def decode_arguments(self, rotary: tuple[Tensor, Tensor], plan: AttentionPlan, cache: ChatGLMCache) -> tuple:
        """Make place for a token in the cache; return what `cpu_kernels.decode_attention` takes besides its numbers."""
        keys, values, positions = cache.append(self.layer_id)
        tables = rotary[0].view(-1, self.head_size), rotary[1].view(-1, self.head_size)  # [b, d]
        key_mask = None if plan.key_mask is None else plan.key_mask[:, 0, 0]  # [b, t]
        return tables, keys, values, positions, key_mask


class GLU(nn.Module):
    """The feed-forward layer; named as in the original, though it is not gated."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden_states), approximate="tanh"))


class GLMBlock(nn.Module):
    """Attention and feed-forward, each added to `RESIDUAL_SCALE` times its *normalised* input (2203.00555)."""

    def __init__(self, config: ChatGLMConfig, layer_id: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = SelfAttention(config, layer_id)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = GLU(config)

    def forward(
        self,
        hidden_states: Tensor,  # [b, s, e]
        rotary: tuple[Tensor, Tensor],
        plan: AttentionPlan,
        cache: ChatGLMCache | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if prefix is None and not output_attentions and self._decodes_in_c(hidden_states, cache):
            return self._decode(hidden_states, rotary, plan, cache), None
        attention_input = self.input_layernorm(hidden_states)
        attention_output, probabilities = self.attention(
            attention_input, rotary, plan, cache, prefix, output_attentions
        )
        hidden_states = torch.add(attention_output, attention_input, alpha=RESIDUAL_SCALE)
        mlp_input = self.post_attention_layernorm(hidden_states)
        return torch.add(self.mlp(mlp_input), mlp_input, alpha=RESIDUAL_SCALE), probabilities

    def _parts(self) -> tuple[tuple[nn.Module, ...], tuple[nn.Module, ...]]:
        """Return the norms and the matrices, in the order of use."""
        attention, mlp = self.attention, self.mlp
        matrices = attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h
        return (self.input_layernorm, self.post_attention_layernorm), matrices

    def _decodes_in_c(self, hidden_states: Tensor, cache: ChatGLMCache | None) -> bool:
        # a token's products take so little time that Python and PyTorch's small operations would add a tenth to it
        attention = self.attention
        if not attention.decodes_in_c(hidden_states, cache):
            return False
        norms, matrices = self._parts()
        if any(type(matrix) is not QuantizedLinear or matrix.exact or matrix.bias is None for matrix in matrices):
            return False
        dtype = hidden_states.dtype
        if any(part.bias.dtype != dtype for part in (*norms, *matrices)):
            return False
        return not any(is_intercepted(module) for module in (attention, self.mlp, *norms, *matrices))

    def _decode(self, hidden_states: Tensor, rotary: tuple[Tensor, Tensor], plan: AttentionPlan, cache: ChatGLMCache):
        return cpu_kernels.decode_block(
            hidden_states, *self._parts(), RESIDUAL_SCALE, *self.attention.decode_arguments(rotary, plan, cache)
        )


class PrefixEncoder(nn.Module):
    """Keys and values of `pre_seq_len` virtual tokens for every layer (P-Tuning v2, 2110.07602)."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.config = config
        width = 2 * config.num_layers * config.hidden_size
        if config.prefix_projection:
            self.embedding = nn.Embedding(config.pre_seq_len, config.hidden_size)
            self.trans = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size), nn.Tanh(), nn.Linear(config.hidden_size, width)
            )
        else:
            self.embedding = nn.Embedding(config.pre_seq_len, width)
            self.trans = nn.Identity()
        self.dropout = nn.Dropout(0.1)

    def forward(self, batch_size: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Return a (key, value) pair, each [b, h, p, d], for every layer."""
        config = self.config
        states = self.trans(self.embedding.weight).to(dtype)  # [p, 2 l e]
        heads = config.num_attention_heads
        states = states.expand(batch_size, *states.shape).reshape(
            batch_size, config.pre_seq_len, 2 * config.num_layers, heads, config.hidden_size // heads
        )
        states = self.dropout(states).permute(2, 0, 3, 1, 4)  # [2 l, b, h, p, d]
        return [(states[2 * layer], states[2 * layer + 1]) for layer in range(config.num_layers)]


# --------------------------------------------------------------------------------------------------------------------
# Model
# --------------------------------------------------------------------------------------------------------------------


class ChatGLMPreTrainedModel(PreTrainedModel):
    """What the library needs to know to load, place and initialise the model."""

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_cache_class = True
    _no_split_modules = ["GLMBlock"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    # compat: the original stores a table for each layer, which is computed here
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load weights as the library does, and refuse a quantised checkpoint without its scales."""
        wants_report = kwargs.pop("output_loading_info", False)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs)
        model, report = loaded
        missing = sorted(name for name in report["missing_keys"] if name.endswith("weight_scale"))
        if missing:
            raise ValueError(
                f"{pretrained_model_name_or_path}: quantization_bit is {model.config.quantization_bit}, but "
                f"{len(missing)} scales are missing ({missing[0]} first): weights and config.json do not go together"
            )
        model.freeze_for_prefix()  # loading makes new parameters
        return loaded if wants_report else model

    @property
    def device(self) -> torch.device:
        """Where inputs belong; of a model that is spread over devices, where it computes first."""
        hook = getattr(self, "_hf_hook", None)  # accelerate's: the weights themselves may be on no device yet
        return super().device if hook is None else torch.device(hook.execution_device)

    def freeze_for_prefix(self) -> None:
        """With a P-Tuning v2 prefix, let nothing but the prefix be trained."""
        if self.config.pre_seq_len is not None:
            for name, parameter in self.named_parameters():
                if "prefix_encoder." not in name:
                    parameter.requires_grad = False


class ChatGLMModel(ChatGLMPreTrainedModel):
    """The blocks between word embedding and output layer."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(GLMBlock(config, layer_id) for layer_id in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.gradient_checkpointing = False
        if config.pre_seq_len is not None:
            self.prefix_encoder = PrefixEncoder(config)
        self.freeze_for_prefix()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        self.word_embeddings = embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: ChatGLMCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: ChatGLMCache | None = None,
    ) -> tuple | ModelOutput:
        """Compute the hidden states of new tokens.

        Args:
            input_ids: int64 [b, s]. Without a cache they hold the whole prompt, `<sop>` included.
            position_ids: int64 [b, 2, s]; from the ids if not given.
            attention_mask: 1 for tokens, 0 for padding [b, t]; or the tokenizer's [b, 1, s, s] (true means blocked);
                from the padding tokens on the left if not given. Not needed once the prompt is cached.
            cache: the cache that a former call returned; `past_key_values` is its older name.
            inputs_embeds: [b, s, e] instead of `input_ids`; then `position_ids` must be given, and tokens whose
                second position is 0 count as the prompt.
            use_cache: whether to return a cache; `config.use_cache` outside of training if not given.

        Returns:
            `last_hidden_state` [b, s, e], and the cache, hidden states and attention weights if asked for.

        Raises:
            ValueError: neither or both of `input_ids` and `inputs_embeds`; a prompt without `<sop>` or mask token; two
                caches.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = getattr(config, "return_dict", True) if return_dict is None else return_dict
        checkpointing = self.gradient_checkpointing and self.training
        if use_cache is None:
            use_cache = config.use_cache and not self.training
        use_cache = use_cache and not checkpointing
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        hidden_states = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds  # [b, s, e]
        b, s, _ = hidden_states.shape

        cache = one_cache(cache, past_key_values)
        cache = ChatGLMCache.from_past(cache) if use_cache or cache is not None else None
        start = 0 if cache is None else cache.get_seq_length()
        layout = None if cache is None else cache.layout
        if start == 0 and layout is None:
            layout = self._layout(input_ids, position_ids, attention_mask)
            if cache is not None:
                cache.layout = layout
        if position_ids is None:
            if layout is None:
                raise ValueError("position_ids [b, 2, s] are needed to continue a cache that another class has filled")
            position_ids = layout.position_ids(start, s)

        prefix, prefix_length = None, 0 if cache is None else cache.prefix_length
        if config.pre_seq_len is not None and start == 0 and prefix_length == 0:
            prefix, prefix_length = self.prefix_encoder(b, hidden_states.dtype), config.pre_seq_len
            if cache is not None:
                cache.prefix_length = prefix_length
        plan = AttentionPlan.build(layout, start, s, prefix_length, position_ids.device)
        rotary = rotary_tables(position_ids, config.hidden_size // config.num_attention_heads, hidden_states.dtype)

        all_hidden_states, all_attentions = [], []
        for layer_id, layer in enumerate(self.layers):
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
            layer_prefix = None if prefix is None else prefix[layer_id]
            arguments = (hidden_states, rotary, plan, cache, layer_prefix, bool(output_attentions))
            if checkpointing:
                hidden_states, probabilities = self._gradient_checkpointing_func(layer.__call__, *arguments)
            else:
                hidden_states, probabilities = layer(*arguments)
            all_attentions.append(probabilities)
        hidden_states = self.final_layernorm(hidden_states)
        if output_hidden_states:
            all_hidden_states.append(hidden_states)

        output = ModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(all_attentions) if output_attentions else None,
            **{CACHE_NAME: cache if use_cache else None},
        )
        return output if return_dict else output.to_tuple()

    def _layout(self, input_ids: Tensor | None, position_ids: Tensor | None, attention_mask: Tensor | None):
        if input_ids is not None:
            return PromptLayout.from_input_ids(input_ids, attention_mask, self.config)
        if position_ids is None:
            raise ValueError("inputs_embeds need position_ids [b, 2, s]")
        # no ids to read the layout from: write ids that have it
        stand_in = torch.full_like(position_ids[:, 0], self.config.gmask_token_id)
        stand_in[position_ids[:, 1] > 0] = self.config.bos_token_id
        if attention_mask is None:
            attention_mask = torch.ones_like(stand_in)
        return PromptLayout.from_input_ids(stand_in, attention_mask, self.config)


class ChatGLMForConditionalGeneration(ChatGLMPreTrainedModel, GenerationMixin):
    """ChatGLM-6B with its output layer: `forward` for training, `generate`, `chat` and `stream_chat` for use."""

    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}
    # tied as well where they are quantised, see `tie_weights`
    _keys_to_ignore_on_load_missing = [r"lm_head\.weight_scale"]
    accepts_loss_kwargs = True

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        cpu_kernels.look_in(getattr(config, "_name_or_path", ""))
        self.transformer = ChatGLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.quantization_bit:
            quantize_layers(self, config.quantization_bit, config.quantization_embeddings, empty=True)
        self.freeze_for_prefix()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.word_embeddings

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        self.transformer.word_embeddings = embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, embeddings: nn.Module) -> None:
        self.lm_head = embeddings

    def tie_weights(self, *args, **kwargs) -> None:
        """Let the output layer use the word embedding's weight, and its scales where both are quantised."""
        super().tie_weights(*args, **kwargs)
        if isinstance(self.lm_head, QuantizedLinear):
            tie_quantized_embeddings(self)

    def quantize(
        self, bits: int, quantize_embeddings: bool = False, calibration: BlockQuantizer | None = None
    ) -> ChatGLMForConditionalGeneration:
        """Quantise the weights of all layers to 8 or 4 bits, in place; the float weights are released as it goes.

        Args:
            bits: 4 or 8.
            quantize_embeddings: the word embedding and the output layer, too.
            calibration: a `chatglm.calibration.Calibration`, which loses less than rounding to nearest does.

        Raises:
            ValueError: another number of bits, a model that is quantised already, or a shape that cannot be packed.
        """
        release_graphs(self)
        quantize_layers(self, bits, quantize_embeddings, calibration=calibration)
        self.config.quantization_bit = bits
        self.config.quantization_embeddings = quantize_embeddings
        return self

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: ChatGLMCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | int | None = None,
        cache: ChatGLMCache | None = None,
    ) -> tuple | CausalOutput:
        """Compute logits, and the loss if labels are given; for the other arguments see `ChatGLMModel.forward`.

        Args:
            labels: int64 [b, s], -100 where there is nothing to predict; compared with the logits one place before.
            logits_to_keep: compute the logits of the last so many tokens only; 0 for all. With labels at least 2, and
                the labels before them are not counted.
            num_items_in_batch: divide the summed loss by this instead of by the number of labels (the trainer's
                gradient accumulation).

        Returns:
            `logits` [b, s, v], `loss` (float32 mean over the labels), and what else was asked for.
        """
        config = self.config
        return_dict = getattr(config, "return_dict", True) if return_dict is None else return_dict
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        cache = one_cache(cache, past_key_values)
        logits_only = labels is None and use_cache is not False and not (output_attentions or output_hidden_states)
        if logits_only and position_ids is None and isinstance(cache, ChatGLMCache):
            logits = decode_step(self, input_ids, cache, rotary_frequency, RESIDUAL_SCALE)  # on CUDA
            if logits is not None:
                output = CausalOutput(logits=logits, **{CACHE_NAME: cache})
                return output if return_dict else output.to_tuple()
        outputs = self.transformer(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            cache=cache,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden_states = outputs.last_hidden_state
        logits = self.lm_head(hidden_states[:, -logits_to_keep:] if logits_to_keep else hidden_states)  # [b, s, v]
        loss = None
        if labels is not None:
            targets = labels[:, 1 - logits.shape[1] :].reshape(-1).to(logits.device)
            predictions = logits[:, :-1].float().reshape(-1, logits.shape[-1])
            reduction = "mean" if num_items_in_batch is None else "sum"
            loss = F.cross_entropy(predictions, targets, ignore_index=-100, reduction=reduction)
            if num_items_in_batch is not None:
                loss = loss / num_items_in_batch
        output = CausalOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: outputs.cache},
        )
        return output if return_dict else output.to_tuple()

    # ----------------------------------------------------------------------------------------------------------------
    # Generation front end
    # ----------------------------------------------------------------------------------------------------------------

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values=None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache=None,
        is_first_iteration: bool = False,
        **kwargs,
    ) -> dict:
        """Return the inputs of the next forward pass: the whole prompt first, then what is not yet cached.

        `position_ids` are ignored: the library passes its own one-dimensional ones. Positions follow from the ids.

        Args:
            input_ids: int64 [b, t], all tokens so far.
            cache: of the tokens read so far; `past_key_values` is its older name.
            attention_mask: as `forward` takes it.
            use_cache, logits_to_keep, output_attentions, output_hidden_states: handed on to `forward`.
            is_first_iteration: whether nothing has been read yet.

        Raises:
            RuntimeError: after the first iteration, the library wants a cache to be used and hands over none.
            ValueError: fewer ids than the cache holds.
        """
        cache = one_cache(cache, past_key_values)
        if use_cache and cache is None and not is_first_iteration:  # every token would read all tokens before it again
            raise RuntimeError(
                f"transformers {transformers_version} handed no key/value cache to the model (it gave "
                f"{', '.join(sorted(kwargs)) or 'nothing else'}): please report this version. `chat` and `stream_chat` "
                "do not depend on it"
            )
        cache = None if use_cache is False else ChatGLMCache.from_past(cache)
        if cache is None or cache.get_seq_length() == 0:
            layout = PromptLayout.from_input_ids(input_ids, attention_mask, self.config)
            if cache is not None:
                cache.layout = layout
            if logits_to_keep is None:  # an answer's first tokens may be candidates
                logits_to_keep = input_ids.shape[1] - int(layout.context_length.min())
        elif cache.layout is None:  # filled from another class' keys and values
            cache.layout = PromptLayout.from_input_ids(input_ids, attention_mask, self.config)
        cached = 0 if cache is None else cache.get_seq_length()
        if cached >= input_ids.shape[1]:
            raise ValueError(
                f"input_ids must hold the whole sequence, cached tokens included: there are {input_ids.shape[1]} ids, "
                f"and the cache holds {cached} tokens"
            )
        return {
            "input_ids": input_ids[:, cached:],
            CACHE_NAME: cache,
            "attention_mask": attention_mask,
            "use_cache": cache is not None,
            "logits_to_keep": logits_to_keep or 0,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config=None,
        logits_processor: Sequence[LogitsProcessor] | None = None,
        stopping_criteria: Sequence[StoppingCriteria] | None = None,
        **kwargs,
    ):
        """Generate with the library's own method, which see; prompts may carry the tokenizer's mask and positions.

        Raises:
            InvalidLogitsError: the model computed NaN or infinite logits.
            ValueError: a prompt without `<sop>` or mask token; `position_ids` that are not the tokenizer's; a cache of
                another prompt, or of a kind that this model has not.
        """
        input_ids = kwargs.get("input_ids") if inputs is None else inputs
        attention_mask = kwargs.get("attention_mask")
        # the library wants a mask of ones and zeros, and extends it itself
        if attention_mask is not None and attention_mask.dim() == 4:
            kwargs["attention_mask"] = (~attention_mask[:, 0, -1, :].bool()).long()
        position_ids = kwargs.pop("position_ids", None)
        if position_ids is not None and input_ids is not None:
            self._check_position_ids(position_ids, input_ids, kwargs.get("attention_mask"))
        self._use_own_cache(generation_config, input_ids, kwargs)
        if kwargs.get("guidance_scale") not in (None, 1) and kwargs.get("negative_prompt_ids") is None:
            empty_prompt = torch.tensor([[self.config.gmask_token_id, self.config.bos_token_id]], device=self.device)
            kwargs["negative_prompt_ids"] = empty_prompt.repeat(len(input_ids), 1)
        guard = FiniteLogits()
        result = super().generate(
            inputs,
            generation_config=generation_config,
            logits_processor=LogitsProcessorList([guard, *(logits_processor or [])]),
            stopping_criteria=StoppingCriteriaList([*(stopping_criteria or []), StopWhen(guard.stop)]),
            **kwargs,
        )
        guard.check()
        return result

    def _check_position_ids(self, position_ids: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        """Refuse positions that the model would not use: all but the tokenizer's and the library's plain count."""
        if position_ids.dim() == 2:  # the library counts 0, 1, 2, … for models it drafts with
            plain = bool((position_ids.diff(dim=-1).clamp(min=0) <= 1).all())
        else:
            layout = PromptLayout.from_input_ids(input_ids, attention_mask, self.config)
            plain = torch.equal(position_ids, layout.position_ids(0, input_ids.shape[1]))
        if not plain:
            raise ValueError("generate takes the tokenizer's position_ids only: leave them out")

    def _use_own_cache(self, generation_config, input_ids: Tensor | None, kwargs: dict) -> None:
        """Put a `ChatGLMCache` into the arguments of `generate`, one that holds what the caller's does.

        The library then hands over this very cache for every token, however it treats those of its own.
        """
        configs = [config for config in (generation_config, self.generation_config) if config is not None]
        implementations = {kwargs.pop("cache_implementation", None), *(each.cache_implementation for each in configs)}
        for implementation in implementations - {None, "dynamic", "dynamic_full", "static"}:
            raise ValueError(
                f"cache_implementation must be dynamic or static (both are ChatGLMCache), got {implementation}"
            )
        for config in configs:  # the library refuses it beside a cache
            config.cache_implementation = None
        given = one_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        if kwargs.get("use_cache", configs[0].use_cache) is False:
            return
        cache = ChatGLMCache.from_past(given)
        if cache.layout is not None and cache.get_seq_length() and input_ids is not None:
            layout = PromptLayout.from_input_ids(input_ids, kwargs.get("attention_mask"), self.config)
            if not torch.equal(layout.context_length, cache.layout.context_length.to(layout.context_length.device)):
                raise ValueError(
                    "the cache holds another prompt: a changed prompt has to be read anew, as its tokens see one "
                    "another. Leave the cache out, or continue the same sequence"
                )
        kwargs[CACHE_NAME] = cache

    def stream_generate(
        self,
        input_ids: Tensor,
        generation_config=None,
        logits_processor: Sequence[LogitsProcessor] | None = None,
        stopping_criteria: Sequence[StoppingCriteria] | None = None,
        prefix_allowed_tokens_fn: Callable | None = None,
        **kwargs,
    ) -> Iterator[Tensor]:
        """Yield the ids so far, int64 [b, t], after every token that `generate` would add.

        Args:
            input_ids: int64 [b, s], prompts.
            generation_config, logits_processor, stopping_criteria, prefix_allowed_tokens_fn: as `generate` takes them.
            **kwargs: all others of `generate`, such as `max_length`, `do_sample`, `top_p`, `eos_token_id`.

        Source: the original's method of this name.
        """
        arguments = {
            "input_ids": input_ids,
            "generation_config": generation_config,
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
            **kwargs,
        }
        with GenerationThread(self, arguments) as tokens:
            for token_ids in tokens:
                input_ids = torch.cat([input_ids, torch.tensor(token_ids, device=input_ids.device)[:, None]], dim=1)
                yield input_ids

    @staticmethod
    def process_response(response: str, map_punctuation: bool = True) -> str:
        """Return an answer as the original shows it; see `generation_chatglm.process_response`."""
        return process_response(response, map_punctuation)

    def chat(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        history: Sequence[Sequence[str]] | None = None,
        max_length: int | None = 2048,
        num_beams: int = 1,
        do_sample: bool = True,
        top_p: float = 0.7,
        temperature: float = 0.95,
        logits_processor: Sequence[LogitsProcessor] | None = None,
        map_punctuation: bool = True,
        on_dropped_rounds: Callable[[int], None] | None = None,
        **kwargs,
    ) -> tuple[str, list[tuple[str, str]]]:
        """Answer one question.

        Args:
            tokenizer: the model's.
            query: the question; control tokens spelled in it are text.
            history: earlier (question, answer) pairs.
            max_length: limit for prompt and answer together, in tokens; at most `config.max_sequence_length` counts,
                which 0 and None stand for. If the history does not fit, its oldest rounds are left out.
            num_beams: beams of the search; 1 for none.
            do_sample: whether to sample; if not, or at temperature 0, the likeliest token is taken.
            top_p: sample from the likeliest tokens that have this probability together, 0 to 1.
            temperature: divides the logits; 0 and up.
            logits_processor: applied to the logits of every token.
            map_punctuation: see `process_response`.
            on_dropped_rounds: called with the number of rounds left out, if any were.
            **kwargs: further arguments of `_answer`, such as `max_new_tokens`, `repetition_penalty`, `language`, `seed`
                and `stop`; with any others, which are for the library's `generate`, that computes the answer.

        Returns:
            The answer, and the history with this round added.

        Raises:
            PromptTooLongError: the question alone is longer than the limit.
            InvalidLogitsError: the model computed NaN or infinite logits.
            ValueError: an argument that asks for something else than one answer.
        """
        pieces = self._answer(
            tokenizer,
            query,
            history,
            on_dropped_rounds,
            map_punctuation,
            streamed=False,
            max_length=max_length,
            num_beams=num_beams,
            do_sample=do_sample,
            top_p=top_p,
            temperature=temperature,
            logits_processor=logits_processor,
            **kwargs,
        )
        response = "".join(pieces)
        return response, [*_pairs(history), (query, response)]

    def stream_chat(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        history: Sequence[Sequence[str]] | None = None,
        max_length: int | None = 2048,
        do_sample: bool = True,
        top_p: float = 0.7,
        temperature: float = 0.95,
        logits_processor: Sequence[LogitsProcessor] | None = None,
        map_punctuation: bool = True,
        on_dropped_rounds: Callable[[int], None] | None = None,
        **kwargs,
    ) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Answer one question piece by piece: yield `(answer so far, history with it)` as text becomes final.

        Takes what `chat` takes, but beams. Half characters are held back, and so is punctuation that the next character
        may change. Closing the generator ends the generation within a token. The last yield is what `chat` returns.
        """
        pieces = self._answer(
            tokenizer,
            query,
            history,
            on_dropped_rounds,
            map_punctuation,
            streamed=True,
            max_length=max_length,
            do_sample=do_sample,
            top_p=top_p,
            temperature=temperature,
            logits_processor=logits_processor,
            **kwargs,
        )
        response, past_rounds = "", _pairs(history)
        with closing(pieces):
            for piece in filter(None, pieces):
                response += piece
                yield response, [*past_rounds, (query, response)]
        if not response:
            yield response, [*past_rounds, (query, response)]

    def _answer(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        history: Sequence[Sequence[str]] | None,
        on_dropped_rounds: Callable[[int], None] | None,
        map_punctuation: bool,
        streamed: bool,
        max_length: int | None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        **generation,
    ) -> Iterator[str]:
        """Yield the answer to a question in final pieces of text, some of them empty.

        Args:
            max_new_tokens: limit of the answer alone, in tokens.
            stop: texts that end the answer, which does not include them.
            **generation: of `_answer_ids`.
        """
        limit = min(max_length or self.config.max_sequence_length, self.config.max_sequence_length)
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        prompt_ids, dropped = tokenizer.encode_chat(query, history, max_length=limit)
        if dropped and on_dropped_rounds is not None:
            on_dropped_rounds(dropped)
        elif dropped:
            logger.warning("history too long for max_length %d: the %d oldest rounds were left out", limit, dropped)
        room = limit - len(prompt_ids)
        room = room if max_new_tokens is None else min(room, max_new_tokens)
        text = AnswerText(tokenizer, map_punctuation, (stop,) if isinstance(stop, str) else stop)
        with closing(self._answer_ids(tokenizer, prompt_ids, room, streamed, **generation)) as answer_ids:
            for token_id in answer_ids:
                yield text.put(token_id)
                if text.stopped:
                    return
        yield text.end()

    def _answer_ids(
        self,
        tokenizer: ChatGLMTokenizer,
        prompt_ids: list[int],
        max_new_tokens: int,
        streamed: bool,
        do_sample: bool,
        top_p: float,
        temperature: float,
        logits_processor: Sequence[LogitsProcessor] | None,
        num_beams: int = 1,
        top_k: int = 50,
        repetition_penalty: float = 1.0,
        language: str | None = None,
        seed: int | None = None,
        **library,
    ) -> Iterator[int]:
        """Yield the ids of an answer, by this project's own loop, or by the library's `generate` if it alone can.

        Args:
            top_k: sample from so many likeliest tokens at most, 0 for all; 50 as in the original's library.
            repetition_penalty: above 1 makes tokens of prompt and answer less likely.
            language: "en" or "zh" keeps the answer to that language's tokens.
            seed: the same seed, the same answer, here and from the engine; None follows `torch.manual_seed`.
            **library: arguments of the library's `generate`.
        """
        foreign = None if language is None else foreign_tokens(tokenizer, language)
        input_ids = torch.tensor([prompt_ids], device=self.device)
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        if library or num_beams != 1:
            if seed is not None:
                raise ValueError(
                    f"seed is not for the library's generate, which {', '.join(library) or 'num_beams'} asks for: "
                    "call torch.manual_seed instead"
                )
            forbid = [] if foreign is None else [ForbidTokens(foreign)]
            sampling = {"do_sample": True, "top_k": top_k, "top_p": top_p, "temperature": temperature}
            arguments = {
                **inputs,
                **(sampling if do_sample and temperature else {"do_sample": False}),
                "max_length": len(prompt_ids) + max_new_tokens,
                "num_beams": num_beams,
                "repetition_penalty": repetition_penalty,
                "logits_processor": [*(logits_processor or []), *forbid],
                **library,
            }
            yield from self._library_ids(arguments, streamed)
            return
        if seed is None:
            seed = int(torch.randint(1 << 62, ()))
        temperature = temperature if do_sample else 0
        sampler = Sampler(temperature, top_k, top_p, repetition_penalty, foreign, seed, prompt_ids)
        ends, pad = end_token_ids(self), self.config.pad_token_id
        for (token_id,) in decode(
            self,
            **inputs,
            samplers=[sampler],
            max_new_tokens=max_new_tokens,
            end_ids=ends,
            pad_token_id=pad,
            logits_processor=logits_processor,
        ):
            yield token_id

    def _library_ids(self, arguments: dict, streamed: bool) -> Iterator[int]:
        """Yield the ids of an answer that the library's `generate` computes."""
        if arguments.get("num_return_sequences", 1) != 1 or arguments.get("return_dict_in_generate"):
            raise ValueError(
                "chat and stream_chat give one answer as text: call generate for num_return_sequences and "
                "return_dict_in_generate"
            )
        if not streamed:
            yield from self.generate(**arguments)[0, arguments["input_ids"].shape[1] :].tolist()
            return
        if arguments["num_beams"] != 1:
            raise ValueError("stream_chat yields text that is final, which beams are not: call chat for num_beams")
        with GenerationThread(self, arguments) as tokens:
            for (token_id,) in tokens:
                yield token_id


def _pairs(history: Sequence[Sequence[str]] | None) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in history or []]
