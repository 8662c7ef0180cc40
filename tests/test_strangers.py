"""Clients that nobody here wrote, unchanged, against one `api.py` with the embedded checkpoint.

Each test skips where its client is not installed. Clients that do not install beside the project are run from an
environment of their own, without PyTorch:

    python api.py --ollama --port 8000
    CHATGLM_ADDRESS=http://127.0.0.1:8000 THEIR/python -m pytest --noconftest -o addopts= tests/test_strangers.py
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Literal

import pytest

pydantic = pytest.importorskip("pydantic", reason="the server's packages are not installed")
NODE = Path(__file__).parent / "node"
QUESTION = "你好"
TOO_LONG = "好" * 5000
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["北京", "上海"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"name": "weather", "description": "Tell the weather of a city.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": TOOL}]


class City(pydantic.BaseModel):
    """What is asked for; everything has a default, as a form that is told in words only is not kept by this model."""

    name: Literal["北京", "上海"] = "北京"
    districts: Literal[1, 2] = 1


@pytest.fixture(scope="module")
def address():
    if found := os.environ.get("CHATGLM_ADDRESS"):
        yield found
        return
    pytest.importorskip("fastapi", reason="the server's packages are not installed")
    from serving import ServerProcess

    server = ServerProcess("--ollama", "--max-new-tokens", "60")
    yield server.address
    assert server.stop(signal.SIGTERM) == 0, "".join(server.log)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Keep clients from proxies, from calls home and from this user's settings."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))


@pytest.fixture(scope="module")
def greeting(address):
    """Return the greedy answer to the question, as the original's route gives it."""
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    answer = httpx.post(address, json={"prompt": QUESTION, "temperature": 0}, timeout=60, trust_env=False)
    return answer.json()["response"]


@pytest.fixture
def openai_client(address):
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="EMPTY", max_retries=0) as made:
        yield made


def user(text: str = QUESTION) -> list[dict]:
    """Return a dialogue of one question, a new one each time: clients change it."""
    return [{"role": "user", "content": text}]


def is_weather(name: str, arguments: str | dict) -> bool:
    """Whether a call is one of the tool's."""
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    return name == "weather" and arguments in ({"city": "北京"}, {"city": "上海"})


def test_openai_responses(openai_client, greeting):
    create = openai_client.responses.create
    answer = create(model="m", input=QUESTION, temperature=0)
    assert answer.output_text == greeting and answer.status == "completed" and answer.usage.output_tokens > 5
    tools = [{"type": "function", **TOOL}]
    (call,) = create(model="m", input=QUESTION, tools=tools, tool_choice="required", parallel_tool_calls=False).output
    assert is_weather(call.name, call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "晴"}
    answer = create(model="m", input=[*user(), call, result], tools=tools, instructions="短", tool_choice="none")
    assert answer.output[0].type == "message" and answer.instructions == "短"
    parsed = openai_client.responses.parse(model="m", input=QUESTION, text_format=City)
    assert isinstance(parsed.output_parsed, City)
    cut = create(model="m", input=QUESTION, max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_openai_responses_stream(openai_client, greeting):
    with openai_client.responses.stream(model="m", input=QUESTION, temperature=0) as stream:
        events = list(stream)
        assert stream.get_final_response().output_text == greeting
    assert "".join(one.delta for one in events if one.type == "response.output_text.delta") == greeting
    assert [one.sequence_number for one in events] == list(range(len(events)))
    more = {"tools": [{"type": "function", **TOOL}], "tool_choice": {"type": "function", "name": "weather"}}
    with openai_client.responses.stream(model="m", input=QUESTION, **more) as stream:
        (call,) = stream.get_final_response().output
    assert is_weather(call.name, call.arguments)


def test_litellm(address, greeting):
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    more = {"api_base": f"{address}/v1", "api_key": "EMPTY", "messages": user(), "temperature": 0}
    openai = more | {"model": "openai/chatglm-6b"}
    assert litellm.completion(**openai).choices[0].message.content == greeting
    chunks = litellm.completion(**openai, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == greeting
    called = litellm.completion(**openai, tools=TOOLS, tool_choice="required").choices[0].message.tool_calls
    assert all(is_weather(call.function.name, call.function.arguments) for call in called)
    City.model_validate_json(litellm.completion(**openai, response_format=City).choices[0].message.content)
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**openai | {"messages": user(TOO_LONG)})
    for model in ("anthropic/chatglm-6b", "ollama_chat/chatglm-6b"):
        answer = litellm.completion(**more | {"model": model, "api_base": address, "max_tokens": 60})
        assert answer.choices[0].message.content == greeting


@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA", "RESPONSES_TOOLS"])
def test_instructor(openai_client, mode):
    instructor = pytest.importorskip("instructor", reason="instructor is not installed")
    client = instructor.from_openai(openai_client, mode=instructor.Mode[mode])
    found = client.chat.completions.create(model="m", messages=user(), response_model=City, max_retries=0)
    assert isinstance(found, City)


def test_llm(address, greeting, tmp_path):
    llm = pytest.importorskip("llm", reason="llm is not installed")
    entry = {"model_id": "chatglm", "model_name": "chatglm-6b", "api_base": f"{address}/v1"}
    entry |= {"supports_schema": True, "supports_tools": True}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([entry]), encoding="utf-8")
    model = llm.get_model("chatglm")
    model.key = "EMPTY"
    assert model.prompt(QUESTION, temperature=0, stream=False).text() == greeting
    assert "".join(model.prompt(QUESTION, temperature=0)) == greeting
    City.model_validate_json(model.prompt(QUESTION, schema=City).text())
    other = model.conversation().prompt("1 + 1", system="短", stream=False, max_tokens=8)
    assert isinstance(other.text(), str)


def test_langchain_openai(address, greeting):
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    more = {"base_url": f"{address}/v1", "api_key": "EMPTY", "model": "chatglm-6b", "temperature": 0, "max_retries": 0}
    chat = langchain.ChatOpenAI(**more)
    assert chat.invoke(QUESTION).content == greeting
    assert "".join(piece.content for piece in chat.stream(QUESTION)) == greeting
    for method in ("json_schema", "function_calling"):
        assert isinstance(chat.with_structured_output(City, method=method).invoke(QUESTION), City)
    called = chat.bind_tools(TOOLS, tool_choice="required").invoke(QUESTION).tool_calls
    assert called and all(is_weather(call["name"], call["args"]) for call in called)
    if "use_responses_api" in langchain.ChatOpenAI.model_fields:  # older versions know one route only
        responses = langchain.ChatOpenAI(**more, use_responses_api=True)
        assert responses.invoke(QUESTION).content[0]["text"] == greeting


@pytest.mark.parametrize("route", ["OpenAIResponsesModel", "OpenAIChatCompletionsModel"])
def test_openai_agents(address, greeting, route):
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    asked = []

    @agents.function_tool
    def weather(city: Literal["北京", "上海"]) -> str:
        """Tell the weather of a city."""
        asked.append(city)
        return "晴"

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="EMPTY", max_retries=0) as client:
            model = getattr(agents, route)(model="chatglm-6b", openai_client=client)
            settings = agents.ModelSettings(temperature=0, max_tokens=60)
            agent = agents.Agent(name="a", model=model, model_settings=settings)
            assert (await agents.Runner.run(agent, QUESTION)).final_output == greeting
            streamed = agents.Runner.run_streamed(agent, QUESTION)
            assert len([one async for one in streamed.stream_events()]) > 5 and streamed.final_output == greeting
            typed = agents.Agent(name="a", model=model, model_settings=settings, output_type=City)
            assert isinstance((await agents.Runner.run(typed, QUESTION)).final_output, City)
            settings = agents.ModelSettings(temperature=0, max_tokens=60, tool_choice="required")
            able = agents.Agent(name="a", model=model, model_settings=settings, tools=[weather])
            assert isinstance((await agents.Runner.run(able, QUESTION)).final_output, str) and asked

    asyncio.run(run())


@pytest.mark.long
def test_anthropic(address, greeting):
    anthropic = pytest.importorskip("anthropic", reason="the anthropic package is not installed")
    tools = [{"name": "weather", "description": TOOL["description"], "input_schema": PARAMETERS}]
    more = {"model": "m", "max_tokens": 60, "messages": user(), "extra_body": {"temperature": 0}}
    with anthropic.Anthropic(base_url=address, api_key="EMPTY", max_retries=0) as client:
        answer = client.messages.create(**more, stop_sequences=["\n\n\n"])
        assert (answer.content[0].text, answer.stop_reason) == (greeting, "end_turn")
        stopped = client.messages.create(**more, stop_sequences=[greeting[2:5]])
        assert (stopped.content[0].text, stopped.stop_reason) == (greeting[:2], "stop_sequence")
        assert stopped.stop_sequence == greeting[2:5]
        with client.messages.stream(**more) as stream:
            assert "".join(stream.text_stream) == greeting
            assert stream.get_final_message().usage == answer.usage
        called = client.messages.create(**more, tools=tools, tool_choice={"type": "any"})
        assert called.stop_reason == "tool_use" and is_weather(called.content[0].name, called.content[0].input)
        with client.messages.stream(**more, tools=tools, tool_choice={"type": "tool", "name": "weather"}) as stream:
            assert stream.get_final_message().content[0].input == called.content[0].input
        result = {"type": "tool_result", "tool_use_id": called.content[0].id, "content": "晴"}
        dialogue = [*user(), {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
        after = client.messages.create(**more | {"messages": dialogue}, tools=tools, tool_choice={"type": "none"})
        assert after.content[0].type == "text"
        assert client.messages.count_tokens(model="m", messages=user()).input_tokens == answer.usage.input_tokens
        with pytest.raises(anthropic.BadRequestError, match="context length"):
            client.messages.create(**more | {"messages": user(TOO_LONG)})


def test_ollama(address, greeting):
    ollama = pytest.importorskip("ollama", reason="the ollama package is not installed")
    client, more = ollama.Client(host=address), {"model": "chatglm-6b", "options": {"temperature": 0}}
    assert [one.model for one in client.list().models] == ["chatglm-6b"]
    assert client.show("chatglm-6b").modelinfo["general.architecture"] == "chatglm"
    assert client.chat(**more, messages=user()).message.content == greeting
    assert "".join(one.message.content for one in client.chat(**more, messages=user(), stream=True)) == greeting
    assert client.generate(**more, prompt=QUESTION).response == greeting
    assert "".join(one.response for one in client.generate(**more, prompt=QUESTION, stream=True)) == greeting
    City.model_validate_json(client.generate(**more, prompt=QUESTION, format=City.model_json_schema()).response)
    assert client.chat(**more, messages=user(), tools=TOOLS).done
    with pytest.raises(ollama.ResponseError, match="context length"):
        client.generate(**more, prompt=TOO_LONG)


def test_lm_eval(address, greeting):
    """Tasks that generate; those that compare likelihoods need those of the prompt, which the server refuses."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    model = LocalCompletionsAPI(
        base_url=f"{address}/v1/completions", model="chatglm-6b", tokenizer_backend=None, tokenized_requests=False
    )
    arguments = (QUESTION, {"until": ["\n\n\n"], "max_gen_toks": 60, "temperature": 0})
    asked = Instance(request_type="generate_until", doc={}, arguments=arguments, idx=0)
    assert model.generate_until([asked], disable_tqdm=True) == [greeting]


@pytest.fixture(scope="module")
def node_results(address, tmp_path_factory):
    """Return what tests/node/strangers.mjs found, by client and feature."""
    modules, node = os.environ.get("CHATGLM_NODE_MODULES"), shutil.which("node")
    if not modules or not node:
        pytest.skip("needs node, and CHATGLM_NODE_MODULES, where npm has installed tests/node/package.json")
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(Path(modules).resolve())
    shutil.copy(NODE / "strangers.mjs", folder)
    environment = os.environ | {"CHATGLM_ADDRESS": address, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([node, "strangers.mjs"], cwd=folder, env=environment, capture_output=True, timeout=300)
    return json.loads(done.stdout or "{}"), done.stderr.decode()


@pytest.mark.parametrize(
    "client",
    ["openai", "@anthropic-ai/sdk", "ollama", "@ai-sdk/openai-compatible", "@ai-sdk/openai", "@langchain/openai"],
)
def test_npm(node_results, greeting, client):
    results, log = node_results
    assert client in results, log
    for feature, found in results[client].items():
        if feature in ("text", "stream", "responses", "responses stream"):
            assert found == greeting, (client, feature)
        elif feature == "object":
            City.model_validate(found)
        else:
            assert found and all(is_weather(*call) for call in found), (client, feature, found)
