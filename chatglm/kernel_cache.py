"""Where kernels come from and are kept: their sources beside the model or in a checkpoint, the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from transformers.utils import cached_file, logging

logger = logging.get_logger(__name__)

# Where checkpoints came from: their `kernels` folder is looked into if there is none beside this module.
_checkpoints: list[str] = []


class KernelError(RuntimeError):
    """Kernels cannot be found, compiled or loaded; the message says what would help."""


def look_in(name_or_path: str) -> None:
    """Let a checkpoint's folder or hub name be searched for the kernel source, too.

    transformers copies a checkpoint's Python files to its module cache, and leaves other files behind.
    """
    if name_or_path and name_or_path not in _checkpoints:
        _checkpoints.append(name_or_path)


def find_source(name: str) -> Path:
    """Return the path of a kernel source: beside this module, else in one of the checkpoints.

    Raises:
        KernelError: it is nowhere.
    """
    beside = Path(__file__).resolve().parent / name
    if beside.exists():
        return beside
    for checkpoint in _checkpoints:
        try:
            found = cached_file(checkpoint, name)
        except (OSError, ValueError) as error:  # not there, or offline
            logger.info("no %s in %s: %s", name, checkpoint, error)
            continue
        if found is not None:
            return Path(found)
    raise KernelError(
        f"{name} is neither beside {beside.parent.parent.name} nor in {_checkpoints}: copy the folder there"
    )


def cache_directory(kind: str) -> Path:
    """Return the user's folder for compiled kernels of a kind, `cpu` or `cuda`, which nobody else may write to.

    Raises:
        OSError: it cannot be made, or others can write to it: what they put there would be executed.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base) / "chatglm" / kind
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix":  # Windows keeps a user's folders from others by itself
        status = directory.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(f"{directory} can be written by others")
    return directory
