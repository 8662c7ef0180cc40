"""Compile the CUDA kernels for every architecture that NVRTC knows, and print the registers of each; needs no GPU.

    python -m tests.benchmarks.cuda_compile                # a table; ends with 1 if too many registers lie in memory
    python -m tests.benchmarks.cuda_compile --architectures 75 90

`blocks` is how many blocks of a kernel the registers of a multiprocessor hold.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import time
from dataclasses import dataclass

from chatglm import cuda_compiler
from chatglm.cuda_compiler import CudaKernelError
from tests.conftest import ROOT

SOURCE = ROOT / "chatglm" / cuda_compiler.SOURCE
REGISTERS = 65536  # of a multiprocessor, on every GPU from sm_75 on
LINEAR_THREADS = 256
SPILLED_AT_MOST = 128  # bytes of a thread: `linear_int4_wide_*` from sm_100 on


@dataclass
class Kernel:
    """What the assembler reports of a kernel.

    Attributes:
        name: as it is launched.
        registers: of a thread.
        spilled: bytes of registers that it keeps in memory.
    """

    name: str
    registers: int
    spilled: int

    @property
    def blocks(self) -> int:
        """Blocks of 256 threads whose registers a multiprocessor holds; the hardware hands out 8 a thread at once."""
        return REGISTERS // (LINEAR_THREADS * -(-self.registers // 8) * 8)

    @property
    def wanted_blocks(self) -> int:
        """Blocks of `linear_*` that should run side by side: loads of one fill the pauses of another."""
        return 2 if self.name.startswith("linear") else 0


def find_nvrtc() -> ctypes.CDLL | None:
    """Return the compiler, None if there is none."""
    try:
        return cuda_compiler.load_nvrtc()
    except CudaKernelError:
        return None


def known_architectures(nvrtc: ctypes.CDLL) -> list[int]:
    """Return the architectures that a compiler knows, such as 90."""
    count = ctypes.c_int()
    nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    nvrtc.nvrtcGetSupportedArchs(known)
    return list(known)


def registers(architecture: int, nvrtc: ctypes.CDLL) -> list[Kernel]:
    """Compile for an architecture, such as 90, and return what the assembler says of each kernel."""
    report: list[str] = []
    image = cuda_compiler.compile_kernels(SOURCE.read_text(encoding="utf-8"), divmod(architecture, 10), nvrtc, report)
    assert image.startswith(b"\x7fELF")
    found = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", report[0], re.DOTALL
    )
    return [Kernel(name, int(used), int(spilled)) for name, spilled, used in found]


def main() -> None:
    """Print a row for each kernel and a column for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", help="such as 75 90 (default all that NVRTC knows)")
    arguments = parser.parse_args()
    nvrtc = cuda_compiler.load_nvrtc()
    table: dict[str, list[Kernel]] = {}
    architectures = arguments.architectures or [known for known in known_architectures(nvrtc) if known >= 75]
    seconds = []
    for architecture in architectures:
        start = time.perf_counter()
        for kernel in registers(architecture, nvrtc):
            table.setdefault(kernel.name, []).append(kernel)
        seconds.append(time.perf_counter() - start)
    print("| registers | " + " | ".join(f"sm_{architecture}" for architecture in architectures) + " |")
    print("|---|" + "---|" * len(architectures))
    for name, kernels in table.items():
        cells = [f"{kernel.registers}" + f" ({kernel.spilled} B spilled)" * bool(kernel.spilled) for kernel in kernels]
        print("| " + " | ".join([name, *cells]) + " |")
    print("| compiled in s | " + " | ".join(f"{second:.1f}" for second in seconds) + " |")
    raise SystemExit(any(kernel.spilled > SPILLED_AT_MOST for kernels in table.values() for kernel in kernels))


if __name__ == "__main__":
    main()
