"""Tests with the programs' own packages, and with what other programs send and read, replayed from their sources."""

from __future__ import annotations

import base64
import json
import struct

import httpx
import pytest
from serving import client, serving

pytest.importorskip("fastapi", reason="the server's packages are not installed")

from engine import Engine  # noqa: E402
from loading.arguments import SamplingArguments  # noqa: E402
from server import app as api  # noqa: E402
from server.arguments import ServerArguments  # noqa: E402

MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "1 + 1"},
]


@pytest.fixture(scope="module")
def address(engine):
    sampling = SamplingArguments(max_new_tokens=40)  # the random model's answers often go on to the model's limit
    with serving(api.build_app(engine, ServerArguments(glm_bot=True, ollama=True), sampling)) as found:
        yield found


@pytest.fixture
def http(address):
    with client(address) as made:
        yield made


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def expected_text(engine: Engine, question: str, history=(), **more) -> str:
    arguments = {"temperature": 0, "max_new_tokens": 20} | more
    return engine.model.chat(engine.tokenizer, question, list(history), **arguments)[0]


# The official OpenAI package


@pytest.fixture
def openai_client(address, no_proxy):
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="EMPTY", max_retries=0) as made:
        yield made


def test_openai_chat(openai_client, engine):
    history = [("You are a helpful assistant.", "好的。"), ("你好", "hello")]
    arguments = {"model": "gpt-3.5-turbo", "messages": MESSAGES, "temperature": 0, "max_tokens": 20}
    answer = openai_client.chat.completions.create(**arguments)
    assert answer.choices[0].message.content == expected_text(engine, "1 + 1", history)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    stream = openai_client.chat.completions.create(
        **arguments, stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content and chunks[-1].usage == answer.usage
    assert chunks[-2].choices[0].finish_reason == answer.choices[0].finish_reason


def test_openai_completions_embeddings_models(openai_client, engine):
    answer = openai_client.completions.create(model="x", prompt="你好", temperature=0, max_tokens=20, logprobs=1)
    assert answer.choices[0].text == expected_text(engine, "你好")
    vectors = openai_client.embeddings.create(model="x", input=["你好", "天气"])  # as base64, its default
    assert len(vectors.data[0].embedding) == engine.model.config.hidden_size
    assert sum(value**2 for value in vectors.data[1].embedding) == pytest.approx(1, abs=1e-4)
    assert [model.id for model in openai_client.models.list()] == ["chatglm-6b"]


def test_openai_errors(openai_client):
    import openai

    with pytest.raises(openai.BadRequestError, match="reduce the length") as caught:
        openai_client.chat.completions.create(model="x", messages=[{"role": "user", "content": "好" * 5000}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError):
        openai_client.chat.completions.create(model="x", messages=[])


# LangChain


def test_langchain_chatglm(address, engine, no_proxy):
    """The class sends max_length 20000 and temperature 0.1 and reads `response` and `history`."""
    langchain = pytest.importorskip("langchain_community.llms.chatglm", reason="langchain-community is not installed")
    llm = langchain.ChatGLM(endpoint_url=address, with_history=True, model_kwargs={"seed": 1, "max_new_tokens": 10})
    first, second = llm.invoke("你好"), llm.invoke("1 + 1")
    more = {"temperature": 0.1, "seed": 1, "max_new_tokens": 10}
    with client(address) as http:
        assert first == http.post("/", json={"prompt": "你好", **more}).json()["response"]
        body = {"prompt": "1 + 1", "history": [["你好", first]], **more}
        assert second == http.post("/", json=body).json()["response"]


def test_langchain_openai(address, engine, no_proxy):
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    arguments = {"base_url": f"{address}/v1", "api_key": "EMPTY", "temperature": 0, "max_retries": 0}
    chat = langchain.ChatOpenAI(model="chatglm-6b", streaming=True, max_tokens=20, **arguments)
    assert chat.invoke("你好").content == expected_text(engine, "你好")
    assert "".join(piece.content for piece in chat.stream("你好")) == expected_text(engine, "你好")
    llm = langchain.OpenAI(model="chatglm-6b", max_tokens=20, **arguments)
    assert llm.invoke("你好") == expected_text(engine, "你好")
    embeddings = langchain.OpenAIEmbeddings(
        base_url=f"{address}/v1", api_key="EMPTY", check_embedding_ctx_length=False, max_retries=0
    )
    assert len(embeddings.embed_query("你好")) == engine.model.config.hidden_size


# lm-eval's class for servers


@pytest.mark.parametrize("more", [{}, {"batch_size": 2}, {"num_concurrent": 2}, {"tokenizer": True}], ids=repr)
def test_lm_eval_local_completions(address, engine, no_proxy, tmp_path, caplog, more):
    """Tasks of generation: texts, lists of texts, and ids. Log-likelihoods are refused in words, which lm-eval logs."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval[api]")
    import requests
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    if ids := "tokenizer" in more:
        engine.tokenizer.save_pretrained(tmp_path)
    form = {"tokenizer": str(tmp_path)} if ids else {"tokenizer_backend": None, **more}
    asking = LocalCompletionsAPI(base_url=f"{address}/v1/completions", model="chatglm-6b", max_retries=1, **form)
    questions = ["你好", "天气", "1 + 1"]
    settings = {"until": ["\n\n", "Question:", "</s>", "<|im_end|>", "问题"], "max_gen_toks": 8, "do_sample": False}
    asked = [Instance("generate_until", {}, (question, settings), index) for index, question in enumerate(questions)]
    expected = [expected_text(engine, question, max_new_tokens=8) for question in questions]
    assert asking.generate_until(asked) == expected and len(set(expected)) == len(questions)
    if ids:
        with pytest.raises(requests.HTTPError):
            asking.loglikelihood([Instance("loglikelihood", {}, ("你好", "好"), 0)])
        assert "ptuning/evaluate_benchmarks.py" in caplog.text


# Others, from ../shared/CLIENTS.md


def test_kirara_looks_for_a_server_with_an_empty_object(http):
    assert http.post("/", json={}).status_code < 500
    answer = http.post("/", json={"prompt": "你好", "history": [["a", "b"]], "max_new_tokens": 3})
    assert answer.json()["history"][-3:][-1][0] == "你好" and isinstance(answer.json()["response"], str)


def test_nonebot(http, engine):
    """`official`: all five fields. `6b-api`: the question in the URL, the history as the body, a greeting at GET /."""
    body = {"prompt": "你好", "history": [], "max_length": 2048, "temperature": 0.01, "top_p": 0.7, "seed": 1}
    assert http.post("/", json=body).json()["history"][-1][0] == "你好"
    assert http.get("/").json() == {"message": "Hello ChatGLM API!"}
    query = {"user_msg": "1 + 1", "max_length": 60, "top_p": 0.7, "temperature": 0}
    answer = http.post("/predict", params=query, json=[["你好", "hello"]]).json()
    left = 60 - len(engine.tokenizer.encode_chat("1 + 1", [("你好", "hello")])[0])
    limit = min(40, left)
    assert answer["response"] == expected_text(engine, "1 + 1", [("你好", "hello")], max_new_tokens=limit)
    assert answer["history"][:1] == [["你好", "hello"]]
    assert http.post("/predict", params={"user_msg": "a", "max_length": 20}).status_code == 200


def test_chatchat_sends_pairs_without_a_question(http):
    answer = http.post("/", json={"prompt": "你好", "history": [[None, "hello"]], "max_length": 10000, "seed": 1})
    assert answer.status_code == 200 and answer.json()["history"][0] == [None, "hello"]


def test_fastchat_route_sends_answers_as_system_messages(http, engine):
    roles = ["user", "system", "user"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, ["你好", "hello", "1 + 1"], strict=True)]
    body = {"model": "chatglm-6b", "messages": messages, "temperature": 0, "max_tokens": 20}
    text = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert text == expected_text(engine, "1 + 1", [("你好", "hello")])


def test_wenda_reads_every_chunk(http, engine):
    """llm_openai.py: finish_reason by index in each chunk; delta['content'], where present, is added to a string."""
    text, done = "", False
    body = {"model": "gpt-3.5-turbo", "messages": MESSAGES, "stream": True, "max_tokens": 20, "temperature": 0}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if not line or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if chunk["choices"][0]["finish_reason"] is not None:
                done = True
            delta = chunk["choices"][0]["delta"]
            if "content" in delta:
                text += delta["content"]
    history = [("You are a helpful assistant.", "好的。"), ("你好", "hello")]
    assert done and text == expected_text(engine, "1 + 1", history)


def test_gpt_academic_parser(http, engine):
    """bridge_chatgpt.py: every line starts with `data:`, JSON from byte 6 on, ends on an empty delta with `stop`."""
    body = {"model": "chatglm-6b", "messages": MESSAGES, "temperature": 0, "top_p": 1, "n": 1, "stream": True}
    text, reason = "", None
    with http.stream("POST", "/v1/chat/completions", json=body, headers={"Authorization": "Bearer sk-any"}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    assert "content" not in lines[0]  # the frame that is skipped holds no text
    for line in lines[1:-1]:
        choice = json.loads(line[6:])["choices"][0]
        if len(choice["delta"]) == 0:
            reason = choice["finish_reason"]
        else:
            text += choice["delta"]["content"]
    history = [("You are a helpful assistant.", "好的。"), ("你好", "hello")]
    assert text == expected_text(engine, "1 + 1", history, max_new_tokens=40) and reason in ("stop", "length")
    too_long = http.post("/v1/chat/completions", json=body | {"messages": [{"role": "user", "content": "好" * 5000}]})
    assert "reduce the length" in too_long.text


def test_streaming_extension_of_the_original(http):
    """Pull request 679: `stream: 1` gives events with response, history, status, time; then the end is said."""
    with http.stream("POST", "/", json={"prompt": "你好", "stream": 1, "max_new_tokens": 8}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all({"response", "history", "status", "time"} <= set(json.loads(line[5:])) for line in lines[:-1])


def test_embeddings_as_base64_are_little_endian_floats(http):
    plain, packed = (
        http.post("/v1/embeddings", json={"input": "你好", "encoding_format": form}).json()["data"][0]["embedding"]
        for form in ("float", "base64")
    )
    data = base64.b64decode(packed)
    assert list(struct.unpack(f"<{len(data) // 4}f", data)) == pytest.approx(plain)


def test_glm_bot_with_a_body(http, engine):
    """The body is a bare JSON string; the server keeps the history, and forgets it at 4096 characters."""
    asked, submit = [], engine.submit
    engine.submit = lambda *requests: asked.extend(requests) or submit(*requests)
    try:
        first = http.post("/chat", json={"msg": "你好", "uid": "u"}).json()
        assert isinstance(first, str)
        http.post("/chat", json={"msg": "1 + 1", "uid": "u"})
        assert asked[-1].prompt_ids == engine.tokenizer.encode_chat("1 + 1", [("你好", first)], 2048)[0]
        assert http.post("/clear", json={"uid": "u"}).json() == "已重置"
        http.post("/chat", json={"msg": "天" * 4000, "uid": "v"})
        http.post("/chat", json={"msg": "天" * 150, "uid": "v"})
        for user in ("u", "v"):
            http.post("/chat", json={"msg": "a", "uid": user})
        assert asked[-2].prompt_ids == engine.tokenizer.encode_prompt("a")
    finally:
        del engine.submit


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "请提供内容"),
        ("?msg=ping", "pong!服务端运行正常!"),
        ("?msg=你好", "无来源的请求，请更新插件"),
        ("?msg=你好&source=s", "请提供用户id"),
        ("?msg=clear&usrid=1&source=s", "已重置当前对话"),
        ("??msg=ping&usrid=1&source=s", "pong!服务端运行正常!"),
        ("?usrid=1&source=s&msg=clear", "已重置当前对话"),
    ],
)
def test_glm_bot_with_a_url(http, query, expected):
    answer = http.get(f"/chatglm{query}")
    assert answer.text == expected and answer.headers["content-type"].startswith("text/plain")


def test_glm_bot_message_is_not_encoded(http, engine):
    asked, submit = [], engine.submit
    engine.submit = lambda *requests: asked.extend(requests) or submit(*requests)
    try:
        answer = http.get("/chatglm?msg=a&b=c+100%25 你好&usrid=x&source=koishi-plugin-glm-bot")
        assert answer.status_code == 200
        assert asked[-1].prompt_ids == engine.tokenizer.encode_prompt("a&b=c+100% 你好")
    finally:
        del engine.submit


def test_glm_bot_is_off_by_default(engine):
    finished = engine.on_finished
    with serving(api.build_app(engine)) as found, httpx.Client(base_url=found, trust_env=False) as http:
        assert http.post("/chat", json={"msg": "a", "uid": "u"}).status_code == 404
    engine.on_finished = finished


@pytest.mark.long
def test_the_servers_own_description_holds(address, no_proxy):
    """schemathesis finds no answer that the OpenAPI description does not allow, and no 5xx."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    import hypothesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    # positive_data_acceptance: that a prompt is too long for max_length, no description can say
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
        )
        def check(case) -> None:
            limits = {"/": "max_new_tokens", "/stream": "max_new_tokens", "/v1/responses": "max_output_tokens"}
            limit = limits.get(case.path, "max_tokens")
            if isinstance(case.body, dict) and (limit in case.body or case.path.endswith(("/completions", "/"))):
                case.body[limit] = 2
                case.body.pop("max_completion_tokens", None)
            case.call_and_validate(timeout=60, excluded_checks=[positive_data_acceptance])

        check()
        tried += 1
    assert tried > 8
