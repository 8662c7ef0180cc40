"""Move small things between Python and a device: towards a GPU without waiting for it, back in one transfer.

A GPU runs behind the program; each plain `torch.tensor(..., device="cuda")`, `.tolist()` or `.item()` waits until it
has done all that was asked of it. A decoded token needs one such wait, for its id.
"""

from __future__ import annotations

import torch
from torch import Tensor


def upload(values, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of `values` on a device; on a GPU it arrives in order, and the program does not wait for it.

    Args:
        values: numbers in lists, or a tensor in main memory.
        device: where to.
        dtype: of the result; PyTorch's choice if not given.
    """
    tensor = torch.as_tensor(values, dtype=dtype)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)  # the memory is kept until it has been read
    return tensor.to(device)


def download(*tensors: Tensor) -> list[Tensor]:
    """Return tensors in main memory; those of a GPU, all on the same one, come in one transfer, which is waited for."""
    if tensors[0].device.type != "cuda":
        return [tensor.cpu() for tensor in tensors]
    parts = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]
    received = torch.cat(parts).cpu().split([len(part) for part in parts])
    # cloned, as a part may begin where its dtype cannot
    return [part.clone().view(tensor.dtype).view(tensor.shape) for part, tensor in zip(received, tensors, strict=True)]
