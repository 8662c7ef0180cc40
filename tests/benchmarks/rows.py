"""Time a pass of 1 to 512 rows through packed matrices of the 6B shape, in units of one row; print a table.

    python -m tests.benchmarks.rows [--bits 4] [--path avx512] [--source OTHER.c]

All counts of rows are timed in turn, in each round once; a ratio is the median of a round's ratios. `--source` compares
with another version of the kernels' source in the same rounds, such as one of `git show REVISION:chatglm/kernels/...`.
The share of the peak is of a loop of dot products that reads registers only (AVX-512 VNNI), timed in the same rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

from chatglm import ChatGLMConfig, cpu_kernels
from chatglm.kernel_cache import find_source

PRODUCTS = 64  # of numbers, in a dot product of AVX-512


def shapes(config: ChatGLMConfig) -> list[tuple[int, int]]:
    """Return outputs and columns of a block's matrices."""
    width, inner = config.hidden_size, config.inner_hidden_size
    return [(3 * width, width), (width, width), (inner, width), (width, inner)]


def compiled(source: Path, folder: Path) -> ctypes.CDLL:
    """Return the kernels of a source, as `cpu_kernels.library` returns them."""
    target = folder / f"{source.stem}.so"
    cpu_kernels.compile_kernels(source, target)
    with mock.patch.object(cpu_kernels, "build", lambda _: ctypes.CDLL(str(target))):
        return cpu_kernels.library.__wrapped__()


def peak_seconds(folder: Path) -> Callable[[int], float] | None:
    """Return a function that times so many dot products, spread over all threads; None where there are none."""
    target = folder / "peak.so"
    cpu_kernels.compile_kernels(Path(__file__).with_name("dot_product_peak.c"), target)
    library, threads = ctypes.CDLL(str(target)), torch.get_num_threads()
    if not hasattr(library, "dot_products"):
        return None
    library.dot_products.argtypes = [ctypes.c_int64, ctypes.c_int32]

    def measure(count: int) -> float:
        start = time.perf_counter()
        library.dot_products(count // (16 * threads), threads)
        return time.perf_counter() - start

    return measure


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, choices=[4, 8], default=4, help="of the weights (default 4)")
    parser.add_argument("--path", choices=cpu_kernels.supported_paths(), help="default: the fastest")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64, 512], help="besides 1")
    parser.add_argument("--layers", type=int, default=3, help="more than the caches hold (default 3)")
    parser.add_argument("--rounds", type=int, default=9, help="default 9")
    parser.add_argument("--source", type=Path, help="another version of the kernels' source, timed in turn")
    arguments = parser.parse_args()
    path, bits, counts = arguments.path or cpu_kernels.supported_paths()[-1], arguments.bits, [1, *arguments.rows]
    torch.manual_seed(0)
    matrices = [
        (
            torch.randint(-128, 128, (o, i * bits // 8), dtype=torch.int8),
            torch.rand(o).half(),
            torch.randn(max(counts), i),
        )
        for _ in range(arguments.layers)
        for o, i in shapes(ChatGLMConfig())
    ]
    work = sum(weight.numel() * 8 // bits for weight, _, _ in matrices)
    times: dict[tuple, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        kernels = {"here": compiled(find_source(cpu_kernels.SOURCE), Path(folder))}
        if arguments.source:
            kernels["other"] = compiled(arguments.source, Path(folder))
        peak = peak_seconds(Path(folder)) if path == "avx512" else None
        for number in range(arguments.rounds + 1):  # the first is not counted
            for count in counts:
                for name, library in sorted(kernels.items(), reverse=number % 2 == 0):
                    with mock.patch.object(cpu_kernels, "library", lambda library=library: library):
                        start = time.perf_counter()
                        for weight, scale, rows in matrices:
                            cpu_kernels.linear(rows[:count], weight, scale, bits, path=path, activation_bits=8)
                        times.setdefault((name, count), []).append(time.perf_counter() - start)
            if peak:
                times.setdefault("peak", []).append(peak(work // PRODUCTS))

    def ratio(key: tuple | str, other: tuple | str) -> float:
        return statistics.median(a / b for a, b in zip(times[key][1:], times[other][1:], strict=True))

    print(f"INT{bits}, {path} kernels, {torch.get_num_threads()} threads, {arguments.layers} layers of the 6B shape\n")
    print("| rows | ms | of one row | spread | share of the peak | of the other's time |")
    print("|---|---|---|---|---|---|")
    for count in counts:
        own = ("here", count)
        spread = sorted(a / b for a, b in zip(times[own][1:], times["here", 1][1:], strict=True))
        share = f"{100 * count * ratio('peak', own):.0f} %" if peak else ""
        versus = f"{ratio(own, ('other', count)):.2f}" if arguments.source else ""
        milliseconds = 1000 * statistics.median(times[own][1:])
        print(
            f"| {count} | {milliseconds:.1f} | {ratio(own, ('here', 1)):.2f} | {spread[0]:.2f} to {spread[-1]:.2f} "
            f"| {share} | {versus} |"
        )


if __name__ == "__main__":
    main()
