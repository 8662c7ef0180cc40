"""Structured answers and calls of tools over HTTP: by hand, by the `openai` package and by LangChain."""

from __future__ import annotations

import json

import jsonschema
import pytest
from serving import client, frames, serving
from test_grammar import HOPELESS, PERSON, json_format
from test_tools import TIME, WEATHER

pytest.importorskip("fastapi", reason="the server's packages are not installed")
pytest.importorskip("llguidance", reason="llguidance is not installed")

from engine import Engine  # noqa: E402
from server.app import build_app  # noqa: E402

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOOLS = [{"type": "function", "function": one} for one in (WEATHER, TIME)]
ASK = {"messages": [{"role": "user", "content": "北京天气?"}], "max_tokens": 60, "temperature": 2, "seed": 3}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module")
def address(mini_model, mini_tokenizer):
    engine = Engine(mini_model, mini_tokenizer)
    with serving(build_app(engine)) as address:
        yield address
    engine.close()


@pytest.fixture(scope="module")
def http(address):
    with client(address) as made:
        yield made


def arguments(call: dict) -> dict:
    """Return a call's arguments, which fit its function's schema."""
    made = json.loads(call["function"]["arguments"])
    schema = {"get_weather": WEATHER["parameters"], "time": {"type": "object", "maxProperties": 0}}
    jsonschema.validate(made, schema[call["function"]["name"]])
    return made


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": json_format(PERSON)},
        {"structured_outputs": {"json": PERSON}},
        {"guided_json": json.dumps(PERSON)},
        {"response_format": json_format(PERSON), "tools": TOOLS, "tool_choice": "none", "n": 2},
    ],
    ids=["response_format", "structured_outputs", "guided_json", "tools that may not be called"],
)
def test_answers_fit_the_schema(http, more):
    for choice in http.post(CHAT, json=ASK | more).json()["choices"]:
        jsonschema.validate(json.loads(choice["message"]["content"]), PERSON)
        assert choice["finish_reason"] == "stop"


def test_answers_are_json_a_choice_or_match(http):
    assert isinstance(json.loads(say(http, {"response_format": {"type": "json_object"}})), dict)
    assert say(http, {"guided_choice": ["甲", "乙"]}) in ("甲", "乙")
    assert say(http, {"structured_outputs": {"regex": "[ab]{3}"}}, path=COMPLETIONS).strip("ab") == ""
    streamed = http.post(CHAT, json=ASK | {"response_format": json_format(PERSON), "stream": True}).text
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in frames(streamed))
    assert text == say(http, {"response_format": json_format(PERSON)})


def say(http, more: dict, path: str = CHAT) -> str:
    """Return the text of an answer."""
    body = {"prompt": "北京天气?", **ASK} if path == COMPLETIONS else ASK
    choice = http.post(path, json=body | more).json()["choices"][0]
    return choice["text"] if path == COMPLETIONS else choice["message"]["content"]


@pytest.mark.parametrize("form", [form for form, _ in HOPELESS[1:]], ids=range(1, len(HOPELESS)))
def test_hopeless_forms_are_400_and_the_server_lives_on(http, form):
    answer = http.post(CHAT, json=ASK | {"response_format": form})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_response_format"
    assert http.get("/health").status_code == 200


def test_two_forms_at_once_are_refused(http):
    assert http.post(CHAT, json=ASK | {"guided_regex": "a", "guided_choice": ["a"]}).status_code == 400


def test_an_answer_that_may_call_has_its_form_otherwise(http):
    """By chance of the seed, it calls, or it has the form; where a call is forced, there is no other answer."""
    found, form = set(), {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 3}
    for seed in range(8):
        body = ASK | {"response_format": json_format(form), "tools": TOOLS, "seed": seed, "temperature": 50}
        message = http.post(CHAT, json=body).json()["choices"][0]["message"]
        if "tool_calls" in message:
            found |= {"call" for call in message["tool_calls"] if arguments(call) is not None}
        else:
            found.add("form")
            jsonschema.validate(json.loads(message["content"]), form)
    assert found == {"call", "form"}
    forced = {"response_format": json_format(PERSON), "tools": TOOLS, "tool_choice": NAMED}
    (call,) = http.post(CHAT, json=ASK | forced).json()["choices"][0]["message"]["tool_calls"]
    assert arguments(call)


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")], ids=["required", "named"])
def test_forced_calls_fit_their_schemas(http, choice, reason):
    body = ASK | {"tools": TOOLS, "tool_choice": choice, "n": 3, "max_tokens": 120}
    for made in http.post(CHAT, json=body).json()["choices"]:
        calls = made["message"]["tool_calls"]
        assert made["message"]["content"] is None and made["finish_reason"] == reason
        assert all(call["id"] and call["type"] == "function" and "index" not in call for call in calls)
        assert all(arguments(call) is not None for call in calls)
        assert choice == "required" or [call["function"]["name"] for call in calls] == ["get_weather"]
    single = body | {"parallel_tool_calls": False, "seed": 5}
    assert {len(made["message"]["tool_calls"]) for made in http.post(CHAT, json=single).json()["choices"]} == {1}


def test_streamed_calls_are_openais_deltas(http):
    body = ASK | {"tools": TOOLS, "tool_choice": "required"}
    whole = http.post(CHAT, json=body).json()["choices"][0]
    choices = [event["choices"][0] for event in frames(http.post(CHAT, json=body | {"stream": True}).text)]
    assert choices[0]["delta"] == {"role": "assistant"} and choices[-1]["finish_reason"] == "tool_calls"
    calls: list[dict] = []
    for choice in choices[1:-1]:
        (part,) = choice["delta"]["tool_calls"]
        if "id" in part:
            assert part["type"] == "function" and part["function"]["arguments"] == "" and part["index"] == len(calls)
            calls.append({"name": part["function"]["name"], "arguments": ""})
        else:
            assert set(part) == {"index", "function"}
            calls[part["index"]]["arguments"] += part["function"]["arguments"]
    assert calls == [call["function"] for call in whole["message"]["tool_calls"]]
    assert len(choices) > len(calls) + 4  # arguments come in parts


def test_auto_leaves_the_choice_to_the_model(http):
    """The embedded model answers in words; an opening that its bias forces becomes a call that fits."""
    plain = http.post(CHAT, json=ASK | {"temperature": 0, "tools": TOOLS}).json()["choices"][0]
    assert plain["finish_reason"] == "stop" and plain["message"]["content"] and "tool_calls" not in plain["message"]
    brace = http.post("/tokenize", json={"prompt": "a{", "add_special_tokens": False}).json()["tokens"][-1]
    body = ASK | {"tools": TOOLS, "logit_bias": {str(brace): 100}, "parallel_tool_calls": False}
    made = http.post(CHAT, json=body).json()["choices"][0]
    assert made["finish_reason"] == "tool_calls" and arguments(made["message"]["tool_calls"][0]) is not None


def test_results_go_on_with_the_dialogue(http):
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}}
    messages = [*ASK["messages"], {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages.append({"role": "tool", "tool_call_id": "c", "content": "晴"})
    assert http.post(CHAT, json=ASK | {"messages": messages, "tools": TOOLS}).status_code == 200


def test_openai_package_parses_answers_and_streams_calls(address):
    openai, pydantic = pytest.importorskip("openai", reason="openai is not installed"), pytest.importorskip("pydantic")

    class City(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=8)
        capital: bool

    made = openai.OpenAI(base_url=f"{address}/v1", api_key="EMPTY", max_retries=0)
    parsed = made.chat.completions.parse(
        model="chatglm-6b", messages=ASK["messages"], response_format=City, max_tokens=60
    )
    assert isinstance(parsed.choices[0].message.parsed, City)
    with made.chat.completions.stream(
        model="chatglm-6b", messages=ASK["messages"], tools=TOOLS, tool_choice="required", max_tokens=80
    ) as stream:
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert arguments(call.model_dump()) is not None


def test_langchain_binds_tools_and_structures_output(address):
    ChatOpenAI = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed").ChatOpenAI
    model = ChatOpenAI(base_url=f"{address}/v1", api_key="EMPTY", model="chatglm-6b", max_tokens=80, temperature=1)
    message = model.bind_tools(TOOLS, tool_choice="get_weather").invoke("北京天气?")
    jsonschema.validate(message.tool_calls[0]["args"], WEATHER["parameters"])
    schema = PERSON | {"title": "person"}
    for method in ("function_calling", "json_schema"):
        jsonschema.validate(model.with_structured_output(schema, method=method).invoke("张三"), PERSON)
