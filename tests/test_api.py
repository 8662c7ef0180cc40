"""Tests of api.py on a real server: routes, limits, errors, streams, disconnecting and shutting down."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import re
import signal
import socket
import threading
import time

import httpx
import pytest
import torch
from serving import ServerProcess, client, frames, serving, wait_until, write_lively_checkpoint

pytest.importorskip("fastapi", reason="the server's packages are not installed")

from chatglm import ChatGLMTokenizer  # noqa: E402
from engine import Engine  # noqa: E402
from loading.arguments import SamplingArguments, parse_arguments  # noqa: E402
from server import app as api  # noqa: E402
from server.arguments import ServerArguments  # noqa: E402
from server.protocol import Message, now, to_rounds  # noqa: E402

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "你好"}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "small"
    model = write_lively_checkpoint(folder)
    return model, ChatGLMTokenizer.from_pretrained(folder), folder


class Server:
    """An engine and its server."""

    def __init__(self, checkpoint, arguments: dict, sampling: dict, **engine) -> None:
        self.model, self.tokenizer, _ = checkpoint
        self.engine = Engine(self.model, self.tokenizer, **engine)
        arguments, sampling = ServerArguments(**arguments), SamplingArguments(**sampling)
        self.running = serving(api.build_app(self.engine, arguments, sampling))
        self.address = self.running.__enter__()
        self.http = client(self.address)

    def post(self, path: str, body, **more) -> httpx.Response:
        return self.http.post(path, json=body, **more)

    def close(self) -> None:
        self.http.close()
        for row in list(self.engine.rows):
            row.answer.cancel()
        self.running.__exit__(None, None, None)
        self.engine.close()


@pytest.fixture(scope="module")
def server(checkpoint):
    made = Server(checkpoint, {"glm_bot": True}, {})
    yield made
    made.close()


@pytest.fixture
def servers(checkpoint):
    """Return a function that makes servers, closed at the end; `endless=True`: answers do not end by themselves."""
    made = []

    def make(arguments=None, sampling=None, endless=False, seconds=0.0, **engine) -> Server:
        one = Server(checkpoint, arguments or {}, sampling or {}, **engine)
        if endless:
            one.engine.end_ids = set()
        hook = one.model.transformer.layers[0].register_forward_pre_hook(lambda *_: time.sleep(seconds))
        made.append((one, hook))
        return one

    yield make
    for one, hook in made:
        hook.remove()
        one.close()


# The original's route


def test_original_route(server):
    answer = server.post("/", {"prompt": "你好", "history": [["a", "b"]], "temperature": 0, "max_new_tokens": 20})
    body = answer.json()
    expected, _ = server.model.chat(server.tokenizer, "你好", [["a", "b"]], temperature=0, max_new_tokens=20)
    assert answer.status_code == 200 and set(body) == {"response", "history", "status", "time"}
    assert body["response"] == expected and body["status"] == 200
    assert body["history"] == [["a", "b"], ["你好", expected]]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", body["time"])


def test_original_defaults(server, monkeypatch):
    """Absent and null values are the model's own defaults: max_length 2048, top_p 0.7, temperature 0.95."""
    seen, submit = [], server.engine.submit
    monkeypatch.setattr(server.engine, "submit", lambda *requests: seen.extend(requests) or submit(*requests))
    for more in ({}, {"history": None, "max_length": None, "top_p": None, "temperature": None}, {"max_length": 0}):
        assert server.post("/", {"prompt": "你好", "max_new_tokens": 1} | more).status_code == 200
        assert (seen[-1].top_p, seen[-1].temperature) == (0.7, 0.95)
    server.post("/stream", {"prompt": "你好", "temperature": 0, "stop": ["a"]})
    assert seen[-1].temperature == 0 and seen[-1].max_tokens == 2048 - len(seen[-1].prompt_ids)


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_json_is_read_whatever_its_type(server, content_type):
    headers = {"content-type": content_type} if content_type else {}
    content = json.dumps({"prompt": "你好", "max_new_tokens": 2}, ensure_ascii=False).encode()
    for data in (content, b"\xef\xbb\xbf" + content):
        answer = server.http.post("/", content=data, headers=headers)
        assert answer.status_code == 200 and answer.json()["history"][0][0] == "你好"


def test_max_length_above_the_models_is_lowered(servers, monkeypatch, checkpoint):
    server = servers(endless=True)
    prompt = server.tokenizer.encode_prompt("你好")
    monkeypatch.setattr(server.model.config, "max_sequence_length", len(prompt) + 9)
    server = servers(endless=True)
    frame = frames(server.post("/stream", {"prompt": "你好", "max_length": 20000}).text)[-1]
    assert frame["finish_reason"] == "length" and frame["status"] == 200


def test_seed_stop_and_unknown_fields(server):
    body = {"prompt": "你好", "temperature": 2, "seed": 7, "max_new_tokens": 40}
    first, second = (server.post("/", body | {"unknown": {"x": 1}}).json()["response"] for _ in range(2))
    assert first == second != server.post("/", body | {"seed": 8}).json()["response"]
    assert server.post("/", body | {"stop": first[4:6]}).json()["response"] == first[: first.index(first[4:6])].strip()


def test_history_that_does_not_fit_is_dropped_and_said(server):
    history = [["天气" * 300, "好" * 300] for _ in range(8)]
    body = server.post("/", {"prompt": "你好", "history": history, "max_new_tokens": 2}).json()
    assert body["dropped_rounds"] >= 1 and len(body["history"]) == 9


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 422, "prompt"),
        ({"prompt": 5}, 422, "string"),
        ({"prompt": "a", "history": [["a"]]}, 422, "history"),
        ({"prompt": "a", "history": "a"}, 422, "history"),
        ({"prompt": "a", "history": [["a", 1]]}, 422, "history"),
        ({"prompt": "a", "temperature": -1}, 422, "temperature"),
        ({"prompt": "a", "temperature": "hot"}, 422, "temperature"),
        ({"prompt": "a", "top_p": 2}, 422, "top_p"),
        ({"prompt": "好" * 5000}, 400, "reduce the length"),
        ({"prompt": "x" * 500_000}, 400, "reduce the length"),
        ({"prompt": "你好", "max_length": 2}, 400, "reduce the length"),
        ([], 422, ""),
        ("text", 422, ""),
        (None, 422, ""),
    ],
)
@pytest.mark.parametrize("path", ["/", "/stream"])
def test_errors_of_the_original_route(server, path, body, status, text):
    answer = server.post(path, body)
    assert answer.status_code == status and set(answer.json()) == {"status", "error", "time"}
    assert answer.json()["status"] == status and text in answer.json()["error"]


BROKEN = [
    b"",
    b"{",
    b"[" * 100_000,
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "a", "messages": [{"role": "user", "content": "a"}], "input": "a", "\\udfff": 1}',
    b'{"prompt": "a", "temperature": NaN}',
    b'{"prompt": "a", "top_p": Infinity}',
    b'{"prompt": "a", "max_length": ' + b"9" * 5000 + b"}",
    '{"prompt": "你好"}'.encode("gbk"),
    '{"prompt": "你好"}'.encode("utf-16"),
    b"\x00\xff\xfe",
    b'{"prompt": null, "messages": null, "input": null}',
]


PATHS = ["/", "/stream", CHAT, COMPLETIONS, "/v1/embeddings", "/chat"]


@pytest.mark.parametrize(
    ("path", "content"),
    [*itertools.product(PATHS, BROKEN), *(("/predict?user_msg=a", content) for content in BROKEN if content)],
)
def test_garbage_is_refused_as_such(server, path, content):
    answer = server.http.post(path, content=content)
    assert answer.status_code == 422, answer.text


def test_escaped_characters_are_read(server):
    """As Python's `json.dumps` writes them: beyond U+FFFF in two halves."""
    content = json.dumps({"prompt": "你好👋", "max_new_tokens": 1})
    assert "\\ud83d" in content and server.http.post("/", content=content).json()["history"][0][0] == "你好👋"


def test_huge_numbers_are_taken(server):
    body = {"prompt": "你好", "max_length": 10**30, "max_new_tokens": 10**30, "stop": ["a", "b", "c", "d", "e", "好"]}
    assert server.post("/", body).status_code == 200
    assert server.post("/", {"prompt": "你好", "max_length": 2048.0, "max_new_tokens": 1.0}).status_code == 200
    assert server.post("/", {"prompt": "你好", "temperature": 1e-40, "max_new_tokens": 3}).status_code == 200


# Streams


def test_stream_has_pieces_and_then_the_whole(server):
    body = {"prompt": "你好", "seed": 1, "temperature": 1.5, "max_new_tokens": 30}
    whole = server.post("/", body).json()
    answer = server.post("/stream", body)
    *pieces, last = frames(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "".join(piece["delta"] for piece in [*pieces, last]) == last["response"] == whole["response"]
    assert last["history"] == whole["history"] and last["status"] == 200 and last["finished"]
    assert len(pieces) > 5 and not any(piece["finished"] for piece in pieces)


@pytest.mark.parametrize("stream", [True, 1])
def test_stream_flag_of_the_original_route_is_cumulative(server, stream):
    body = {"prompt": "你好", "seed": 1, "temperature": 1.5, "max_new_tokens": 30}
    events = frames(server.post("/", body | {"stream": stream}).text)
    for before, after in zip(events, events[1:], strict=False):
        assert after["response"].startswith(before["response"]) and set(after) >= {"history", "status", "time"}
    assert events[-1]["response"] == server.post("/", body).json()["response"]


def test_chat_stream_satisfies_every_client(server):
    """Role frame first, `finish_reason` in every frame, no null content, usage only when asked for, [DONE]."""
    body = {"messages": USER, "seed": 1, "max_tokens": 20, "temperature": 1.5}
    whole = server.post(CHAT, body).json()
    events = frames(server.post(CHAT, body | {"stream": True}).text)
    choices = [event["choices"][0] for event in events]
    assert choices[0]["delta"] == {"role": "assistant"} and choices[0]["finish_reason"] is None
    assert all("finish_reason" in choice for choice in choices)
    assert all(isinstance(choice["delta"]["content"], str) for choice in choices[1:-1])
    assert choices[-1]["delta"] == {} and choices[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    assert text == whole["choices"][0]["message"]["content"]
    assert not any("usage" in event for event in events) and len({event["id"] for event in events}) == 1
    *_, last = frames(server.post(CHAT, body | {"stream": True, "stream_options": {"include_usage": True}}).text)
    assert last["choices"] == [] and last["usage"] == whole["usage"]


def test_role_frame_comes_while_the_request_waits(servers):
    server = servers(endless=True, seconds=0.02, max_batch_size=1)
    with server.http.stream("POST", CHAT, json={"messages": USER, "stream": True, "max_tokens": 1000}) as first:
        lines = first.iter_lines()
        next(lines)
        with server.http.stream("POST", CHAT, json={"messages": USER, "stream": True}) as second:
            # kept: httpx closes the connection of an iterator that nobody holds, and the request leaves the queue
            frames_of_second = second.iter_lines()
            assert "assistant" in next(frames_of_second)
            # the first one has begun, this one waits
            wait_until(lambda: server.engine.queue_length == 1, state=lambda: server.http.get("/health").text)


# OpenAI's routes


def test_chat_completion(server):
    body = server.post(CHAT, {"model": "gpt-3.5-turbo", "messages": USER, "temperature": 0, "max_tokens": 9}).json()
    expected, _ = server.model.chat(server.tokenizer, "你好", temperature=0, max_new_tokens=9)
    assert body["object"] == "chat.completion" and body["choices"][0]["message"] == {
        "role": "assistant",
        "content": expected,
    }
    prompt_tokens = len(server.tokenizer.encode_prompt("你好"))
    assert body["usage"]["prompt_tokens"] == prompt_tokens
    assert body["usage"]["total_tokens"] == prompt_tokens + body["usage"]["completion_tokens"]


def test_n_answers_differ_and_repeat(server):
    body = {"messages": USER, "n": 3, "seed": 5, "temperature": 2, "max_tokens": 20}
    first, second = (server.post(CHAT, body).json() for _ in range(2))
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2] and len(set(texts)) == 3
    assert texts == [choice["message"]["content"] for choice in second["choices"]]
    streamed = ["", "", ""]
    for event in frames(server.post(CHAT, body | {"stream": True}).text):
        streamed[event["choices"][0]["index"]] += event["choices"][0]["delta"].get("content", "")
    assert streamed == texts
    assert first["usage"]["prompt_tokens"] == len(server.tokenizer.encode_prompt("你好"))


def test_max_tokens_both_ways(servers):
    server = servers(endless=True)
    for name in ("max_tokens", "max_completion_tokens"):
        body = server.post(CHAT, {"messages": USER, name: 4}).json()
        assert body["usage"]["completion_tokens"] == 4 and body["choices"][0]["finish_reason"] == "length"


def test_completions(server):
    body = {"prompt": ["你好", "a"], "n": 2, "seed": 1, "max_tokens": 5, "temperature": 1.5}
    choices = server.post(COMPLETIONS, body).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3] and all(choice["text"] for choice in choices)
    streamed = [""] * 4
    for event in frames(server.post(COMPLETIONS, body | {"stream": True}).text):
        streamed[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert streamed == [choice["text"] for choice in choices]


def test_logprobs(server):
    body = {"messages": USER, "max_tokens": 6, "logprobs": True, "top_logprobs": 2, "seed": 1}
    whole = server.post(CHAT, body).json()["choices"][0]
    tokens = whole["logprobs"]["content"]
    joined = b"".join(bytes(token["bytes"]) for token in tokens).decode("utf-8", "replace")
    assert joined.strip() and all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in tokens)
    streamed = []
    for event in frames(server.post(CHAT, body | {"stream": True}).text):
        streamed += (event["choices"][0]["logprobs"] or {"content": []})["content"]
    assert streamed == tokens
    older = server.post(COMPLETIONS, {"prompt": "你好", "max_tokens": 6, "logprobs": 3}).json()["choices"][0][
        "logprobs"
    ]
    assert {len(older[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")} == {
        len(older["tokens"])
    }


def test_embeddings_are_the_mean_hidden_state(server):
    body = server.post("/v1/embeddings", {"input": ["你好", "天气"], "model": "any"}).json()
    ids = torch.tensor([server.tokenizer.encode_prompt("天气")])
    with torch.no_grad():
        expected = torch.nn.functional.normalize(server.model.transformer(ids).last_hidden_state[0].mean(0), dim=0)
    torch.testing.assert_close(torch.tensor(body["data"][1]["embedding"]), expected, atol=1e-5, rtol=1e-4)
    assert body["usage"]["prompt_tokens"] == sum(len(server.tokenizer.encode_prompt(text)) for text in ("你好", "天气"))
    for ids in ([1, 2, 3], [[1, 2, 3]]):
        answer = server.post("/v1/embeddings", {"input": ids})
        assert answer.status_code == 422 and "check_embedding_ctx_length=False" in answer.json()["error"]["message"]


def test_models(server):
    assert server.http.get("/v1/models").json()["data"][0]["id"] == "chatglm-6b"
    assert server.http.get("/v1/models/any/name").json()["id"] == "any/name"


def test_strict_model_names(servers):
    server = servers({"strict_model_names": True})
    short = {"max_tokens": 3}  # else a random answer may go on for two thousand
    bodies = {CHAT: {"messages": USER} | short, COMPLETIONS: {"prompt": "a"} | short, "/v1/embeddings": {"input": "a"}}
    for path, body in bodies.items():
        answer = server.post(path, body | {"model": "gpt-3.5-turbo"})
        assert answer.status_code == 404 and "does not exist" in answer.json()["error"]["message"]
        assert server.post(path, body | {"model": "chatglm-6b"}).status_code == 200
    assert server.http.get("/v1/models/gpt").status_code == 404


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"messages": []}, 422, "invalid_request"),
        ({"repetition_penalty": 0.001}, 422, "invalid_request"),
        ({"messages": "hello"}, 422, "invalid_request"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 422, "invalid_request"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "unsupported_parameter"),
        ({"n": 0}, 422, "invalid_request"),
        ({"n": "two"}, 422, "invalid_request"),
        ({"temperature": 1e9}, 422, "invalid_request"),
        ({"max_tokens": -2}, 422, "invalid_request"),
        ({"stop": [5]}, 422, "invalid_request"),
        ({"frequency_penalty": 3}, 422, "invalid_request"),
        ({"logit_bias": {"a": 1}}, 422, "invalid_request"),
        ({"logit_bias": {"5": 101}}, 422, "invalid_request"),
        ({"logit_bias": {"999999": 1}}, 400, "invalid_value"),
        ({"min_tokens": 5, "max_tokens": 4}, 400, "invalid_value"),
        ({"tools": True}, 422, "invalid_request"),
        ({"tool_choice": "required"}, 400, "invalid_value"),
        ({"functions": [{}]}, 400, "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, 422, "invalid_request"),
        ({"messages": [{"role": "user", "content": "好" * 5000}]}, 400, "context_length_exceeded"),
    ],
)
def test_errors_of_openai_routes(server, more, status, code):
    answer = server.post(CHAT, {"messages": USER} | more)
    error = answer.json()["error"]
    assert answer.status_code == status and error["code"] == code
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert error["param"] == (next(iter(more)) if code != "context_length_exceeded" else None)
    if code == "context_length_exceeded":
        assert "maximum context length is 2048 tokens" in error["message"]
        assert "reduce the length of the messages" in error["message"]


def test_neutral_parameters_pass(server):
    neutral = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "tools": None, "tool_choice": "none"}
    neutral |= {"audio": None, "best_of": None, "chat_template_kwargs": {}, "reasoning_effort": "low", "echo": False}
    neutral |= {"safety_identifier": "u", "prompt_cache_key": "k", "functions": [], "modalities": ["text"]}
    neutral |= {"response_format": {"type": "text"}, "user": "u", "n": 1, "logprobs": False, "stop": None, "seed": None}
    answer = server.post(CHAT, {"messages": USER, "max_tokens": 1} | neutral)
    assert answer.status_code == 200 and "x-ignored-parameters" not in answer.headers


def test_what_old_clients_send_is_understood(servers):
    """-1 and 0 for no limit, empty stop texts, and numbers as texts."""
    server, body = servers(sampling={"max_new_tokens": 7}), {"messages": USER, "temperature": 0, "max_tokens": 5}
    plain = server.post(CHAT, body).json()["choices"]
    for more in ({"stop": ""}, {"stop": []}, {"stop": [None, ""]}, {"max_tokens": "5", "temperature": "0.0", "n": "1"}):
        assert server.post(CHAT, body | more).json()["choices"] == plain, more
    unlimited = server.post(CHAT, {"messages": USER, "temperature": 0}).json()["choices"]
    for limit in (-1, 0):
        assert server.post(CHAT, body | {"max_tokens": limit}).json()["choices"] == unlimited


def test_unknown_parameters_are_named_or_refused(server, servers, caplog):
    body = {"temprature": 1, "行\n": [1], "": 1, "min_p": 0.1, "messages": USER, "max_tokens": 1}
    for more in ({}, {"stream": True}):
        answer = server.post(CHAT, body | more)
        assert (
            answer.status_code == 200 and answer.headers["x-ignored-parameters"] == "temprature, %E8%A1%8C%0A, %22%22"
        )
    assert "ignored unknown parameters: temprature" in caplog.text
    strict = servers({"strict_parameters": True})
    error = strict.post(CHAT, body).json()["error"]
    assert error["code"] == "unsupported_parameter" and error["param"] == "temprature"
    assert strict.post(CHAT, {"messages": USER, "max_tokens": 1, "audio": None, "min_p": 0.1}).status_code == 200


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (COMPLETIONS, {"prompt": "a", "echo": True, "logprobs": 1}),
        (COMPLETIONS, {"prompt": "a", "suffix": "none"}),
        (COMPLETIONS, {"prompt": "a", "best_of": 2}),
        (COMPLETIONS, {"prompt": [10**6]}),
        ("/v1/embeddings", {"input": "a", "dimensions": 1}),
    ],
)
def test_what_would_change_the_answer_is_refused(server, path, more):
    answer = server.post(path, more)
    assert answer.status_code == 400 and answer.json()["error"]["code"] in ("unsupported_parameter", "invalid_value")


def test_echo_comes_before_the_answer(server):
    body = {"prompt": ["你好", "a"], "n": 2, "best_of": 2, "seed": 1, "max_tokens": 4}
    plain = [choice["text"] for choice in server.post(COMPLETIONS, body).json()["choices"]]
    echoed = [choice["text"] for choice in server.post(COMPLETIONS, body | {"echo": True}).json()["choices"]]
    prompts = ["你好", "你好", "a", "a"]
    assert echoed == [prompt + text for prompt, text in zip(prompts, plain, strict=True)]
    streamed = [""] * 4
    for event in frames(server.post(COMPLETIONS, body | {"echo": True, "stream": True}).text):
        streamed[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert streamed == echoed


def test_token_ids_are_a_prompt(server):
    body = {"temperature": 0, "max_tokens": 6}
    found = server.post("/tokenize", {"prompt": "你好"}).json()
    assert found["tokens"] == server.tokenizer.encode_prompt("你好") and found["count"] == len(found["tokens"])
    bare = server.post("/tokenize", {"prompt": "你好", "add_special_tokens": False}).json()["tokens"]
    prompts = ("你好", found["tokens"], bare, [bare])
    texts = [server.post(COMPLETIONS, body | {"prompt": one}).json()["choices"][0]["text"] for one in prompts]
    assert texts == [texts[0]] * 4
    dialogue = [{"role": "system", "content": "a"}, *USER]
    ids = server.tokenizer.apply_chat_template(dialogue, return_dict=False)
    assert server.post("/tokenize", {"messages": dialogue}).json()["tokens"] == ids
    assert server.post("/detokenize", {"tokens": bare}).json() == {"prompt": "你好"}


def test_an_assistants_last_message_is_continued(server):
    """The prompt ends with it, as in `apply_chat_template(continue_final_message=True)`."""
    messages = [*USER, {"role": "assistant", "content": "天气 a"}]
    ids = server.tokenizer.apply_chat_template(messages, continue_final_message=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = server.model.generate(ids, max_new_tokens=6, do_sample=False)[0]
    whole, before = (server.tokenizer.decode(part, True) for part in (expected, ids[0]))
    body = server.post(CHAT, {"messages": messages, "temperature": 0, "max_tokens": 6}).json()
    assert body["choices"][0]["message"]["content"] == whole[len(before) :].rstrip()
    assert body["usage"]["prompt_tokens"] == ids.shape[1]


def test_an_empty_system_message_adds_nothing(server):
    counts = [
        server.post(CHAT, {"messages": messages, "max_tokens": 1}).json()["usage"]["prompt_tokens"]
        for messages in (USER, [{"role": "system", "content": ""}, *USER])
    ]
    assert counts[0] == counts[1]


def test_parameters_reach_the_engine(server):
    """Answers under penalties and biases are those of the same call in Python."""
    bias = {str(server.tokenizer.encode_text("天")[-1]): 5.5}
    more = {"presence_penalty": 1.5, "frequency_penalty": "0.5", "min_tokens": 9, "min_p": 0.2, "ignore_eos": True}
    body = server.post(CHAT, {"messages": USER, "temperature": 0, "max_tokens": 12, "logit_bias": bias} | more).json()
    more |= {"logit_bias": {int(key): value for key, value in bias.items()}, "frequency_penalty": 0.5}
    expected, _ = server.model.chat(server.tokenizer, "你好", temperature=0, max_new_tokens=12, **more)
    assert body["choices"][0]["message"]["content"] == expected and body["usage"]["completion_tokens"] == 12


def test_models_tell_the_context_length(server):
    assert server.http.get("/v1/models").json()["data"][0]["max_model_len"] == 2048


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("u1", ("u1", [])),
        ("s1 u2", ("u2", [("s1", "好的。")])),
        ("u1 a2 u3", ("u3", [("u1", "a2")])),
        ("u1 s2 u3", ("u3", [("u1", "s2")])),  # FastChat's clients send answers so
        ("s1 u2 s3 u4 s5 u6", ("u6", [("s1", "好的。"), ("u2", "s3"), ("u4", "s5")])),
        ("u1 s2", ("u1\ns2", [])),
        ("u1 u2", ("u1\nu2", [])),
        ("a1 u2", ("u2", [("", "a1")])),
        ("u1 a2 a3 u4", ("u4", [("u1", "a2\na3")])),
        ("u1 a2 s3 u4", ("s3\nu4", [("u1", "a2")])),
        ("u1 s2 a3 u4", ("u4", [("u1\ns2", "a3")])),
        ("s1", ("s1", [])),
    ],
)
def test_to_rounds(roles, expected):
    names = {"u": "user", "a": "assistant", "s": "system"}
    messages = [Message(role=names[word[0]], content=word) for word in roles.split()]
    assert to_rounds(messages) == (*expected, "")


def test_content_in_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert to_rounds([Message(role="user", content=parts)]) == ("ab", [], "")


def test_a_dialogue_too_long_is_an_error_not_a_loss(server):
    """OpenAI's clients shorten their history themselves when they are told to."""
    messages = [{"role": role, "content": "天气" * 200} for _ in range(6) for role in ("user", "assistant")] + USER
    assert "reduce the length" in server.post(CHAT, {"messages": messages}).json()["error"]["message"]


# Limits


def test_queue_full_is_429(servers):
    server = servers(endless=True, seconds=0.02, max_batch_size=1, max_queue=0)
    with server.http.stream("POST", "/stream", json={"prompt": "你好"}) as running:
        lines = running.iter_lines()  # kept: httpx closes the response with its iterator
        next(lines)
        for path, body in (
            (CHAT, {"messages": USER}),
            (CHAT, {"messages": USER, "stream": True}),
            ("/", {"prompt": "a"}),
        ):
            answer = server.post(path, body)
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1


def test_more_answers_than_the_server_takes_is_an_error_that_says_so(servers):
    """Trying again later, as 429 means, would never help."""
    server = servers(max_batch_size=2, max_queue=1)
    answer = server.post(COMPLETIONS, {"prompt": ["a", "b"], "n": 2})
    assert answer.status_code == 400 and "this server takes 3" in answer.json()["error"]["message"]


def test_time_in_queue_is_503_and_total_is_504(servers):
    server = servers(endless=True, seconds=0.02, max_batch_size=1, queue_seconds=0.3, total_seconds=1.0)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        long = pool.submit(server.post, CHAT, {"messages": USER})
        wait_until(lambda: server.engine.batch_size == 1)
        waited = server.post("/", {"prompt": "a"})
        assert waited.status_code == 503 and "0.3 seconds" in waited.json()["error"]
        assert long.result().status_code == 504
    events = frames(server.post(CHAT, {"messages": USER, "stream": True}).text)
    assert events[-1]["error"]["code"] == "answer_timeout"


def test_body_size_is_413(servers):
    server = servers({"max_body_bytes": 2000})
    assert server.post("/", {"prompt": "x" * 3000}).status_code == 413

    def chunks():
        yield b'{"prompt": "'
        for _ in range(10):
            yield b"x" * 1000

    answer = server.http.post(CHAT, content=chunks())
    assert answer.status_code == 413 and "reduce the length" in answer.json()["error"]["message"]


def test_a_body_that_does_not_come_is_408(servers):
    server = servers({"request_timeout": 0.2})
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        assert b" 408 " in connection.recv(1000).split(b"\r\n")[0]


def test_a_defect_is_a_500_in_the_routes_shape(servers, monkeypatch, caplog):
    server = servers()

    def fail(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(server.tokenizer, "encode_chat", fail)
    assert server.post("/", {"prompt": "a"}).json()["status"] == 500
    answer = server.post(CHAT, {"messages": USER})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    assert "a defect" not in answer.text and "a defect" in caplog.text
    assert 'chatglm_requests_total{route="/",status="500"} 1.0' in server.http.get("/metrics").text


def test_api_key(servers, monkeypatch):
    monkeypatch.setenv("CHATGLM_API_KEY", "from-the-environment")
    for server, key in ((servers({"api_key": "密k"}), "密k"), (servers(), "from-the-environment")):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": key.encode()}):
            answer = server.post(CHAT, {"messages": USER}, headers=headers)
            assert answer.status_code == 401 and "Incorrect API key" in answer.json()["error"]["message"]
            assert server.post("/", {"prompt": "a"}, headers=headers).status_code == 401
        headers = {"Authorization": b"Bearer " + key.encode()}
        assert server.post("/", {"prompt": "a", "max_new_tokens": 1}, headers=headers).status_code == 200
        assert server.http.get("/health").status_code == 200 and server.http.get("/v1/models").status_code == 401


def test_without_a_key_any_is_taken(server):
    assert server.http.get("/v1/models", headers={"Authorization": "Bearer EMPTY"}).status_code == 200


def test_cors(server, servers):
    origin = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in server.http.options("/", headers=origin).headers
    allowing = servers({"allow_origin": "http://page, http://other", "api_key": "k"})
    assert allowing.http.options("/", headers=origin).headers["access-control-allow-origin"] == "http://page"
    other = allowing.http.options("/", headers=origin | {"Origin": "http://evil"})
    assert "access-control-allow-origin" not in other.headers


# Leaving and staying


@pytest.mark.parametrize(
    ("path", "body", "stream"),
    [
        (CHAT, {"messages": USER, "n": 2}, True),
        (CHAT, {"messages": USER}, False),
        ("/", {"prompt": "你好"}, True),
        ("/", {"prompt": "你好"}, False),
        ("/v1/embeddings", {"input": ["天气" * 200] * 40}, None),
    ],
)
def test_a_disconnected_client_frees_its_place(servers, path, body, stream):
    server = servers(endless=True, seconds=0.01, max_batch_size=1)
    content = json.dumps(body if stream is None else body | {"stream": stream}).encode()
    address = server.address.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        )
        wait_until(lambda: server.engine.batch_size == 1)
    wait_until(lambda: server.engine.batch_size == 0 and server.engine.queue_length == 0)
    assert server.post("/", {"prompt": "a", "max_new_tokens": 1}).status_code == 200
    if not stream:
        wait_until(lambda: 'status="499"' in server.http.get("/metrics").text)
    counted = server.http.get("/metrics").text
    assert 'status="5' not in counted and ('status="499"' in counted) is (not stream)


def test_answers_that_shutting_down_cuts_say_so(servers):
    server = servers(endless=True, seconds=0.01)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        bodies = [(CHAT, {"messages": USER, "stream": stream}) for stream in (True, False)]
        bodies += [("/", {"prompt": "你好", "stream": stream}) for stream in (True, False)]
        answers = [pool.submit(server.post, *body) for body in bodies]
        wait_until(lambda: server.engine.batch_size == 4)
        server.engine.close()
        chat_stream, chat, original_stream, original = (answer.result() for answer in answers)
    assert frames(chat_stream.text)[-1]["error"]["code"] == chat.json()["error"]["code"] == "shutting_down"
    assert frames(original_stream.text)[-1]["status"] == original.json()["status"] == original.status_code == 503
    assert server.http.get("/health").status_code == 503
    assert server.post("/", {"prompt": "a"}).status_code == 503


def test_health_and_metrics(servers):
    server = servers()
    assert server.http.get("/health").json() == {"alive": True, "ready": True, "running": 0, "waiting": 0}
    used = server.post(CHAT, {"messages": USER, "max_tokens": 4}).json()["usage"]
    text = server.http.get("/metrics").text
    assert f"chatglm_prompt_tokens_total {used['prompt_tokens']:.1f}" in text
    assert f"chatglm_completion_tokens_total {used['completion_tokens']:.1f}" in text
    assert 'chatglm_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert "chatglm_time_to_first_token_seconds_count 1.0" in text
    assert "chatglm_queue_length 0.0" in text and "chatglm_batch_size 0.0" in text
    server.engine.close()
    assert server.http.get("/health").status_code == 503


def test_many_clients_get_their_own_answers(server):
    """48 at once, over all routes; each answer equals the one that its prompt gets alone."""
    prompts = [f"{word}{number}" for number in range(8) for word in ("你好", "天气", "a", "晚上")]
    expected = {
        prompt: server.model.chat(server.tokenizer, prompt, temperature=0, max_new_tokens=12)[0] for prompt in prompts
    }

    def ask(number: int) -> tuple[str, str]:
        prompt = prompts[number % len(prompts)]
        chat = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 12}
        original = {"prompt": prompt, "temperature": 0, "max_new_tokens": 12}
        if number % 4 == 0:
            return prompt, server.post(CHAT, chat).json()["choices"][0]["message"]["content"]
        if number % 4 == 1:
            events = frames(server.post(CHAT, chat | {"stream": True}).text)
            return prompt, "".join(event["choices"][0]["delta"].get("content", "") for event in events)
        if number % 4 == 2:
            return prompt, server.post("/", original).json()["response"]
        return prompt, frames(server.post("/stream", original).text)[-1]["response"]

    with concurrent.futures.ThreadPoolExecutor(48) as pool:
        for prompt, text in pool.map(ask, range(96)):
            assert text == expected[prompt], prompt


def test_log_has_conversations_only_when_asked(servers, caplog):
    secret = "天气真好"
    for log, found in ((False, False), (True, True)):
        caplog.clear()
        server = servers({"log_conversations": log})
        with caplog.at_level("INFO"):
            server.post("/", {"prompt": secret, "max_new_tokens": 2})
            server.post(CHAT, {"messages": [{"role": "user", "content": secret}], "max_tokens": 2})
        assert (secret in caplog.text) is found and "2 tokens" in caplog.text


def test_unknown_routes_and_methods(server):
    assert server.http.get("/nowhere").status_code == 404
    assert server.http.get("/v1/nowhere").json()["error"]["code"] == "not_found"
    answer = server.http.put("/v1/models")
    assert answer.status_code == 405 and answer.headers["allow"] == "GET"


def test_documentation(server):
    description = server.http.get("/openapi.json").json()
    assert server.http.get("/docs").status_code == 200
    for path in ("/", "/stream", CHAT, COMPLETIONS, "/v1/embeddings"):
        body = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        schema = description["components"]["schemas"][body["$ref"].split("/")[-1]]
        for example in schema.get("examples", [{}]):
            assert path == "/" or example
            short = {CHAT: {"max_tokens": 1}, COMPLETIONS: {"max_tokens": 1}, "/v1/embeddings": {}}
            assert server.post(path, example | short.get(path, {"max_new_tokens": 1}))


def test_arguments_are_checked(capsys):
    for words in (["--port", "99999"], ["--max-batch-size", "0"], ["--drain-seconds", "-1"]):
        with pytest.raises(SystemExit):
            parse_arguments("", ServerArguments, arguments=words)
    assert "port must be from 0 to 65535, got 99999" in capsys.readouterr().err
    (parsed,) = parse_arguments("", ServerArguments, arguments=[])
    assert (parsed.host, parsed.port, parsed.allow_origin) == ("127.0.0.1", 8000, "")


# The process


@pytest.mark.long
def test_sigterm_lets_answers_finish_and_exits_with_0(checkpoint):
    process = ServerProcess("--model", str(checkpoint[2]))
    got = []

    def ask() -> None:
        with client(process.address) as http:
            got.append(http.post("/", json={"prompt": "你好", "seed": 1, "temperature": 5, "top_p": 1}))

    thread = threading.Thread(target=ask)
    with client(process.address) as http:
        thread.start()
        wait_until(lambda: http.get("/health").json()["running"] == 1 or not thread.is_alive())
    assert process.stop(signal.SIGTERM) == 0, "".join(process.log)
    thread.join()
    assert got[0].status_code == 200 and got[0].json()["response"]
    with pytest.raises(httpx.ConnectError), client(process.address) as http:
        http.get("/health")
    assert "Traceback" not in "".join(process.log)


def test_drain_seconds_bound_the_wait(checkpoint):
    """Answers that outlast the time are cut, and the status is still 0."""
    process, ended = ServerProcess("--model", str(checkpoint[2]), "--drain-seconds", "0"), []

    def ask() -> None:
        body = {"prompt": "你好", "temperature": 100, "top_p": 1}
        while not ended:  # the server has a running answer at any time
            with client(process.address) as http:
                try:
                    http.post("/", json=body)
                except httpx.HTTPError as error:
                    ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    with client(process.address) as http:
        wait_until(lambda: http.get("/health").json()["running"] == 1)
    assert process.stop(signal.SIGTERM) == 0, "".join(process.log)
    thread.join()
    assert ended


def test_a_port_in_use_is_an_error(checkpoint):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AssertionError, match="(?i)address already in use"):
            ServerProcess("--model", str(checkpoint[2]), "--port", str(taken.getsockname()[1]))


def test_protocol_times_are_the_originals():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", now())
