"""server/connections.py: clients that neither ask nor read, more of them than files, two lengths; over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Response

from server import connections
from server.arguments import ServerArguments
from server.connections import BUSY, Server, bounded_protocol, most_connections
from server.gate import Gate
from server.monitoring import Metrics

WAITING = 0.6  # seconds that clients may keep these servers waiting
LARGE = 1 << 24  # bytes, more than any buffer between two sockets holds


def make_app() -> FastAPI:
    app = FastAPI()

    @app.get("/health")
    async def health() -> str:
        return "well"

    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(LARGE))

    return app


@contextlib.contextmanager
def listening(app, **options) -> Iterator[tuple[str, int]]:
    """Serve an application from a thread, with short limits; give its address."""
    options = {"http": bounded_protocol(WAITING, 20), "timeout_keep_alive": 3, "log_level": "error"} | options
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with listening(make_app()) as address:
        yield address


def ask(connection: socket.socket) -> bytes:
    """Ask whether the server is well, on a connection that stays."""
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.settimeout(60)
    answer = b""
    while b"well" not in answer and (part := connection.recv(1000)):
        answer += part
    return answer


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the server closes; an end by force counts."""
    connection.settimeout(60)
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"GET /health HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1000, b"\r\n"],
)
def test_unfinished_headers_are_closed_after_a_time(address, sent):
    with socket.create_connection(address) as connection:
        connection.sendall(sent)
        assert b"well" not in read_to_end(connection)


def test_a_header_that_trickles_in_is_no_longer_waited_for(address):
    with socket.create_connection(address) as connection, contextlib.suppress(ConnectionError):
        for _ in range(100):
            connection.sendall(b"G")
            time.sleep(WAITING / 5)
        pytest.fail("the connection was kept")


def test_a_second_header_that_does_not_end_is_closed(address):
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /hea")
        assert read_to_end(connection).count(b"well") == 1


def test_whole_requests_are_served_one_after_another(address):
    with socket.create_connection(address) as connection:
        for number in range(3):
            connection.sendall(
                b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"Connection: close\r\n" * (number == 2) + b"\r\n"
            )
            time.sleep(WAITING / 2)
        assert read_to_end(connection).count(b"well") == 3


def test_a_client_that_does_not_read_is_dropped(address):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(WAITING * 4)
        assert len(read_to_end(connection)) < LARGE


def test_a_client_that_reads_gets_all(address):
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert len(read_to_end(connection)) > LARGE


def test_one_connection_too_many_is_told_so_and_the_others_stay():
    with listening(make_app(), http=bounded_protocol(30, 3)) as address, contextlib.ExitStack() as stack:
        kept = [stack.enter_context(socket.create_connection(address)) for _ in range(3)]
        assert all(b"well" in ask(connection) for connection in kept)
        with socket.create_connection(address) as one_more:
            assert read_to_end(one_more) == BUSY
        assert b"well" in ask(kept[0])


def test_most_connections_leaves_files_for_the_server(monkeypatch):
    resource = pytest.importorskip("resource")
    for limit in ((64, 64), (1024, 4096), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)):
        set_to = []
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: limit)
        monkeypatch.setattr(resource, "setrlimit", lambda _, values, set_to=set_to: set_to.append(values))
        most = most_connections()
        assert most >= connections.FEWEST_CONNECTIONS
        assert limit[0] == 64 or most > 3000
        assert not set_to or set_to == [(4096, 4096)]


def test_no_file_descriptors_is_one_line(caplog):
    """Each failed `accept` is reported to the loop: hundreds a second."""

    async def report() -> None:
        server = Server(uvicorn.Config(make_app(), port=0, lifespan="off", log_config=None))
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            await server.startup([listener])
            for _ in range(1000):
                error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                asyncio.get_running_loop().call_exception_handler({"message": "accept", "exception": error})
            asyncio.get_running_loop().call_exception_handler({"message": "another"})
            await server.shutdown([listener])

    with caplog.at_level(logging.WARNING):
        asyncio.run(report())
    assert [record.getMessage() for record in caplog.records] == [
        "no file descriptors are left (ulimit -n): new connections wait",
        "another",
    ]


class NoEngine:
    """Stands for an engine that nobody asks."""

    queue_length = batch_size = 0


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 1, 2\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Content-Length: 99999999999999999999\r\n",
    ],
)
def test_ambiguous_lengths_are_refused(headers):
    app = make_app()
    app.add_middleware(Gate, arguments=ServerArguments(), metrics=Metrics(NoEngine()))
    with listening(app) as address, socket.create_connection(address) as connection:
        body = b"2\r\n{}\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n"
        connection.sendall(b"POST /health HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n" + body)
        answer = read_to_end(connection)
        assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 501") and b"well" not in answer
