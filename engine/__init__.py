"""Answer many requests at once with one model: continuous batching for a prefix language model.

    engine = Engine(model, tokenizer)
    for piece in engine.submit(Request(tokenizer.encode_prompt("你好"), max_tokens=100)):
        ...                                     # `async for` where an event loop runs

One thread owns the model. It reads prompts one at a time and a few layers at a time (a bidirectional prompt cannot be
cut along its length), and between these slices it decodes one token for every running answer together. Answers join
and leave the batch at any token. What an answer says does not depend on its neighbours.

Shapes: `b` running answers, `h` heads, `t` tokens so far, `d` head size, `v` vocabulary.
"""

from .answer import (
    Answer,
    AnswerTimeoutError,
    ClosedError,
    EngineError,
    Piece,
    QueueFullError,
    QueueTimeoutError,
    Request,
    StepError,
    TokenProbability,
    chat_request,
)
from .engine import Engine

__all__ = [
    "Answer",
    "AnswerTimeoutError",
    "ClosedError",
    "Engine",
    "EngineError",
    "Piece",
    "QueueFullError",
    "QueueTimeoutError",
    "Request",
    "StepError",
    "TokenProbability",
    "chat_request",
]
