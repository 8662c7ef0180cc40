"""Read a checkpoint's weights by name, each mapped from its file: memory is taken when a weight is looked at."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from chatglm.mapped_memory import release_pages

from .checkpoint import LoadError, find_weights, refusals


def load_pickle(file: Path, mmap: bool = False) -> dict[str, Tensor]:
    """Return the tensors by name in a `.bin` file; no code in it is executed.

    Raises:
        LoadError: it is damaged, or holds anything else.
    """
    with refusals(f"cannot load {file}"):
        content = torch.load(file, map_location="cpu", mmap=mmap, weights_only=True)
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise LoadError(f"{file} must hold tensors by name, got {type(content).__name__}: download it again")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise LoadError(f"{file}: {name:.80} must be a tensor, got {type(value).__name__}: download it again")
    return dict(content)


class CheckpointWeights(Mapping[str, Tensor]):
    """The weights of a checkpoint by name, in the dtype in which they are stored.

    A `.bin` file that PyTorch wrote before 1.6 cannot be mapped: it is read whole, and one of them is held at a time.

    Args:
        folder: with safetensors or `.bin` files, whole or in shards with an index.

    Attributes:
        all_mapped: whether there is no file that has to be read whole.

    Raises:
        LoadError: there are no weights, or a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole: tuple[Path | None, dict[str, Tensor]] = None, {}  # the file that was read whole, and what it holds
        self._entries: dict[str, Tensor | tuple[Path, str]] = {}  # a mapped weight, or where to read it
        self._source, files = find_weights(folder)
        for file in files:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as opened:
                    self._entries |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            elif zipfile.is_zipfile(file):
                self._entries |= load_pickle(file, mmap=True)
            else:
                self._entries |= {name: (file, name) for name in self._read_whole(file)}
        self.all_mapped = self._whole[0] is None

    def alias(self, names: list[str]) -> None:
        """Let tied weights be one, whichever of the names the files have."""
        stored = next((self._entries[name] for name in names if name in self._entries), None)
        if stored is not None:
            self._entries |= dict.fromkeys(names, stored)

    def read(self, name: str) -> Tensor:
        """Return a weight.

        Raises:
            LoadError: the checkpoint lacks it.
        """
        if name not in self._entries:
            raise LoadError(f"{self._source} lacks the weight {name}: download it again")
        return self[name]

    def _read_whole(self, file: Path) -> dict[str, Tensor]:
        if self._whole[0] != file:
            self._whole = None, {}  # its memory is free before the next one is read
            self._whole = file, load_pickle(file)
        return self._whole[1]

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        if isinstance(entry, Tensor):
            return entry
        file, stored_name = entry
        return self._read_whole(file)[stored_name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def release(weights: Iterable[Tensor]) -> None:
    """Give the memory of mapped weights back to the system; what is asked of them later is read from the file again.

    Windows has no way to ask for that: it takes the memory when it needs it.
    """
    if hasattr(mmap, "MADV_DONTNEED"):
        for weight in weights:
            release_pages(weight)
