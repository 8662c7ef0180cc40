"""Refused requests: every error has its status, and the shape that the clients of its route read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import engine
from chatglm import InvalidLogitsError, PromptTooLongError
from chatglm.grammar import GrammarError

from .protocol import ApiError, now

ENGINE_ERRORS = {  # status, code
    PromptTooLongError: (400, "context_length_exceeded"),
    engine.QueueFullError: (429, "queue_full"),
    engine.QueueTimeoutError: (503, "queue_timeout"),
    engine.AnswerTimeoutError: (504, "answer_timeout"),
    engine.ClosedError: (503, "shutting_down"),
    engine.StepError: (503, "not_computed"),
    GrammarError: (400, "invalid_response_format"),
    InvalidLogitsError: (500, "invalid_logits"),
}
MEANINGS = {
    400: "prompt too long, or an unsupported parameter",
    401: "wrong key",
    404: "no such model",
    408: "the body did not come in time",
    413: "body too large",
    415: "packed in another way than gzip",
    422: "malformed JSON or wrong types",
    429: "queue full",
    500: "invalid logits, or a defect",
    503: "no place in time, or shutting down",
    504: "took too long",
}
ANTHROPIC_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}
RESPONSES = {status: {"description": text} for status, text in MEANINGS.items()}  # for the interactive documentation


def error_body(path: str, error: ApiError) -> dict[str, Any]:
    """Return an error as the route's clients read it: Anthropic's, Ollama's, OpenAI's or the original's."""
    if path.startswith("/v1/messages"):
        kind = ANTHROPIC_KINDS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}
    if path.startswith("/v1"):
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
        return {"error": {"message": error.message, "type": kind, "param": error.parameter, "code": error.code}}
    if path.startswith("/api/"):
        return {"error": error.message}
    return {"status": error.status, "error": error.message, "time": now()}


def failure(path: str, error: ApiError) -> JSONResponse:
    """Return an error in the shape of the route that it happened on."""
    return JSONResponse(error_body(path, error), error.status, error.headers)


def as_api_error(error: Exception, model_limit: int, path: str = "") -> ApiError:
    """Give an engine's error its HTTP status; the limit is of what the model itself takes, in tokens."""
    status, code = ENGINE_ERRORS[type(error)]
    message = str(error)
    if isinstance(error, PromptTooLongError) and error.limit >= model_limit:  # to raise max_length is no advice then
        what = {"/v1/completions": "prompt", "/v1/embeddings": "input"}.get(
            path, "messages" if path.startswith("/v1") else "question"
        )
        # in the words that clients look for, to shorten a dialogue themselves
        message = (
            f"This model's maximum context length is {error.limit} tokens of prompt and answer together. However, "
            f"your {what} resulted in {error.tokens} tokens. Please reduce the length of the {what}"
        )
    return ApiError(status, message, code, {"Retry-After": "1"} if status in (429, 503) else None)


def place(location: Sequence[int | str]) -> str:
    """Return where in a body a mistake is, without the names that pydantic gives to types on the way."""
    return ".".join(str(part) for part in location[1:] if not set("[(") & set(str(part))) or "body"


def client_gone() -> ApiError:
    """Return the error of a request whose client has gone (status 499, as nginx counts it)."""
    return ApiError(499, "the client has gone", "client_gone")


def add_error_handlers(app: FastAPI, model_limit: int) -> None:
    """Give every error the shape that the clients of its route read."""

    async def refuse(request: Request, error: ApiError) -> Response:
        return failure(request.url.path, error)

    async def refuse_in_engine(request: Request, error: Exception) -> Response:
        return failure(request.url.path, as_api_error(error, model_limit, request.url.path))

    async def refuse_route(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # how the framework reports a body that the JSON parser gave up on
            return failure(request.url.path, ApiError(422, "the body must be JSON", "invalid_json"))
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return failure(request.url.path, ApiError(error.status_code, str(error.detail), code, error.headers))

    async def refuse_values(request: Request, error: RequestValidationError) -> Response:
        found = [(place(item["loc"]), item["msg"], item["type"]) for item in error.errors()]
        refused = [item for item in found if item[2] in ("extra_forbidden", "unsupported")]
        status, code, found = (400, "unsupported_parameter", refused) if refused else (422, "invalid_request", found)
        message = "; ".join(f"{where}: {text}" for where, text, _ in found[:5])
        message = f"unsupported parameter: {message}" if refused else message
        return failure(request.url.path, ApiError(status, message, code, parameter=found[0][0].split(".")[0]))

    app.add_exception_handler(ApiError, refuse)
    app.add_exception_handler(HTTPException, refuse_route)
    app.add_exception_handler(RequestValidationError, refuse_values)
    for kind in ENGINE_ERRORS:
        app.add_exception_handler(kind, refuse_in_engine)
