"""Watch how much memory a process takes at most."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil


class PeakMemory:
    """Watch a process from now on, in bytes.

    `own` is the most that it held without pages of mapped files, which the system can drop at any time, by looking
    every 20 ms. `resident` is the most with them: on Linux the kernel's own record since the program's start (VmHWM;
    that of `getrusage` also counts the program that started it), elsewhere by looking, too.
    """

    def __init__(self, process: int | None = None) -> None:
        self._process = psutil.Process(process)
        self._resident = self.own = 0
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def resident(self) -> int:
        """Return the largest resident memory."""
        status = Path(f"/proc/{self._process.pid}/status")
        if status.exists():
            marks = [line.split() for line in status.read_text().splitlines() if line.startswith("VmHWM")]
            self._resident = max([self._resident, *(int(mark[1]) * 1024 for mark in marks)])
        return self._resident

    def _watch(self) -> None:
        try:
            while True:
                memory = self._process.memory_info()
                self._resident = max(self._resident, memory.rss)
                self.own = max(self.own, memory.rss - getattr(memory, "shared", 0))
                time.sleep(0.02)
        except psutil.NoSuchProcess:
            return
