"""Routes of other protocols: how they are translated, that a stream and an answer at once agree, and their errors."""

from __future__ import annotations

import json

import pytest
from serving import client, serving
from test_tools import TIME, WEATHER

pytest.importorskip("fastapi", reason="the server's packages are not installed")
pytest.importorskip("llguidance", reason="llguidance is not installed")

import engine as serving_engine  # noqa: E402
from engine import Engine  # noqa: E402
from server import foreign  # noqa: E402
from server.anthropic_routes import MessagesRequest  # noqa: E402
from server.app import build_app  # noqa: E402
from server.arguments import ServerArguments  # noqa: E402
from server.ollama_routes import OllamaRequest  # noqa: E402
from server.responses_routes import ResponsesRequest  # noqa: E402

RESPONSES, MESSAGES, CHAT = "/v1/responses", "/v1/messages", "/api/chat"
USER = [{"role": "user", "content": "北京天气?"}]
CALL = {"id": "c", "name": "get_weather"}
BODIES = {
    RESPONSES: {"input": USER, "temperature": 0},
    MESSAGES: {"messages": USER, "temperature": 0},
    CHAT: {"model": "m", "messages": USER, "options": {"temperature": 0}},
}


@pytest.fixture(scope="module")
def engine(mini_model, mini_tokenizer):
    made = Engine(mini_model, mini_tokenizer)
    yield made
    made.close()


@pytest.fixture(scope="module")
def http(engine):
    with serving(build_app(engine, ServerArguments(ollama=True))) as address, client(address) as made:
        yield made


def said(http) -> str:
    """Return the answer to the question, by OpenAI's older route."""
    body = {"messages": USER, "temperature": 0, "max_tokens": 12}
    return http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]


def events(http, path: str, body: dict) -> list[dict]:
    """Return the events of a stream whose events are named."""
    parts = http.post(path, json=body | {"stream": True}).text.removesuffix("\n\n").split("\n\n")
    found = []
    for part in parts:
        name, data = part.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def messages_of(chat) -> list[dict]:
    return [message.model_dump(exclude_none=True, exclude={"name"}) for message in chat.messages]


def test_responses_items_become_messages():
    items = [
        *USER,
        {"type": "reasoning", "id": "r", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "d", "name": "time", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "晴"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "好"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "谢"}, {"type": "input_text", "text": "谢"}]},
    ]
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    tools = [{"type": "function", **TIME}]
    more = {"instructions": "短", "text": {"format": form}, "tools": tools, "max_output_tokens": 7, "seed": 3}
    chat = ResponsesRequest(
        input=items, tool_choice={"type": "function", "name": "time"}, top_k=5, unheard="of", **more
    ).chat()
    calls = [{"id": "c", "function": {"name": "get_weather", "arguments": "{}"}}]
    calls.append({"id": "d", "function": {"name": "time", "arguments": "{}"}})
    assert [(message.role, message.text()) for message in chat.messages] == [
        ("system", "短"), ("user", "北京天气?"), ("assistant", ""), ("tool", "晴"),
        ("assistant", "好"), ("user", "谢谢"),
    ]  # fmt: skip
    assert messages_of(chat)[2]["tool_calls"] == calls and chat.messages[3].tool_call_id == "c"
    assert (chat.named_tool, chat.limit(), chat.seed, chat.top_k) == ("time", 7, 3, 5)
    assert chat.form()["json_schema"]["schema"] == {"type": "object"} and chat.model_extra == {"unheard": "of"}


def test_messages_blocks_become_messages():
    dialogue = [
        {"role": "user", "content": [{"type": "text", "text": "天"}, {"type": "text", "text": "气"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "看"},
            {"type": "tool_use", "id": "c", "name": "get_weather", "input": {"city": "北京"}},
        ]},
        {"role": "user", "content": [
            {"type": "text", "text": "快"},
            {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "晴"}]},
        ]},
    ]  # fmt: skip
    tool = {"name": "time", "input_schema": {"type": "object"}}
    more = {"system": [{"type": "text", "text": "短"}], "stop_sequences": ["x"], "max_tokens": 7, "tools": [tool]}
    choice = {"type": "any", "disable_parallel_tool_use": True}
    chat = MessagesRequest(messages=dialogue, tool_choice=choice, **more).chat()
    call = {"id": "c", "function": {"name": "get_weather", "arguments": {"city": "北京"}}}
    assert messages_of(chat) == [
        {"role": "system", "content": "短"},
        {"role": "user", "content": "天气"},
        {"role": "assistant", "content": "看", "tool_calls": [call]},
        {"role": "tool", "content": "晴", "tool_call_id": "c"},
        {"role": "user", "content": "快"},
    ]
    assert chat.tools[0].function.parameters == {"type": "object"} and chat.tool_choice == "required"
    assert (chat.stop_texts(), chat.limit(), chat.parallel_tool_calls) == (("x",), 7, False)


def test_ollama_options_become_parameters():
    options = {"num_predict": -2, "repeat_penalty": 1.1, "num_ctx": 512, "stop": ["x"], "top_k": 3, "mirostat": 1}
    chat = OllamaRequest(model="m:latest", prompt="a", system="s", format="json", options=options).chat()
    assert [(message.role, message.text()) for message in chat.messages] == [("system", "s"), ("user", "a")]
    assert (chat.model, chat.limit(), chat.repetition_penalty, chat.stream) == ("m", None, 1.1, True)
    assert chat.form()["json_schema"]["schema"] == {"type": "object"} and chat.model_extra == {"mirostat": 1}


def test_responses_stream_adds_up_to_the_whole(http):
    body = BODIES[RESPONSES] | {"max_output_tokens": 12}
    whole = http.post(RESPONSES, json=body).json()
    assert whole["output"][0]["content"][0]["text"] == said(http) and whole["status"] == "incomplete"
    found = events(http, RESPONSES, body)
    assert "".join(one["delta"] for one in found if one["type"].endswith("text.delta")) == said(http)
    assert found[-1]["response"]["output"][0]["content"] == whole["output"][0]["content"]
    assert found[-1]["response"]["usage"] == whole["usage"]
    assert [one["type"].removeprefix("response.") for one in found if "delta" not in one] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.done", "content_part.done",
        "output_item.done", "incomplete",
    ]  # fmt: skip


def test_calls_stream_as_they_are_whole(http):
    tools = [{"type": "function", **one} for one in (WEATHER, TIME)]
    body = BODIES[RESPONSES] | {"tools": tools, "tool_choice": {"type": "function", "name": "get_weather"}}
    (call,) = http.post(RESPONSES, json=body).json()["output"]
    parts = [one["delta"] for one in events(http, RESPONSES, body) if one["type"].endswith("arguments.delta")]
    assert len(parts) > 1 and "".join(parts) == call["arguments"] and json.loads(call["arguments"])["city"]
    tools = [{"name": one["name"], "input_schema": one.get("parameters") or {}} for one in (WEATHER, TIME)]
    body = BODIES[MESSAGES] | {"tools": tools, "tool_choice": {"type": "tool", "name": "get_weather"}}
    message = http.post(MESSAGES, json=body).json()
    assert message["content"][0]["input"] == json.loads(call["arguments"]) and message["stop_reason"] == "tool_use"
    deltas = [one["delta"]["partial_json"] for one in events(http, MESSAGES, body) if "partial_json" in str(one)]
    assert json.loads("".join(deltas)) == message["content"][0]["input"]


def test_messages_stream_adds_up_to_the_whole(http):
    body = BODIES[MESSAGES] | {"max_tokens": 12}
    whole = http.post(MESSAGES, json=body).json()
    assert (whole["content"], whole["stop_reason"]) == ([{"type": "text", "text": said(http)}], "max_tokens")
    found = events(http, MESSAGES, body)
    assert "".join(one["delta"]["text"] for one in found if one["type"] == "content_block_delta") == said(http)
    assert [one["type"] for one in found if one["type"] != "content_block_delta"] == [
        "message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert found[-2]["usage"] == whole["usage"]
    counted = http.post(f"{MESSAGES}/count_tokens", json={"messages": USER}).json()
    assert counted == {"input_tokens": whole["usage"]["input_tokens"]}
    stopped = http.post(MESSAGES, json=body | {"stop_sequences": [said(http)[2:4]]}).json()
    assert (stopped["content"][0]["text"], stopped["stop_reason"]) == (said(http)[:2], "stop_sequence")


def test_ollama_streams_lines(http):
    body = {"model": "m", "options": {"temperature": 0, "num_predict": 12}}
    answer = http.post(CHAT, json=body | {"messages": USER})
    *lines, last = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"].startswith("application/x-ndjson") and last["done_reason"] == "length"
    assert "".join(line["message"]["content"] for line in lines) == said(http)
    whole = http.post("/api/generate", json=body | {"prompt": USER[0]["content"], "stream": False}).json()
    assert whole["response"] == said(http) and whole["eval_count"] == last["eval_count"] == 12
    assert http.post("/api/generate", json={"model": "m"}).json()["done_reason"] == "load"


def test_ollama_is_off_by_default(engine):
    with serving(build_app(engine)) as address, client(address) as other:
        assert other.get("/api/version").status_code == 404


@pytest.mark.parametrize(
    ("path", "more", "status", "text"),
    [
        (RESPONSES, {"previous_response_id": "r"}, 400, "stores no answers"),
        (RESPONSES, {"conversation": "c"}, 400, "stores no answers"),
        (RESPONSES, {"background": True}, 400, "background"),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "i"}]}, 400, "item_reference"),
        (RESPONSES, {"input": [{"type": "function_call"}]}, 422, "name is needed"),
        (RESPONSES, {"tools": [{"type": "web_search"}]}, 400, "calls functions only"),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "text only"),
        (RESPONSES, {"input": "好" * 3000}, 400, "context length"),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "n"}}}, 400, "JSON schema"),
        (RESPONSES, {"temperature": "hot"}, 422, "temperature"),
        (RESPONSES, {"n": 2}, 400, "one answer"),
        (MESSAGES, {"messages": []}, 422, "messages"),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "text only"),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, 422, "tool_use_id"),
        (MESSAGES, {"tools": [{"type": "bash_20250124", "name": "bash"}]}, 400, "calls functions only"),
        (MESSAGES, {"tool_choice": {"type": "tool"}}, 422, "name is needed"),
        (MESSAGES, {"tool_choice": {"type": "any"}}, 400, "no function in tools"),
        (MESSAGES, {"messages": [{"role": "user", "content": "好" * 3000}]}, 400, "context length"),
        (CHAT, {"messages": [{"role": "user", "content": "a", "images": ["eA=="]}]}, 400, "text only"),
        (CHAT, {"options": {"temperature": "hot"}}, 422, "temperature"),
        (CHAT, {"format": {"type": "nothing"}}, 400, "form"),
        ("/api/generate", {"model": "m", "prompt": "a", "suffix": "b"}, 400, "suffix"),
    ],
)
def test_errors_have_the_form_of_their_api(http, path, more, status, text):
    answer = http.post(path, json=BODIES.get(path, {}) | more)
    body = answer.json()
    assert answer.status_code == status, body
    if path == MESSAGES:
        assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
        message = body["error"]["message"]
    else:
        message = body["error"] if path.startswith("/api") else body["error"]["message"]
    assert text in message and "[" not in message.split(":")[0]


def test_failures_during_a_stream_are_said(http, monkeypatch):
    async def failing(answers):
        raise serving_engine.StepError("out of memory")
        yield

    monkeypatch.setattr(foreign, "in_turn", failing)
    response = events(http, RESPONSES, BODIES[RESPONSES])[-1]["response"]
    assert (response["status"], response["error"]["message"]) == ("failed", "out of memory")
    failed = events(http, MESSAGES, BODIES[MESSAGES])[-1]
    assert failed == {"type": "error", "error": {"type": "api_error", "message": "out of memory"}}
    assert json.loads(http.post(CHAT, json=BODIES[CHAT]).text) == {"error": "out of memory"}


@pytest.mark.parametrize("path", BODIES)
def test_unknown_parameters_are_named(http, path):
    answer = http.post(path, json=BODIES[path] | {"unheard": "of", "stream": False})
    assert answer.headers["x-ignored-parameters"] == "unheard" and answer.status_code == 200


@pytest.mark.parametrize("depth", [100, 300, 900, 1100, 20_000])
def test_deep_values_are_no_defect(http, depth):
    """Whatever the depth that JSON, pydantic or the tokenizer ends at."""
    deep = "[" * depth + "]" * depth
    blocks = '{"type": "tool_result", "tool_use_id": "c", "content": [' * depth + "]}" * depth
    for path, body in (
        (MESSAGES, '{"type": "tool_use", "id": "c", "name": "f", "input": {"a": ' + deep + "}}"),
        (MESSAGES, blocks),
    ):
        content = '{"max_tokens": 1, "messages": [{"role": "user", "content": [' + body + "]}]}"
        assert http.post(path, content=content).status_code in (200, 400, 413, 422), body[:60]
    assert http.post(CHAT, content='{"model": "m", "format": {"a": ' + deep + "}}").status_code in (200, 400, 422)
