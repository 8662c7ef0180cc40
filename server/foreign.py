"""Dialogues in other protocols: each becomes a `ChatCompletionRequest`, and its answer the events of its protocol.

There is one way to the engine, `Service.chat`. A protocol has a `Writer`: it turns the parts of an answer into events,
and is the whole answer at their end, so that a stream and an answer in one piece cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from engine import Answer

from .errors import ENGINE_ERRORS, as_api_error
from .protocol import ApiError, ChatCompletionRequest, TextRequest, event, usage
from .service import EVENT_STREAM, EventStream, Service, in_turn
from .tool_calls import ChatAnswer


class Writer(Protocol):
    """What an answer becomes in a protocol; each method returns the events of the stream that follow, as text."""

    def start(self, answer: Answer) -> Iterable[str]:
        """Begin an answer, which may not have begun itself."""

    def put(self, kind: str, part: str) -> Iterable[str]:
        """Take a part: ("text", part), ("call", name of a function) or ("arguments", part)."""

    def end(self, reason: str, counts: dict[str, int]) -> Iterable[str]:
        """End the answer: "stop", "length" or "tool_calls", and the numbers of tokens as OpenAI's."""

    def fail(self, error: ApiError) -> Iterable[str]:
        """End an answer that failed."""

    def whole(self) -> dict[str, Any]:
        """Return the whole answer, once it has ended."""


def chat_request(body: BaseModel, **fields: Any) -> ChatCompletionRequest:
    """Return the chat request that a request of another protocol means.

    Args:
        body: the request; unknown parameters are handed on, to be named or refused as on every route.
        fields: of the chat request.

    Raises:
        ApiError: several answers are asked for.
        RequestValidationError: a value that no chat request may have.
    """
    more = body.model_extra or {}
    if more.get("n") not in (None, 1):
        raise ApiError(400, "this route gives one answer: leave n out", "unsupported_parameter", parameter="n")
    try:
        return ChatCompletionRequest.model_validate(more | fields | {"n": 1})
    except ValidationError as error:
        found = [one | {"loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found) from error


def sampling_fields(body: TextRequest) -> dict[str, Any]:
    """Return the parameters of sampling and the stop texts of a request, as every request for text has them."""
    return {name: getattr(body, name) for name in TextRequest.model_fields}


def check_needed(value: BaseModel, needed: Mapping[str | None, str]) -> None:
    """Refuse an object that lacks the field which its type needs."""
    if (field := needed.get(value.type)) and getattr(value, field) is None:
        raise PydanticCustomError("missing", "with this type, {field} is needed", {"field": field})


def read_arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a call; those that the limit of tokens has cut are none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {}


def named_event(data: dict[str, Any]) -> str:
    """Return an event of a stream whose type stands before its data, too."""
    return f"event: {data['type']}\n{event(data)}"


async def respond(
    service: Service,
    request: Request,
    body: ChatCompletionRequest,
    writer: Writer,
    name: str,
    media_type: str = EVENT_STREAM,
) -> Response:
    """Answer a dialogue as a writer writes it, at once or in events.

    Args:
        service: answers.
        request: whose client may go.
        body: what is asked; `stream` decides on events.
        writer: of the protocol.
        name: of the request, for the log.
        media_type: of events.
    """
    query = [{"role": message.role, "content": message.text()} for message in body.messages]
    answers = await service.chat(body)
    headers = service.ignored_header(name, body)
    reader = ChatAnswer(body)
    if body.stream:
        events = _events(service, answers[0], reader, writer, name, query)
        return EventStream(request, answers, events, headers | {"Content-Type": f"{media_type}; charset=utf-8"})
    (whole,) = await service.collect(request, answers, name, query)
    list(writer.start(answers[0]))
    for kind, part in reader.parts(whole.text):
        list(writer.put(kind, part))
    list(writer.end(_reason(reader, whole.finish_reason), usage(answers)))
    return JSONResponse(writer.whole(), headers=headers)


def _reason(reader: ChatAnswer, reason: str | None) -> str:
    """Return why an answer ended; to call is a reason even where the call was demanded, unlike in OpenAI's chats."""
    called = reader.reader is not None and reader.reader.calls
    return "tool_calls" if reason == "stop" and called else reason or "stop"


async def _events(
    service: Service, answer: Answer, reader: ChatAnswer, writer: Writer, name: str, query: Any
) -> AsyncIterator[str]:
    text = ""
    try:
        for one in writer.start(answer):
            yield one
        async for _, piece in in_turn([answer]):
            text += piece.text
            for kind, part in reader.parts(piece.text):
                for one in writer.put(kind, part):
                    yield one
            if piece.finish_reason:
                for one in writer.end(_reason(reader, piece.finish_reason), usage([answer])):
                    yield one
    except tuple(ENGINE_ERRORS) as error:
        for one in writer.fail(as_api_error(error, service.limit, "/v1/chat/completions")):
            yield one
    finally:
        service.log(name, [answer], [text], query)
