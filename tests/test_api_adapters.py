"""Tests of api.py --adapter: the field `model` chooses who answers on every route, and wrong flags are refused."""

from __future__ import annotations

import concurrent.futures
import re

import pytest
from serving import client, frames, serving

pytest.importorskip("fastapi", reason="the server's packages are not installed")

from loading import adapters  # noqa: E402
from loading.arguments import EMBEDDED_CHECKPOINT, ModelArguments, parse_arguments  # noqa: E402
from loading.checkpoint import LoadError  # noqa: E402
from loading.load import load_model_and_tokenizer  # noqa: E402
from server.app import build_app, start_engine  # noqa: E402
from server.arguments import ServerArguments  # noqa: E402

CHAT, BARE = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "你好"}]
SHORT = {"temperature": 0, "max_tokens": 12}
# of each route: the body without a model's name, and where its answer stands
ROUTES = {
    CHAT: ({"messages": USER, **SHORT}, lambda found: found["choices"][0]["message"]["content"]),
    "/v1/messages": ({"messages": USER, **SHORT}, lambda found: found["content"][0]["text"]),
    "/v1/responses": (
        {"input": USER, "temperature": 0, "max_output_tokens": 12},
        lambda found: found["output"][0]["content"][0]["text"],
    ),
    "/api/chat": (
        {"messages": USER, "stream": False, "options": {"temperature": 0, "num_predict": 12}},
        lambda found: found["message"]["content"],
    ),
    "/api/generate": (
        {"prompt": "你好", "stream": False, "options": {"temperature": 0, "num_predict": 12}},
        lambda found: found["response"],
    ),
}


def load():
    return load_model_and_tokenizer(ModelArguments(EMBEDDED_CHECKPOINT, "cpu", "float32"))


@pytest.fixture(scope="module")
def flags(adapter_folders) -> tuple[str, ...]:
    return tuple(f"{name}={folder}" for name, folder in adapter_folders.items())


@pytest.fixture(scope="module")
def http(flags):
    arguments = ServerArguments(adapter=flags, ollama=True)
    engine = start_engine(*load(), arguments)
    with serving(build_app(engine, arguments)) as address, client(address) as made:
        yield made
    engine.close()


@pytest.fixture(scope="module")
def expected(adapter_folders) -> dict[str | None, str]:
    """Return the answer of each adapter, alone in a model, and of the base (None)."""
    found = {}
    for name in (None, *adapter_folders):
        model, tokenizer = load()
        if name is not None:
            adapters.load_adapter(model, adapter_folders[name])
        found[name] = model.chat(tokenizer, "你好", temperature=0, max_new_tokens=12)[0]
    assert len(set(found.values())) == len(found)
    return found


def test_model_chooses_the_adapter_on_every_route(http, expected):
    def ask(path: str, name: str) -> str:
        body, answer_of = ROUTES[path]
        answer = http.post(path, json=body | {"model": name})
        assert answer.status_code == 200 and answer.json()["model"] == name
        return answer_of(answer.json())

    names = [*filter(None, expected), "chatglm-6b", "gpt-3.5-turbo"]
    asked = [(path, name) for path in ROUTES for name in names]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:  # all at once
        found = threads.map(lambda one: ask(*one), asked)
        assert list(found) == [expected.get(name, expected[None]) for _, name in asked]


def test_streams_completions_and_embeddings_are_the_adapters(http, expected):
    chunks = frames(http.post(CHAT, json=ROUTES[CHAT][0] | {"model": "poet", "stream": True}).text)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected["poet"]
    texts, vectors = set(), set()
    for name in ("poet", "long", "any"):
        texts.add(http.post(BARE, json={"prompt": "你好", "model": name, **SHORT}).json()["choices"][0]["text"])
        vectors.add(str(http.post("/v1/embeddings", json={"input": "你好", "model": name}).json()["data"]))
    assert len(texts) == len(vectors) == 3


def test_base_answers_where_no_adapter_is_named(http, expected):
    for body in ({}, {"model": "poet"}):  # the original's route knows no such field
        answer = http.post("/", json={"prompt": "你好", "temperature": 0, "max_new_tokens": 12} | body)
        assert answer.json()["response"] == expected[None]
    assert ROUTES[CHAT][1](http.post(CHAT, json=ROUTES[CHAT][0]).json()) == expected[None]
    answer = http.post("/api/chat", json=ROUTES["/api/chat"][0] | {"model": "poet:latest"})  # as Ollama's clients write
    assert answer.json()["message"]["content"] == expected["poet"]


def test_adapters_are_listed(http, adapter_folders):
    names = ["chatglm-6b", *adapter_folders]
    assert [card["id"] for card in http.get("/v1/models").json()["data"]] == names
    assert http.get("/v1/models/poet").json()["id"] == "poet"
    assert [card["name"] for card in http.get("/api/tags").json()["models"]] == names


def test_strict_names_are_the_models_and_its_adapters(flags):
    arguments = ServerArguments(adapter=flags[:1], strict_model_names=True, served_model_name="glm")
    engine = start_engine(*load(), arguments)
    with serving(build_app(engine, arguments)) as address, client(address) as http:
        for name, status in {"glm": 200, "poet": 200, "chatglm-6b": 404}.items():
            answer = http.post(CHAT, json=ROUTES[CHAT][0] | {"model": name})
            assert answer.status_code == status
        assert "this server has `glm`, `poet`" in answer.json()["error"]["message"]
    engine.close()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapter", "poet"], "--adapter must be NAME=FOLDER, .* got 'poet'"),
        (["--adapter", "=x"], "got '=x'"),
        (["--adapter", "a b=x"], "got 'a b=x'"),
        (["--adapter", "poet:latest=x"], "got 'poet:latest=x'"),
        (["--adapter", "poet=x", "--adapter=poet=y"], "--adapter: the name poet is another adapter's"),
        (["--adapter", "chatglm-6b=x"], "--adapter: the name chatglm-6b is .* or the model's .--served-model-name"),
        (["--served-model-name", "poet", "--adapter", "poet=x"], "--adapter: the name poet"),
    ],
)
def test_wrong_names_are_refused_in_one_line(capsys, flags, message):
    with pytest.raises(SystemExit) as caught:
        parse_arguments("", ServerArguments, arguments=flags)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_a_wrong_folder_is_refused_before_the_server_listens(tmp_path):
    (arguments,) = parse_arguments("", ServerArguments, arguments=["--adapter", f"poet={tmp_path}/a=b"])
    with pytest.raises(LoadError, match=r"^--adapter poet=.*/a=b: no such folder"):
        arguments.adapters()
    arguments = ServerArguments(adapter=(f"poet={tmp_path}",))
    with pytest.raises(LoadError, match="holds no adapter"):
        start_engine(*load(), arguments)
