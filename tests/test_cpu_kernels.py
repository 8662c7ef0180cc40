"""The CPU kernels: every path against exact arithmetic, garbage in outputs, compiling, and failing to compile."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import warm

from chatglm import cpu_kernels, kernel_cache
from chatglm.int8_states import from_buffer, pack_states, to_buffer
from chatglm.quantization import QuantizedLinear, dequantize_weight, quantize_weight

ROOT = Path(__file__).resolve().parent.parent
NUMBER_TYPES = (torch.float32, torch.float16, torch.bfloat16)
# rows, columns, outputs: one row and many, blocks of 512 columns whole and cut, tiles of outputs and rows whole and cut
SHAPES = [
    (1, 512, 16),
    (1, 1030, 33),
    (2, 34, 7),
    (3, 2, 1),
    (7, 4096, 17),
    (12, 1536, 64),
    (13, 514, 130),
    (23, 16902, 35),
    (37, 8708, 70),
    (270, 640, 65),
]


def needs_compiler():
    if not cpu_kernels.find_compilers():
        pytest.skip("no C compiler")


@pytest.fixture(scope="module", autouse=True)
def kernels():
    needs_compiler()
    assert cpu_kernels.library() is not None


def relative_error(actual, expected):
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def random_weight(outputs, columns, bits):
    """Return random bytes, so that every value occurs, -8 and -128 included."""
    weight = torch.randint(-128, 128, (outputs, columns * bits // 8), dtype=torch.int8)
    return weight, (torch.rand(outputs) * 0.01 + 0.001).half()


def exact(input, weight, weight_scale, bits, bias):
    return input.double() @ dequantize_weight(weight, weight_scale, bits).double().T + bias.double()


def attend(mixed, rotary, keys, values, positions, key_mask):
    """Compute what `cpu_kernels.decode_attention` does, and change the cache alike, by PyTorch in float32."""
    b, h, _, d = mixed.shape
    token = mixed.float()
    cosine, sine = (table.float().view(b, 1, 1, d) for table in rotary)
    swapped = token.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    rotated = token * cosine + swapped * sine
    context = torch.empty(b, h, d)
    for row, position in enumerate(positions):
        keys[row, :, position] = to_buffer(rotated[row, :, 1], keys.dtype)
        values[row, :, position] = to_buffer(mixed[row, :, 2], values.dtype)
        key, value = (from_buffer(buffer[row, :, : position + 1], torch.float32) for buffer in (keys, values))
        scores = (key @ rotated[row, :, 0, :, None])[..., 0] / d**0.5  # [h, t]
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[row, : position + 1], float("-inf"))
        context[row] = (scores.softmax(dim=-1)[:, None] @ value)[:, 0]
    return context.to(mixed.dtype)


def every_path():
    return cpu_kernels.supported_paths() if cpu_kernels.find_compilers() and cpu_kernels.library() else ()


# -- products ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows, columns, outputs", SHAPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("activation_bits, tolerance", [(8, 0.01), (16, 1e-4)])
@pytest.mark.parametrize("path", every_path())
def test_linear_is_close_to_exact_arithmetic(path, activation_bits, tolerance, bits, rows, columns, outputs):
    torch.manual_seed(0)
    weight, weight_scale = random_weight(outputs, columns, bits)
    input, bias = torch.randn(rows, columns), torch.randn(outputs) * 0.01
    arguments = input, weight, weight_scale, bits, bias
    output = cpu_kernels.linear(*arguments, path, activation_bits)
    assert relative_error(output, exact(input, weight, weight_scale, bits, bias)) < tolerance
    portable = cpu_kernels.linear(*arguments, "portable", activation_bits)
    assert relative_error(output, portable) < 2e-6  # the same integers, summed in another order


@pytest.mark.parametrize("dtype", NUMBER_TYPES)
@pytest.mark.parametrize("path", every_path())
def test_linear_takes_and_returns_every_number_type(path, dtype):
    torch.manual_seed(0)
    weight, weight_scale = random_weight(50, 700, 4)
    input, bias = torch.randn(2, 3, 700).to(dtype), torch.randn(50).to(dtype)
    output = cpu_kernels.linear(input, weight, weight_scale, 4, bias, path=path)
    assert output.dtype == dtype and output.shape == (2, 3, 50)
    in_float32 = cpu_kernels.linear(input.float(), weight, weight_scale, 4, bias.float(), path=path)
    assert torch.equal(output, in_float32.to(dtype))  # rounded once, to nearest even


@pytest.mark.parametrize("channels", [1, 2, 4, 16])
@pytest.mark.parametrize("columns", [512, 4096])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("path", every_path())
def test_linear_is_accurate_with_channels_100_times_larger(path, bits, columns, channels):
    torch.manual_seed(channels)
    packed, weight_scale = quantize_weight(torch.randn(256, columns), bits)
    input = torch.randn(16, columns)
    input[:, torch.randperm(columns)[:channels]] *= 100
    output = cpu_kernels.linear(input, packed, weight_scale, bits, path=path, activation_bits=8)
    assert relative_error(output, exact(input, packed, weight_scale, bits, torch.zeros(256))) < 0.02


def test_matrices_that_stay_in_the_cache_get_16_bit_activations():
    torch.manual_seed(0)
    for outputs, wanted in ((2048, 16), (2049, 8)):  # 1 MiB of INT4 weights, and more
        weight, weight_scale = random_weight(outputs, 1024, 4)
        input = torch.randn(2, 1024)
        output = cpu_kernels.linear(input, weight, weight_scale, 4)
        assert torch.equal(output, cpu_kernels.linear(input, weight, weight_scale, 4, activation_bits=wanted))
        assert not torch.equal(output, cpu_kernels.linear(input, weight, weight_scale, 4, activation_bits=24 - wanted))


@pytest.mark.parametrize("distribution", ["normal", "after gelu", "heavy-tailed"])
@pytest.mark.parametrize("bits", [4, 8])
def test_linear_is_accurate_at_the_real_shape(bits, distribution):
    torch.manual_seed(0)
    packed, weight_scale = quantize_weight(torch.randn(512, 4096), bits)
    input = torch.randn(4, 4096)
    if distribution == "after gelu":
        input = torch.nn.functional.gelu(input)
    elif distribution == "heavy-tailed":
        input = torch.distributions.StudentT(3.0).sample((4, 4096))
    output = cpu_kernels.linear(input, packed, weight_scale, bits, activation_bits=8)  # as for all rows of a real one
    assert relative_error(output, exact(input, packed, weight_scale, bits, torch.zeros(512))) < 0.01


@pytest.mark.parametrize("path", every_path())
def test_linear_assigns_every_output(monkeypatch, path):
    """Outputs and scratch full of NaN bytes: none of them may shine through."""
    torch.manual_seed(0)
    weight, weight_scale = random_weight(67, 520, 4)
    real_empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **kwargs: real_empty(*size, **kwargs).fill_(-1))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size: torch.full(size, torch.nan, dtype=self.dtype))
    for rows in (1, 5, 30):
        input = torch.randn(rows, 520)
        output = cpu_kernels.linear(input, weight, weight_scale, 4, path=path)
        assert relative_error(output, exact(input, weight, weight_scale, 4, torch.zeros(67))) < 0.01


@pytest.mark.parametrize("path", every_path())
def test_linear_reads_nothing_behind_the_last_row(path):
    """The weights end where a page ends, and the next page may not be read."""
    libc = ctypes.CDLL(None)
    page, rows, columns = mmap.PAGESIZE, 3, 1030
    pages = mmap.mmap(-1, 4 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    assert libc.mprotect(ctypes.c_void_p(base + 3 * page), ctypes.c_size_t(page), 0) == 0
    torch.manual_seed(0)
    original, weight_scale = random_weight(rows, columns, 4)
    bytes_at_end = (ctypes.c_int8 * original.numel()).from_address(base + 3 * page - original.numel())
    weight = torch.frombuffer(bytes_at_end, dtype=torch.int8).view(rows, -1)
    weight.copy_(original)
    for count in (1, 4, 20):
        input = torch.randn(count, columns)
        output = cpu_kernels.linear(input, weight, weight_scale, 4, path=path)
        assert torch.equal(output, cpu_kernels.linear(input, original, weight_scale, 4, path=path))


@pytest.mark.parametrize("path", every_path())
def test_linear_does_not_depend_on_other_rows_or_threads(path):
    torch.manual_seed(0)
    weight, weight_scale = random_weight(100, 1024, 4)
    input = torch.randn(11, 1024)
    together = cpu_kernels.linear(input, weight, weight_scale, 4, path=path)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(cpu_kernels.linear(input, weight, weight_scale, 4, path=path), together)
    finally:
        torch.set_num_threads(threads)
    alone = torch.cat([cpu_kernels.linear(row[None], weight, weight_scale, 4, path=path) for row in input])
    assert relative_error(alone, together) < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("path", every_path())
def test_linear_lets_nan_and_infinity_through(path, value):
    weight, weight_scale = random_weight(20, 600, 4)
    for rows in (2, 20):
        input = torch.ones(rows, 600)
        input[1, 555] = value
        output = cpu_kernels.linear(input, weight, weight_scale, 4, path=path)
        assert output[1].isnan().all() and output[0].isfinite().all()


def tiny_rows(columns, dtype):
    """Return rows of magnitudes 1e-30 to 1e-45, zeros mixed in, alone and with one huge value beside them."""
    torch.manual_seed(0)
    exponent = torch.linspace(30, 45, 16).repeat_interleave(2)[:, None].double()
    rows = torch.randn(32, columns).double().clamp(-3, 3) * 10**-exponent
    rows[torch.rand(rows.shape) < 0.3] = 0
    rows[1::2, columns // 2] = 1e4 if dtype == torch.float16 else 1e30
    return rows.to(dtype)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", NUMBER_TYPES)
@pytest.mark.parametrize("path", every_path())
def test_products_with_tiny_numbers_are_finite_and_near_exact(path, dtype, bits):
    """Forward with 8 and 16 bits and the input gradient; what is too small to be rounded counts as 0."""
    weight, weight_scale = random_weight(600, 600, bits)
    input, dense = tiny_rows(600, dtype), dequantize_weight(weight, weight_scale, bits).double()
    results = [
        (cpu_kernels.linear(input, weight, weight_scale, bits, None, path, 8), input.double() @ dense.T, 0.02),
        (cpu_kernels.linear(input, weight, weight_scale, bits, None, path, 16), input.double() @ dense.T, 1e-3),
        (cpu_kernels.input_gradient(input, weight, weight_scale, bits, path), input.double() @ dense, 1e-3),
    ]
    for result, expected, tolerance in results:
        assert result.isfinite().all()
        tolerance = 0.02 if dtype == torch.bfloat16 else tolerance
        limit = tolerance * expected.norm(dim=1) + {torch.float16: 1e-5}.get(dtype, 1e-31)
        assert ((result.double() - expected).norm(dim=1) <= limit).all()


def test_linear_of_nothing_is_nothing():
    weight, weight_scale = random_weight(20, 64, 4)
    assert cpu_kernels.linear(torch.empty(0, 64), weight, weight_scale, 4).shape == (0, 20)
    zeros = cpu_kernels.linear(torch.zeros(2, 64), weight, weight_scale, 4)
    assert torch.equal(zeros, torch.zeros(2, 20))


@pytest.mark.parametrize("rows, columns, outputs", SHAPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("path", every_path())
def test_input_gradient_is_close_to_its_reference(monkeypatch, path, bits, rows, columns, outputs):
    """Scales that differ 1000 times between outputs, and memory full of NaN bytes."""
    torch.manual_seed(0)
    weight, _ = random_weight(outputs, columns, bits)
    weight_scale = (10 ** (-1 - 3 * torch.rand(outputs))).half()
    gradient = torch.randn(rows, outputs)
    expected = gradient.float() @ dequantize_weight(weight, weight_scale, bits)
    real_empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **kwargs: real_empty(*size, **kwargs).fill_(-1))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size: torch.full(size, torch.nan, dtype=self.dtype))
    result = cpu_kernels.input_gradient(gradient, weight, weight_scale, bits, path=path)
    assert result.shape == (rows, columns) and relative_error(result, expected) < 1e-4
    portable = cpu_kernels.input_gradient(gradient, weight, weight_scale, bits, path="portable")
    assert relative_error(result, portable) < 2e-6


@pytest.mark.parametrize("dtype", NUMBER_TYPES)
def test_input_gradient_takes_and_returns_every_number_type(dtype):
    torch.manual_seed(0)
    weight, weight_scale = random_weight(50, 700, 4)
    gradient = torch.randn(2, 3, 50).to(dtype)
    result = cpu_kernels.input_gradient(gradient, weight, weight_scale, 4)
    assert result.dtype == dtype and result.shape == (2, 3, 700)
    assert torch.equal(result, cpu_kernels.input_gradient(gradient.float(), weight, weight_scale, 4).to(dtype))


def test_input_gradient_lets_nan_and_infinity_through():
    weight, weight_scale = random_weight(600, 64, 4)
    gradient = torch.ones(3, 600)
    gradient[1, 555], gradient[2, 3] = float("nan"), float("inf")
    result = cpu_kernels.input_gradient(gradient, weight, weight_scale, 4)
    assert result[1:].isnan().all() and result[0].isfinite().all()


# -- attention of one token -------------------------------------------------------------------------------------------

# of the hidden states, and of the keys and values in the cache
DTYPES_WITH_CACHES = [
    *((dtype, dtype) for dtype in NUMBER_TYPES),
    (torch.float32, torch.float16),
    (torch.float32, torch.int8),
    (torch.bfloat16, torch.int8),
]


def random_buffers(cache_dtype, *shape):
    """Return random keys and values as a cache holds them."""
    return to_buffer(torch.randn(2, *shape), cache_dtype)


def held(buffer):
    return from_buffer(buffer, torch.float32)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("b, h, d, capacity, position", [(1, 4, 128, 64, 40), (3, 2, 16, 20, 7), (2, 1, 256, 8, 0)])
@pytest.mark.parametrize("dtype, cache_dtype", DTYPES_WITH_CACHES)
def test_decode_attention_equals_its_reference(dtype, cache_dtype, b, h, d, capacity, position, masked):
    torch.manual_seed(0)
    mixed, (keys, values) = torch.randn(b, h, 3, d).to(dtype), random_buffers(cache_dtype, b, h, capacity, d)
    angle = torch.rand(b, d)
    rotary = angle.cos().to(dtype), angle.sin().to(dtype)
    mask = None
    if masked:
        mask = torch.rand(b, position + 9) > 0.4
        mask[:, position] = True
        mask = mask[:, : position + 1]
    positions = [max(0, position - row) for row in range(b)]
    if masked:
        mask[range(b), positions] = True  # a row sees at least its own token
    expected_keys, expected_values = keys.clone(), values.clone()
    expected = attend(mixed, rotary, expected_keys, expected_values, positions, mask)
    context = cpu_kernels.decode_attention(mixed, rotary, keys, values, positions, mask)
    tolerance = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert relative_error(context, expected) < tolerance
    tolerance = max(tolerance, 1e-3) if cache_dtype in (torch.float16, torch.int8) else tolerance
    assert relative_error(held(keys), held(expected_keys)) < tolerance and torch.equal(values, expected_values)


@torch.no_grad()
def test_decode_attention_writes_int8_values_as_they_are_packed():
    """Rows of zeros, tiny and huge numbers, and numbers that are not finite, which stay so."""
    torch.manual_seed(0)
    mixed = torch.randn(1, 7, 3, 32) * torch.tensor([1, 0, 1e-7, 1e-30, 1e7, 1, 1]).view(7, 1, 1)
    mixed[0, 5, 2, 4], mixed[0, 6, 2, 9] = float("nan"), float("inf")
    keys, values = random_buffers(torch.int8, 1, 7, 2, 32)
    rotary = torch.ones(1, 32), torch.zeros(1, 32)
    context = cpu_kernels.decode_attention(mixed, rotary, keys, values, [1], None)
    assert torch.equal(values[0, :, 1], pack_states(mixed[0, :, 2]))
    assert context[0, [0, 1, 2, 3]].isfinite().all() and not context[0, [5, 6]].isfinite().any()


@torch.no_grad()
def test_decode_attention_survives_scores_far_apart():
    """A score 200 above the others takes all the weight, and e^-200 does no harm."""
    keys, values = torch.zeros(1, 1, 4, 16), torch.arange(64.0).view(1, 1, 4, 16)
    mixed = torch.zeros(1, 1, 3, 16)
    mixed[0, 0, 0, 0], keys[0, 0, 2, 0] = 40.0, 20.0
    context = cpu_kernels.decode_attention(mixed, (torch.ones(1, 16), torch.zeros(1, 16)), keys, values, [3], None)
    assert torch.allclose(context[0, 0], torch.arange(32.0, 48.0))


@pytest.mark.parametrize("path", every_path())
@pytest.mark.parametrize("activation_bits", [8, 16])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(33, 1500), (16, 512), (70, 4096), (18, 16400)])
def test_a_rows_numbers_do_not_depend_on_how_many_rows_there_are(bits, shape, activation_bits, path):
    """So an answer is the same alone and beside 31 others, to the last bit."""
    torch.manual_seed(0)
    packed, weight_scale = quantize_weight(torch.randn(shape), bits)
    rows = torch.randn(32, shape[1])

    def linear(rows):
        return cpu_kernels.linear(rows, packed, weight_scale, bits, path=path, activation_bits=activation_bits)

    alone = torch.cat([linear(row[None]) for row in rows])
    for count in (2, 3, 5, 8, 12, 13, 31, 32):
        assert torch.equal(linear(rows[:count]), alone[:count]), count


def block_layers(e, inner, bits, dtype):
    """Return the norms and quantised matrices of a block, with random numbers of ordinary sizes."""
    norms = tuple(torch.nn.LayerNorm(e).to(dtype) for _ in range(2))
    matrices = []
    for columns, outputs in ((e, 3 * e), (e, e), (e, inner), (inner, e)):
        linear = torch.nn.Linear(columns, outputs)
        linear.bias.normal_(std=0.3)
        matrices.append(QuantizedLinear.from_linear(linear, bits).to(dtype))
    for norm in norms:
        norm.weight.normal_(1, 0.1)
        norm.bias.normal_(0, 0.1)
    return norms, tuple(matrices)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("b, h, d, inner, position", [(1, 4, 128, 2048, 30), (3, 2, 32, 320, 0), (14, 3, 16, 96, 5)])
@pytest.mark.parametrize("dtype, cache_dtype", DTYPES_WITH_CACHES)
@pytest.mark.parametrize("cached_bytes, tolerance", [(0, 2e-3), (1 << 17, 2e-3), (1 << 20, 2e-4)])  # 8 bits, both, 16
def test_decode_block_equals_its_layers_in_exact_arithmetic(
    monkeypatch, cached_bytes, tolerance, dtype, cache_dtype, b, h, d, inner, position, bits, masked
):
    monkeypatch.setattr(cpu_kernels, "CACHED_BYTES", cached_bytes)
    torch.manual_seed(0)
    norms, matrices = block_layers(h * d, inner, bits, dtype)
    hidden = torch.randn(b, 1, h * d).to(dtype)
    keys, values = random_buffers(cache_dtype, b + 1, h, position + 3, d)
    angle = torch.rand(b, d)
    rotary = angle.cos().to(dtype), angle.sin().to(dtype)
    positions = [max(0, position - row) for row in range(b)]
    mask = None
    if masked:
        mask = torch.rand(b, position + 1) > 0.4
        mask[range(b), positions] = True

    def exact(matrix, input):
        weight = dequantize_weight(matrix.weight, matrix.weight_scale, bits)
        return torch.nn.functional.linear(input, weight, matrix.bias.float())

    def norm(layer, input):
        return torch.nn.functional.layer_norm(input, (h * d,), layer.weight.float(), layer.bias.float(), layer.eps)

    first = norm(norms[0], hidden[:, 0].float())
    mixed = exact(matrices[0], first).view(b, h, 3, d)
    expected_keys, expected_values = keys.clone(), values.clone()
    context = attend(mixed, rotary, expected_keys, expected_values, positions, mask)
    second = norm(norms[1], exact(matrices[1], context.reshape(b, -1)) + 7.5 * first)
    inner_states = torch.nn.functional.gelu(exact(matrices[2], second), approximate="tanh")
    expected = exact(matrices[3], inner_states) + 7.5 * second

    output = cpu_kernels.decode_block(hidden, norms, matrices, 7.5, rotary, keys, values, positions, mask)
    if dtype != torch.float32:  # the output is rounded to it
        tolerance = max(tolerance, torch.finfo(dtype).eps)
    if cache_dtype == torch.int8:  # an integer may be rounded the other way
        tolerance = max(tolerance, 2e-3)
    assert output.dtype == dtype and output.shape == hidden.shape
    assert relative_error(output[:, 0], expected) < tolerance
    for actual, expected in ((keys, expected_keys), (values, expected_values)):
        assert relative_error(held(actual), held(expected)) < 1e-2


@torch.no_grad()
@pytest.mark.parametrize("cached_bytes", [0, 1 << 20])  # activations of 8 bits, of 16
@pytest.mark.parametrize("dtype, cache_dtype", DTYPES_WITH_CACHES)
def test_decode_block_gives_tokens_of_a_row_together_the_bits_they_get_one_by_one(
    monkeypatch, dtype, cache_dtype, cached_bytes
):
    monkeypatch.setattr(cpu_kernels, "CACHED_BYTES", cached_bytes)
    torch.manual_seed(0)
    b, s, h, d, positions = 2, 3, 4, 32, [5, 2]
    norms, matrices = block_layers(h * d, 320, 4, dtype)
    hidden, angle = torch.randn(b, s, h * d).to(dtype), torch.rand(b, s, d)
    rotary = [angle.cos().to(dtype), angle.sin().to(dtype)]
    keys, values = random_buffers(cache_dtype, b, h, 12, d)
    mask = torch.rand(b, s, 8) > 0.4
    mask[:, :, 5:] = True
    own_keys, own_values, alone = keys.clone(), values.clone(), []
    for i in range(s):
        tables = [table[:, i] for table in rotary]
        cached = tables, own_keys, own_values, [position + i for position in positions], mask[:, i]
        alone.append(cpu_kernels.decode_block(hidden[:, i : i + 1], norms, matrices, 7.5, *cached))
    together = [position + i for position in positions for i in range(s)]
    cached = [table.flatten(0, 1) for table in rotary], keys, values, together, mask.flatten(0, 1)
    assert torch.equal(cpu_kernels.decode_block(hidden, norms, matrices, 7.5, *cached), torch.cat(alone, dim=1))
    assert torch.equal(keys, own_keys) and torch.equal(values, own_values)


# -- compiling --------------------------------------------------------------------------------------------------------


def run_python(code, **environment):
    """Run code in a fresh interpreter, with a small product at hand, and return what it writes."""
    start = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from chatglm import cpu_kernels, quantization
def product():
    torch.manual_seed(0)
    packed, weight_scale = quantization.quantize_weight(torch.randn(8, 64), 4)
    return quantization.quantized_linear(torch.ones(2, 64), packed, weight_scale, 4)
"""
    variables = {**os.environ, **environment}
    command = [*warm.python(), "-c", start + code, str(ROOT)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output_of(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture
def quick_compiler(tmp_path):
    """Return the search path of a compiler that does without optimisation, in a tenth of the time."""
    (tmp_path / "quick").mkdir()
    wrapper = tmp_path / "quick" / "gcc"
    wrapper.write_text(f'#!/bin/sh\nexec {cpu_kernels.find_compilers()[0]} "$@" -O0\n')
    wrapper.chmod(0o755)
    return f"{tmp_path / 'quick'}{os.pathsep}{os.environ['PATH']}"


def test_library_is_compiled_once_quietly_and_privately(tmp_path, quick_compiler):
    """Two processes start at once; a third finds the result."""
    places = {"XDG_CACHE_HOME": str(tmp_path), "PATH": quick_compiler}
    both = [run_python("print(product().sum().item())", **places) for _ in range(2)]
    results = [output_of(process) for process in both]
    assert results[0][0] == results[1][0] and float(results[0][0]) != 0
    assert not any(err for _, err in results)
    folder = tmp_path / "chatglm" / "cpu"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    [library] = folder.iterdir()
    before = library.stat().st_mtime_ns
    assert output_of(run_python("print(product().sum().item())", **places)) == results[0]
    assert [library] == list(folder.iterdir()) and library.stat().st_mtime_ns == before


def test_library_is_not_taken_from_a_folder_that_others_can_write_to(tmp_path, quick_compiler):
    folder = tmp_path / "chatglm" / "cpu"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    places = {"XDG_CACHE_HOME": str(tmp_path), "PATH": quick_compiler}
    out, err = output_of(run_python("print(product().sum().item())", **places))
    assert float(out) != 0 and not err
    assert not list(folder.iterdir())


def test_without_a_compiler_pytorch_computes_after_one_warning(tmp_path):
    code = "print(product().sum().item()); product(); print(cpu_kernels.available(torch.float32))"
    out, err = output_of(run_python(code, XDG_CACHE_HOME=str(tmp_path), PATH=str(tmp_path)))
    value, available = out.split()
    assert available == "False" and err.count("\n") == 1
    assert "no C compiler found: install gcc" in err
    expected, _ = output_of(run_python("print(product().sum().item())"))
    assert float(value) == pytest.approx(float(expected), rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_compiler_that_takes_too_long_is_stopped_with_its_own_programs(tmp_path, monkeypatch):
    compiler, started = tmp_path / "gcc", tmp_path / "started"
    compiler.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {started}\nwait\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(cpu_kernels, "COMPILE_SECONDS", 2)
    with pytest.raises(subprocess.TimeoutExpired):
        cpu_kernels.run_compiler([str(compiler)])
    worker = Path("/proc", started.read_text().strip(), "status")
    deadline = time.monotonic() + 60
    while worker.exists() and "zombie" not in worker.read_text():
        assert time.monotonic() < deadline, "the compiler's own program still runs"
        time.sleep(0.05)


def test_without_openmp_one_thread_computes_after_one_warning(tmp_path):
    compiler = cpu_kernels.find_compilers()[0]
    wrapper = tmp_path / "gcc"
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *-fopenmp*) exit 1;; esac\nexec {compiler} "$@" -O0\n')
    wrapper.chmod(0o755)
    (tmp_path / "bin").mkdir()
    for tool in ("ld", "as"):
        if shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    path = f"{tmp_path}{os.pathsep}{tmp_path / 'bin'}"
    out, err = output_of(
        run_python("product(); print(product().sum().item())", XDG_CACHE_HOME=str(tmp_path), PATH=path)
    )
    assert err.count("\n") == 1 and "use one CPU core: the C compiler has no OpenMP. Install gcc" in err
    expected, _ = output_of(run_python("print(product().sum().item())"))
    assert float(out) == pytest.approx(float(expected), rel=1e-5)


def test_a_broken_compiler_is_reported_with_its_message(tmp_path):
    for name in ("gcc", "cc", "clang"):
        (tmp_path / name).write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    out, err = output_of(run_python("print(product().numel())", XDG_CACHE_HOME=str(tmp_path), PATH=f"{tmp_path}:/bin"))
    assert out == "16\n" and "the C compiler fails" in err and "the disk is on fire" in err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_kernels_share_the_threads_of_pytorch():
    """No second OpenMP library for the kernels, and no threads beyond PyTorch's."""
    code = """
import os
torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
threads = len(os.listdir("/proc/self/task"))
before = {line.split()[-1] for line in open("/proc/self/maps") if "omp" in line}
packed, weight_scale = quantization.quantize_weight(torch.randn(4096, 4096), 4)
quantization.quantized_linear(torch.ones(64, 4096), packed, weight_scale, 4)
after = {line.split()[-1] for line in open("/proc/self/maps") if "omp" in line}
print(len(os.listdir("/proc/self/task")) - threads, sorted(after - before))
"""
    out, _ = output_of(run_python(code))
    assert out.strip() == "0 []"


def test_every_function_compiles_without_warnings_for_every_machine_at_hand(tmp_path):
    source = str(ROOT / "chatglm" / cpu_kernels.SOURCE)
    compilers = [path for name in ("gcc", "clang", "aarch64-linux-gnu-gcc") if (path := shutil.which(name))]
    for compiler in compilers:
        flags = ["-O1", "-Wall", "-Wextra", "-Wno-psabi", "-Werror"]
        command = [compiler, *flags, "-c", source, "-o", str(tmp_path / "o")]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64-static")),
    reason="needs gcc for aarch64 and qemu (apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static)",
)
@pytest.mark.parametrize("architecture", ["armv8-a", "armv8.2-a+dotprod"])
def test_neon_equals_portable(tmp_path, architecture):
    program = tmp_path / "program"
    test = ROOT / "tests" / "neon_kernels.c"
    options = ["-O2", f"-march={architecture}", "-static", "-o", str(program), str(test), "-lm"]
    subprocess.run(["aarch64-linux-gnu-gcc", *options], check=True)
    result = subprocess.run(["qemu-aarch64-static", str(program)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and result.stdout.count("equal") == 10, result.stdout


def test_find_source_looks_into_checkpoints(tmp_path, monkeypatch):
    """A module in transformers' cache of remote code has no kernels beside it."""
    monkeypatch.setattr(kernel_cache, "__file__", str(tmp_path / "modules" / "kernel_cache.py"))
    monkeypatch.setattr(kernel_cache, "_checkpoints", [])
    with pytest.raises(kernel_cache.KernelError, match="quantization_kernels.c is neither"):
        kernel_cache.find_source(cpu_kernels.SOURCE)
    checkpoint = tmp_path / "a checkpoint.v1 模型"
    (checkpoint / "kernels").mkdir(parents=True)
    (checkpoint / cpu_kernels.SOURCE).write_text("int x;")
    kernel_cache.look_in(str(tmp_path / "elsewhere"))
    kernel_cache.look_in(str(checkpoint))
    assert kernel_cache.find_source(cpu_kernels.SOURCE) == checkpoint / cpu_kernels.SOURCE
