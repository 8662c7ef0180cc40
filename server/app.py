"""The application, and how it is served until SIGTERM or Ctrl-C."""

import gc
import math
import signal
import sys
import threading
import time
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from transformers import PreTrainedModel, PreTrainedTokenizer

from engine import Engine
from loading.arguments import SamplingArguments
from loading.devices import give_memory_back
from loading.named_adapters import NamedAdapters
from server.anthropic_routes import add_anthropic_routes
from server.arguments import ServerArguments
from server.connections import Server, bounded_protocol, most_connections
from server.documentation import add_documentation
from server.errors import RESPONSES, add_error_handlers
from server.gate import Gate
from server.glm_bot import add_glm_bot_routes
from server.monitoring import Metrics, add_monitoring_routes
from server.ollama_routes import add_ollama_routes
from server.openai_routes import add_openai_routes
from server.original_routes import add_original_routes
from server.responses_routes import add_responses_routes
from server.service import Service

IDLE_SECONDS = 2.0  # after a burst of requests, until its memory is given back


def build_app(
    engine: Engine,
    arguments: ServerArguments | None = None,
    sampling: SamplingArguments | None = None,
    description: str = "ChatGLM-6B over HTTP: the original's route, OpenAI's, and event streams.",
) -> FastAPI:
    """Return the application that serves an engine.

    Args:
        engine: generates; its `on_finished` is taken over for the metrics.
        arguments: of the server.
        sampling: defaults of requests.
        description: what /docs begins with.
    """
    arguments, sampling = arguments or ServerArguments(), sampling or SamplingArguments()
    service, metrics = Service(engine, arguments, sampling), Metrics(engine)
    engine.on_finished = metrics.finished
    app = FastAPI(
        title="ChatGLM-6B", description=description, version="1", responses=RESPONSES, docs_url=None, redoc_url=None
    )
    app.add_middleware(Gate, arguments=arguments, metrics=metrics)
    if arguments.allow_origin:
        origins = [origin.strip() for origin in arguments.allow_origin.split(",")]
        allowed = {"allow_origins": origins, "allow_methods": ["*"], "allow_headers": ["*"]}
        app.add_middleware(CORSMiddleware, **allowed, allow_private_network=True)
    add_error_handlers(app, service.limit)
    add_original_routes(app, service)
    add_openai_routes(app, service)
    add_responses_routes(app, service)
    add_anthropic_routes(app, service)
    if arguments.glm_bot:
        add_glm_bot_routes(app, service)
    if arguments.ollama:
        add_ollama_routes(app, service)
    add_monitoring_routes(app, metrics)
    add_documentation(app)
    return app


def serve(app: FastAPI, engine: Engine, arguments: ServerArguments) -> int:
    """Serve until SIGTERM, SIGHUP or Ctrl-C, let running answers finish, and return the exit status."""
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        timeout_graceful_shutdown=math.ceil(arguments.drain_seconds),
        timeout_keep_alive=math.ceil(arguments.keep_alive),
        http=bounded_protocol(arguments.client_timeout, most_connections()),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,  # to the root's handlers, whose lines are escaped
        log_level="error",  # whoever sends garbage writes no lines
    )
    server = Server(config)

    def stop(*_: Any) -> None:
        server.force_exit = server.should_exit  # the second time at once
        server.should_exit = True

    be_quick_beside_others()
    # in a thread of its own, so that the signals are ours: the server itself would end with the signal's status
    thread = threading.Thread(target=server.run, name="chatglm-http")
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    thread.start()
    while thread.is_alive() and not server.started:
        thread.join(0.05)
    if server.started:
        port = server.servers[0].sockets[0].getsockname()[1]
        print(f"http://{arguments.host}:{port}", file=sys.stderr, flush=True)
    seen, busy_at = 0, None
    while thread.is_alive():
        thread.join(0.2)
        total, now = server.server_state.total_requests, time.monotonic()
        if total != seen or engine.batch_size or engine.queue_length:
            seen, busy_at = total, now
        elif busy_at is not None and now - busy_at > IDLE_SECONDS:
            busy_at = None
            gc.collect()  # requests are in cycles with their tasks
            give_memory_back()
    engine.close()
    return 0 if server.started else 1


def be_quick_beside_others() -> None:
    """Set the interpreter up for a loop that must not wait long for the threads beside it."""
    gc.collect()
    gc.freeze()  # the model and the libraries stay: a large body's many small objects are collected without them
    gc.set_threshold(50_000, 20, 20)
    sys.setswitchinterval(0.001)  # seconds that another thread may hold the interpreter


def start_engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizer, arguments: ServerArguments) -> Engine:
    """Return the engine that serves a model and its adapters within the server's limits.

    Raises:
        LoadError: an adapter cannot be loaded.
    """
    return Engine(
        model,
        tokenizer,
        max_batch_size=arguments.max_batch_size,
        max_queue=arguments.max_queue,
        queue_seconds=arguments.queue_timeout,
        total_seconds=arguments.request_timeout,
        prompt_cache_bytes=arguments.prompt_cache_mb << 20,
        cache_bytes=arguments.cache_mb << 20 or None,
        adapters=NamedAdapters(model, arguments.adapters()),
    )
