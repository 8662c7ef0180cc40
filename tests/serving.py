"""Stand-ins and tools for tests of the server: a real server on a free port, in a thread or as a process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import torch
import uvicorn
import warm
from replay import write_small_checkpoint

ROOT = Path(__file__).resolve().parent.parent


def write_lively_checkpoint(folder: Path):
    """Write the small checkpoint with weights whose greedy answers differ from prompt to prompt; return its model."""
    model = write_small_checkpoint(folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name:
                parameter.fill_(name.endswith("weight"))
            else:
                parameter.normal_(std=0.6)
    model.half().save_pretrained(folder)
    return model.float().eval()


@contextlib.contextmanager
def serving(app) -> Iterator[str]:
    """Serve an application from a thread; give its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class ServerProcess:
    """`python api.py` on a free port."""

    def __init__(self, *flags: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*warm.python(), str(ROOT / "api.py"), "--port", "0", "--device", "cpu", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | environment,
        )
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if line.startswith("http://"):
                break
        assert self.log and self.log[-1].startswith("http://"), "".join(self.log)
        self.address = self.log[-1].strip()
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def stop(self, number: int | None = None, seconds: float = 120.0) -> int:
        """Send a signal, if any, and return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.reader.join()
            self.process.stdout.close()
            self.process.stderr.close()


def frames(text: str) -> list[dict]:
    """Return the events of a stream, checked to be in the one form that all clients read."""
    lines = text.split("\n")
    assert all(line == "" or line.startswith("data: ") for line in lines), text
    assert text.endswith("data: [DONE]\n\n"), text
    return [json.loads(line[6:]) for line in lines if line and line != "data: [DONE]"]


def wait_until(condition, seconds: float = 60.0, state=lambda: "") -> None:
    """Wait for a condition; fail if it does not come true, saying what `state` returns then."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not come true {state()}"
        time.sleep(0.01)


def client(address: str) -> httpx.Client:
    """Return a client that ignores the environment's proxies."""
    return httpx.Client(base_url=address, timeout=120, trust_env=False)
