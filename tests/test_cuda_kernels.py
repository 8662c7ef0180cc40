"""The CUDA kernels against exact arithmetic: on the CPU through an emulation of their source, and on a GPU where there
is one; and what loads, compiles and launches them."""

from __future__ import annotations

import ctypes
import math
import re
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from chatglm import cuda_compiler, cuda_driver, cuda_kernels, kernel_cache
from chatglm.positions import PromptLayout, apply_rotary, rotary_frequency
from chatglm.positions import rotary_tables as model_rotary_tables
from chatglm.quantization import dequantize_weight, pack_int4
from tests.benchmarks import cuda_compile

pytest_plugins = ["cuda_emulation"]  # fixture `emulations`

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "chatglm" / cuda_compiler.SOURCE
DTYPES = tuple(cuda_kernels.NUMBER_TYPES)
NUMBER_NAMES = tuple(cuda_kernels.NUMBER_TYPES.values())
ARCHITECTURES = (pytest.param(75, marks=pytest.mark.long), pytest.param(80, marks=pytest.mark.long), 121)
# relative norm of an error that rounding the result, and nothing else, explains
ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-20}


# -- where the kernels run --------------------------------------------------------------------------------------------


@pytest.fixture(params=["tensor cores", "float", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request, monkeypatch) -> torch.device:
    """Return the device of the test's tensors; memory that a kernel should write holds NaN before."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    if request.param == "cuda":
        assert cuda_kernels.available(torch.device("cuda"))
        yield torch.device("cuda", torch.cuda.current_device())
    else:
        request.getfixturevalue("emulations")(request.param)
        yield torch.device("cpu")
    torch.use_deterministic_algorithms(False)


def random(device: torch.device, *shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape).to(device, dtype)


def random_matrix(device: torch.device, rows: int, columns: int, bits: int):
    """Return packed weights that use every byte value, their scales, and the exact matrix in float64."""
    weight = torch.randint(-128, 128, (rows, columns * bits // 8), dtype=torch.int8).to(device)
    scale = (torch.rand(rows) + 0.5).half().to(device)
    return weight, scale, exact_matrix(weight, scale, bits)


def exact_matrix(weight: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpack by the format's definition, in Python integers: even column in the high nibble, two's complement."""
    numbers = weight.view(torch.uint8).int()
    if bits == 4:
        numbers = torch.stack([numbers // 16, numbers % 16], dim=-1).flatten(1)
    limit = 2 ** (bits - 1)
    signed = torch.where(numbers >= limit, numbers - 2 * limit, numbers)
    return signed.double() * scale.double()[:, None]


def assert_rounded(actual: torch.Tensor, exact: torch.Tensor, factor: float = 1.0) -> None:
    """Assert that the result is the exact one but for rounding; NaN fails."""
    assert actual.shape == exact.shape
    error = (actual.double() - exact).norm() / exact.norm()
    assert error <= factor * ROUNDING[actual.dtype], f"relative error {error:.1e}"


def assert_summed(actual: torch.Tensor, exact: torch.Tensor, sizes: torch.Tensor) -> None:
    """Assert that every sum is exact but for rounding it once, and adding in float terms of so much size together."""
    assert actual.shape == exact.shape
    excess = (actual.double() - exact).abs() - 1.01 * ROUNDING[actual.dtype] * exact.abs() - 2.0**-18 * sizes
    assert (excess <= 0).all(), f"wrong by {excess.max():.1e}"


# -- unpack -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (3, 6), (5, 64), (7, 4098), (70, 130)])
def test_unpack_equals_format(device, dtype, bits, rows, columns):
    weight, scale, exact = random_matrix(device, rows, columns, bits)
    unpacked = cuda_kernels.unpack(weight, scale, bits, dtype)
    assert torch.equal(unpacked.double(), exact.to(dtype).double())  # one rounding, so equal
    assert torch.equal(unpacked, cuda_kernels.unpack_reference(weight, scale, bits, dtype))
    assert torch.equal(unpacked, dequantize_weight(weight, scale, bits, dtype))


def test_unpack_reads_from_whole_words(emulations, monkeypatch):
    """A view may begin at any byte; the kernel loads four at once."""
    emulations("float")
    started, addresses = cuda_kernels._start, []

    def note(device, name, grid, threads, arguments):
        addresses.append(arguments[0].value)
        started(device, name, grid, threads, arguments)

    monkeypatch.setattr(cuda_kernels, "_start", note)
    weight, scale = torch.randint(-128, 128, (8 * 16 + 1,), dtype=torch.int8)[1:].view(8, 16), torch.ones(8).half()
    assert weight.data_ptr() % 4
    assert torch.equal(cuda_kernels.unpack(weight, scale, 4, torch.float32), exact_matrix(weight, scale, 4).float())
    assert addresses[0] % 4 == 0


def test_unpack_example_by_hand(device):
    weight = torch.tensor([[0x7F, 0xD2]], dtype=torch.uint8).view(torch.int8).to(device)  # as the source's head says
    assert torch.equal(weight.cpu(), pack_int4(torch.tensor([[7, -1, -3, 2]], dtype=torch.int8)))
    unpacked = cuda_kernels.unpack(weight, torch.ones(1, dtype=torch.float16, device=device), 4, torch.float32)
    assert unpacked.tolist() == [[7, -1, -3, 2]]


# -- linear -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8, None])
@pytest.mark.parametrize(
    ("rows", "columns", "features"),
    [(1, 32, 1), (1, 4096, 16), (2, 96, 17), (7, 608, 40), (8, 1056, 33), (9, 160, 31), (17, 608, 17), (32, 64, 5)]
    + [(64, 96, 20), (41, 32, 3)],
)
def test_fused_linear_equals_exact(device, dtype, bits, rows, columns, features):
    input = random(device, rows, columns, dtype=dtype)
    weight, scale = random(device, features, columns, dtype=dtype), None
    matrix, bits = weight.double(), bits or 8 * dtype.itemsize
    if bits < 16:
        weight, scale, matrix = random_matrix(device, features, columns, bits)
    assert cuda_kernels.can_fuse(rows, weight, bits)
    output = cuda_kernels.fused_linear(input, weight, scale, bits)
    assert_summed(output, input.double() @ matrix.T, input.double().abs() @ matrix.T.abs())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
def test_fused_linear_of_tiny_numbers_is_finite(device, dtype, bits):
    """Magnitudes of 1e-30 to 1e-45, with zeros between them and one larger number beside them in every other row."""
    input = torch.randn(8, 608) * 10.0 ** -torch.linspace(30, 45, 8)[:, None]
    input[:, ::3], input[1::2, 300] = 0, 1e2
    input, (weight, scale, matrix) = input.to(device, dtype), random_matrix(device, 17, 608, bits)
    output = cuda_kernels.fused_linear(input, weight, scale, bits).double()
    exact = input.double() @ matrix.T
    assert output.isfinite().all() and (output - exact).abs().max() <= 2e-2 * exact.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8, None])
@pytest.mark.parametrize("gelu", [False, True])
def test_fused_linear_epilogue_equals_exact(device, dtype, bits, gelu):
    input, bias, residual = (random(device, *shape, dtype=dtype) for shape in ((3, 128), (21,), (3, 21)))
    weight, scale = random(device, 21, 128, dtype=dtype) / 8, None
    matrix, bits = weight.double(), bits or 8 * dtype.itemsize
    if bits < 16:
        weight, scale, matrix = random_matrix(device, 21, 128, bits)
        scale, matrix = scale / 256, matrix / 256  # a power of two: exact
    exact = input.double() @ matrix.T + bias.double()
    sizes = input.double().abs() @ matrix.T.abs() + 10 * residual.double().abs() + 1
    if gelu:
        exact = 0.5 * exact * (1 + torch.tanh(math.sqrt(2 / math.pi) * (exact + 0.044715 * exact**3)))
    exact = exact + 7.5 * residual.double()
    arguments = (input, weight, scale, bits, bias, residual, 7.5, gelu)
    assert_summed(cuda_kernels.fused_linear(*arguments), exact, sizes)
    assert_summed(cuda_kernels.fused_linear_reference(*arguments), exact, sizes)


def test_fused_linear_keeps_small_weights_beside_large_inputs(device):
    """Sums are float: ones beside 60,000 and -60,000, as the model's outlier channels are, do not vanish."""
    input = torch.ones(1, 256, dtype=torch.float16, device=device)
    input[0, 0], input[0, 200] = 60000, -60000
    weight = torch.ones(16, 256, dtype=torch.int8, device=device)
    output = cuda_kernels.fused_linear(input, weight, torch.ones(16, dtype=torch.float16, device=device), 8)
    assert output.tolist() == [[254.0] * 16]


def test_can_fuse_refuses_what_the_kernel_cannot_read():
    assert cuda_kernels.can_fuse(64, torch.empty(8, 16, dtype=torch.int8), 4)
    assert not cuda_kernels.can_fuse(65, torch.empty(8, 16, dtype=torch.int8), 4)  # rows
    assert not cuda_kernels.can_fuse(1, torch.empty(8, 24, dtype=torch.int8), 4)  # half a vector
    assert not cuda_kernels.can_fuse(1, torch.empty(8 * 16 + 1, dtype=torch.int8)[1:].view(8, 16), 4)  # alignment
    assert not cuda_kernels.can_fuse(1, torch.empty(16, 16, dtype=torch.int8).T, 4)  # layout
    assert not cuda_kernels.can_fuse(1, torch.empty(8, 16, dtype=torch.float64), 64)  # number type


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(96,), (2, 3, 96), (1, 70, 96), (0, 96), (4, 30)])
def test_linear_and_its_gradients_equal_exact(device, dtype, bits, shape):
    """Fused and unpacked, and columns that no vector divides."""
    weight, scale, matrix = random_matrix(device, 19, shape[-1], bits)
    input, bias = random(device, *shape, dtype=dtype).requires_grad_(), random(device, 19, dtype=dtype).requires_grad_()
    output = cuda_kernels.linear(input, weight, scale, bits, bias)
    assert output.shape == (*shape[:-1], 19)
    gradient = random(device, *output.shape, dtype=dtype)
    output.backward(gradient)
    if output.numel():
        rounded = matrix.to(dtype).double()  # the many-row path multiplies with the unpacked, rounded matrix
        assert_rounded(output.detach(), input.detach().double() @ matrix.T + bias.detach().double(), 2)
        assert_rounded(input.grad, gradient.double() @ rounded, 2)
        assert_rounded(bias.grad, gradient.double().reshape(-1, 19).sum(dim=0), 2)


# -- layer norm, rotary tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "hidden_size"), [(1, 4096), (3, 32), (2, 520), (1, 8), (2, 37), (1, 8200)])
def test_layer_norm_equals_exact(device, dtype, rows, hidden_size):
    input = random(device, rows, hidden_size, dtype=dtype) + 10  # a mean that a one-pass variance would lose
    weight, bias = random(device, hidden_size, dtype=dtype), random(device, hidden_size, dtype=dtype)
    centred = input.double() - input.double().mean(dim=1, keepdim=True)
    exact = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * weight.double() + bias.double()
    assert_rounded(cuda_kernels.layer_norm(input, weight, bias, 1e-5), exact, 4)
    assert_rounded(cuda_kernels.layer_norm_reference(input, weight, bias, 1e-5), exact, 4)


def prompt_layout(device: torch.device) -> PromptLayout:
    numbers = torch.tensor([[0, 4, 0], [9, 5, 30], [8, 0, 29]], device=device)
    return PromptLayout(*numbers, uniform_context_length=None, key_mask=None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("column", [0, 3, 5, 10, 31, 2047])
def test_rotary_tables_equal_the_models(device, dtype, column):
    layout, frequency = prompt_layout(device), rotary_frequency(64, device)
    table = torch.stack([layout.padding, layout.context_length, layout.mask_position])
    at = torch.tensor([column] * 3, device=device)
    expected = model_rotary_tables(layout.position_ids(column, 1), 64, torch.float64)
    for tables in (cuda_kernels.rotary_tables, cuda_kernels.rotary_tables_reference):
        for actual, exact in zip(tables(at, table, frequency, dtype), expected, strict=True):
            assert (actual.double() - exact[:, 0, 0, 0]).abs().max() <= ROUNDING[dtype] + 1e-6


# -- attention --------------------------------------------------------------------------------------------------------


def attention_case(device, dtype, batch, heads, head_size, column, capacity, prefix=0, masked=False):
    """Return everything that `attention` takes for the second of two layers, by name."""
    caches = [random(device, batch, heads, capacity, head_size, dtype=dtype) for _ in range(4)]
    key_mask = None
    if masked:
        key_mask = torch.ones(batch, capacity + 3, dtype=torch.bool, device=device)
        for row in range(batch):
            key_mask[row, : 3 * row] = False  # padding on the left
    addresses = [0, 0] if key_mask is None else [key_mask.data_ptr(), key_mask.stride(0)]
    place = torch.tensor([capacity, prefix, *addresses, *(cache.data_ptr() for cache in caches)], device=device)
    angle = torch.rand(batch, head_size // 4).double() * 6
    cosine = torch.cat([angle.cos()] * 4, dim=1).to(device, dtype)
    sine = torch.cat([-angle.sin(), angle.sin()] * 2, dim=1).to(device, dtype)
    mixed = random(device, batch, heads * 3 * head_size, dtype=dtype)
    at = torch.tensor([column] * batch, device=device)
    return mixed, cosine, sine, caches, key_mask, place, at


def exact_attention(mixed, cosine, sine, keys, values, key_mask, prefix, column):
    """Attend in float64 by the model's own rotation; returns the context, the new key and the new value."""
    batch, head_size = cosine.shape
    mixed = mixed.double().view(batch, 1, -1, 3, head_size)
    tables = cosine.double()[:, None, None, None], sine.double()[:, None, None, None]
    rotated = apply_rotary(mixed[..., :2, :], *tables)
    query, key, value = rotated[:, 0, :, 0], rotated[:, 0, :, 1], mixed[:, 0, :, 2]  # [b, h, d]
    end = prefix + column
    keys = torch.cat([keys[:, :, :end].double(), key[:, :, None]], dim=2)
    values = torch.cat([values[:, :, :end].double(), value[:, :, None]], dim=2)
    scores = (query[:, :, None] * keys).sum(dim=-1) / math.sqrt(head_size)
    if key_mask is not None:
        scores[:, :, prefix:].masked_fill_(~key_mask[:, None, : column + 1], -math.inf)
    return (scores.softmax(dim=-1)[..., None] * values).sum(dim=2).flatten(1), key, value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "heads", "head_size", "splits", "column", "prefix", "masked"),
    [
        (1, 2, 128, 16, 0, 0, False),  # the first key
        (1, 2, 128, 16, 31, 0, False),  # one block's share, full
        (1, 1, 128, 16, 32, 0, False),
        (1, 2, 32, 16, 700, 0, False),  # more than the least share for each block
        (1, 1, 64, 1, 300, 0, False),
        (2, 3, 16, 4, 100, 0, True),
        (3, 1, 32, 3, 200, 5, True),
        (1, 2, 32, 2, 64, 7, False),
    ],
)
def test_attention_equals_exact(device, dtype, batch, heads, head_size, splits, column, prefix, masked):
    if not cuda_kernels.can_attend(head_size, dtype):
        pytest.skip("no such heads")
    capacity = column + prefix + 3
    mixed, cosine, sine, caches, key_mask, place, at = attention_case(
        device, dtype, batch, heads, head_size, column, capacity, prefix, masked
    )
    for cache in caches:
        cache[:, :, prefix + column :] = math.nan  # nothing has been written there
    before = [cache.clone() for cache in caches]
    scratch = cuda_kernels.AttentionScratch(batch, heads, head_size, splits, device)
    exact, key, value = exact_attention(mixed, cosine, sine, caches[2], caches[3], key_mask, prefix, column)
    for _ in range(2):  # the second run finds the scratch as the first one left it
        context = cuda_kernels.attention(mixed, cosine, sine, place, at, 1, scratch)
        assert_rounded(context, exact, 2)
    assert not scratch.arrived.any()
    # the cache: the new key and value of this layer, and nothing else
    new = prefix + column
    assert_rounded(caches[2][:, :, new], key)
    assert_rounded(caches[3][:, :, new], value)
    for cache, old in zip(caches, before, strict=True):
        cache[:, :, new] = old[:, :, new]
        assert torch.equal(cache.nan_to_num(7.0), old.nan_to_num(7.0))
    reference = cuda_kernels.attention_reference(mixed, cosine, sine, before[2], before[3], key_mask, prefix, at)
    assert_rounded(reference, exact, 2)


def test_attention_of_rows_with_different_lengths(device):
    """As answers that started at different times: each row is what it is alone."""
    mixed, cosine, sine, caches, _, place, at = attention_case(device, torch.float16, 4, 2, 64, 90, 100, 4)
    at -= torch.tensor([0, 89, 33, 90], device=device)
    scratch = cuda_kernels.AttentionScratch(4, 2, 64, 4, device)
    before = [cache.clone() for cache in caches]
    context = cuda_kernels.attention(mixed, cosine, sine, place, at, 0, scratch)
    for row, column in enumerate(at.tolist()):
        alone = [tensor[row : row + 1] for tensor in (mixed, cosine, sine, before[0], before[1])]
        exact, key, _ = exact_attention(*alone, None, 4, column)
        assert_rounded(context[row : row + 1], exact, 2)
        assert_rounded(caches[0][row : row + 1, :, 4 + column], key)
    reference = cuda_kernels.attention_reference(mixed, cosine, sine, before[0], before[1], None, 4, at)
    assert (reference.double() - context.double()).norm() <= 2 * ROUNDING[torch.float16] * context.double().norm()
    assert torch.equal(before[1], caches[1])


def test_attention_leaves_rows_that_are_not_there_alone(device):
    """A graph for 4 rows serves 3: the fourth has no cache, and its context is 0."""
    mixed, cosine, sine, caches, _, place, at = attention_case(device, torch.float16, 4, 2, 64, 90, 100, 4)
    before = [cache.clone() for cache in caches]
    at[1] = -1
    scratch = cuda_kernels.AttentionScratch(4, 2, 64, 4, device)
    contexts = [cuda_kernels.attention(mixed, cosine, sine, place, at, 0, scratch) for _ in range(2)]
    there = [0, 2, 3]
    exact, *_ = exact_attention(mixed, cosine, sine, before[0], before[1], None, 4, 90)
    for context in contexts:
        assert not context[1].any()
        assert_rounded(context[there], exact[there], 2)
    assert torch.equal(caches[0][1], before[0][1])
    reference = cuda_kernels.attention_reference(mixed, cosine, sine, before[0], before[1], None, 4, at)
    assert_rounded(reference[there], exact[there], 2)
    assert not reference[1].any()


def test_attention_does_not_depend_on_the_order_of_threads_and_blocks(emulations):
    emulation = emulations("tensor cores")
    case = attention_case(torch.device("cpu"), torch.float16, 2, 2, 128, 150, 200, 0, True)
    mixed, cosine, sine, _, _, place, at = case
    scratch = cuda_kernels.AttentionScratch(2, 2, 128, 4, torch.device("cpu"))
    results = []
    for seed in range(5):
        emulation.shuffle(seed)
        results.append(cuda_kernels.attention(mixed, cosine, sine, place, at, 0, scratch))
    emulation.shuffle(0)
    assert all(torch.equal(result, results[0]) for result in results)


def test_other_kernels_do_not_depend_on_the_order_of_threads(emulations):
    weight, scale, _ = random_matrix(torch.device("cpu"), 20, 1024, 4)
    input = random(torch.device("cpu"), 5, 1024, dtype=torch.float16)
    for variant in ("tensor cores", "float"):
        emulation = emulations(variant)
        results = []
        for seed in range(5):
            emulation.shuffle(seed)
            output = cuda_kernels.fused_linear(input, weight, scale, 4)
            results.append(torch.cat([output, cuda_kernels.layer_norm(input, input[0], input[1], 1e-5)], dim=1))
        emulation.shuffle(0)
        assert all(torch.equal(result, results[0]) for result in results)


def test_can_attend_to_the_real_heads():
    assert all(cuda_kernels.can_attend(128, dtype) for dtype in DTYPES)
    assert not cuda_kernels.can_attend(96, torch.float16)  # 12 lanes
    assert not cuda_kernels.can_attend(512, torch.float16)  # 64 lanes
    assert not cuda_kernels.can_attend(4, torch.float16)  # half a vector


# -- checking, compiling, loading, launching --------------------------------------------------------------------------


def test_check_kernels_passes_and_finds_a_wrong_result(device, monkeypatch):
    cuda_kernels.check_kernels(device)
    reference = cuda_kernels.layer_norm_reference
    monkeypatch.setattr(cuda_kernels, "layer_norm_reference", lambda *arguments: 1.1 * reference(*arguments))
    with pytest.raises(cuda_kernels.CudaKernelError, match="layer_norm of torch.float16 differs"):
        cuda_kernels.check_kernels(device)


def test_every_kernel_is_launched_by_the_check(emulations, monkeypatch):
    emulations("tensor cores")
    started, launched = cuda_kernels._start, set()

    def note(device, name, *arguments):
        launched.add(name)
        started(device, name, *arguments)

    monkeypatch.setattr(cuda_kernels, "_start", note)
    cuda_kernels.check_kernels(torch.device("cpu"))
    assert launched == kernel_names()


def kernel_names() -> set[str]:
    """Return the names of the source's kernels, by reading its macros."""
    text, names = SOURCE.read_text(encoding="utf-8"), set()
    for macro, name, number in re.findall(r"^([A-Z_]+)\((\w+), (\w+)", text, flags=re.MULTILINE):
        names |= {f"{name}_{number}", f"{name}_wide_{number}"} if macro == "LINEAR_PACKED" else {name}
    return names


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_the_source(architecture):
    """Without tensor cores, with them, and for the newest GPU, whose kernels overlap; `cuda_compile` does all."""
    nvrtc = cuda_compile.find_nvrtc()
    if nvrtc is None:
        pytest.skip("needs NVRTC")
    if architecture not in cuda_compile.known_architectures(nvrtc) and torch.version.cuda < "12.9":
        pytest.skip("CUDA before 12.9 does not know the newest GPUs")
    kernels = cuda_compile.registers(architecture, nvrtc)
    assert {kernel.name for kernel in kernels} == kernel_names()
    assert max(kernel.spilled for kernel in kernels) <= cuda_compile.SPILLED_AT_MOST, "registers are kept in memory"
    assert not [kernel for kernel in kernels if kernel.blocks < kernel.wanted_blocks], "a block too few fits"


def test_nvrtc_of_pytorch_knows_the_newest_gpus():
    nvrtc = cuda_compile.find_nvrtc()
    if nvrtc is None:
        pytest.skip("needs NVRTC")
    if torch.version.cuda < "12.9":
        pytest.skip("CUDA before 12.9 does not know the newest GPUs")
    assert {75, 80, 86, 89, 90, 100, 103, 120, 121} <= set(cuda_compile.known_architectures(nvrtc))


def test_compile_kernels_reports_errors_and_newer_gpus():
    try:
        nvrtc = cuda_compiler.load_nvrtc()
    except cuda_kernels.CudaKernelError as error:
        pytest.skip(str(error))
    with pytest.raises(cuda_kernels.CudaKernelError, match='identifier "y" is undefined'):
        cuda_compiler.compile_kernels("__device__ int f() { return y; }", (9, 0), nvrtc)
    newer = cuda_compiler.compile_kernels('extern "C" __global__ void f() {}', (99, 0), nvrtc)
    assert b".visible .entry f" in newer


@pytest.mark.parametrize(
    ("known", "capability", "message"),
    [
        ([75, 80, 90], (7, 0), "supports GPUs from sm_75 on, this one is sm_70"),
        ([70, 80, 86], (9, 0), "supports GPUs up to sm_86, this one is sm_90"),
    ],
)
def test_compile_kernels_names_a_compiler_that_does_not_fit(known, capability, message):
    class nvrtc:
        @staticmethod
        def nvrtcGetNumSupportedArchs(count):
            count._obj.value = len(known)

        @staticmethod
        def nvrtcGetSupportedArchs(numbers):
            numbers[:] = known

    with pytest.raises(cuda_kernels.CudaKernelError, match=message):
        cuda_compiler.compile_kernels("", capability, nvrtc)
    del nvrtc.nvrtcGetSupportedArchs
    with pytest.raises(cuda_kernels.CudaKernelError, match="too old: it has no nvrtcGetSupportedArchs"):
        cuda_compiler.compile_kernels("", capability, nvrtc)


def test_load_nvrtc_says_what_to_install(monkeypatch):
    monkeypatch.setattr(cuda_compiler, "nvrtc_candidates", lambda: iter(["/nowhere/libnvrtc.so"]))
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    with pytest.raises(cuda_kernels.CudaKernelError, match="pip install nvidia-cuda-nvrtc-cu12$"):
        cuda_compiler.load_nvrtc()


def test_nvrtc_is_found_in_pip_packages_and_the_version_of_pytorch_first(monkeypatch, tmp_path):
    for name in ("cuda_nvrtc/lib/libnvrtc.so.12", "cu13/lib/libnvrtc.so.13", "cu13/lib/libnvrtc-builtins.so.13"):
        (tmp_path / "nvidia" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "nvidia" / name).touch()
    # a package without it would lose to a regular package of this name elsewhere
    (tmp_path / "nvidia" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    ours = [name for name in cuda_compiler.nvrtc_candidates() if str(tmp_path) in name]
    assert [Path(name).name for name in ours] == ["libnvrtc.so.13", "libnvrtc.so.12"]


def test_kernel_image_is_kept_for_the_user_only(monkeypatch, tmp_path):
    compiled = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def compile_kernels(source, capability):
        compiled.append(capability)
        return b"image %d" % len(compiled)

    monkeypatch.setattr(cuda_compiler, "compile_kernels", compile_kernels)
    images = [cuda_compiler.kernel_image(capability) for capability in ((9, 0), (9, 0), (8, 6))]
    assert images == [b"image 1", b"image 1", b"image 2"]
    assert compiled == [(9, 0), (8, 6)]
    directory = kernel_cache.cache_directory("cuda")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(list(directory.iterdir())) == 2  # no temporary files


def test_kernel_image_without_a_cache(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cuda_compiler, "compile_kernels", lambda source, capability: b"image")
    assert cuda_compiler.kernel_image((9, 0)) == b"image"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_cache.os, "replace", lambda new, file: Path("/nowhere/file").touch())
    assert cuda_compiler.kernel_image((9, 0)) == b"image"
    assert not list(kernel_cache.cache_directory("cuda").iterdir())


def test_driver_errors_are_named(emulations):
    driver = emulations("float").driver
    with pytest.raises(cuda_kernels.CudaKernelError, match=r"cuModuleLoadData failed: .* \(error 200\)"):
        cuda_driver.DriverKernels(driver, b"machine code of another GPU", 0)
    kernels = cuda_driver.DriverKernels(driver, b"emulation", 0)
    with pytest.raises(cuda_kernels.CudaKernelError, match="cuModuleGetFunction failed"):
        kernels.launch("no_such_kernel", (1, 1, 1), 32, 0, [])
    with pytest.raises(cuda_kernels.CudaKernelError, match="cuLaunchKernel failed"):
        kernels.launch("layer_norm_half", (1, 70000, 1), 32, 0, [])


def launch_through(kernels, monkeypatch) -> None:
    """Let launches on the CPU go to `kernels`."""
    monkeypatch.setattr(
        cuda_kernels,
        "_start",
        lambda device, name, grid, threads, arguments: kernels.launch(name, grid, threads, 0, arguments),
    )


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("Library cudart is not initialized"),
        OSError("nvcuda.dll"),
        ImportError("No module named 'pkg_resources'"),
        AttributeError("libcublasLt.so: undefined symbol"),
    ],
)
def test_a_broken_cpm_kernels_reaches_no_user(monkeypatch, emulations, failure):
    def fail(name):
        raise failure

    driver = emulations("tensor cores").driver
    monkeypatch.setattr(cuda_driver.importlib, "import_module", fail)
    kernels = cuda_driver.Kernels(b"emulation", 0, driver)
    assert kernels.unpacking is kernels.driver_kernels
    launch_through(kernels, monkeypatch)
    cuda_kernels.check_kernels(torch.device("cpu"))


def test_a_working_cpm_kernels_unpacks(monkeypatch, emulations):
    """With the package's classes as far as they are used, over the emulated driver."""
    emulated, launched = emulations("tensor cores"), []

    class LazyKernelCModule:
        def __init__(self, code):
            assert code == b"emulation"

        def get_module(self):
            return self

    class KernelFunction:
        def __init__(self, module, name):
            self.name = name

        def __call__(self, grid, block, shared_bytes, stream, parameters):
            assert (block[1:], shared_bytes) == ((1, 1), 0)
            launched.append(self.name)
            emulated.launch(self.name, grid, block[0], stream, parameters)

    class cudart:
        cudaGetDevice = staticmethod(lambda: 0)

    package = type(sys)("cpm_kernels.kernels.base")
    package.LazyKernelCModule, package.KernelFunction, package.cudart = LazyKernelCModule, KernelFunction, cudart
    monkeypatch.setitem(sys.modules, "cpm_kernels", type(sys)("cpm_kernels"))
    monkeypatch.setitem(sys.modules, "cpm_kernels.kernels", type(sys)("cpm_kernels.kernels"))
    monkeypatch.setitem(sys.modules, "cpm_kernels.kernels.base", package)
    launch_through(cuda_driver.Kernels(b"emulation", 0, emulated.driver), monkeypatch)
    cuda_kernels.check_kernels(torch.device("cpu"))
    assert sorted(launched) == sorted(f"unpack_int{bits}_{name}" for bits in (4, 8) for name in NUMBER_NAMES)
    with pytest.raises(cuda_kernels.CudaKernelError, match="another device"):
        cuda_driver.CpmKernels(b"emulation", 1)


def test_launches_overlap_where_asked_for(emulations, monkeypatch):
    kernels = emulations("tensor cores")
    case = random(torch.device("cpu"), 1, 32), torch.ones(32), torch.zeros(32), 1e-5
    alone = cuda_kernels.layer_norm(*case)
    assert kernels.driver.emulation_overlapped() == 0
    with cuda_driver.overlapping_launches():
        assert torch.equal(cuda_kernels.layer_norm(*case), alone)
    assert kernels.driver.emulation_overlapped() == 1
    monkeypatch.setattr(cuda_driver, "OVERLAP", False)  # the switch
    with cuda_driver.overlapping_launches():
        cuda_kernels.layer_norm(*case)
    monkeypatch.undo()
    emulations("tensor cores").can_overlap = False  # as before sm_90
    with cuda_driver.overlapping_launches():
        cuda_kernels.layer_norm(*case)
    assert kernels.driver.emulation_overlapped() == 1


@pytest.mark.parametrize(
    ("name", "another_one_wrote"),
    [
        ("unpack", r"scale\[|weight \+=|output \+="),
        ("rotary_tables", r"column\[|frequency\[|cosine\[|sine\["),
        ("layer_norm", r"load_columns<WIDTH>\(input|sum_over_block|pack"),
        ("attention", r"query_key_value \+|rotated|cosine|sine|partial|arrived|__syncthreads"),
        ("linear_pass", r"input \+ vector|of\.residual|output\[|\.add\(|\.store\("),
    ],
)
def test_every_kernel_waits_before_it_reads_what_another_one_wrote(name, another_one_wrote):
    """By reading the source: what may come before is weights, and keys and values of earlier tokens."""
    text = SOURCE.read_text(encoding="utf-8")
    body = re.search(rf"void {name}\(const [^{{;]*\) {{\n(.*?)\n}}\n", text, flags=re.DOTALL).group(1)
    *early, before, after = body.split("wait_for_earlier_kernels();")  # one each for blocks that end early
    assert not re.search(another_one_wrote, before)
    assert re.search(another_one_wrote, after)
    assert not any(re.search(rf"{another_one_wrote}|return;", part) for part in early[:1])
    assert all(part.count("return;") == 1 for part in [*early[1:], before][: len(early)])


def test_launch_structures_are_those_of_the_driver(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc with cuda.h")
    fields = {
        "CUlaunchConfig": ("gridDimX", "blockDimX", "sharedMemBytes", "hStream", "attrs", "numAttrs"),
        "CUlaunchAttribute": ("id", "pad", "value.programmaticStreamSerializationAllowed"),
    }
    prints = [
        f'printf("%zu ", offsetof({structure}, {field}));' for structure, names in fields.items() for field in names
    ]
    prints += [f'printf("%zu ", sizeof({structure}));' for structure in fields]
    prints += ['printf("%d %d", CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, ']
    prints += ["CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);"]
    includes = "#include <cstddef>\n#include <cstdio>\n#include <cuda.h>\n"
    (tmp_path / "layout.cpp").write_text(f"{includes}int main() {{ {' '.join(prints)} }}")
    build = [nvcc, "-cudart", "none", "-o", tmp_path / "layout", tmp_path / "layout.cpp"]
    if subprocess.run(build, capture_output=True).returncode:
        pytest.skip("needs a host compiler that nvcc can use, and cuda.h")
    numbers = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout.split()
    config, attribute = cuda_driver._LaunchConfig, cuda_driver._LaunchAttribute
    ours = [getattr(config, name).offset for name, _ in config._fields_]
    ours += [getattr(attribute, name).offset for name, _ in attribute._fields_]
    ours += [ctypes.sizeof(config), ctypes.sizeof(attribute)]
    ours += [cuda_driver.PROGRAMMATIC_STREAM_SERIALIZATION, cuda_driver.COMPUTE_CAPABILITY_MAJOR]
    assert ours == [int(number) for number in numbers]


class NoDevice:
    """Stands for `torch.cuda.device` where there is no CUDA."""

    def __init__(self, index): ...
    def __enter__(self): ...
    def __exit__(self, *exception): ...


@pytest.fixture
def pretended_gpu(monkeypatch, emulation_libraries):
    """Pretend that there is a GPU of capability 9.0, whose driver is the emulation's; nothing is loaded yet."""
    library = ctypes.CDLL(str(emulation_libraries["tensor cores"]))
    monkeypatch.setattr(cuda_kernels, "_kernels", {})
    monkeypatch.setattr(cuda_kernels, "_usable", {})
    monkeypatch.setattr(torch.cuda, "device", NoDevice)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(cuda_kernels, "kernel_image", lambda capability: b"emulation")
    monkeypatch.setattr(cuda_kernels.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(cuda_kernels.logger, "propagate", True)
    return torch.device("cuda", 0)


def test_available_loads_and_checks_once(pretended_gpu, monkeypatch, caplog):
    checked = []
    monkeypatch.setattr(cuda_kernels, "check_kernels", checked.append)
    assert cuda_kernels.available(pretended_gpu)
    assert cuda_kernels.available(pretended_gpu)
    assert checked == [pretended_gpu]
    assert not caplog.records
    assert not cuda_kernels.available(torch.device("cpu"))


def test_available_says_yes_after_the_check_only(pretended_gpu, monkeypatch):
    """Another thread that asks meanwhile waits for the answer."""
    checking, go_on, answers = threading.Event(), threading.Event(), []

    def check_kernels(device):
        checking.set()
        assert go_on.wait(10)
        raise cuda_kernels.CudaKernelError("wrong")

    monkeypatch.setattr(cuda_kernels, "check_kernels", check_kernels)
    threads = [threading.Thread(target=lambda: answers.append(cuda_kernels.available(pretended_gpu))) for _ in "12"]
    threads[0].start()
    assert checking.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    assert not answers
    go_on.set()
    for thread in threads:
        thread.join()
    assert answers == [False, False]


def fail_the_check(monkeypatch):
    def check_kernels(device):
        raise cuda_kernels.CudaKernelError("layer_norm of torch.float16 differs from PyTorch by 1.0e+00")

    monkeypatch.setattr(cuda_kernels, "check_kernels", check_kernels)


def be_old(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))


def be_volta(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))


def be_no_image(monkeypatch):
    monkeypatch.setattr(cuda_kernels, "kernel_image", lambda capability: b"for another GPU")


def be_amd(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.0")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (fail_the_check, "layer_norm of torch.float16 differs"),
        (be_old, "they need compute capability 7.5, a GPU has 6.1"),
        (be_volta, "they need compute capability 7.5, a GPU has 7.0"),
        (be_no_image, "cuModuleLoadData failed"),
        (be_amd, "they are written for NVIDIA's GPUs"),
    ],
)
def test_available_warns_once_and_says_why(pretended_gpu, monkeypatch, caplog, change, reason):
    change(monkeypatch)
    assert not cuda_kernels.available(pretended_gpu)
    assert not cuda_kernels.available(pretended_gpu)
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.long
def test_importing_and_asking_without_a_gpu_imports_no_cuda_package():
    code = """
import sys, torch._dynamo  # PyTorch's CUDA build imports triton here by itself
before = set(sys.modules)
from chatglm import cuda_compiler, cuda_driver, cuda_kernels
assert not cuda_kernels.available(torch.device("cpu"))
assert not {"cpm_kernels", "triton", "cupy"} & {name.split(".")[0] for name in set(sys.modules) - before}
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
