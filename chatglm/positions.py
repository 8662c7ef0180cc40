"""Where tokens stand: prompt and answer in a batch, what may be attended to, and rotary positions.

The prompt (everything before `<sop>`) is read once and bidirectionally; the answer, from `<sop>` on, is causal. Hence
a prompt needs no mask, an answer token sees everything before it, and a changed prompt has to be read anew.

Shapes: `b` batch, `s` new tokens, `t` tokens so far (prefix and cache included), `h` heads, `d` head size, `p` prefix.

Source: GLM (arXiv 2103.10360); rotary positions (2104.09864).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .configuration_chatglm import ChatGLMConfig

MASK_STEP = 256  # columns by which the mask of padding grows as an answer gets longer


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
            growth = max(length - self.key_mask.shape[1], MASK_STEP)
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


def refuse_right_padding(input_ids: Tensor, attention_mask: Tensor | None, config: ChatGLMConfig) -> None:
    """Refuse prompts that end in padding, after which no answer can be generated.

    Args:
        input_ids: int64 [b, s].
        attention_mask: 1 for tokens and 0 for padding [b, s], or None.
        config: for the padding token's id.

    Raises:
        ValueError: a row whose last token is padding.
    """
    padded = input_ids[:, -1:] == config.pad_token_id
    if attention_mask is not None:
        padded = padded | (attention_mask[:, -1:] == 0)
    if padded.any():
        raise ValueError(
            f"row {padded.any(dim=-1).int().argmax().item()} of the prompts is padded on the right, where its answer "
            'would be generated: pad on the left (tokenizer.padding_side = "left")'
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
