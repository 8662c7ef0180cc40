"""Tests of what stands between the Gradio page and the network."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from pages import guard


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


@pytest.fixture
def app():
    routes = [Route("/{path:path}", echo, methods=["GET", "POST"])]
    return Starlette(routes=routes, middleware=[Middleware(guard.Guard)])


def browser(app) -> TestClient:
    """Return a client that has opened the page, as a browser does first."""
    client = TestClient(app)
    assert client.get("/").headers["content-security-policy"] == guard.POLICY
    return client


def test_guard_keeps_a_session_to_its_browser(app):
    """Whatever names another's session is refused: what asks, stops, or waits for answers."""
    owner, other, program = browser(app), browser(app), TestClient(app)
    assert owner.cookies[guard.COOKIE] != other.cookies[guard.COOKIE]
    body = json.dumps({"session_hash": "mine", "data": ["你好"]})
    assert owner.post("/gradio_api/queue/join", content=body).text == body
    for client in (other, program):
        for answer in (
            client.post("/gradio_api/queue/join", content=body),
            client.post("/gradio_api/cancel", json={"session_hash": "mine", "fn_index": 0, "event_id": "x"}),
            client.post("/gradio_api/queue/join", content='{"session_hash": "own", "session_hash": "mine"}'),
            client.get("/gradio_api/queue/data?session_hash=mine"),
            client.get("/gradio_api/heartbeat/mine"),
        ):
            assert answer.status_code == 403 and "another browser's" in answer.text
        assert client.get("/gradio_api/queue/data?session_hash=own" + str(id(client))).status_code == 200
    assert owner.get("/gradio_api/queue/data?session_hash=mine").status_code == 200
    assert "set-cookie" not in owner.get("/").headers  # two pages of one computer share the cookie


def test_guard_refuses_uploads_and_large_requests(app):
    client = browser(app)
    assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 403
    assert client.post("/gradio_api/run", content=b"x" * 1000).text == "x" * 1000
    assert client.post("/gradio_api/run", content=b"x" * (guard.BODY_BYTES + 1)).status_code == 413
    parts = (b"x" * 1000 for _ in range(guard.BODY_BYTES // 1000 + 2))
    assert client.post("/gradio_api/run", content=parts).status_code == 413


@pytest.mark.parametrize("body", [b"\xff", b"[" * 100_000, b"3", b'{"session_hash": 3}', b""])
def test_guard_passes_on_what_names_no_session(app, body):
    assert browser(app).post("/gradio_api/queue/join", content=body).content == body


def test_guard_forgets_the_oldest_sessions(app, monkeypatch):
    monkeypatch.setattr(guard, "SESSIONS", 2)
    guarded = guard.Guard(app)
    assert all(guarded.is_owner(name, "visitor") for name in ("a", "b", "c"))
    assert list(guarded.owners) == ["b", "c"]


def test_password_check_slows_down_guessing(monkeypatch):
    """Eight wrong tries wait; while they do, not even the right password is looked at, and afterwards it is."""
    waited = []

    async def tries():
        end = asyncio.Event()

        async def sleep(seconds: float) -> None:
            waited.append(seconds)
            await end.wait()

        monkeypatch.setattr(guard.asyncio, "sleep", sleep)
        check = guard.password_check("我", "密碼")
        assert await check("我", "密碼")
        wrong = [asyncio.create_task(check("我", f"guess {number}")) for number in range(guard.WRONG_AT_ONCE)]
        while len(waited) < guard.WRONG_AT_ONCE:
            await asyncio.wait(wrong, timeout=0.01)
        assert not await check("我", "密碼") and not await check("\ud800", "ninth")
        end.set()
        assert await asyncio.gather(*wrong) == [False] * guard.WRONG_AT_ONCE
        assert await check("我", "密碼")

    asyncio.run(tries())
    assert waited == [guard.WRONG_SECONDS] * guard.WRONG_AT_ONCE
