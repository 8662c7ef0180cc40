"""The CUDA kernels on the CPU: builds `cuda_emulation.cpp` around their source and lets the launcher use it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from chatglm import cuda_compiler, cuda_driver, cuda_kernels

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {"tensor cores": ["-DTENSOR_CORES"], "float": []}  # as on sm_80 and later, as before


class EmulatedKernels(cuda_driver.DriverKernels):
    """Kernels of an emulation, launched as on a GPU."""

    def __init__(self, library: Path) -> None:
        super().__init__(ctypes.CDLL(str(library)), b"emulation", 0)

    def shuffle(self, seed: int) -> None:
        """Let threads and blocks take turns in another order; 0 is the natural one."""
        self.driver.emulation_schedule(seed)


@pytest.fixture(scope="session")
def emulation_libraries(tmp_path_factory, worker_id):
    """Build both variants, once for all test processes of a run."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("the emulation of the CUDA kernels needs g++ or clang++")
    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent  # what the processes share
    libraries = {name: folder / f"emulation_{name.replace(' ', '_')}.so" for name in VARIANTS}
    source = f'-DKERNEL_SOURCE="{ROOT / "chatglm" / cuda_compiler.SOURCE}"'
    with FileLock(folder / "emulation.lock"):
        for name, options in VARIANTS.items():
            if not libraries[name].exists():
                command = [compiler, "-O1", "-std=c++17", "-shared", "-fPIC", "-w", source, *options]
                command += ["-o", libraries[name], Path(__file__).with_suffix(".cpp")]
                subprocess.run(command, check=True)
    return libraries


@pytest.fixture
def emulations(emulation_libraries, monkeypatch):
    """Return a function that makes launches go to a variant, "tensor cores" or "float", and returns its kernels."""

    def use(variant: str) -> EmulatedKernels:
        kernels = EmulatedKernels(emulation_libraries[variant])
        monkeypatch.setattr(cuda_kernels, "available", lambda device: True)
        monkeypatch.setattr(cuda_kernels, "multiprocessors", lambda device: 1)
        monkeypatch.setattr(
            cuda_kernels,
            "_start",
            lambda device, name, grid, threads, arguments: kernels.launch(name, grid, threads, 0, arguments),
        )
        return kernels

    return use
