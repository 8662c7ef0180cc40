"""The server's requests and answers as JSON: the original's, OpenAI's, their errors and their event streams.

What existing programs send and read decides the shapes: every frame of a stream has a `finish_reason`, no `content`
is null, a stream has nothing but `data: ` lines and ends with `[DONE]`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from chatglm import ChatGLMTokenizer, messages_to_rounds
from chatglm.sampling import PARAMETERS, Range
from engine import Answer, TokenProbability

DONE = "data: [DONE]\n\n"
MOST_FIELDS = 200


class ApiError(Exception):
    """A request that is refused, with its HTTP status; `parameter` is the field of the body that is to blame."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        headers: dict[str, str] | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers
        self.parameter = parameter


# --------------------------------------------------------------------------------------------------------------------
# Requests
# --------------------------------------------------------------------------------------------------------------------


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # JSON has one kind of number


def _neutral(value: Any) -> Any:
    """Let a parameter pass that this server does not have, if its value asks for nothing."""
    if value in (None, 0, 1, False, "", "none", "auto", [], {}) or value == {"type": "text"}:
        return value
    raise PydanticCustomError("unsupported", "this server does not support it: leave it out")


def _text_not_ids(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise PydanticCustomError(
            "token_ids",
            "token ids are another model's: send text (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))",
        )
    return value


def whole(**limits: Any) -> Any:
    """Return the type of a whole number, written 3 or 3.0, within `Field`'s limits.

    The limits stand inside of the conversion: behind it, the server's description would name them by Python's words.
    """
    return Annotated[int, Field(**limits), BeforeValidator(_whole_number)]


Number = Annotated[float, Field(allow_inf_nan=False)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Stop = StopText | Annotated[list[StopText], Field(max_length=16)]
Count = whole(ge=1)
Choices = whole(ge=1, le=16)
Round = Annotated[list[str | None], Field(min_length=2, max_length=2, description="question and answer")]
# Lists end at the first mistake: a body may hold half a million, and to report each would stop the server for seconds.
History = Annotated[list[Round], Field(max_length=4096, fail_fast=True)]
Unsupported = Annotated[Any, AfterValidator(_neutral)]
Ignored = Any


def parameter_type(parameter: dataclasses.Field) -> Any:
    """Return the type of a field of `chatglm.sampling.Sampling` in a request; null is the server's default."""
    allowed, meaning = parameter.metadata["allowed"], parameter.metadata["meaning"]
    if not isinstance(allowed, Range):
        return Annotated[Literal[allowed], Field(description=meaning)] | None
    limits = {"ge": allowed.least, "le": allowed.most, "description": meaning}
    if "int" in parameter.type:
        return whole(**limits) | None
    return Annotated[Number, Field(**limits)] | None


SamplingFields = create_model(
    "SamplingFields",
    __config__=ConfigDict(strict=True),
    **{name: (parameter_type(parameter), None) for name, parameter in PARAMETERS.items()},
)


class TextRequest(SamplingFields):
    """What all requests for text have in common; null is the server's default."""

    stop: Stop | None = None

    def sampling(self) -> dict[str, Any]:
        """Return the parameters of sampling that are given."""
        return {name: value for name in PARAMETERS if (value := getattr(self, name)) is not None}

    def stop_texts(self) -> tuple[str, ...]:
        """Return the stop texts as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class OriginalRequest(TextRequest):
    """`POST /` and `POST /stream`: a question and its history, as the original's server takes them."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"prompt": "你好", "history": [], "temperature": 0.95}]},
    )

    prompt: str
    history: History | None = None
    max_length: whole(ge=0, description="of prompt and answer; lowered to the model's limit") | None = None
    max_new_tokens: Count | None = None
    stream: bool | Literal[0, 1] | None = None


def few_fields(body: Any) -> Any:
    """Return a body as it is, unless it has more fields than any request could have."""
    if isinstance(body, dict) and len(body) > MOST_FIELDS:
        raise PydanticCustomError("too_many_fields", f"a request has at most {MOST_FIELDS} fields")
    return body


class TextPart(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a dialogue; further fields, as `name`, are ignored."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(max_length=4096, fail_fast=True)] | None = None

    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    """What a stream has besides text."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class OpenAIRequest(TextRequest):
    """What both of OpenAI's routes for text take. Unknown parameters are refused, so that none is lost silently."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def limit_fields(cls, body: Any) -> Any:
        """Refuse a body of thousands of unknown fields with one mistake."""
        return few_fields(body)

    model: str | None = None
    max_tokens: Count | None = None
    n: Choices | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Ignored = None
    presence_penalty: Unsupported = None
    frequency_penalty: Unsupported = None
    logit_bias: Unsupported = None


class ChatCompletionRequest(OpenAIRequest):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "chatglm-6b", "messages": [{"role": "user", "content": "你好"}], "stream": False}]
        }
    )

    messages: Annotated[list[Message], Field(min_length=1, max_length=32768, fail_fast=True)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: whole(ge=0, le=20) | None = None
    store: Ignored = None
    metadata: Ignored = None
    service_tier: Ignored = None
    parallel_tool_calls: Ignored = None
    response_format: Unsupported = None
    tools: Unsupported = None
    tool_choice: Unsupported = None
    functions: Unsupported = None
    function_call: Unsupported = None
    modalities: Ignored = None

    def probabilities(self) -> int | None:
        """Return how many likeliest tokens are reported, None if no probabilities are."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(OpenAIRequest):
    """`POST /v1/completions`: the bare text is the prompt, without rounds."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "chatglm-6b", "prompt": "你好"}]})

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]
    logprobs: whole(ge=0, le=5) | None = None
    best_of: Unsupported = None
    echo: Unsupported = None
    suffix: Unsupported = None

    def probabilities(self) -> int | None:
        """Return how many likeliest tokens are reported, None if no probabilities are."""
        return self.logprobs

    def prompts(self) -> list[str]:
        """Return the prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class EmbeddingRequest(BaseModel):
    """`POST /v1/embeddings`: the mean of the last hidden states, at length 1.

    A weak embedding: the model was not trained for it. Token ids are refused: they are another vocabulary's.
    """

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"model": "chatglm-6b", "input": ["你好"]}]}
    )

    @model_validator(mode="before")
    @classmethod
    def limit_fields(cls, body: Any) -> Any:
        """Refuse a body of thousands of unknown fields with one mistake."""
        return few_fields(body)

    input: Annotated[str | Annotated[list[str], Field(min_length=1, max_length=2048)], BeforeValidator(_text_not_ids)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: Ignored = None
    dimensions: Unsupported = None

    def texts(self) -> list[str]:
        """Return the texts as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


def to_rounds(messages: Sequence[Message]) -> tuple[str, list[tuple[str, str]]]:
    """Map a dialogue of OpenAI's roles to the newest question and the rounds before it, see `messages_to_rounds`.

    Raises:
        ApiError: the last message is the assistant's.
    """
    question, rounds = messages_to_rounds([(message.role, message.text()) for message in messages])
    if question is None:
        raise ApiError(400, "messages: the last one must be the user's", "invalid_messages")
    return question, rounds


# --------------------------------------------------------------------------------------------------------------------
# Answers
# --------------------------------------------------------------------------------------------------------------------


def event(data: dict[str, Any]) -> str:
    """Return an event of a stream."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def now() -> str:
    """Return the local time as the original writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def new_id(kind: str) -> str:
    """Return a name for a request, for its answer and the log."""
    return f"{kind}-{uuid.uuid4().hex}"


def error_body(path: str, error: ApiError) -> dict[str, Any]:
    """Return an error as the route's clients read it: OpenAI's shape under /v1, else the original's."""
    if path.startswith("/v1"):
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
        return {"error": {"message": error.message, "type": kind, "param": error.parameter, "code": error.code}}
    return {"status": error.status, "error": error.message, "time": now()}


def usage(answers: Sequence[Answer]) -> dict[str, int]:
    """Count tokens; a prompt that several answers share counts once."""
    prompts = {id(answer.request.prompt_ids): len(answer.request.prompt_ids) for answer in answers}
    prompt_tokens, completion_tokens = sum(prompts.values()), sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def token_text(tokenizer: ChatGLMTokenizer, token_id: int) -> tuple[str, list[int]]:
    """Return a token's text, with U+FFFD for a part of a character, and its bytes."""
    surface = tokenizer.surface(token_id) or ""
    data = surface if isinstance(surface, bytes) else surface.replace("▁", " ").encode("utf-8")
    return data.decode("utf-8", "replace"), list(data)


def chat_logprobs(tokenizer: ChatGLMTokenizer, tokens: Sequence[TokenProbability]) -> dict[str, Any]:
    """Return probabilities in the shape of chat completions."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text, data = token_text(tokenizer, token_id)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": data}

    content = [
        entry(token.token_id, token.logprob) | {"top_logprobs": [entry(*likely) for likely in token.likeliest]}
        for token in tokens
    ]
    return {"content": content}


def completion_logprobs(
    tokenizer: ChatGLMTokenizer, tokens: Sequence[TokenProbability], offset: int = 0
) -> dict[str, Any]:
    """Return probabilities in the shape of completions; `offset` is the number of characters before them."""
    texts = [token_text(tokenizer, token.token_id)[0] for token in tokens]
    offsets = list(itertools.accumulate(map(len, texts[:-1]), initial=offset))[: len(texts)]
    likeliest = [
        {token_text(tokenizer, token_id)[0]: max(logprob, -9999.0) for token_id, logprob in token.likeliest}
        for token in tokens
    ]
    return {
        "tokens": texts,
        "token_logprobs": [max(token.logprob, -9999.0) for token in tokens],
        "top_logprobs": likeliest,
        "text_offset": offsets,
    }
