"""Whether the server is well, and numbers for Prometheus."""

from __future__ import annotations

import prometheus_client
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from engine import Answer, Engine


class Metrics:
    """Numbers for Prometheus."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.registry = engine, prometheus_client.CollectorRegistry()
        registry = {"registry": self.registry}
        seconds = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
        rates = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
        self.requests = prometheus_client.Counter(
            "chatglm_requests", "HTTP requests by route and status", ["route", "status"], **registry
        )
        self.prompt_tokens = prometheus_client.Counter("chatglm_prompt_tokens", "Tokens of prompts", **registry)
        self.completion_tokens = prometheus_client.Counter("chatglm_completion_tokens", "Tokens of answers", **registry)
        self.answers = prometheus_client.Counter("chatglm_answers", "Ended answers by reason", ["reason"], **registry)
        self.first_token = prometheus_client.Histogram(
            "chatglm_time_to_first_token_seconds", "From request to first token", buckets=seconds, **registry
        )
        self.rate = prometheus_client.Histogram(
            "chatglm_tokens_per_second", "Speed of an answer after its first token", buckets=rates, **registry
        )
        for name, text, value in (
            ("chatglm_queue_length", "Requests that wait", lambda: engine.queue_length),
            ("chatglm_batch_size", "Answers that run", lambda: engine.batch_size),
        ):
            prometheus_client.Gauge(name, text, **registry).set_function(value)

    def finished(self, answer: Answer) -> None:
        """Count an answer that has ended; called in the engine's thread."""
        self.answers.labels(answer.finish_reason).inc()
        if answer.started is not None and not answer.cached:
            self.prompt_tokens.inc(len(answer.request.prompt_ids))
        self.completion_tokens.inc(answer.completion_tokens)
        if answer.first_token is not None:
            self.first_token.observe(answer.first_token - answer.submitted)
            if answer.completion_tokens > 1:
                elapsed = max(answer.finished - answer.first_token, 1e-9)
                self.rate.observe((answer.completion_tokens - 1) / elapsed)


def add_monitoring_routes(app: FastAPI, metrics: Metrics) -> None:
    """Add `/health` and `/metrics`."""
    engine = metrics.engine

    @app.get("/health", tags=["server"])
    async def health() -> Response:
        """Tell whether the server is alive, and ready for requests."""
        ready = engine.alive and not engine.closing
        body = {"alive": engine.alive, "ready": ready, "running": engine.batch_size, "waiting": engine.queue_length}
        return JSONResponse(body, 200 if ready else 503)

    @app.get("/metrics", tags=["server"], response_class=PlainTextResponse)
    async def numbers() -> Response:
        """Give numbers to Prometheus."""
        return Response(
            prometheus_client.generate_latest(metrics.registry), media_type=prometheus_client.CONTENT_TYPE_LATEST
        )
