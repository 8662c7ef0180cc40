"""What this computer computes on: device, dtype, and how much memory is free. No other file asks for these."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from torch import nn

from .arguments import DTYPE_NAMES
from .checkpoint import LoadError

if TYPE_CHECKING:
    from chatglm import ChatGLMConfig

DTYPES = {name: getattr(torch, name) for name in DTYPE_NAMES}
SMALL_MODEL_BYTES = 1 << 30  # a model below this size in float32 runs in float32 on any CPU
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # of malloc.h
LARGE_BLOCK_BYTES = 4 << 20  # a long prompt's hidden states and keys, hardly anything of a single token's
GPU_SCRATCH_BYTES = 300 << 20  # an unpacked matrix, a long prompt's hidden states, cuBLAS, a decode graph


# Devices and dtypes


def check_gpus(needed: int) -> None:
    """Refuse to use more NVIDIA GPUs than there are."""
    found = torch.cuda.device_count()
    if needed > found:
        raise LoadError(
            f"{needed} NVIDIA GPUs are asked for, and PyTorch {torch.__version__} finds {found}. Check the driver "
            "(nvidia-smi) and CUDA_VISIBLE_DEVICES, or use --max-memory cpu=SIZE"
        )


def choose_device(name: str) -> torch.device:
    """Return the device that a `--device` value means here."""
    gpus, has_mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if gpus else "mps" if has_mps else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise LoadError(
            f"--device {name}: PyTorch {torch.__version__} finds {gpus} NVIDIA GPUs. Check the driver (nvidia-smi) and "
            "that PyTorch is built for CUDA, or use --device cpu"
        )
    if device.type == "mps" and not has_mps:
        raise LoadError(f"--device mps: PyTorch {torch.__version__} finds no Apple GPU. Use --device cpu")
    return device


def choose_dtype(
    name: str, device: torch.device, config: ChatGLMConfig, stored_dtype: str | None = None
) -> torch.dtype:
    """Return the dtype that a `--dtype` value means for a model, given the dtype its checkpoint is stored in."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if stored_dtype == "bfloat16" else torch.float16
    if device.type == "mps":
        return torch.float16 if mps_computes_in_half() else torch.float32
    large = weight_bytes(config, torch.float32) > SMALL_MODEL_BYTES
    return torch.bfloat16 if large and cpu_supports_bfloat16() else torch.float32


def mps_computes_in_half() -> bool:
    """Return whether this Apple GPU multiplies and normalises in float16; some systems refuse, or give NaN."""
    try:
        ones = torch.ones(4, 4, dtype=torch.float16, device="mps")
        return bool(torch.isfinite(torch.nn.functional.layer_norm(ones @ ones, (4,))).all())
    except (RuntimeError, TypeError):
        return False


def cpu_supports_bfloat16() -> bool:
    """Return whether this CPU computes in bfloat16 (AVX-512 BF16, AMX, Arm's); no where /proc/cpuinfo does not tell."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return False
    return re.search(r"^(flags|Features)\b.*\b(avx512_bf16|amx_bf16|bf16)\b", information.read_text(), re.M) is not None


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without PyTorch's prefix."""
    return str(dtype).removeprefix("torch.")


# Memory


def weight_bytes(
    config: ChatGLMConfig, dtype: torch.dtype, bits: int | None = None, device: torch.device | str = "cpu"
) -> int:
    """Return the bytes of memory that a model's weights take, those of its layers with `bits` each if given."""
    layer = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.inner_hidden_size
    layer_bits = embedding_bits = 8 * dtype.itemsize
    if bits:
        layer_bits = bits
        if config.quantization_embeddings or torch.device(device).type == "cpu":  # which holds a copy in as many bits
            embedding_bits = bits
    return (config.num_layers * layer * layer_bits + config.vocab_size * config.hidden_size * embedding_bits) // 8


def working_bytes(config: ChatGLMConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Return the bytes that one answer up to the model's limit takes on a GPU beside the weights.

    Main memory, which can be swapped and is taken page by page, is not held back: 0.
    """
    if device.type != "cuda":
        return 0
    keys = config.num_layers * config.hidden_size * config.max_sequence_length
    return 2 * keys * dtype.itemsize + GPU_SCRATCH_BYTES


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device, within the limit of the container that this runs in."""
    if device.type == "cuda":  # what PyTorch has taken and does not use is free, too
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    available = psutil.virtual_memory().available
    for group, names in control_groups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")):
        limit, in_use, reclaimable = names
        try:
            most = (group / limit).read_text().strip()
            if most != "max":
                statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                held = int((group / in_use).read_text()) - int(statistics[reclaimable])
                available = min(available, max(0, int(most) - held))
        except (OSError, KeyError, ValueError):  # no such group here, or one whose files are another kernel's
            continue
    return available


def control_groups(root: Path, membership: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """Return the groups whose memory limits hold for this process, and how the files in them are named.

    A container sees its own group as the root; a service is in one below it, whose parents have limits, too.

    Args:
        root: /sys/fs/cgroup.
        membership: /proc/self/cgroup.
    """
    new = "memory.max", "memory.current", "inactive_file"
    old = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    groups = [(root, new), (root / "memory", old)]
    for line in membership.read_text().splitlines() if membership.exists() else ():
        number, controllers, path = line.split(":", 2)
        base, names = (root, new) if number == "0" else (root / "memory", old)
        if number == "0" or "memory" in controllers.split(","):
            group = base / path.strip("/")
            groups += [(above, names) for above in (group, *group.parents) if base in above.parents]
    return groups


@functools.cache
def _of_glibc(name: str):
    """Return a function that glibc has, and no other C library; None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def keep_memory_together() -> None:
    """Have threads share two heaps of the C library, with no large blocks in them; call it before threads are made.

    Each thread has a heap of its own else, up to eight a core, and what is free in one is of no use to the others. A
    block of some megabytes leaves a hole there that the next layer's does not fit: keys and values of a prompt of 2,000
    tokens took two and a half times their size. MALLOC_ARENA_MAX and MALLOC_MMAP_THRESHOLD_, if set, are left alone.
    """
    if (mallopt := _of_glibc("mallopt")) is None:
        return
    if "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, 2)
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def give_memory_back() -> None:
    """Give the memory that a burst of work has freed back to the system, as far as the C library can."""
    if (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)


def free_memory(model: nn.Module) -> int:
    """Return the bytes that are free where a model's keys and values go: its GPUs', or main memory (Apple's, too)."""
    gpus = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    if gpus:
        return len(gpus) * min(available_bytes(device) for device in gpus)
    return available_bytes(torch.device("cpu"))


def find_shortage(
    config: ChatGLMConfig, device: torch.device, dtype: torch.dtype, bits: int | None
) -> tuple[torch.device, int, int] | None:
    """Return where a model would not fit, the bytes it needs there and those that are free; None if it fits."""
    weights = weight_bytes(config, dtype, bits or config.quantization_bit or None, device)
    needs = {device: weights + working_bytes(config, dtype, device)}
    if bits:  # the float weights are read into main memory
        needs[torch.device("cpu")] = weight_bytes(config, torch.float16)
    for place, needed in needs.items():
        free = available_bytes(place)
        if needed > free:
            return place, needed, free
    return None


def check_memory(config: ChatGLMConfig, device: torch.device, dtype: torch.dtype, bits: int | None) -> None:
    """Refuse a model that would not fit, before any weight is read, and name the flags with which it would."""
    shortage = find_shortage(config, device, dtype, bits)
    if shortage is None:
        return
    place, needed, free = shortage
    cpu = torch.device("cpu")
    what = "the weights take" if place.type == "cpu" else "weights and one answer take"
    choices = {"--dtype bfloat16": (device, torch.bfloat16, bits)}
    if not config.quantization_bit:
        choices |= {"--quantize 8": (device, dtype, 8), "--quantize 4": (device, dtype, 4)}
    choices["--device cpu"] = (cpu, choose_dtype("auto", cpu, config), bits)
    fitting = [flag for flag, choice in choices.items() if find_shortage(config, *choice) is None]
    if fitting:
        way_out = f"It fits with {' or '.join(fitting)}"
    else:
        way_out = (
            "Load a quantised checkpoint: one of the model's on the hub, or one made by "
            "`python quantize.py SOURCE TARGET --bits 4`"
        )
    raise LoadError(
        f"not enough memory: {what} {needed / 1e9:.1f} GB ({dtype_name(dtype)}), and {free / 1e9:.1f} GB are "
        f"free on {place}.\n{way_out}"
    )
