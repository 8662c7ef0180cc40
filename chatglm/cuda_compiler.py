"""Compile `kernels/quantization_kernels.cu` with NVRTC, which every CUDA build of PyTorch brings along, and keep it."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers.utils import logging

from .kernel_cache import KernelError, find_or_compile, find_source

logger = logging.get_logger(__name__)

SOURCE = "kernels/quantization_kernels.cu"
OVERLAPPING = 90  # from sm_90 on kernels can overlap


class CudaKernelError(RuntimeError):
    """The CUDA kernels cannot be compiled, loaded or launched."""


def nvrtc_candidates() -> Iterator[str]:
    """Yield where NVRTC may lie: pip's CUDA packages, PyTorch's own folder, the CUDA toolkit, the system's path.

    The version that PyTorch was built with comes first.
    """
    windows = sys.platform == "win32"
    pattern = "nvrtc64_*.dll" if windows else "libnvrtc*.so*"
    folders = [Path(torch.__file__).parent / "lib"]
    package = importlib.util.find_spec("nvidia")
    for location in (package.submodule_search_locations or []) if package is not None else []:
        folders += sorted(folder for folder in Path(location).glob("*/*") if folder.name in ("lib", "bin"))
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            folders += [Path(os.environ[variable]) / name for name in ("lib64", "bin")]
    folders.append(Path("/usr/local/cuda/lib64"))
    files = [
        file
        for folder in folders
        for file in sorted(folder.glob(pattern))
        if "builtins" not in file.name and ".alt." not in file.name
    ]
    version = (torch.version.cuda or "").split(".")[0]
    mark = f"nvrtc64_{version}" if windows else f".so.{version}"
    yield from sorted((str(file) for file in files), key=lambda name: mark not in name)
    if not windows:
        yield from ([f"libnvrtc.so.{version}"] if version else []) + ["libnvrtc.so"]


def load_nvrtc() -> ctypes.CDLL:
    """Load the first NVRTC that can be.

    Raises:
        CudaKernelError: there is none.
    """
    for candidate in nvrtc_candidates():
        try:
            return ctypes.CDLL(candidate)
        except OSError as error:
            logger.debug("NVRTC at %s cannot be loaded: %s", candidate, error)
    version = (torch.version.cuda or "12").split(".")[0]
    package = "nvidia-cuda-nvrtc" if int(version) >= 13 else f"nvidia-cuda-nvrtc-cu{version}"
    raise CudaKernelError(f"NVRTC, the CUDA run-time compiler, was not found: pip install {package}")


def compile_kernels(
    source: str, capability: tuple[int, int], nvrtc: ctypes.CDLL | None = None, report: list[str] | None = None
) -> bytes:
    """Compile CUDA source for a GPU.

    Args:
        source: CUDA C++ without includes.
        capability: compute capability, major and minor.
        nvrtc: the compiler's library; looked for if not given.
        report: takes the assembler's report of each kernel's registers, if given.

    Returns:
        Machine code, or, for a GPU that is newer than the compiler, PTX of the newest kind it knows.

    Raises:
        CudaKernelError: no compiler, or an error in the source (with the compiler's words).
    """
    nvrtc = load_nvrtc() if nvrtc is None else nvrtc

    def call(name: str, *arguments) -> None:
        function = getattr(nvrtc, name, None)
        if function is None:
            raise CudaKernelError(f"the CUDA run-time compiler is too old: it has no {name}")
        if code := function(*arguments):
            nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise CudaKernelError(f"{name} failed: {nvrtc.nvrtcGetErrorString(code).decode()}")

    def text(size_of: str, get: str) -> bytes:
        size = ctypes.c_size_t()
        call(size_of, program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        call(get, program, buffer)
        return buffer.raw

    count = ctypes.c_int()
    call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    call("nvrtcGetSupportedArchs", known)
    wanted = 10 * capability[0] + capability[1]
    older = [number for number in known if number <= wanted]
    if not older:
        raise CudaKernelError(f"the CUDA compiler supports GPUs from sm_{min(known)} on, this one is sm_{wanted}")
    if wanted >= OVERLAPPING >= max(older) + 1:  # launches overlap there, and older code does not wait
        raise CudaKernelError(f"the CUDA compiler supports GPUs up to sm_{max(known)}, this one is sm_{wanted}")
    machine_code = wanted in older
    target = f"--gpu-architecture={'sm' if machine_code else 'compute'}_{max(older)}".encode()

    program = ctypes.c_void_p()
    call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"quantization_kernels.cu", 0, None, None)
    try:
        flags = [target, b"--std=c++17"] + ([] if report is None else [b"--ptxas-options=-v"])
        options = (ctypes.c_char_p * len(flags))(*flags)

        def log() -> str:
            return text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace")

        try:
            call("nvrtcCompileProgram", program, len(options), options)
        except CudaKernelError as error:
            raise CudaKernelError(f"{error}\n{log()}") from None
        if report is not None:
            report.append(log())
        if machine_code:
            return text("nvrtcGetCUBINSize", "nvrtcGetCUBIN")
        return text("nvrtcGetPTXSize", "nvrtcGetPTX")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def kernel_image(capability: tuple[int, int]) -> bytes:
    """Return the compiled kernels for a GPU, from the cache directory or freshly compiled.

    Raises:
        CudaKernelError: they cannot be compiled.
    """
    try:
        source = find_source(SOURCE).read_text(encoding="utf-8")
    except KernelError as error:
        raise CudaKernelError(str(error)) from error
    label, parts = f"sm{capability[0]}{capability[1]}", (source, torch.version.cuda, capability)
    return find_or_compile("cuda", parts, lambda: (label, compile_kernels(source, capability)))[1]
