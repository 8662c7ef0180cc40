"""A real browser for tests of the web pages: Chromium, without a connection to any other computer."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
from resources.make_web_pictures import BROWSER_FLAGS  # noqa: E402  (needs playwright, too)

SECONDS = 120  # that a page may take to do something; a limit for a page that hangs, not a measurement
playwright.expect.set_options(timeout=1000 * SECONDS)
expect = playwright.expect


def find_chromium() -> str:
    """Return the system's Chromium, or skip the tests that need it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    return found


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator:
    """Give a Chromium whose settings and caches are in an empty folder."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=find_chromium(), args=BROWSER_FLAGS, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"}
        )
        yield browser
        browser.close()


# Python code for the beginning of a program: connections to other computers are refused, and told on standard error.
BLOCKED = """
import socket, sys
def refuse(name, original, place):
    def wrapped(*arguments, **more):
        host = arguments[place]
        host = host[0] if isinstance(host, tuple) else host
        if host not in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "", None):
            print("blocked", name, host, file=sys.stderr, flush=True)
            raise OSError(f"blocked: {host}")
        return original(*arguments, **more)
    return wrapped
for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, refuse(name, getattr(socket.socket, name), 1))
socket.getaddrinfo = refuse("getaddrinfo", socket.getaddrinfo, 0)
"""
