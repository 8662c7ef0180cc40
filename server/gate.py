"""What comes before every route."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import zlib

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .arguments import ServerArguments
from .errors import client_gone, failure
from .monitoring import Metrics
from .protocol import ApiError

logger = logging.getLogger("chatglm.api")
OPEN_PATHS = ("/health", "/metrics", "/docs", "/openapi.json")  # need no key
REPLACED = (b"content-type", b"content-length", b"content-encoding")  # headers of a body that has been read
MOST_PARTS = 1 << 16  # lists and objects in a body, brackets in texts included; each costs a parser time and memory
WITHOUT_V1 = re.compile(r"/(chat/completions|completions|embeddings|messages|models|responses)(/|$)")
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # in JSON, a character beyond U+FFFF is a pair of these


def usual_path(path: str) -> str:
    """Return the path that is meant: slashes at the end are none, and OpenAI's routes are there without /v1, too."""
    path = path.rstrip("/") or "/"
    return f"/v1{path}" if WITHOUT_V1.match(path) else path


class Gate:
    """What comes before every route, and counts: the key, the body's size, and JSON whatever type it is sent as."""

    def __init__(self, app: ASGIApp, arguments: ServerArguments, metrics: Metrics) -> None:
        self.app, self.arguments, self.metrics = app, arguments, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        started = False
        method = (
            "GET" if scope["method"] == "HEAD" else scope["method"]
        )  # whoever writes the answer leaves its body out
        scope = scope | {"path": usual_path(scope["path"]), "method": method}

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        try:
            headers = dict(scope["headers"])
            if b"transfer-encoding" in headers and b"content-length" in headers:  # a proxy may believe the other one
                message = "a request has Content-Length or Transfer-Encoding, not both"
                raise ApiError(400, message, "ambiguous_length", {"Connection": "close"})
            self.check_key(scope["path"], headers)
            if scope["method"] == "POST":
                body = await self.read_body_in_time(headers, receive)
                # the original reads JSON whatever its declared type is: curl -d declares a form
                kept = [item for item in scope["headers"] if item[0] not in REPLACED]
                length = str(len(body)).encode()
                scope["headers"] = [*kept, (b"content-type", b"application/json"), (b"content-length", length)]
                receive = replay(body, receive)
            await self.app(scope, receive, counted)
        except ApiError as error:
            await failure(scope["path"], error)(scope, receive, counted)
        except Exception:  # a defect: it is counted and said in the route's shape, and the next request is served
            if started:  # the connection is cut, so that nobody takes the part for the whole
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            error = ApiError(500, "the server failed; its log says why", "internal_error")
            await failure(scope["path"], error)(scope, receive, counted)

    def check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        key, authorization = self.arguments.api_key.encode(), headers.get(b"authorization", b"")
        given = authorization[7:] if authorization[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
        if key and path not in OPEN_PATHS and not hmac.compare_digest(given.strip(), key):
            message = "Incorrect API key provided: send the server's key as `Authorization: Bearer KEY`"
            raise ApiError(401, message, "invalid_api_key", {"WWW-Authenticate": "Bearer"})

    async def read_body_in_time(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        seconds = self.arguments.request_timeout
        try:
            return await asyncio.wait_for(self.read_body(headers, receive), seconds)
        except asyncio.TimeoutError as error:  # noqa: UP041 (Python 3.10 has two of that name)
            raise ApiError(408, f"the body took more than {seconds:g} seconds", "body_timeout") from error

    async def read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit, parts, size, more = self.arguments.max_body_bytes, [], 0, True
        declared, too_large = headers.get(b"content-length", b"0"), body_too_large(limit)
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise client_gone()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large
            more = message.get("more_body", False)
        body = b"".join(parts)
        if encoding := headers.get(b"content-encoding"):
            body = await run_in_threadpool(unpack, body, encoding, limit)
        body = body.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as editors on Windows write it
        await run_in_threadpool(self.check_characters, body)
        return body

    @staticmethod
    def check_characters(body: bytes) -> None:
        """Refuse a body that is no UTF-8, or has half a character in an escape."""
        if body.count(b"[") + body.count(b"{") > MOST_PARTS:
            message = f"the body has more than {MOST_PARTS} lists and objects: please reduce the length"
            raise ApiError(422, message, "too_many_parts")
        try:
            body.decode("utf-8")
            if SURROGATE.search(body):  # half of a pair by itself is no character, and no answer could repeat it
                json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8")
        except UnicodeError as error:
            raise ApiError(422, f"the body must be JSON in UTF-8: {error.reason}", "invalid_json") from error
        except (ValueError, RecursionError):  # not JSON at all: who reads it says so
            pass


def body_too_large(limit: int) -> ApiError:
    """Return the error of a body above the limit, in bytes."""
    return ApiError(413, f"the body may have {limit} bytes: please reduce the length", "body_too_large")


def unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Return a body as it was before it was packed; no more than the limit of bytes is ever unpacked.

    Raises:
        ApiError: it is larger, packed in another way than gzip, or damaged.
    """
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip"):
        message = f"Content-Encoding is {encoding.decode('latin-1'):.40}: send the body as it is, or by gzip"
        raise ApiError(415, message, "unsupported_encoding", {"Accept-Encoding": "gzip"})
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise ApiError(422, f"the body is no gzip: {error}", "invalid_gzip") from error
    if len(plain) > limit:
        raise body_too_large(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise ApiError(422, "the body is no gzip: it must end where its one part ends", "invalid_gzip")
    return plain


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already, and then what comes."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
