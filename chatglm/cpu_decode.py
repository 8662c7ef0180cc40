"""Decode one token a row through quantised blocks on a CPU: a call of the C kernels for each block.

A token's products take so little time there that Python and PyTorch's small operations would add a tenth to it, and
PyTorch's attention of a single token can take as long as all of an INT4 block's products.

`decode_step` is asked once a token. It leaves to the ordinary pass whatever the kernels are not for: other devices,
gradients, float layers, modules that were replaced or hooked. Results differ from it by rounding only.

Shapes: `b` batch, `t` tokens so far, `h` heads, `d` head size, `e` hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import cpu_kernels
from .configuration_chatglm import RESIDUAL_SCALE
from .quantization import QuantizedLinear, is_intercepted

if TYPE_CHECKING:
    from .modeling_chatglm import GLMBlock, Pass, SelfAttention


def decode_step(tokens: Pass) -> None:
    """Advance one new token a row through all blocks, if there is a cache and the kernels are for this CPU.

    Args:
        tokens: the new tokens before the first block; behind the last afterwards, or where they were, and then the
            ordinary pass has to compute them.
    """
    if tokens.hidden_states.shape[1] != 1 or tokens.prefix is not None or not _is_filled(tokens):
        return
    if not any(_attends(layer.attention, tokens.hidden_states) for layer in tokens.layers):
        return
    tables = tuple(table.flatten(0, -2) for table in tokens.rotary)  # [b, d] each
    key_mask = None if tokens.plan.key_mask is None else tokens.plan.key_mask[:, 0, 0]  # [b, t]
    for layer_id, layer in enumerate(tokens.layers):
        if (
            is_intercepted(layer)
            or is_intercepted(layer.attention)
            or not _attends(layer.attention, tokens.hidden_states)
        ):
            tokens.advance()
            continue
        cached = tables, *tokens.cache.append(layer_id), key_mask
        decode = _decode_block if _is_plain(layer, tokens.hidden_states.dtype) else _decode_attention
        tokens.hidden_states = decode(layer, tokens.hidden_states, cached)
        tokens.done += 1


def cache_dtype(layers: nn.ModuleList, hidden_states: Tensor) -> torch.dtype | None:
    """Return the dtype to keep keys and values in: half precision where kernels decode with 8-bit activations.

    Rounding those costs ten times the accuracy that float16 costs; and at 2,048 tokens of ChatGLM-6B, keys and values
    in float32 would add 1.9 GB to the 3.2 GB of INT4 weights that a token reads.

    Returns:
        None for the dtype of the keys themselves.
    """
    attention = layers[0].attention
    if hidden_states.dtype != torch.float32 or not _attends(attention, hidden_states) or attention.dense.exact:
        return None
    return torch.float16 if cpu_kernels.activation_bits_for(attention.dense.weight) == 8 else None


def _is_filled(tokens: Pass) -> bool:
    return tokens.cache is not None and len(tokens.cache) == len(tokens.layers)


def _attends(attention: SelfAttention, hidden_states: Tensor) -> bool:
    """Return whether the attention kernel supports this layer and these hidden states."""
    is_quantized = isinstance(attention.dense, QuantizedLinear)
    return is_quantized and cpu_kernels.can_attend(attention.head_size, hidden_states)


def _parts(layer: GLMBlock) -> tuple[tuple[nn.Module, ...], tuple[nn.Module, ...]]:
    """Return a block's norms and its matrices, in the order of use."""
    attention, mlp = layer.attention, layer.mlp
    matrices = attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h
    return (layer.input_layernorm, layer.post_attention_layernorm), matrices


def _is_plain(layer: GLMBlock, dtype: torch.dtype) -> bool:
    """Return whether a block has only plain quantised layers and norms of one dtype: no hooks, no adapters."""
    norms, matrices = _parts(layer)
    if any(type(matrix) is not QuantizedLinear or matrix.exact or matrix.bias is None for matrix in matrices):
        return False
    if any(part.bias.dtype != dtype for part in (*norms, *matrices)):
        return False
    return not any(is_intercepted(module) for module in (layer.mlp, *norms, *matrices))


def _decode_block(layer: GLMBlock, hidden_states: Tensor, cached: tuple) -> Tensor:
    return cpu_kernels.decode_block(hidden_states, *_parts(layer), RESIDUAL_SCALE, *cached)


def _decode_attention(layer: GLMBlock, hidden_states: Tensor, cached: tuple) -> Tensor:
    """Compute a block by PyTorch but for the attention, which the kernel computes; its layers may have adapters."""
    attention, b = layer.attention, len(hidden_states)
    attention_input = layer.input_layernorm(hidden_states)
    mixed = attention.query_key_value(attention_input).view(b, attention.num_attention_heads, 3, attention.head_size)
    context = cpu_kernels.decode_attention(mixed, *cached)  # [b, h, d]
    attention_output = attention.dense(context.view(b, 1, -1))
    hidden_states = torch.add(attention_output, attention_input, alpha=RESIDUAL_SCALE)
    mlp_input = layer.post_attention_layernorm(hidden_states)
    return torch.add(layer.mlp(mlp_input), mlp_input, alpha=RESIDUAL_SCALE)
