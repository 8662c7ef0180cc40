"""Connections that a client can hold without end have an end: what neither asks nor reads is closed after a time.

Whoever serves the public puts a proxy in front (see docs/deployment.md); these limits keep the server well without one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger("chatglm.api")

RESERVED_FILES = 64  # for the model's files, logs, and connections being accepted
FEWEST_CONNECTIONS = 8
MOST_FILES = 1 << 16
SECONDS_BETWEEN_LINES = 10.0  # of the log, about a condition that lasts
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


def most_connections() -> int:
    """Return how many connections the limit of open files allows, after raising it as far as this user may."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return MOST_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    in_use = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0
    limit = MOST_FILES if soft == resource.RLIM_INFINITY else soft
    return max(FEWEST_CONNECTIONS, limit - in_use - RESERVED_FILES)


def bounded_protocol(client_seconds: float, most: int) -> type[H11Protocol]:
    """Return the class of connections that are closed when the client keeps them waiting.

    Args:
        client_seconds: for a request's header to come whole, and for a client to read what fills the buffers.
        most: connections at a time; one more is told to try again later.
    """

    class BoundedProtocol(H11Protocol):
        """A connection with a time limit wherever the client is the one to act."""

        deadline: asyncio.TimerHandle | None = None  # of the header
        reading_deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # noqa: D102
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.write(BUSY)
                transport.close()
            else:
                self.deadline = self.loop.call_later(client_seconds, transport.abort)

        def data_received(self, data: bytes) -> None:  # noqa: D102
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._clear()
            elif self.deadline is None:
                self.deadline = self.loop.call_later(client_seconds, self.transport.abort)

        def on_response_complete(self) -> None:  # noqa: D102
            super().on_response_complete()
            waiting = self.cycle.response_complete and self.conn.trailing_data[0]  # for the rest of another header
            if waiting and self.deadline is None:
                self.deadline = self.loop.call_later(client_seconds, self.transport.abort)

        def pause_writing(self) -> None:  # noqa: D102
            super().pause_writing()
            if self.reading_deadline is None:
                self.reading_deadline = self.loop.call_later(client_seconds, self.transport.abort)

        def resume_writing(self) -> None:  # noqa: D102
            super().resume_writing()
            if self.reading_deadline is not None:
                self.reading_deadline.cancel()
                self.reading_deadline = None

        def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
            self._clear()
            self.resume_writing()
            super().connection_lost(exc)

        def _clear(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return BoundedProtocol


class Server(uvicorn.Server):
    """A server whose log says in one line now and then that there are no file descriptors left."""

    async def startup(self, sockets: list[Any] | None = None) -> None:  # noqa: D102
        loop, last = asyncio.get_running_loop(), -SECONDS_BETWEEN_LINES

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            nonlocal last
            error = context.get("exception")
            if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
                loop.default_exception_handler(context)
            elif time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                logger.warning("no file descriptors are left (ulimit -n): new connections wait")

        loop.set_exception_handler(handle)
        await super().startup(sockets)
