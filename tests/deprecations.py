"""Finds the uses of deprecated names that the project's own files make, in warnings and in what transformers logs.

A library may say "is deprecated" beside a line of its own, or only in its log; then the file beside the warning does
not tell who has to change something, but the stack does: whoever called into the package that warns.
"""

from __future__ import annotations

import logging
import sys
import sysconfig
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")})
DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
LOGGING = ("logging", "functools")  # lie between who logs and this module

found: list[str] = []


def package(frame: FrameType) -> str:
    """Return the name of the top-level package whose code runs in a frame."""
    return frame.f_globals.get("__name__", "").partition(".")[0]


def causing_place(frame: FrameType | None, stacklevel: int = 1) -> str | None:
    """Return file and line of the project that a warning is about, or None if it is about other code.

    Args:
        frame: that warns.
        stacklevel: as of `warnings.warn`: above 1, the library itself says which caller it means.
    """
    if stacklevel > 1:
        for _ in range(stacklevel - 1):
            frame = frame and frame.f_back
    else:
        warning = package(frame)
        while frame is not None and package(frame) == warning:
            frame = frame.f_back
    file = Path(frame.f_code.co_filename) if frame else Path("/")
    if not file.is_relative_to(ROOT) or str(file).startswith(LIBRARIES):
        return None
    return f"{file.relative_to(ROOT)}:{frame.f_lineno}"


def note(message: object, place: str | None) -> None:
    """Keep a deprecation for the test that runs, if it is about one of the project's files."""
    if place is not None:
        found.append(f"{place}: {message}")


class LogHandler(logging.Handler):
    """Notes the deprecations that a library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record that speaks of a deprecation."""
        if "deprecated" in record.getMessage():
            frame = sys._getframe(1)
            while package(frame) in LOGGING:
                frame = frame.f_back
            note(record.getMessage(), causing_place(frame))


def watch() -> None:
    """Begin to note deprecations in this process."""
    warn = warnings.warn

    def noting_warn(message: Any, category: Any = None, stacklevel: int = 1, *more: Any, **keywords: Any) -> None:
        kind = type(message) if isinstance(message, Warning) else category or UserWarning
        if issubclass(kind, DEPRECATIONS) or "deprecated" in str(message):
            note(message, causing_place(sys._getframe(1), stacklevel))
        warn(message, category, stacklevel + 1, *more, **keywords)

    warnings.warn = noting_warn
    logging.getLogger("transformers").addHandler(LogHandler())
