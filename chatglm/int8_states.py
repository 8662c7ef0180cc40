"""Keys and values in INT8: a token's integers for a head, and behind them their scale, in half precision.

    scale = half(max_i |x[i]| / 127)        byte i = round(x[i] / scale), from -127 to 127, halves to even

A key or value that is not finite has a scale that is not. `store_state` of the C source does the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALE_BYTES = torch.float16.itemsize


def pack_states(states: Tensor) -> Tensor:
    """Return keys or values `[..., d]` as int8 `[..., d + 2]`."""
    states = states.float()
    scale = (states.abs().amax(dim=-1, keepdim=True) / 127).half()
    integers = (states / scale.float()).nan_to_num(0, 0, 0).round().clamp(-127, 127).to(torch.int8)
    return torch.cat([integers, scale.view(torch.int8)], dim=-1)


def unpack_states(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the keys or values `[..., d]` that int8 `[..., d + 2]` stands for."""
    scale = packed[..., -SCALE_BYTES:].view(torch.float16)
    return (packed[..., :-SCALE_BYTES].float() * scale.float()).to(dtype)


def to_buffer(states: Tensor, dtype: torch.dtype) -> Tensor:
    """Return keys or values as a cache's buffer of a dtype holds them: int8, or float ones converted."""
    return pack_states(states) if dtype == torch.int8 else states.to(dtype)


def from_buffer(buffer: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what a part of a cache's buffer holds, in a float dtype; a view where it has that."""
    return unpack_states(buffer, dtype) if buffer.dtype == torch.int8 else buffer.to(dtype)
