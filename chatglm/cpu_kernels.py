"""Compile, load and call the CPU kernels of `kernels/quantization_kernels.c`.

The source is compiled at first use by gcc or clang for the machine at hand and kept in the user's cache directory. The
kernels share the OpenMP runtime, and so the threads, of PyTorch. Where they cannot be had (no compiler), one warning
says what to install, and PyTorch computes the same, more slowly.

Shapes: `n` input rows, `i` input features, `o` output features.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers.utils import logging

from .kernel_cache import KernelError, find_or_compile, find_source

logger = logging.get_logger(__name__)

SOURCE = "kernels/quantization_kernels.c"
NUMBER_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
CACHE_TYPES = NUMBER_TYPES | {torch.int8: 3}  # of keys and values
PATHS = {"portable": 0, "neon": 1, "avx2": 2, "avx512": 3}
BLOCK, LANES = 512, 16  # columns that are quantised together, and groups in them, as in the source
LARGEST_HEAD = 256
CACHED_BYTES = 1 << 20  # of a matrix, that stay in the cache from token to token
COMPILE_SECONDS = 300


def cpu_description() -> str:
    """Return a text that identifies this kind of CPU: code compiled for one may not run on another."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    described = sorted({line for line in lines if line.startswith(names)})
    return "\n".join([platform.machine(), platform.processor(), *described])


def find_compilers() -> list[str]:
    """Return the paths of the C compilers here, the one to use first."""
    names = ("clang", "gcc", "cc") if sys.platform == "darwin" else ("gcc", "cc", "clang")
    return [found for name in names if (found := shutil.which(name))]


def find_openmp_runtime(entry: str) -> str | None:
    """Return the path of the OpenMP library that PyTorch uses, if it has the function `entry`, else None."""
    suffix = "dylib" if sys.platform == "darwin" else "so"
    torch_library = Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"

    class Information(ctypes.Structure):
        _fields_ = [
            ("file", ctypes.c_char_p),
            ("base", ctypes.c_void_p),
            ("name", ctypes.c_char_p),
            ("at", ctypes.c_void_p),
        ]

    try:
        # a library's handle also finds what it depends on
        function = getattr(ctypes.CDLL(str(torch_library)), entry)
        information = Information()
        found = ctypes.CDLL(None).dladdr(function, ctypes.byref(information))
    except (OSError, AttributeError):
        return None
    return os.fsdecode(information.file) if found else None


def compile_commands(compiler: str, source: Path, target: Path) -> list[list[str]]:
    """Return command lines that compile the source, the best first: with PyTorch's threads, with others, with one."""
    version = run_compiler([compiler, "--version"]).stdout
    is_clang = "clang" in version
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    base = [
        compiler,
        "-O3",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-shared",
        "-fPIC",
        "-o",
        str(target),
        str(source),
    ]
    runtime = find_openmp_runtime("__kmpc_fork_call" if is_clang else "GOMP_parallel")
    openmp = ["-Xclang", "-fopenmp"] if is_clang else ["-fopenmp"]
    commands = []
    if runtime is not None:
        # named before the compiler's own runtime, it is the one that gets used
        commands.append([*base, native, *openmp, runtime, "-lm"])
    commands.append([*base, native, *openmp, *(["-lomp"] if is_clang else []), "-lm"])
    commands.append([*base, native, "-lm"])
    return commands


def run_compiler(command: list[str]) -> subprocess.CompletedProcess:
    """Run a compiler and return its end; stop all of its programs if that takes too long or is interrupted.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it takes more than `COMPILE_SECONDS`.
    """
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",  # its words are in the user's encoding, and only shown
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=COMPILE_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(process.pid, signal.SIGKILL)  # gcc only starts the programs that do the work
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def compile_kernels(source: Path, target: Path) -> bool:
    """Compile the source to a shared library that can be loaded.

    Returns:
        Whether it is multi-threaded.

    Raises:
        KernelError: no compiler, or none that can compile it.
    """
    if os.name != "posix":
        raise KernelError("the CPU kernels are compiled on Linux and macOS only; use WSL on Windows")
    messages = []
    for compiler in find_compilers():
        try:
            commands = compile_commands(compiler, source, target)
            for command in commands:
                target.unlink(missing_ok=True)
                result = run_compiler(command)
                if result.returncode == 0 and target.is_file() and target.stat().st_size:
                    return command is not commands[-1]
                said = result.stderr.strip()[-500:] or f"exit status {result.returncode}, no library"
                messages.append(f"{' '.join(command)}: {said}")
        except OSError as error:
            messages.append(f"{compiler}: {error}")
    if not messages:
        raise KernelError("no C compiler found: install gcc (`apt install gcc`) or clang (`xcode-select --install`)")
    raise KernelError("the C compiler fails: " + " ".join("; ".join(messages).split()))


def build(source: Path) -> ctypes.CDLL:
    """Load the library compiled from the source for this machine, from the user's cache or freshly compiled.

    Raises:
        KernelError: it cannot be compiled, or loaded.
    """
    compilers = [(path, os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in find_compilers()]
    parts = [source.read_text(encoding="utf-8"), compilers, cpu_description(), torch.__version__, torch.__file__]

    def compile_them() -> tuple[str, bytes]:
        with tempfile.TemporaryDirectory(prefix="chatglm-") as folder:
            target = Path(folder) / "kernels.so"
            threaded = compile_kernels(source, target)
            return "threads" if threaded else "single", target.read_bytes()

    label, content, file = find_or_compile("cpu", parts, compile_them)
    try:
        kernels = load_library(content, file)
    except KernelError:
        if file is not None:
            file.unlink(missing_ok=True)  # the next start compiles anew
        raise
    if label != "threads":
        logger.warning(
            "quantised layers use one CPU core: the C compiler has no OpenMP. Install gcc, or libomp (`apt install "
            "libomp-dev`, `brew install libomp`)"
        )
    return kernels


def load_library(content: bytes, file: Path | None) -> ctypes.CDLL:
    """Load a compiled library: from its file if it has one, else from one that is deleted once it is loaded.

    Where no folder may hold programs (`noexec`), Linux loads it from memory.

    Raises:
        KernelError: what was compiled is no library of these kernels.
    """
    errors = []
    places = [contextlib.nullcontext(str(file))] if file else []
    for place in [*places, _temporary_file(content), _file_in_memory(content)]:
        try:
            with place as path:
                kernels = ctypes.CDLL(path)
            kernels.supports_path  # noqa: B018  (looks the function up)
            return kernels
        except (OSError, AttributeError) as error:
            errors.append(str(error))
    raise KernelError(f"the compiled library cannot be loaded: {errors[0]}")


@contextlib.contextmanager
def _temporary_file(content: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="chatglm-") as folder:
        path = Path(folder) / "kernels.so"
        path.write_bytes(content)
        yield str(path)


@contextlib.contextmanager
def _file_in_memory(content: bytes) -> Iterator[str]:
    if not hasattr(os, "memfd_create"):
        raise OSError(f"{sys.platform} loads libraries from folders only")
    with open(os.memfd_create("chatglm-kernels"), "wb") as stream:
        stream.write(content)
        stream.flush()
        yield f"/proc/self/fd/{stream.fileno()}"


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None, after one warning, where they cannot be had."""
    try:
        kernels = build(find_source(SOURCE))
    except (KernelError, OSError, subprocess.TimeoutExpired) as error:
        logger.warning("quantised layers are slow on this CPU, PyTorch computes them: %s", error)
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    kernels.supports_path.restype, kernels.supports_path.argtypes = number, [number]
    kernels.multiply_quantized.restype = None
    kernels.multiply_quantized.argtypes = [
        *[number, number, number, number, pointer, size, size, pointer, pointer, pointer, size],
        *[pointer, pointer, pointer, pointer, number],
    ]
    kernels.quantized_input_gradient.restype = None
    kernels.quantized_input_gradient.argtypes = [
        *[number, number, number, pointer, size, size, pointer, pointer, size, pointer],
        *[pointer, pointer, pointer, number],
    ]
    kernels.quantize_rows.restype = size
    kernels.quantize_rows.argtypes = [number, number, pointer, size, size, pointer, pointer, number]
    kernels.decode_attention.restype = None
    kernels.decode_attention.argtypes = [
        *[number, number, pointer, pointer, pointer, pointer, pointer, pointer, size, pointer, pointer],
        *[size, size, size, size, size, pointer, number],
    ]
    kernels.decode_block.restype = None
    kernels.decode_block.argtypes = [
        *[number, number, number, ctypes.POINTER(_Block), pointer, ctypes.c_float],
        *[pointer, pointer, pointer, pointer, pointer],
        *[size, size, size, size, size, size, size, pointer, pointer, pointer, pointer, pointer, pointer, number],
    ]
    return kernels


class _Matrix(ctypes.Structure):
    """A quantised linear layer as the C struct that the kernels take."""

    _fields_ = [
        *[("weight", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("bias", ctypes.c_void_p)],
        *[("outputs", ctypes.c_int64), ("columns", ctypes.c_int64), ("bits", ctypes.c_int32), ("type", ctypes.c_int32)],
        ("levels", ctypes.c_int32),
    ]

    @classmethod
    def of(cls, layer) -> _Matrix:
        weight, scale, bias = layer.weight, layer.weight_scale, layer.bias
        return cls(
            weight.data_ptr(),
            scale.data_ptr(),
            None if bias is None else bias.data_ptr(),
            *weight.shape[:1],
            layer.in_features,
            layer.bits,
            NUMBER_TYPES[scale.dtype if bias is None else bias.dtype],
            activation_bits_for(weight) // 8,
        )


class _Norm(ctypes.Structure):
    """A layer norm as the C struct that the kernels take."""

    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("epsilon", ctypes.c_float)]

    @classmethod
    def of(cls, layer) -> _Norm:
        return cls(layer.weight.data_ptr(), layer.bias.data_ptr(), layer.eps)


class _Block(ctypes.Structure):
    """A block's layers, in the order of use."""

    _fields_ = [("norms", _Norm * 2), ("matrices", _Matrix * 4)]


@functools.cache
def supported_paths() -> tuple[str, ...]:
    """Return the paths that this CPU can run, the slowest first."""
    return tuple(name for name, number in PATHS.items() if library().supports_path(number))


def available(dtype: torch.dtype) -> bool:
    """Return whether the kernels can be had and take activations of this type; compiles them if need be."""
    return dtype in NUMBER_TYPES and library() is not None


def activation_bits_for(weight: torch.Tensor) -> int:
    """Return to how many bits activations are rounded for a packed matrix: 16 if it fits a core's cache, else 8.

    A large matrix comes from memory once a token, and 8 bits leave its arithmetic in the shadow of that. A small one
    stays in the cache: twice the arithmetic costs little there, and a small model has less to spare for rounding.
    """
    return 16 if weight.nbytes <= CACHED_BYTES else 8


def linear(
    input: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bits: int,
    bias: torch.Tensor | None = None,
    path: str | None = None,
    activation_bits: int | None = None,
) -> torch.Tensor:
    """Multiply with a quantised matrix on the CPU, activations rounded to 8 or 16 bits in groups of 32.

    Args:
        input: `[..., i]`, float32, float16 or bfloat16.
        weight: int8 `[o, i * bits / 8]`.
        weight_scale: float16 `[o]`.
        bits: 4 or 8.
        bias: `[o]` or None.
        path: one of `supported_paths()`; the fastest if None.
        activation_bits: 8, which errs by about half a percent, or 16, which hardly errs; if None, that of
            `activation_bits_for`.

    Returns:
        `[..., o]` in the input's dtype.
    """
    columns, outputs = input.shape[-1], weight.shape[0]
    input, weight = input.contiguous(), weight.contiguous()
    rows = input.numel() // columns
    output = input.new_empty(*input.shape[:-1], outputs)
    if bias is not None and bias.dtype != input.dtype:
        bias = bias.to(input.dtype)
    levels = (activation_bits or activation_bits_for(weight)) // 8
    scratch = _Scratch(rows * levels, columns)
    library().multiply_quantized(
        PATHS[path or supported_paths()[-1]],
        bits,
        levels,
        NUMBER_TYPES[input.dtype],
        input.data_ptr(),
        rows,
        columns,
        weight.data_ptr(),
        weight_scale.data_ptr(),
        None if bias is None else bias.data_ptr(),
        outputs,
        output.data_ptr(),
        *scratch.pointers,
        torch.get_num_threads(),
    )
    return output


def input_gradient(
    gradient: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, bits: int, path: str | None = None
) -> torch.Tensor:
    """Multiply with a quantised matrix from the other side, the gradient rounded to 16 bits in groups of 32.

    Args:
        gradient: `[..., o]`, float32, float16 or bfloat16.
        weight: int8 `[o, i * bits / 8]`.
        weight_scale: float16 `[o]`.
        bits: 4 or 8.
        path: one of `supported_paths()`; the fastest if None.

    Returns:
        `gradient @ weight`, `[..., i]` in the gradient's dtype.
    """
    outputs, columns = weight.shape[0], weight.shape[1] * 8 // bits
    gradient, weight = gradient.contiguous(), weight.contiguous()
    rows = gradient.numel() // outputs
    result = gradient.new_empty(*gradient.shape[:-1], columns)
    scratch = _Scratch(rows * 2, outputs)
    library().quantized_input_gradient(
        PATHS[path or supported_paths()[-1]],
        bits,
        NUMBER_TYPES[gradient.dtype],
        gradient.data_ptr(),
        rows,
        columns,
        weight.data_ptr(),
        weight_scale.data_ptr(),
        outputs,
        result.data_ptr(),
        *scratch.pointers,
        torch.get_num_threads(),
    )
    return result


class _Scratch:
    """Memory for `rows` rows of rounded activations in blocks of columns: their integers, scales and totals."""

    def __init__(self, rows: int, columns: int) -> None:
        units = rows * -(-columns // BLOCK)
        self.memory = torch.empty(units * (BLOCK + LANES * 4 + 4), dtype=torch.int8)
        start = self.memory.data_ptr()
        self.pointers = (start, start + units * BLOCK, start + units * (BLOCK + LANES * 4))


def quantize_rows(weight: torch.Tensor, bits: int, packed: torch.Tensor, weight_scale: torch.Tensor) -> int:
    """Quantise a matrix on the CPU, as `quantization.quantize_weight` does.

    Args:
        weight: `[o, i]`, float32, float16 or bfloat16.
        bits: 4 or 8.
        packed: int8 `[o, i * bits / 8]`, contiguous, to be written.
        weight_scale: float16 `[o]`, contiguous, to be written.

    Returns:
        How many scales are not finite.
    """
    weight = weight.contiguous()
    return library().quantize_rows(
        bits,
        NUMBER_TYPES[weight.dtype],
        weight.data_ptr(),
        *weight.shape,
        packed.data_ptr(),
        weight_scale.data_ptr(),
        torch.get_num_threads(),
    )


def can_attend(head_size: int, tensor: torch.Tensor) -> bool:
    """Return whether `decode_attention` takes this head size, and tensors like this one."""
    fits = head_size % LANES == 0 and head_size <= LARGEST_HEAD
    return fits and tensor.device.type == "cpu" and not torch.is_grad_enabled() and available(tensor.dtype)


class _Cached:
    """KV cache arguments of the attention kernels: buffers, write positions, rotary tables and mask."""

    def __init__(
        self,
        rotary: tuple[torch.Tensor, torch.Tensor],
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: Sequence[int],
        key_mask: torch.Tensor | None,
    ) -> None:
        if key_mask is not None and key_mask.stride(1) != 1:
            key_mask = key_mask.contiguous()
        # held here, so that what was copied outlives the call
        self.tensors = *(table.contiguous() for table in rotary), keys, values
        self.key_mask, self.longest = key_mask, max(positions) + 1
        mask = (None, 0) if key_mask is None else (key_mask.data_ptr(), key_mask.stride(0))
        self.pointers = *(tensor.data_ptr() for tensor in self.tensors), *mask
        b, d, (_, h, capacity, _) = len(positions), rotary[0].shape[-1], keys.shape
        self.sizes = self.longest, b, h, d, capacity, (ctypes.c_int64 * b)(*positions)


def decode_attention(
    mixed: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: Sequence[int],
    key_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Rotate one token's query and key, append its key and value to the cache, and attend to all that is cached.

    Args:
        mixed: `[b, h, 3, d]`, query, key and value; `d` a multiple of 16 and at most 256.
        rotary: cosine and signed sine, `[b, d]` each.
        keys, values: the cache's buffers `[b or more, h, capacity, d]` (INT8: `d + 2`, see `int8_states`), contiguous;
            written at `positions`.
        positions: number of tokens that each of the `b` rows has cached so far.
        key_mask: bool `[b, largest position + 1]`, false for keys that must not be seen, or None.

    Returns:
        `[b, h, d]`. Tensors are float32, float16 or bfloat16: all alike, but the two buffers may be of another dtype.
    """
    b, h, _, d = mixed.shape
    mixed = mixed.contiguous()
    context = mixed.new_empty(b, h, d)
    cached = _Cached(rotary, keys, values, positions, key_mask)
    scores = torch.empty(b * h * cached.longest, dtype=torch.float32)
    library().decode_attention(
        NUMBER_TYPES[mixed.dtype],
        CACHE_TYPES[keys.dtype],
        mixed.data_ptr(),
        *cached.pointers,
        context.data_ptr(),
        scores.data_ptr(),
        *cached.sizes,
        torch.get_num_threads(),
    )
    return context


def decode_block(
    hidden_states: torch.Tensor,
    norms: tuple[torch.nn.LayerNorm, torch.nn.LayerNorm],
    matrices: tuple,
    residual_scale: float,
    rotary: tuple[torch.Tensor, torch.Tensor],
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: Sequence[int],
    key_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Compute one block for new tokens: norm, attention, norm, feed-forward layer, and both residuals.

    Args:
        hidden_states: `[b, s, e]`, `s` tokens of each row, each of which sees those before it; dtype as of
            `decode_attention`, and that of norms and biases.
        norms: input and post-attention norm.
        matrices: query_key_value, dense, dense_h_to_4h and dense_4h_to_h, `QuantizedLinear` all.
        residual_scale: times which the normalised inputs are added.
        rotary, keys, values, positions, key_mask: see `decode_attention`, with `b * s` for its `b` but in the buffers.

    Returns:
        `[b, s, e]`, what the block's layers would give one by one, with less rounding between them.
    """
    rows, tokens, width = hidden_states.shape
    b = rows * tokens
    output = hidden_states.clone(memory_format=torch.contiguous_format)
    cached = _Cached(rotary, keys, values, positions, key_mask)
    inner = matrices[2].out_features
    numbers = b * (6 * width + inner)
    work = torch.empty(numbers + b * keys.shape[1] * cached.longest, dtype=torch.float32)
    block = _Block((_Norm * 2)(*map(_Norm.of, norms)), (_Matrix * 4)(*map(_Matrix.of, matrices)))
    scratch = _Scratch(b * max(matrix.levels for matrix in block.matrices), max(width, inner))
    library().decode_block(
        PATHS[supported_paths()[-1]],
        NUMBER_TYPES[output.dtype],
        CACHE_TYPES[keys.dtype],
        block,
        output.data_ptr(),
        residual_scale,
        *cached.pointers,
        *cached.sizes[:2],
        tokens,
        *cached.sizes[2:],
        work.data_ptr(),
        work.data_ptr() + 4 * numbers,
        *scratch.pointers,
        torch.get_num_threads(),
    )
    return output
