"""What stands between the Gradio page and the network: what a browser may fetch, sizes, and whose a session is."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; object-src 'none'; "
    "base-uri 'self'"
)
BODY_BYTES = 8 << 20  # of a request; a chat of the most characters fits in, each as a surrogate's escape
SESSIONS = 100_000  # that are remembered, the newest
COOKIE = "chatglm-visitor"
WRONG_SECONDS = 2.0  # until a wrong password is called wrong
WRONG_AT_ONCE = 8  # while so many wait for that, no password is looked at
SESSION_IN_PATH = re.compile(r"/(?:heartbeat|stream)/([^/]+)")


def password_check(user: str, password: str) -> Callable[[str, str], Awaitable[bool]]:
    """Return a check for Gradio's `auth` that knows one user and slows down guessing: a few tries a second in all."""
    waiting = 0

    async def check(given_user: str, given_password: str) -> bool:
        nonlocal waiting
        if waiting >= WRONG_AT_ONCE:
            return False
        pairs = (given_user, user), (given_password, password)
        right = [secrets.compare_digest(given.encode(errors="replace"), own.encode()) for given, own in pairs]
        if all(right):
            return True
        waiting += 1
        try:
            await asyncio.sleep(WRONG_SECONDS)
        finally:
            waiting -= 1
        return False

    return check


class Guard:
    """Refuse what no page of ours asks for, and tell browsers to refuse whatever a page would fetch from elsewhere.

    - A session belongs to the browser that used it first, which a cookie tells from others: Gradio itself lets
      everybody who knows a session's id read its answers, stop them, and ask in its name.
    - The page takes no uploads, so that nobody can fill the disk; requests larger than a chat or a PDF are refused.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.owners: OrderedDict[str, str] = OrderedDict()  # visitors by session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visitor = HTTPConnection(scope).cookies.get(COOKIE, "")  # tells a browser from others; a program has none
        given = visitor or (secrets.token_urlsafe(16) if scope["method"] == "GET" else "")

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(b"content-security-policy", POLICY.encode())]
                if given != visitor and scope["path"] in ("", "/"):
                    more.append((b"set-cookie", f"{COOKIE}={given}; Path=/; HttpOnly; SameSite=Lax".encode()))
                message["headers"] = [*message["headers"], *more]
            await send(message)

        refusal, body = None, None
        if scope["path"].endswith("/upload"):
            refusal = PlainTextResponse("this page takes no files", 403)
        elif scope["method"] == "POST":
            body = await read_body(receive, Headers(scope=scope).get("content-length"))
            if body is None:
                refusal = PlainTextResponse(f"a request may have {BODY_BYTES} bytes", 413)
        if refusal is None and not self.is_owner(session_of(scope, body), visitor):
            refusal = PlainTextResponse("this session is another browser's", 403)
        await (refusal or self.app)(scope, receive if body is None else replayed(body, receive), with_policy)

    def is_owner(self, session: str | None, visitor: str) -> bool:
        """Return whether a visitor may use a session; an unknown session becomes the visitor's."""
        if session is None:
            return True
        owner = self.owners.setdefault(session, visitor)
        self.owners.move_to_end(session)
        if len(self.owners) > SESSIONS:
            self.owners.popitem(last=False)
        return secrets.compare_digest(owner.encode(), visitor.encode())


def session_of(scope: Scope, body: bytes | None) -> str | None:
    """Return the session that a request names in its path, its query or its body of JSON; None if it names none."""
    if found := SESSION_IN_PATH.search(scope["path"]):
        return found[1]
    if body:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):  # nothing that Gradio takes for a request
            content = None
        session = content.get("session_hash") if isinstance(content, dict) else None
        if isinstance(session, str):
            return session
    return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [None])[-1]


async def read_body(receive: Receive, length: str | None) -> bytes | None:
    """Return a request's body, or None if it is too long."""
    if length and length.isdecimal() and int(length) > BODY_BYTES:
        return None
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > BODY_BYTES:
            return None
    return b"".join(parts)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body which was read before, and then what comes."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message
