"""What comes before every route: paths, methods, packed bodies, keys; and the page /docs."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest
from serving import client, frames, serving

pytest.importorskip("fastapi", reason="the server's packages are not installed")

from server.app import build_app  # noqa: E402
from server.arguments import ServerArguments  # noqa: E402
from server.gate import unpack, usual_path  # noqa: E402
from server.protocol import ApiError, event  # noqa: E402

BODY = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def address(engine):
    with serving(build_app(engine, ServerArguments(allow_origin="*", api_key="k"))) as found:
        yield found


@pytest.fixture
def http(address):
    with client(address) as made:
        made.headers["x-api-key"] = "k"  # as Anthropic's clients send it
        yield made


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/stream/", "/stream"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/models/chatglm-6b", "/v1/models/chatglm-6b"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/chat", "/chat"),
        ("/modelsx", "/modelsx"),
    ],
)
def test_usual_path(path, meant):
    assert usual_path(path) == meant


def test_routes_without_v1_and_with_a_slash(http):
    first, *others = (
        http.post(path, json=BODY).json()["choices"]
        for path in ("/v1/chat/completions", "/chat/completions", "/v1/chat/completions/")
    )
    assert others == [first, first]
    assert http.get("/models/").json()["data"][0]["id"] == "chatglm-6b"
    assert http.post("/completions", json={}).json()["error"]["code"] == "invalid_request"  # OpenAI's shape


def test_head_is_get_without_its_body(http):
    for path in ("/", "/v1/models", "/docs", "/health"):
        head, get = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
    assert http.head("/nowhere").status_code == 404 and http.head("/v1/completions").status_code == 405


def test_pages_of_public_sites_may_ask_a_private_network(http):
    headers = {"Origin": "https://page", "Access-Control-Request-Method": "POST"}
    headers["Access-Control-Request-Private-Network"] = "true"
    answer = http.options("/v1/chat/completions", headers=headers)
    assert answer.status_code == 200 and answer.headers["access-control-allow-private-network"] == "true"


def test_a_packed_body_is_read(http):
    packed = gzip.compress(json.dumps(BODY).encode())
    answer = http.post("/v1/chat/completions", content=packed, headers={"Content-Encoding": "gzip"})
    assert answer.json()["choices"] == http.post("/v1/chat/completions", json=BODY).json()["choices"]
    for content, encoding, status in ((packed[:-9], "gzip", 422), (b"{}", "gzip", 422), (b"{}", "br", 415)):
        answer = http.post("/v1/chat/completions", content=content, headers={"Content-Encoding": encoding})
        assert answer.status_code == status, answer.text
    bomb = gzip.compress(bytes(1 << 25))
    answer = http.post("/v1/chat/completions", content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"


def test_unpack_takes_no_more_memory_than_the_limit():
    bomb = gzip.compress(bytes(1 << 26), 1)
    tracemalloc.start()
    with pytest.raises(ApiError, match="reduce the length"):
        unpack(bomb, b"gzip", 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    with pytest.raises(ApiError, match="one part"):
        unpack(gzip.compress(b"a") + gzip.compress(b"b"), b"gzip", 100)
    assert unpack(gzip.compress(b"ab"), b"GZIP", 2) == unpack(b"ab", b"identity", 2) == b"ab"


def test_event_is_a_line_for_every_client():
    text = "".join(map(chr, range(0x2100)))
    (found,) = frames(event({"text": text}) + "data: [DONE]\n\n")
    assert found["text"] == text and len(event({"text": text}).splitlines()) == 2


def test_keys_come_as_either_header(address):
    with client(address) as http:
        for headers, status in (({}, 401), ({"x-api-key": "no"}, 401), ({"Authorization": "Bearer k"}, 200)):
            assert http.get("/v1/models", headers=headers).status_code == status
        answer = http.post("/v1/messages", json=BODY).json()
        assert (answer["type"], answer["error"]["type"]) == ("error", "authentication_error")


def test_docs_needs_no_other_computer(address, tmp_path):
    """In a browser without a connection, the page shows every route, and sends an example."""
    with client(address) as http:
        assert "//" not in http.get("/docs").text
        described = http.get("/openapi.json").json()["paths"]
    from browsing import expect, open_browser

    with open_browser(tmp_path) as browser:
        page = browser.new_page()
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(f"{address}/docs")
        expect(page.locator("details")).to_have_count(sum(map(len, described.values())))
        page.fill("#key", "k")
        box = page.locator("details", has_text="POST /v1/responses")
        box.locator("summary").click()
        box.locator("textarea").fill('{"input": "a", "max_output_tokens": 2}')
        box.locator("button").click()
        expect(box.locator(".answer")).to_contain_text('"object":"response"')
        assert all(url.startswith(address) for url in asked) and not errors
