"""Launch compiled kernels on a GPU: unpacking through cpm_kernels where that package works, all else by the driver."""

from __future__ import annotations

import contextvars
import ctypes
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers.utils import logging

from .cuda_compiler import OVERLAPPING, CudaKernelError

logger = logging.get_logger(__name__)

# whether a graph's kernels may start early at all; CHATGLM_CUDA_OVERLAP=0 finds out whether that is at fault
OVERLAP = os.environ.get("CHATGLM_CUDA_OVERLAP", "1") != "0"


class _LaunchAttribute(ctypes.Structure):
    """`CUlaunchAttribute` of cuda.h."""

    _fields_ = (("id", ctypes.c_int), ("padding", ctypes.c_char * 4), ("value", ctypes.c_longlong * 8))


class _LaunchConfig(ctypes.Structure):
    """`CUlaunchConfig` of cuda.h."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_LaunchAttribute)),
        ("attribute_count", ctypes.c_uint),
    )


PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_…
COMPUTE_CAPABILITY_MAJOR = 75  # CU_DEVICE_ATTRIBUTE_…


class DriverKernels:
    """Launch kernels of a compiled image through the CUDA driver.

    Args:
        driver: the driver's library.
        image: machine code or PTX.
        device: index of the GPU; its primary context, which PyTorch uses, too, is made current for every launch.

    Attributes:
        can_overlap: whether a kernel may be launched before the one before it has ended.

    Raises:
        CudaKernelError: the driver refuses the image.
    """

    def __init__(self, driver: ctypes.CDLL, image: bytes, device: int) -> None:
        self.driver, self.context, self.functions = driver, ctypes.c_void_p(), {}
        self.module, handle = ctypes.c_void_p(), ctypes.c_int()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(handle), device)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), handle)
        self.call("cuCtxSetCurrent", self.context)
        self.call("cuModuleLoadData", ctypes.byref(self.module), image)
        version, major = ctypes.c_int(), ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(version))
        self.call("cuDeviceGetAttribute", ctypes.byref(major), COMPUTE_CAPABILITY_MAJOR, handle)
        self.can_overlap = version.value >= 12030 and 10 * major.value >= OVERLAPPING  # in graphs, too

    def call(self, name: str, *arguments) -> None:
        """Call a function of the driver; raise CudaKernelError if it fails."""
        code = getattr(self.driver, name)(*arguments)
        if code:
            message = ctypes.c_char_p()
            self.driver.cuGetErrorString(code, ctypes.byref(message))
            raise CudaKernelError(f"{name} failed: {(message.value or b'unknown error').decode()} (error {code})")

    def launch(self, name: str, grid: tuple[int, int, int], threads: int, stream: int, arguments: Sequence) -> None:
        """Start a kernel on a stream; `arguments` are ctypes values."""
        self.call("cuCtxSetCurrent", self.context)
        if name not in self.functions:
            function = ctypes.c_void_p()
            self.call("cuModuleGetFunction", ctypes.byref(function), self.module, name.encode())
            self.functions[name] = function
        function = self.functions[name]
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        if OVERLAP and self.can_overlap and _overlapping.get():
            attribute = _LaunchAttribute(PROGRAMMATIC_STREAM_SERIALIZATION)
            attribute.value[0] = 1
            config = _LaunchConfig(grid, (threads, 1, 1), 0, stream, ctypes.pointer(attribute), 1)
            self.call("cuLaunchKernelEx", ctypes.byref(config), function, addresses, None)
        else:
            self.call("cuLaunchKernel", function, *grid, threads, 1, 1, 0, ctypes.c_void_p(stream), addresses, None)


_overlapping: contextvars.ContextVar[bool] = contextvars.ContextVar("overlapping", default=False)


@contextmanager
def overlapping_launches() -> Iterator[None]:
    """Let kernels start before the one before them has ended, where the GPU can: they load weights meanwhile.

    The weights must not be written by a kernel that may still run; so this is for graphs of `fused_linear` and the
    steps between.
    """
    token = _overlapping.set(True)
    try:
        yield
    finally:
        _overlapping.reset(token)


class CpmKernels:
    """Launch kernels of a compiled image through the package cpm_kernels.

    Raises:
        CudaKernelError: the package is not there, or does not work on this machine (it finds its libraries by name).
    """

    def __init__(self, image: bytes, device: int) -> None:
        try:
            base = importlib.import_module("cpm_kernels.kernels.base")
            self.module, self.kernel_function, self.functions = base.LazyKernelCModule(image), base.KernelFunction, {}
            # its own runtime library may have another idea of the current device
            if base.cudart.cudaGetDevice() != device:
                raise CudaKernelError("cpm_kernels uses another device than PyTorch")
            self.module.get_module()
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise CudaKernelError(f"cpm_kernels does not work here: {error}") from error

    def launch(self, name: str, grid: tuple[int, int, int], threads: int, stream: int, arguments: Sequence) -> None:
        """Start a kernel on a stream; `arguments` are ctypes values."""
        if name not in self.functions:
            self.functions[name] = self.kernel_function(self.module, name)
        self.functions[name](grid, (threads, 1, 1), 0, stream, arguments)


class Kernels:
    """Launch kernels on a GPU: unpacking through cpm_kernels where that works, everything else through the driver.

    Args:
        image: machine code or PTX.
        device: index of the GPU.
        driver: the driver's library.
    """

    def __init__(self, image: bytes, device: int, driver: ctypes.CDLL) -> None:
        self.driver_kernels = self.unpacking = DriverKernels(driver, image, device)
        try:
            self.unpacking = CpmKernels(image, device)
        except CudaKernelError as error:
            logger.info("%s; the CUDA driver is used directly", error)

    def launch(self, name: str, grid: tuple[int, int, int], threads: int, stream: int, arguments: Sequence) -> None:
        """Start a kernel on a stream; `arguments` are ctypes values."""
        launcher = self.unpacking if name.startswith("unpack") else self.driver_kernels
        launcher.launch(name, grid, threads, stream, arguments)
