"""INT8 and INT4 weights of ChatGLM-6B: the format of the published checkpoints, the layers that hold it, `quantize`.

Format, per output row `o` of a weight matrix (the rows of an embedding are quantised alike):

    weight_scale[o]  = half(max_i |w[o, i]| / limit)          limit = 127 (INT8) or 7 (INT4)
    quantised[o, i]  = round(w[o, i] / (max_i |w[o, i]| / limit))     in float32, halves to even
    INT8 byte i      = quantised[o, i]
    INT4 byte i      = quantised[o, 2i] << 4 | quantised[o, 2i + 1] & 15     (even column in the high nibble)

By hand: the INT4 row `[7, -1, -3, 2]` is the bytes `0x7f 0xd2`. Only the stored scale is rounded to half precision, not
the one that divides (compat: so the bytes equal those of the original).

Shape legend: `n` rows of the input (all leading dimensions together), `i` input features, `o` output features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from . import cpu_kernels, cuda_kernels, kernel_cache, mapped_memory
from .bits import check_bits

# The matrices of a block that the original quantises, by their path in the block.
BLOCK_LINEARS = (
    ("attention", "query_key_value"),
    ("attention", "dense"),
    ("mlp", "dense_h_to_4h"),
    ("mlp", "dense_4h_to_h"),
)
# Rows converted at once, so that a matrix of 4096 columns needs 64 MiB of float32 scratch instead of its own size.
ROWS_AT_ONCE = 4096
# The same for multiplying gradients: half a matrix block of 4096 columns is then 512 KiB, and stays in the CPU's cache.
GRADIENT_ROWS_AT_ONCE = 64
# Logits of a position that are computed exactly: those that could be the largest, or are at most so far behind. Where
# those are many, so many of the largest, and all that could be the largest where they are not as many.
LIKELY, REFINED_AT_MOST, REFINED_OF_MANY = 4.0, 256, 64
FEW_TOKENS = 8  # of one row that come together; more are a prompt's, or a text's that is to be scored


def is_intercepted(module: nn.Module) -> bool:
    """Return whether a module has hooks or a replaced `forward`, so that calling it does more than its class does."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def packed_columns(columns: int, bits: int) -> int:
    """Return the bytes that a row of `columns` weights takes.

    Raises:
        ValueError: another width than 4 and 8, or an odd number of columns with 4 bits.
    """
    check_bits(bits)
    if columns * bits % 8:
        raise ValueError(
            f"a matrix quantised to 4 bits must have an even number of columns (two share a byte), got {columns}"
        )
    return columns * bits // 8


def pack_int4(quantized: torch.Tensor) -> torch.Tensor:
    """Pack signed 4-bit numbers, int8 `[..., i]`, in pairs, even column in the high nibble: int8 `[..., i / 2]`."""
    packed_columns(quantized.shape[-1], 4)
    return quantized[..., 0::2] << 4 | quantized[..., 1::2] & 15


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Unpack int8 `[..., i / 2]` from `pack_int4` to signed numbers, int8 `[..., i]`."""
    # shifts of int8 are arithmetic: they carry the sign of the nibble
    return torch.stack((packed >> 4, packed << 4 >> 4), dim=-1).flatten(-2)


def quantize_weight(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a matrix row by row to the bytes of the original.

    Args:
        weight: `[o, i]`, any float dtype; converted in blocks of rows, in float32.
        bits: 4 or 8.

    Returns:
        The packed weight, int8 `[o, i * bits / 8]`, and the scales, float16 `[o]`. A row of zeros gets scale 0.

    Raises:
        ValueError: other bits, an odd number of columns with 4 bits, or weights that are not finite.
    """
    packed, weight_scale = _empty_rows(weight, bits)
    _quantize_into(weight, bits, packed, weight_scale)
    return packed, weight_scale


def _empty_rows(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (weight.shape[0], packed_columns(weight.shape[1], bits))
    packed = torch.empty(shape, dtype=torch.int8, device=weight.device)
    return packed, torch.empty(shape[0], dtype=torch.float16, device=weight.device)


def _quantize_into(weight: torch.Tensor, bits: int, packed: torch.Tensor, weight_scale: torch.Tensor) -> None:
    if weight.device.type == "cpu" and cpu_kernels.available(weight.dtype):
        broken = cpu_kernels.quantize_rows(weight, bits, packed, weight_scale)
    else:
        broken = _quantize_rows(weight, bits, packed, weight_scale)
    check_scales(broken, bits)


def check_scales(broken: int, bits: int) -> None:
    """Refuse a matrix `broken` of whose rows have no half-precision scale.

    Raises:
        ValueError: there are such rows.
    """
    if broken:
        raise ValueError(
            f"weights must be finite and at most {65504 * (2 ** (bits - 1) - 1)} in size to be quantised to {bits} "
            f"bits; {broken} rows of a matrix have others: check the checkpoint for overflow"
        )


def _quantize_rows(weight: torch.Tensor, bits: int, packed: torch.Tensor, weight_scale: torch.Tensor) -> int:
    """Quantise `weight` into `packed` and `weight_scale` by PyTorch; return how many scales are not finite."""
    limit = 2 ** (bits - 1) - 1
    for start in range(0, len(weight), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        block = weight[rows].float()
        scale = block.abs().amax(dim=-1) / limit
        quantized = torch.round(block / torch.where(scale == 0, 1.0, scale)[:, None]).nan_to_num().to(torch.int8)
        packed[rows] = pack_int4(quantized) if bits == 4 else quantized
        weight_scale[rows] = scale.half()
    return int((~torch.isfinite(weight_scale)).sum())


def dequantize_weight(
    weight: torch.Tensor, weight_scale: torch.Tensor, bits: int, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return the float matrix `[o, i]` that packed rows and their scales stand for (computed in float32)."""
    quantized = unpack_int4(weight) if bits == 4 else weight
    return (quantized.float() * weight_scale.float()[:, None]).to(dtype)


def linear_reference(
    input: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, bits: int, bias: torch.Tensor | None
) -> torch.Tensor:
    """Multiply in float32 with the unpacked weights, a block of rows at a time: the exact path and the kernels' oracle.

    Args:
        input: `[..., i]`, any float dtype.
        weight: int8 `[o, i * bits / 8]`.
        weight_scale: float16 `[o]`.
        bits: 4 or 8.
        bias: `[o]` or None.

    Returns:
        `[..., o]` in the input's dtype.
    """
    output = torch.empty(*input.shape[:-1], weight.shape[0], dtype=input.dtype, device=input.device)
    for start in range(0, weight.shape[0], ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        block = dequantize_weight(weight[rows], weight_scale[rows], bits)
        output[..., rows] = nn.functional.linear(input.float(), block, None if bias is None else bias[rows].float())
    return output


def input_gradient(gradient: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, bits: int) -> torch.Tensor:
    """Return `gradient @ weight`, the gradient with respect to a quantised layer's input.

    The scales go to the gradient, which is small, and the weights of a block of rows are unpacked into the CPU's cache:
    the even and the odd columns of an INT4 matrix, each with a product of its own. On a GPU blocks only cost time.
    """
    rows_at_once = GRADIENT_ROWS_AT_ONCE if weight.device.type == "cpu" else ROWS_AT_ONCE
    scaled = gradient.flatten(0, -2).float() * weight_scale.float()  # [n, o]
    total = torch.zeros(8 // bits, len(scaled), weight.shape[1], device=gradient.device)  # [columns a byte, n, bytes]
    for start in range(0, weight.shape[0], rows_at_once):
        rows = slice(start, start + rows_at_once)
        packed, part = weight[rows], scaled[:, rows]
        if bits == 4:
            total[0].addmm_(part, (packed >> 4).float())
            total[1].addmm_(part, (packed << 4 >> 4).float())
        else:
            total[0].addmm_(part, packed.float())
    return total.permute(1, 2, 0).reshape(*gradient.shape[:-1], -1).to(gradient.dtype)


def quantized_linear(
    input: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bits: int,
    bias: torch.Tensor | None = None,
    exact: bool = False,
) -> torch.Tensor:
    """Multiply with a quantised matrix on whatever device it lies; differentiable with respect to the input.

    Args:
        input: `[..., i]`, float16, bfloat16 or float32.
        weight: int8 `[o, i * bits / 8]`, see the format above.
        weight_scale: float16 `[o]`.
        bits: 4 or 8.
        bias: `[o]` or None.
        exact: multiply in float32 with the unpacked weights instead of in integers.

    Returns:
        `[..., o]` in the input's dtype.
    """
    if input.shape[-1] * bits != weight.shape[1] * 8:
        raise ValueError(
            f"the input of a quantised layer must have {weight.shape[1] * 8 // bits} features, got {input.shape[-1]}"
        )
    if input.is_cuda and not exact:
        return cuda_kernels.linear(input, weight, weight_scale, bits, bias)
    if torch.is_grad_enabled() and (input.requires_grad or (bias is not None and bias.requires_grad)):
        return _QuantizedLinearFunction.apply(input, weight, weight_scale, bits, bias, exact)
    return _linear(input, weight, weight_scale, bits, bias, exact)


def _linear(input, weight, weight_scale, bits, bias, exact):
    """Multiply by the CPU kernels where there are any, else by PyTorch."""
    if exact or input.device.type != "cpu" or not cpu_kernels.available(input.dtype):
        return linear_reference(input, weight, weight_scale, bits, bias)
    return cpu_kernels.linear(input, weight, weight_scale, bits, bias)


class _QuantizedLinearFunction(torch.autograd.Function):
    """Differentiate `quantized_linear` in its input and bias; the weights of a quantised layer are constants."""

    @staticmethod
    def forward(ctx, input, weight, weight_scale, bits, bias, exact):
        ctx.save_for_backward(weight, weight_scale)
        ctx.bits, ctx.exact = bits, exact
        return _linear(input, weight, weight_scale, bits, bias, exact)

    @staticmethod
    def backward(ctx, gradient):
        weight, weight_scale = ctx.saved_tensors
        of_input = of_bias = None
        if ctx.needs_input_grad[0]:
            by_kernels = not ctx.exact and gradient.device.type == "cpu" and cpu_kernels.available(gradient.dtype)
            differentiate = cpu_kernels.input_gradient if by_kernels else input_gradient
            of_input = differentiate(gradient, weight, weight_scale, ctx.bits)
        if ctx.needs_input_grad[4]:
            of_bias = gradient.flatten(0, -2).sum(dim=0)
        return of_input, None, None, None, of_bias, None


class _Quantized(nn.Module):
    """Hold packed weights and their scales; the scales stay float16 whatever `model.to(dtype)` asks for."""

    def __init__(self, packed: torch.Tensor, weight_scale: torch.Tensor, bits: int) -> None:
        super().__init__()
        self.bits, self.weight = bits, nn.Parameter(packed, requires_grad=False)
        # a buffer: a model's dtype is that of its first float parameter
        self.register_buffer("weight_scale", weight_scale)

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Fill the weight at random, with about this standard deviation, where no checkpoint has filled it."""
        if not getattr(self.weight, "_is_hf_initialized", False):
            self.weight.random_(-128, 128)
        if not getattr(self.weight_scale, "_is_hf_initialized", False):
            self.weight_scale.fill_(std * 12**0.5 / 2**self.bits)  # of evenly spread integers

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        scale = self.weight_scale
        super()._apply(fn, recurse)
        if self.weight_scale.dtype != scale.dtype:
            # fn converts dtypes: repeat only its move to a device, from the unrounded scales
            self.weight_scale = scale.to(self.weight.device)
        return self


class QuantizedLinear(_Quantized):
    """Multiply with an INT8 or INT4 matrix (`nn.Linear` with packed weights).

    Args:
        packed: int8 `[o, i * bits / 8]`; not trainable.
        weight_scale: float16 `[o]`.
        bits: 4 or 8.
        bias: float `[o]` or None.

    Attributes:
        exact: multiply in float32 with the unpacked weights (slow; set by `set_exact`).
    """

    def __init__(self, packed: torch.Tensor, weight_scale: torch.Tensor, bits: int, bias: nn.Parameter | None) -> None:
        super().__init__(packed, weight_scale, bits)
        self.in_features, self.out_features, self.exact = packed.shape[1] * 8 // bits, packed.shape[0], False
        self.bias = bias

    @classmethod
    def from_linear(cls, linear: nn.Linear, bits: int, empty: bool = False) -> QuantizedLinear:
        """Quantise a linear layer, keeping its bias; with `empty` only the shapes are taken."""
        return cls(*_packed_weight(linear.weight, bits, empty), bits, linear.bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map `[..., i]` to `[..., o]` in the input's dtype."""
        return quantized_linear(input, self.weight, self.weight_scale, self.bits, self.bias, self.exact)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


class QuantizedEmbedding(_Quantized):
    """Look up rows of an INT8 or INT4 embedding; they come out in a dtype that follows `model.float()` and the like."""

    def __init__(self, packed: torch.Tensor, weight_scale: torch.Tensor, bits: int, dtype: torch.dtype) -> None:
        super().__init__(packed, weight_scale, bits)
        self.num_embeddings, self.embedding_dim = packed.shape[0], packed.shape[1] * 8 // bits
        self.output_dtype = dtype

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding, bits: int, empty: bool = False) -> QuantizedEmbedding:
        """Quantise an embedding; with `empty` only the shapes are taken."""
        return cls(*_packed_weight(embedding.weight, bits, empty), bits, embedding.weight.dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        self.output_dtype = fn(torch.empty(0, dtype=self.output_dtype)).dtype
        return super()._apply(fn, recurse)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map ids `[...]` to rows `[..., embedding_dim]`."""
        rows, scales = self.weight[input.flatten()], self.weight_scale[input.flatten()]
        return dequantize_weight(rows, scales, self.bits, self.output_dtype).view(*input.shape, -1)

    def extra_repr(self) -> str:
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}, bits={self.bits}"


def _stored_linear(input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    # converting all of the weight would take its memory again
    blocks = [nn.functional.linear(input, block.to(input.dtype)) for block in weight.split(ROWS_AT_ONCE)]
    return torch.cat(blocks, dim=-1)


class _StoredLinearFunction(torch.autograd.Function):
    """Multiply with a constant matrix stored in another dtype; backward converts it again instead of keeping a copy."""

    @staticmethod
    def forward(ctx, input, weight):
        ctx.save_for_backward(weight)
        return _stored_linear(input, weight)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        total = torch.zeros(len(flat), weight.shape[1], dtype=gradient.dtype, device=gradient.device)
        for start in range(0, len(weight), GRADIENT_ROWS_AT_ONCE):
            rows = slice(start, start + GRADIENT_ROWS_AT_ONCE)
            total.addmm_(flat[:, rows], weight[rows].to(gradient.dtype))
        return total.view(*gradient.shape[:-1], -1), None


class _Stored(nn.Module):
    """Keep a float matrix in the dtype it is stored in, and mapped from its file, while it lies on the CPU.

    The word embedding is a quarter of an INT4 model's bytes, and a token needs one row of it. So `model.to(dtype)`
    changes what comes out, not what is stored, and rows are read from a checkpoint's mapped file where there is one.
    """

    def _take_over(self, weight: nn.Parameter) -> None:
        self.weight, self.output_dtype, self._file_rows, self._file_rows_of = weight, weight.dtype, None, None

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        probe = fn(torch.empty(0, dtype=self.output_dtype, device=self.weight.device))
        self.output_dtype = probe.dtype
        if probe.device.type == "cpu" and self.weight.device.type == "cpu":
            return self
        return super()._apply(lambda tensor: fn(tensor).to(self.output_dtype), recurse)

    def _weight_version(self) -> tuple[int, int]:
        """Return a key that changes whenever the weight does."""
        return self.weight.data_ptr(), 0 if self.weight.is_inference() else self.weight._version

    def _find_file_rows(self) -> mapped_memory.FileRows | None:
        if self._file_rows_of != self._weight_version():
            self._file_rows, self._file_rows_of = mapped_memory.FileRows.find(self.weight), self._weight_version()
        return self._file_rows

    def _rows(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the weight's rows [n, i] of the given indices, int64 [n]."""
        file_rows = self._find_file_rows() if self.weight.device.type == "cpu" else None
        return self.weight[indices] if file_rows is None else file_rows.read(indices, self.weight)


class StoredEmbedding(_Stored, nn.Embedding):
    """Look up rows of a float embedding; the result has the model's dtype, whatever dtype is stored."""

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> StoredEmbedding:
        """Take over an embedding's weight."""
        layer = cls(embedding.num_embeddings, embedding.embedding_dim, device="meta")
        layer._take_over(embedding.weight)
        return layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map ids `[...]` to rows `[..., embedding_dim]`."""
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return super().forward(input).to(self.output_dtype)
        return self._rows(input.flatten()).to(self.output_dtype).view(*input.shape, -1)


class OutputLinear(_Stored, nn.Linear):
    """Compute a quantised model's logits from its float output layer.

    On a CPU the logits come from an INT8 or INT4 copy, made at first use, of half or a quarter of the bytes. Those that
    could be the largest, or are likely, are then computed from the float weights, so that greedy decoding takes the
    same token. Instead of an INT4 copy, the float weights compute many positions, which are there to score a text.

    Attributes:
        bits: of the copy, 4 or 8.
        exact: never use the copy (set by `set_exact`).
    """

    @classmethod
    def from_linear(cls, linear: nn.Linear, bits: int) -> OutputLinear:
        """Take over a linear layer's weight (it has no bias)."""
        layer = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        layer._take_over(linear.weight)
        layer.bits, layer.exact, layer._copy, layer._copy_of = bits, False, None, None
        return layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map `[..., i]` to logits `[..., o]` in the input's dtype."""
        needs_gradient = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        is_scored = self.bits == 4 and input.dim() > 2 and input.shape[1] > FEW_TOKENS
        by_kernels = self.weight.device.type == "cpu" and cpu_kernels.available(input.dtype)
        if needs_gradient or is_scored or self.exact or not by_kernels:
            return self._linear(input)
        packed, weight_scale = self._packed_copy()
        logits = cpu_kernels.linear(input, packed, weight_scale, self.bits)
        for hidden, row in zip(input.reshape(-1, self.in_features), logits.view(-1, self.out_features), strict=True):
            self._refine(hidden, row, weight_scale)
        return logits

    def _linear(self, input: torch.Tensor) -> torch.Tensor:
        if self.weight.dtype == input.dtype:
            return nn.functional.linear(input, self.weight)
        if torch.is_grad_enabled() and input.requires_grad and not self.weight.requires_grad:
            return _StoredLinearFunction.apply(input, self.weight)
        return _stored_linear(input, self.weight)

    def _packed_copy(self) -> tuple[torch.Tensor, torch.Tensor]:
        version = self._weight_version()
        if self._copy_of != version:
            weight, release = self.weight.detach(), self._find_file_rows() is not None
            packed, weight_scale = _empty_rows(weight, self.bits)
            mapped_memory.use_huge_pages(packed)
            for start in range(0, len(weight), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                _quantize_into(weight[rows], self.bits, packed[rows], weight_scale[rows])
                if release:
                    mapped_memory.release_pages(weight[rows])
            self._copy, self._copy_of = (packed, weight_scale), version
        return self._copy

    def _refine(self, hidden: torch.Tensor, logits: torch.Tensor, weight_scale: torch.Tensor) -> None:
        """Replace the logits [o] that could be the largest, or are likely, by exact ones, in place."""
        # rounding weights and activations errs by about 0.35 scale * |x| (one standard deviation); take three of them
        margin = weight_scale.float() * hidden.float().norm()
        highest, least = logits + margin, (logits - margin).max()
        tokens = (highest >= least - LIKELY).nonzero()[:, 0]
        if len(tokens) > REFINED_AT_MOST:
            tokens, largest = logits.topk(REFINED_OF_MANY).indices, (highest >= least).nonzero()[:, 0]
            if len(largest) <= REFINED_AT_MOST:
                tokens = torch.cat([tokens, largest]).unique()
        logits[tokens] = (hidden.float() * self._rows(tokens).float()).sum(dim=-1).to(logits.dtype)


def _packed_weight(weight: torch.Tensor, bits: int, empty: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return _empty_rows(weight, bits) if empty else quantize_weight(weight.detach(), bits)


class BlockQuantizer(Protocol):
    """A way to choose the integers of a model's blocks other than rounding (see `calibration.Calibration`)."""

    def begin(self, model: nn.Module) -> None:
        """Prepare for the blocks of a model, which follow in their order."""

    def quantize_block(self, block: nn.Module, bits: int) -> None:
        """Swap the matrices of a block for quantised ones, in place."""


def quantize_block(block: nn.Module, bits: int, empty: bool = False) -> None:
    """Swap the matrices of one block for quantised ones, in place; with `empty` only the shapes are taken."""
    for part, name in BLOCK_LINEARS:
        parent = getattr(block, part)
        setattr(parent, name, QuantizedLinear.from_linear(getattr(parent, name), bits, empty))


def quantize(
    model: nn.Module,
    bits: int,
    quantize_embeddings: bool = False,
    empty: bool = False,
    calibration: BlockQuantizer | None = None,
) -> nn.Module:
    """Swap the matrices of a ChatGLM model for quantised ones, in place; each float matrix is released at once.

    Args:
        model: a `ChatGLMForConditionalGeneration` in any float dtype, on any device.
        bits: 4 or 8.
        quantize_embeddings: quantise the word embedding and the output layer, too (they stay tied).
        empty: make only the structure, to be filled by loading a quantised checkpoint.
        calibration: chooses the integers of the blocks; rounded to nearest if not given.

    Returns:
        The model; its `config` says how it is quantised.

    Raises:
        ValueError: other bits, a matrix with an odd number of columns, or a model that is quantised already.
    """
    check_bits(bits)
    kernel_cache.look_in(getattr(model.config, "_name_or_path", ""))
    quantized = next((module for module in model.modules() if isinstance(module, _Quantized)), None)
    if quantized is not None:
        raise ValueError(
            f"a model can be quantised once, and this one has {quantized.bits}-bit weights; "
            "load the float checkpoint to quantise it another way"
        )
    if quantize_embeddings:
        embedding = QuantizedEmbedding.from_embedding(model.transformer.word_embeddings, bits, empty)
        output = QuantizedLinear.from_linear(model.lm_head, bits, empty=True)
        model.transformer.word_embeddings, model.lm_head = embedding, output
        tie_quantized_embeddings(model)
    else:
        model.transformer.word_embeddings = StoredEmbedding.from_embedding(model.transformer.word_embeddings)
        model.lm_head = OutputLinear.from_linear(model.lm_head, bits)
    if calibration is not None:
        calibration.begin(model)
    for layer in model.transformer.layers:
        if calibration is None:
            quantize_block(layer, bits, empty)
        else:
            calibration.quantize_block(layer, bits)
    model.config.quantization_bit = bits
    model.config.quantization_embeddings = quantize_embeddings
    return model


def tie_quantized_embeddings(model: nn.Module) -> None:
    """Let the quantised output layer use the quantised embedding's weight and scales (the same storage)."""
    model.lm_head.weight = model.transformer.word_embeddings.weight
    model.lm_head.weight_scale = model.transformer.word_embeddings.weight_scale


def set_exact(model: nn.Module, exact: bool = True) -> None:
    """Let every quantised layer of a model multiply in float32 with the unpacked weights, or (false) by the kernels."""
    for module in model.modules():
        if isinstance(module, QuantizedLinear | OutputLinear):
            module.exact = exact
