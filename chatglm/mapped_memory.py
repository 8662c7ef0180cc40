"""Memory of tensors that are mapped from a weight file, or large: rows read from it, pages given back, huge pages.

Weights are mapped and not read, so that a checkpoint loads at once and pages that nobody needs take no memory.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from pathlib import Path
from typing import NamedTuple

import torch


class FileRows(NamedTuple):
    """Where the rows of a matrix lie in the file that it is mapped from.

    A mapped page can bring 2 MiB of its neighbours into memory; reading a row from the file brings the row.
    """

    file: str
    inode: int
    offset: int

    @classmethod
    def find(cls, tensor: torch.Tensor) -> FileRows | None:
        """Return where a tensor lies, or None if in no file, or if it has been written to (Linux tells, others not)."""
        mappings = Path("/proc/self/smaps")
        if not mappings.exists():
            return None
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
        found = None
        for line in mappings.read_text().splitlines():
            # address range, permissions, offset in the file, device, inode, file
            header = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ (\d+) *(.*)", line)
            if header:
                first, last, offset = (int(number, 16) for number in header.groups()[:3])
                inside = first <= start < end <= last and header[4] != "0"
                found = cls(header[5], int(header[4]), offset + start - first) if inside else None
            elif found is not None and line.startswith("Anonymous:"):  # what has been written to, and is in no file
                return found if line.split()[1] == "0" else None
        return None

    def read(self, rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Return the given rows, int64 `[n]`, of the matrix that lies here: `matrix[rows]`."""
        result = torch.empty(len(rows), matrix.shape[1], dtype=matrix.dtype)
        row_bytes = matrix.shape[1] * matrix.element_size()
        buffers = memoryview(result.view(torch.uint8).numpy()).cast("B") if len(rows) else b""
        try:
            with open(self.file, "rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_ino != self.inode:
                    return matrix[rows]  # another file has taken its name
                for index, row in enumerate(rows.tolist()):
                    place = buffers[index * row_bytes : (index + 1) * row_bytes]
                    if os.preadv(file.fileno(), [place], self.offset + row * row_bytes) != row_bytes:
                        return matrix[rows]
        except OSError:  # moved away: it is still mapped
            return matrix[rows]
        return result


def release_pages(tensor: torch.Tensor) -> None:
    """Let the system take back the memory of a tensor that has `FileRows`; it is read from there again when needed."""
    _advise(tensor, mmap.MADV_DONTNEED)


def use_huge_pages(tensor: torch.Tensor) -> torch.Tensor:
    """Ask for a large new tensor's memory in pages of 2 MiB (where the system has them), and return it."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        _advise(tensor, mmap.MADV_HUGEPAGE)
    return tensor


def _advise(tensor: torch.Tensor, advice: int) -> None:
    start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)
