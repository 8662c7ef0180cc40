"""Where kernels come from and are kept: their sources beside the model or in a checkpoint, the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
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
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:  # a user without a home folder, as in a container with --user
        raise FileNotFoundError(str(error)) from error
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in (base / "chatglm", base / "chatglm" / kind):
        directory.mkdir(mode=0o700, exist_ok=True)
        if os.name == "posix":  # Windows keeps a user's folders from others by itself
            status = directory.stat()
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                raise PermissionError(f"{directory} can be written by others")
    return directory


def find_or_compile(
    kind: str, parts: object, compile_them: Callable[[], tuple[str, bytes]]
) -> tuple[str, bytes, Path | None]:
    """Return compiled kernels from the user's folder, or compile them and keep them there.

    A file's name ends in the hash of its content: what was cut short, emptied or replaced is compiled anew. Several
    processes may do the same at once: a file comes to its name when it is whole.

    Args:
        kind: `cpu` or `cuda`.
        parts: everything that the result depends on; its `repr` tells one from another.
        compile_them: returns a label of letters and digits, and the kernels.

    Returns:
        (the label, the kernels, the file that holds them; None where none can be kept).
    """
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    try:
        directory = cache_directory(kind)
        for file in sorted(directory.glob(f"{key}-*-*.so")):
            _, label, digest = file.stem.split("-", 2)
            if file.is_file() and _digest(content := file.read_bytes()) == digest:
                return label, content, file
            logger.warning("%s is damaged: the kernels are compiled anew", file)
            if file.is_file():
                file.unlink()
    except OSError as error:
        logger.info("compiled kernels are not kept: %s", error)
        return *compile_them(), None
    label, content = compile_them()
    return label, content, _keep(directory / f"{key}-{label}-{_digest(content)}.so", content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _keep(file: Path, content: bytes) -> Path | None:
    new = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        new.write_bytes(content)
        new.chmod(0o700)  # where others share the group, they may not write
        os.replace(new, file)
    except OSError as error:  # a full disk, or a folder that may only be read
        logger.info("compiled kernels are not kept: %s", error)
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        return None
    return file
