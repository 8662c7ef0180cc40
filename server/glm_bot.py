"""The two small protocols of the chat plugin glm-bot, for which the server keeps each user's history.

- `POST /chat` `{"msg", "uid"}` answers with a JSON string, `POST /clear` `{"uid"}` forgets the user.
- `GET /chatglm?msg=…&usrid=…&source=…` answers with plain text; the client does not encode the message.
"""

from __future__ import annotations

import collections
import json
from urllib.parse import unquote

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel

from .protocol import OriginalRequest, new_id
from .service import Service

LONGEST_HISTORY = 4096  # characters of JSON, beyond which a user's history is forgotten, as in the original
MOST_USERS = 10_000  # whoever has been silent for longest is forgotten beyond


def split_query(query: str) -> dict[str, str]:
    """Return the fields of `msg=…&usrid=…&source=…`, of which a client encodes none; nothing if they are not so."""
    query = query.removeprefix("?")
    if not query.startswith("msg="):
        return {}
    rest, _, source = query.removeprefix("msg=").partition("&source=")
    message, _, user = rest.partition("&usrid=")
    return {"msg": unquote(message), "usrid": unquote(user), "source": unquote(source)}


class ChatBody(BaseModel):
    """A user's message."""

    msg: str
    uid: str


class ClearBody(BaseModel):
    """A user."""

    uid: str


def add_glm_bot_routes(app: FastAPI, service: Service) -> None:
    """Add glm-bot's routes."""
    histories: collections.OrderedDict[str, list[list[str]]] = collections.OrderedDict()

    async def answer(request: Request, user: str, message: str) -> str:
        history = histories.get(user, [])
        stream, _ = await service.ask(OriginalRequest(prompt=message, history=history))
        (whole,) = await service.collect(request, [stream], new_id("glm-bot"), message)
        text = whole.text
        history = [*history, [message, text]]
        histories.pop(user, None)
        if len(json.dumps(history, ensure_ascii=False)) <= LONGEST_HISTORY:
            histories[user] = history
        while len(histories) > MOST_USERS:
            histories.popitem(last=False)
        return text

    @app.post("/chat", tags=["glm-bot"])
    async def chat(request: Request, body: ChatBody) -> Response:
        """Answer a user's message."""
        return JSONResponse(await answer(request, body.uid, body.msg))

    @app.post("/clear", tags=["glm-bot"])
    async def clear(body: ClearBody) -> Response:
        """Forget a user's history."""
        histories.pop(body.uid, None)
        return JSONResponse("已重置")

    @app.get("/chatglm", tags=["glm-bot"], response_class=PlainTextResponse)
    async def chatglm(request: Request) -> Response:
        """Answer a message in the URL; `ping` and `clear` are commands."""
        fields = split_query(request.url.query)
        fields = {"source": "", "usrid": ""} | (fields or dict(request.query_params))  # in another order: encoded
        if not fields.get("msg"):
            return PlainTextResponse("请提供内容")
        if fields["msg"] == "ping":
            return PlainTextResponse("pong!服务端运行正常!")
        if not fields["source"]:
            return PlainTextResponse("无来源的请求，请更新插件")
        if not fields["usrid"]:
            return PlainTextResponse("请提供用户id")
        if fields["msg"] == "clear":
            histories.pop(fields["usrid"], None)
            return PlainTextResponse("已重置当前对话")
        return PlainTextResponse(await answer(request, fields["usrid"], fields["msg"]))
