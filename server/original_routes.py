"""The original's route, `POST /`, with its streaming forms and relatives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse

from engine import Answer

from .errors import ENGINE_ERRORS, as_api_error, error_body
from .protocol import DONE, History, OriginalRequest, event, new_id, now
from .service import STREAMED, EventStream, Service, in_turn

REPEATED = 16384  # characters of history that each event of a stream may repeat


def add_original_routes(app: FastAPI, service: Service) -> None:
    """Add the original's route, with its streaming forms."""

    def result(body: OriginalRequest, text: str, dropped: int, **more: Any) -> dict[str, Any]:
        earlier = body.history or []
        if not more.get("finished", True) and sum(len(part or "") for pair in earlier for part in pair) > REPEATED:
            earlier = []  # the last event has it
        history = [*earlier, [body.prompt, text]]
        if dropped:
            more["dropped_rounds"] = dropped
        return {"response": text, "history": history, "status": 200, "time": now(), **more}

    async def events(body: OriginalRequest, answer: Answer, dropped: int, cumulative: bool) -> AsyncIterator[str]:
        text = ""
        try:
            async for _, piece in in_turn([answer]):
                text += piece.text
                if piece.finish_reason:
                    more = {"delta": piece.text, "finish_reason": piece.finish_reason, "finished": True}
                    yield event(result(body, text, dropped, **more))
                elif cumulative:
                    yield event(result(body, text, dropped, delta=piece.text, finished=False))
                else:
                    yield event({"delta": piece.text, "finished": False})
        except tuple(ENGINE_ERRORS) as error:
            yield event(error_body("/", as_api_error(error, service.limit)))
        finally:
            service.log(new_id("stream"), [answer], [text], body.prompt)
        yield DONE

    async def answer_whole(request: Request, body: OriginalRequest) -> Response:
        answer, dropped = await service.ask(body)
        (whole,) = await service.collect(request, [answer], new_id("answer"), body.prompt)
        return JSONResponse(result(body, whole.text, dropped))

    async def answer_in_parts(request: Request, body: OriginalRequest, cumulative: bool) -> Response:
        answer, dropped = await service.ask(body)
        return EventStream(request, [answer], events(body, answer, dropped, cumulative))

    @app.get("/", tags=["original"])
    async def greet() -> dict[str, str]:
        """Greet, as clients expect that look for a server here."""
        return {"message": "Hello ChatGLM API!"}

    @app.post("/", tags=["original"], responses=STREAMED)
    async def create_item(request: Request, body: OriginalRequest) -> Response:
        """Answer a question. With `"stream": true` a stream of events, each with the answer so far."""
        return await (answer_in_parts(request, body, True) if body.stream else answer_whole(request, body))

    @app.post("/stream", tags=["original"], responses=STREAMED)
    async def stream(request: Request, body: OriginalRequest) -> Response:
        """Answer a question by a stream of events: `delta` is the new piece, the last event has the whole result."""
        return await answer_in_parts(request, body, False)

    @app.post("/predict", tags=["original"])
    async def predict(
        request: Request,
        user_msg: str,
        history: Annotated[History | None, Body()] = None,
        max_length: Annotated[int | None, Query(ge=0)] = None,
        top_p: Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)] = None,
        temperature: Annotated[float | None, Query(ge=0, le=100, allow_inf_nan=False)] = None,
    ) -> Response:
        """Answer a question in the URL with its history in the body, as nonebot's `6b-api` mode asks."""
        return await answer_whole(
            request,
            OriginalRequest(
                prompt=user_msg, history=history, max_length=max_length, top_p=top_p, temperature=temperature
            ),
        )
