"""Compile and launch the CUDA kernels of `kernels/quantization_kernels.cu`; each with a twin in PyTorch.

The source is compiled at first use for the GPU at hand (`cuda_compiler.py`) and launched through the driver
(`cuda_driver.py`); nothing of either is touched before a tensor lies on a CUDA device. Where the kernels cannot be had,
one warning says why, and PyTorch computes the same.

Shapes: `n` input rows, `i` input features, `o` output features; `b` batch, `h` heads, `d` head size, `t` tokens so far,
`l` layers, `e` hidden.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging

from .cuda_compiler import CudaKernelError, kernel_image
from .cuda_driver import Kernels

logger = logging.get_logger(__name__)

NUMBER_TYPES = {torch.float16: "half", torch.bfloat16: "bfloat16", torch.float32: "float"}
OLDEST_CAPABILITY = (7, 5)  # Volta and older GPUs go through PyTorch
FUSED_ROWS = 64  # up to here a fused kernel reads the weights once or twice; beyond, unpacking pays
TILE_ROWS, WIDE_TILE_ROWS = 8, 32  # rows that a block multiplies with the weights it reads
BLOCK_THREADS = 256
RESIDENT_BLOCKS = 2  # of `linear_*` on a multiprocessor, as its source asks for
ATTENTION_THREADS = 128


# --------------------------------------------------------------------------------------------------------------------
# Launching
# --------------------------------------------------------------------------------------------------------------------


_kernels: dict[int, Kernels] = {}
_usable: dict[int, bool] = {}  # by device, once the check has ended
_loading = threading.Lock()


def available(device: torch.device) -> bool:
    """Return whether the kernels run on a device; the first call compiles, loads and checks them.

    Where they do not, one warning says why and what to do.
    """
    if device.type != "cuda":
        return False
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _usable:
        with _loading, torch.cuda.device(index):
            if index not in _usable:
                _usable[index] = _load(index)
    return _usable[index]


def _load(index: int) -> bool:
    device = torch.device("cuda", index)
    try:
        if torch.version.hip is not None:
            raise CudaKernelError("they are written for NVIDIA's GPUs")
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST_CAPABILITY:
            raise CudaKernelError(
                f"they need compute capability {OLDEST_CAPABILITY[0]}.{OLDEST_CAPABILITY[1]}, "
                f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
            )
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        _kernels[index] = Kernels(kernel_image(capability), index, driver)
        with torch.no_grad():
            check_kernels(device)
    except (RuntimeError, OSError) as error:
        logger.warning("The CUDA kernels are not used, and quantised layers are slow: %s", error)
        return False
    return True


def _argument(value):
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_int(value) if isinstance(value, int) else value


def _start(device: torch.device, name: str, grid: tuple[int, int, int], threads: int, arguments: list) -> None:
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        _kernels[device.index].launch(name, grid, threads, stream, arguments)


def _launch(kernel: str, output: Tensor, grid: tuple[int, int, int], threads: int, *arguments) -> None:
    """Start `kernel` for the output's dtype, on the output's device and PyTorch's current stream."""
    name = f"{kernel}_{NUMBER_TYPES[output.dtype]}"
    _start(output.device, name, grid, threads, [_argument(argument) for argument in arguments])


# --------------------------------------------------------------------------------------------------------------------
# Quantised matrices
# --------------------------------------------------------------------------------------------------------------------


def unpack(weight: Tensor, weight_scale: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Return the matrix that packed weights stand for, each `packed * scale` rounded once (as the original's kernels).

    Args:
        weight: int8 [o, i * bits / 8], contiguous.
        weight_scale: float16 [o], contiguous.
        bits: 4 or 8.
        dtype: float16, bfloat16 or float32.

    Returns:
        [o, i].
    """
    if weight.data_ptr() % 4:  # the kernel loads words
        weight = weight.clone()
    rows, row_bytes = weight.shape
    output = torch.empty(rows, row_bytes * 8 // bits, dtype=dtype, device=weight.device)
    blocks = -(-row_bytes // (4 * BLOCK_THREADS))
    for start in range(0, rows, 65535):  # the grid's limit
        part = output[start : start + 65535]
        arguments = (weight[start:], weight_scale[start:], part, ctypes.c_longlong(row_bytes))
        _launch(f"unpack_int{bits}", part, (blocks, len(part), 1), BLOCK_THREADS, *arguments)
    return output


def unpack_reference(weight: Tensor, weight_scale: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Compute what `unpack` does."""
    if bits == 4:
        weight = torch.stack((weight >> 4, weight << 4 >> 4), dim=-1).flatten(-2)  # signed shifts; even column high
    return (weight.float() * weight_scale.float()[:, None]).to(dtype)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Return how many a GPU has."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def can_fuse(rows: int, weight: Tensor, bits: int) -> bool:
    """Return whether `fused_linear` takes so many input rows and this matrix (`bits`: of a stored weight)."""
    return (
        rows <= FUSED_ROWS
        and weight.shape[1] * weight.element_size() % 16 == 0
        and weight.is_contiguous()
        and weight.data_ptr() % 16 == 0
        and (bits < 16 or weight.dtype in NUMBER_TYPES)
    )


def fused_linear(
    input: Tensor,
    weight: Tensor,
    weight_scale: Tensor | None,
    bits: int,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    residual_scale: float = 0.0,
    gelu: bool = False,
) -> Tensor:
    """Return `gelu?(input @ weight.T + bias) + residual_scale * residual`, reading the packed weights once.

    Args:
        input: [n, i], float16, bfloat16 or float32, contiguous; `n` at most `FUSED_ROWS`.
        weight: int8 [o, i * bits / 8], or [o, i] of the input's dtype; see `can_fuse`.
        weight_scale: float16 [o], or None for weights that are not packed.
        bits: of a weight: 4, 8, or the size of the input's dtype.
        bias: [o] of the input's dtype, or None.
        residual: [n, o] of the input's dtype, or None.
        residual_scale: times which the residual is added.
        gelu: whether to apply GELU (tanh form) before that.

    Returns:
        [n, o] in the input's dtype; sums are float32.
    """
    rows, columns = input.shape
    if weight_scale is None and rows > TILE_ROWS:
        return _plain_linear(input, weight, bias, residual, residual_scale, gelu)
    output = torch.empty(rows, weight.shape[0], dtype=input.dtype, device=input.device)
    kernel = f"linear_int{bits}" if bits < 16 else "linear"
    tile = TILE_ROWS
    if rows > TILE_ROWS:
        kernel, tile = f"{kernel}_wide", WIDE_TILE_ROWS
    blocks = min(-(-weight.shape[0] // 16), RESIDENT_BLOCKS * multiprocessors(input.device))
    grid = (-(-rows // tile), blocks, 1)
    arguments = (input, weight, weight_scale, bias, residual, float(residual_scale), int(gelu), output)
    _launch(kernel, output, grid, BLOCK_THREADS, *arguments, rows, columns, weight.shape[0])
    return output


def _plain_linear(input, weight, bias, residual, residual_scale, gelu) -> Tensor:
    """Compute what `fused_linear` does by PyTorch, whose matrix products are faster where there are rows enough."""
    output = F.linear(input, weight, bias)
    if gelu:
        output = F.gelu(output, approximate="tanh")
    return output if residual is None else output.add_(residual, alpha=residual_scale)


def fused_linear_reference(
    input: Tensor,
    weight: Tensor,
    weight_scale: Tensor | None,
    bits: int,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    residual_scale: float = 0.0,
    gelu: bool = False,
) -> Tensor:
    """Compute what `fused_linear` does, in float32 to the end."""
    matrix = weight.float() if weight_scale is None else unpack_reference(weight, weight_scale, bits, torch.float32)
    output = F.linear(input.float(), matrix, None if bias is None else bias.float())
    if gelu:
        output = F.gelu(output, approximate="tanh")
    if residual is not None:
        output = output + residual_scale * residual.float()
    return output.to(input.dtype)


def linear(input: Tensor, weight: Tensor, weight_scale: Tensor, bits: int, bias: Tensor | None = None) -> Tensor:
    """Multiply with a quantised matrix on a CUDA device; differentiable in input and bias.

    Few rows (decoding) go through the fused kernel; for many the matrix is unpacked and multiplied by PyTorch. Where
    the kernels are not `available`, PyTorch unpacks it, too.

    Args:
        input: [..., i], float16, bfloat16 or float32.
        weight: int8 [o, i * bits / 8].
        weight_scale: float16 [o].
        bits: 4 or 8.
        bias: [o] or None.

    Returns:
        [..., o] in the input's dtype.
    """
    return _Linear.apply(input, weight, weight_scale, bits, bias)


def _unpacked(weight: Tensor, weight_scale: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    if available(weight.device):
        return unpack(weight.contiguous(), weight_scale.contiguous(), bits, dtype)
    return unpack_reference(weight, weight_scale, bits, dtype)


class _Linear(torch.autograd.Function):
    """Differentiate `linear`; the weights are constants, unpacked again for the backward pass."""

    @staticmethod
    def forward(ctx, input, weight, weight_scale, bits, bias):
        ctx.save_for_backward(weight, weight_scale)
        ctx.bits = bits
        flat = input.reshape(-1, input.shape[-1]).contiguous()
        bias = None if bias is None else bias.to(input.dtype)
        fits = len(flat) and can_fuse(len(flat), weight, bits) and flat.data_ptr() % 16 == 0
        if fits and available(input.device):
            output = fused_linear(flat, weight, weight_scale, bits, bias)
        else:
            output = F.linear(flat, _unpacked(weight, weight_scale, bits, input.dtype), bias)
        return output.view(*input.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx, gradient):
        weight, weight_scale = ctx.saved_tensors
        of_input = of_bias = None
        if ctx.needs_input_grad[0]:
            of_input = gradient @ _unpacked(weight, weight_scale, ctx.bits, gradient.dtype)
        if ctx.needs_input_grad[4]:
            of_bias = gradient.reshape(-1, gradient.shape[-1]).sum(dim=0)
        return of_input, None, None, None, of_bias


# --------------------------------------------------------------------------------------------------------------------
# The other steps of a decoded token
# --------------------------------------------------------------------------------------------------------------------


def layer_norm(input: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalise the rows of `input` [n, e]; `weight` and `bias` [e] have its dtype."""
    rows, hidden_size = input.shape
    output = torch.empty_like(input)
    vectors = -(-hidden_size * input.element_size() // 16)
    threads = min(1024, -(-vectors // 32) * 32)
    arguments = (input, weight, bias, float(epsilon), output, hidden_size)
    _launch("layer_norm", output, (rows, 1, 1), threads, *arguments)
    return output


def layer_norm_reference(input: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Compute what `layer_norm` does."""
    normalised = F.layer_norm(input.float(), weight.shape, weight.float(), bias.float(), epsilon)
    return normalised.to(input.dtype)


def rotary_tables(column: Tensor, layout: Tensor, frequency: Tensor, dtype: torch.dtype):
    """Return cosine and signed sine of the angles of one new token in each row, each [b, d].

    Args:
        column: int64 [b], the tokens' columns, padding included, P-Tuning prefix not.
        layout: int64 [3, b]: each row's padding, its context length (column of `<sop>`) and the position of its mask
            token.
        frequency: float32 [d / 4].
        dtype: of the result.
    """
    batch, head_size = layout.shape[1], 4 * len(frequency)
    cosine = torch.empty(batch, head_size, dtype=dtype, device=layout.device)
    sine = torch.empty_like(cosine)
    arguments = (column, layout[0], layout[1], layout[2], frequency, cosine, sine, head_size)
    _launch("rotary_tables", cosine, (batch, 1, 1), head_size, *arguments)
    return cosine, sine


def rotary_tables_reference(column: Tensor, layout: Tensor, frequency: Tensor, dtype: torch.dtype):
    """Compute what `rotary_tables` does."""
    padding, context_length, mask_position = layout
    in_prompt = column < context_length
    position = torch.where(in_prompt, (column - padding).clamp(min=0), mask_position)  # [b]
    answer_position = torch.where(in_prompt, 0, column - context_length + 1)
    angle = torch.stack([position, answer_position], dim=-1)[..., None].float() * frequency  # [b, 2, d / 4]
    cosine, sine = angle.cos(), angle.sin()
    return torch.cat([cosine, cosine], -1).flatten(1).to(dtype), torch.cat([-sine, sine], -1).flatten(1).to(dtype)


def can_attend(head_size: int, dtype: torch.dtype) -> bool:
    """Return whether `attention` takes heads of this size: a power of two of 16-byte pieces, 32 at most."""
    lanes, rest = divmod(head_size * dtype.itemsize, 16)
    return rest == 0 and lanes in (1, 2, 4, 8, 16, 32) and head_size <= 2 * ATTENTION_THREADS


class AttentionScratch:
    """Memory in which the blocks of `attention` meet; calls that share it must not overlap.

    Args:
        batch, heads, head_size: of the attention.
        splits: blocks that share out the keys of a head.
        device: where it lies.
    """

    def __init__(self, batch: int, heads: int, head_size: int, splits: int, device: torch.device) -> None:
        self.splits, self.heads = splits, heads
        self.partial = torch.empty(batch, heads, splits, head_size + 2, dtype=torch.float32, device=device)
        self.arrived = torch.zeros(batch, heads, dtype=torch.int32, device=device)


def attention(
    query_key_value: Tensor,
    cosine: Tensor,
    sine: Tensor,
    place: Tensor,
    column: Tensor,
    layer: int,
    scratch: AttentionScratch,
) -> Tensor:
    """Append one token's key and value to a layer's cache and attend to all that is cached.

    Args:
        query_key_value: [b, h * 3 * d], each head's query, key and value side by side.
        cosine, sine: [b, d], from `rotary_tables`.
        place: int64 [4 + 2 l], where the cache lies: capacity, prefix length, address of the key mask (bool [b, …]) or
            0, its row stride, then for each layer the addresses of keys and values [b, h, capacity, d].
        column: int64 [b], the tokens' columns, P-Tuning prefix not counted; below 0 for rows that are not there: they
            have no cache, and their context is 0.
        layer: number of the layer.
        scratch: for this batch and these heads.

    Returns:
        [b, h * d].
    """
    batch, heads = len(query_key_value), scratch.heads
    context = query_key_value.new_empty(batch, query_key_value.shape[1] // 3)
    arguments = (query_key_value, cosine, sine, place, column, layer, scratch.partial, scratch.arrived, context)
    grid, head_size = (scratch.splits, heads, batch), cosine.shape[1]
    _launch("attention", context, grid, ATTENTION_THREADS, *arguments, head_size)
    return context


def attention_reference(
    query_key_value: Tensor,
    cosine: Tensor,
    sine: Tensor,
    keys: Tensor,
    values: Tensor,
    key_mask: Tensor | None,
    prefix: int,
    column: Tensor,
) -> Tensor:
    """Compute what `attention` does, with the tensors (see there) in place of their addresses."""
    rows = (column >= 0).nonzero()[:, 0]  # [b], those that are there
    head_size, new_key = cosine.shape[1], prefix + column[rows]
    query, key, value = query_key_value[rows].view(len(rows), -1, 3, head_size).unbind(dim=2)  # [b, h, d]

    def rotate(x: Tensor) -> Tensor:
        swapped = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
        return (x.float() * cosine[rows].float()[:, None] + swapped.float() * sine[rows].float()[:, None]).to(x.dtype)

    keys[rows, :, new_key], values[rows, :, new_key] = rotate(key), value
    length = int(new_key.max()) + 1
    visible = torch.arange(length, device=column.device) <= new_key[:, None]  # [b, t]
    if key_mask is not None:
        visible = visible & F.pad(key_mask[rows, : length - prefix], (prefix, 0), value=True)
    scores = torch.einsum("bhd,bhtd->bht", rotate(query).float(), keys[rows, :, :length].float()) / head_size**0.5
    probabilities = scores.masked_fill(~visible[:, None], float("-inf")).softmax(dim=-1)
    context = query_key_value.new_zeros(len(column), query_key_value.shape[1] // 3)
    attended = torch.einsum("bht,bhtd->bhd", probabilities, values[rows, :, :length].float())
    context[rows] = attended.flatten(1).to(context.dtype)
    return context


# --------------------------------------------------------------------------------------------------------------------
# Checking
# --------------------------------------------------------------------------------------------------------------------


def check_kernels(device: torch.device) -> None:
    """Compare every kernel with its twin, which computes on the CPU, on a small random case of each dtype.

    Raises:
        CudaKernelError: a result is not within rounding of the twin's.
    """
    generator = torch.Generator().manual_seed(1)
    for dtype in NUMBER_TYPES:
        tolerance = 1e-4 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
        for name, actual, expected in _cases(device, dtype, generator):
            error = (actual.cpu().double() - expected.double()).norm() / expected.double().norm()
            if not error <= tolerance:  # NaN, too
                raise CudaKernelError(f"{name} of {dtype} differs from PyTorch by {float(error):.1e} on {device}")


def _cases(device: torch.device, dtype: torch.dtype, generator: torch.Generator):
    """Yield (name, the kernel's result, its twin's) for inputs that use every branch of the kernels."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    def both(function, *arguments) -> tuple[Tensor, Tensor]:
        moved = [argument.to(device) if isinstance(argument, Tensor) else argument for argument in arguments]
        return function(*moved), globals()[f"{function.__name__}_reference"](*arguments)

    rows, columns, features = 9, 608, 37
    input, bias, residual = normal(rows, columns), normal(features), normal(rows, features)
    scale = torch.rand(features, generator=generator).add(0.5).half()
    for bits in (4, 8):
        shape = (features, columns * bits // 8)
        weight = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
        yield f"unpack_int{bits}", *both(unpack, weight, scale, bits, dtype)
        for few in (rows, TILE_ROWS - 1):  # the wide tile, then the narrow one
            arguments = input[:few], weight, scale, bits, bias, residual[:few], 2.0
            yield f"linear_int{bits}, {few} rows", *both(fused_linear, *arguments)
    plain = normal(features, columns), None, 8 * dtype.itemsize, bias
    few = TILE_ROWS - 1
    yield "linear", *both(fused_linear, input[:few], *plain, residual[:few], 2.0, True)
    yield "layer_norm", *both(layer_norm, input, normal(columns), normal(columns), 1e-5)

    batch, heads, head_size, prefix, capacity = 3, 3, 32, 5, 300  # the last row is not there
    column, layout = torch.tensor([250, 261, -1]), torch.tensor([[0, 7, 0], [40, 260, 0], [38, 30, 0]])
    frequency = torch.rand(head_size // 4, generator=generator)
    (cosine, sine), tables = both(rotary_tables, column, layout, frequency, dtype)
    yield "rotary_tables", torch.stack([cosine, sine]), torch.stack(tables)
    mixed, key_mask = normal(batch, heads * 3 * head_size), torch.rand(batch - 1, 280, generator=generator) > 0.2
    keys, values = (normal(batch - 1, heads, capacity, head_size) for _ in range(2))
    mask, *cache = (tensor.to(device, copy=True) for tensor in (key_mask, keys, values))
    place = [capacity, prefix, mask.data_ptr(), mask.stride(0), *(tensor.data_ptr() for tensor in cache)]
    place, scratch = torch.tensor(place, device=device), AttentionScratch(batch, heads, head_size, 4, device)
    context = attention(mixed.to(device), cosine, sine, place, column.to(device), 0, scratch)
    yield "attention", context, attention_reference(mixed, *tables, keys, values, key_mask, prefix, column)
    yield "attention (cache)", torch.stack(cache), torch.stack([keys, values])
