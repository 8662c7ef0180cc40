"""OpenAI's routes, under `/v1`."""

from __future__ import annotations

import base64
import functools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

import engine as serving
from engine import Answer

from .errors import ENGINE_ERRORS, as_api_error, error_body
from .protocol import (
    DONE,
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    OpenAIRequest,
    TokenizeRequest,
    chat_logprobs,
    completion_logprobs,
    event,
    new_id,
    usage,
)
from .service import STREAMED, EventStream, Service, in_turn
from .tool_calls import ChatAnswer


def dump_in_parts(frame: dict[str, Any], name: str, items: list[Any]) -> bytes:
    """Return an object with a long list as JSON, written item by item, so that other threads run in between."""
    head = json.dumps(frame, ensure_ascii=False).encode()[:-1]
    return head + b', "%s": [' % name.encode() + b", ".join(json.dumps(item).encode() for item in items) + b"]}"


def add_openai_routes(app: FastAPI, service: Service) -> None:
    """Add OpenAI's routes."""
    tokenizer, created = service.tokenizer, int(time.time())

    def model_card(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "chatglm",
            "max_model_len": service.limit,
        }

    @app.get("/v1/models", tags=["OpenAI"])
    async def models() -> dict[str, Any]:
        """List the model and its adapters."""
        return {"object": "list", "data": [model_card(name) for name in service.model_names]}

    @app.get("/v1/models/{name:path}", tags=["OpenAI"])
    async def model(name: str) -> dict[str, Any]:
        """Describe a model; any name is this server's model unless names are strict."""
        service.check_model(EmbeddingRequest(input="", model=name))
        return model_card(name)

    def frame(body: OpenAIRequest, name: str, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": name, "object": kind, "created": int(time.time())}
        return head | {"model": body.model or service.arguments.served_model_name, "choices": choices, **more}

    def choice(index: int, finish_reason: str | None, logprobs: Any, **content: Any) -> dict[str, Any]:
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}

    async def events(body: OpenAIRequest, answers: list[Answer], name: str, query: Any) -> AsyncIterator[str]:
        chat = isinstance(body, ChatCompletionRequest)
        kind, texts = "chat.completion.chunk" if chat else "text_completion", [""] * len(answers)
        shapes = [ChatAnswer(body) if chat else None for _ in answers]

        def contents(index: int, text: str) -> list[dict[str, Any]]:
            if not chat:
                return [{"text": text}] if text else []
            return [{"delta": delta} for delta in shapes[index].deltas(text)]

        def send(*choices: dict[str, Any], **more: Any) -> str:
            return event(frame(body, name, kind, list(choices), **more))

        empty = {"delta": {}} if chat else {"text": ""}
        for index, echo in enumerate(echoes(body)):
            if chat:  # at once, while the request may still wait: clients give up without a first byte
                yield send(choice(index, None, None, delta={"role": "assistant"}))
            elif echo:
                yield send(choice(index, None, None, text=echo))
        try:
            async for index, piece in in_turn(answers):
                logprobs = None
                if body.probabilities() is not None and piece.logprobs:
                    logprobs = (
                        chat_logprobs(tokenizer, piece.logprobs)
                        if chat
                        else completion_logprobs(tokenizer, piece.logprobs, len(texts[index]))
                    )
                texts[index] += piece.text
                for content in contents(index, piece.text) or ([empty] if logprobs else []):
                    yield send(choice(index, None, logprobs, **content))
                    logprobs = None
                if piece.finish_reason:
                    reason = shapes[index].finish_reason(piece.finish_reason) if chat else piece.finish_reason
                    yield send(choice(index, reason, None, **empty))
            if body.stream_options is not None and body.stream_options.include_usage:
                yield send(usage=usage(answers))
        except tuple(ENGINE_ERRORS) as error:
            yield event(error_body("/v1", as_api_error(error, service.limit)))
        finally:
            service.log(name, answers, texts, query)
        yield DONE

    async def respond(
        request: Request, body: ChatCompletionRequest | CompletionRequest, answers: list[Answer], query: Any
    ) -> Response:
        chat = isinstance(body, ChatCompletionRequest)
        name = new_id("chatcmpl" if chat else "cmpl")
        headers, echoed = service.ignored_header(name, body), echoes(body)
        if body.stream:
            return EventStream(request, answers, events(body, answers, name, query), headers)
        choices, logprobs = [], None
        for index, whole in enumerate(await service.collect(request, answers, name, query)):
            reason, content = whole.finish_reason, {"text": echoed[index] + whole.text}
            if chat:
                answer = ChatAnswer(body)
                content = {"message": answer.message(whole.text)}
                reason = answer.finish_reason(reason)
            if body.probabilities() is not None:
                logprobs = (chat_logprobs if chat else completion_logprobs)(tokenizer, whole.logprobs)
            choices.append(choice(index, reason, logprobs, **content))
        kind = "chat.completion" if chat else "text_completion"
        return JSONResponse(frame(body, name, kind, choices, usage=usage(answers)), headers=headers)

    def echoes(body: ChatCompletionRequest | CompletionRequest) -> list[str]:
        """Return what comes before each answer: its prompt, if that is asked for."""
        if isinstance(body, ChatCompletionRequest) or not body.echo:
            return [""] * (body.n or 1) * (1 if isinstance(body, ChatCompletionRequest) else len(body.prompts()))
        texts = [one if isinstance(one, str) else tokenizer.decode(one, True) for one in body.prompts()]
        return [text for text in texts for _ in range(body.n or 1)]

    @app.post("/v1/chat/completions", tags=["OpenAI"], responses=STREAMED)
    async def chat_completions(request: Request, body: ChatCompletionRequest) -> Response:
        """Continue a dialogue."""
        messages = [{"role": message.role, "content": message.text()} for message in body.messages]
        return await respond(request, body, await service.chat(body), messages)

    @app.post("/v1/completions", tags=["OpenAI"], responses=STREAMED)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continue texts."""
        prompts = body.prompts()
        service.check_size(*(prompt for prompt in prompts if isinstance(prompt, str)))
        encoders = [functools.partial(service.encode_prompt, prompt) for prompt in prompts]
        return await respond(request, body, await service.complete(body, encoders), prompts)

    @app.post("/tokenize", tags=["OpenAI"])
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        """Return the ids of a prompt, as vLLM's server does."""
        service.check_size(body.prompt or "", *(message.text() for message in body.messages or ()))
        if body.messages is not None:
            encode, _ = await service.dialogue_encoder(body.messages)
        else:
            encode = tokenizer.encode_prompt if body.add_special_tokens else tokenizer.encode_text
            encode = functools.partial(encode, body.prompt)
        ids = await run_in_threadpool(encode)
        return {"count": len(ids), "max_model_len": service.limit, "tokens": ids}

    @app.post("/detokenize", tags=["OpenAI"])
    async def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        """Return the text of ids."""
        return {"prompt": await run_in_threadpool(tokenizer.decode, body.tokens)}

    @app.post("/v1/embeddings", tags=["OpenAI"])
    async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
        """Turn texts into vectors: means of the last hidden states, which is weak; the model was not trained for it."""
        service.check_model(body)
        name, texts, vectors, tokens = new_id("embedding"), body.texts(), [], 0
        window = service.engine.max_batch_size  # so many at a time, so that others find their turn between
        service.check_size(*texts)
        deadline = time.monotonic() + service.arguments.request_timeout
        for start in range(0, len(texts), window):
            if time.monotonic() > deadline:
                seconds = service.arguments.request_timeout
                raise serving.AnswerTimeoutError(f"the texts took more than {seconds:g} seconds: send fewer at once")
            requests = []
            for text in texts[start : start + window]:
                ids = await service.encode(tokenizer.encode_prompt, text)
                requests.append(serving.Request(ids, embedding=True, adapter=service.adapter(body)))
            tokens += sum(len(one.prompt_ids) for one in requests)
            for whole in await service.collect(request, service.submit(requests), name, texts):
                vector = np.array(whole.embedding, dtype=np.float32)
                vectors.append(vector / max(np.linalg.norm(vector), 1e-12))
        data = []
        for index, vector in enumerate(vectors):
            packed = body.encoding_format == "base64"
            value = base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist()
            data.append({"object": "embedding", "index": index, "embedding": value})
        model, counts = body.model or service.arguments.served_model_name, {"prompt_tokens": tokens}
        counts["total_tokens"] = tokens
        frame = {"object": "list", "model": model, "usage": counts}
        return Response(
            await run_in_threadpool(dump_in_parts, frame, "data", data),
            media_type="application/json",
            headers=service.ignored_header(name, body),
        )
