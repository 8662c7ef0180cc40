"""Replicas of the server on Ray: their flags, what runs in each, and how they are started and replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from loading.arguments import ModelArguments, SamplingArguments
from loading.checkpoint import LoadError
from loading.command_line import Text, flag
from server.arguments import ServerArguments

if TYPE_CHECKING:
    from fastapi import FastAPI

HEALTH_SECONDS = 10.0  # between two looks at a replica; after three without an answer it is replaced


@dataclass
class ReplicaArguments:
    """What only a server of several replicas has."""

    title: ClassVar[Text] = Text("replicas", "副本")

    replicas: int = flag(2, Text("copies of the model that answer; 1 and up", "模型副本数；1 以上"))
    cpus_per_replica: float = flag(
        1.0, Text("CPU cores that Ray sets aside for each; 0 and up", "Ray 为每个副本预留的 CPU 核数；0 以上")
    )
    gpus_per_replica: float = flag(
        0.0,
        Text(
            "NVIDIA GPUs that Ray sets aside for each, 0.5 for two on one; 0 and up",
            "Ray 为每个副本预留的 GPU 数，0.5 表示两个副本共用一块；0 以上",
        ),
    )
    address: str = flag(
        "",
        Text(
            "auto or HEAD:6379 uses a running Ray cluster; without it, Ray starts here",
            "auto 或 HEAD:6379 使用运行中的 Ray 集群；不给则在本机启动",
        ),
        metavar="ADDRESS",
    )

    def __post_init__(self) -> None:
        for name, least in (("replicas", 1), ("cpus_per_replica", 0), ("gpus_per_replica", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


class Replica:
    """A model, its engine and the application that serves it, in a process of Ray's."""

    def __init__(self, model: ModelArguments, sampling: SamplingArguments, server: ServerArguments) -> None:
        from loading.load import load_model_and_tokenizer
        from server.app import build_app, start_engine
        from server.logs import log_to_standard_error

        log_to_standard_error()  # which Ray shows where it was started from
        self.build_app, self.sampling, self.server = build_app, sampling, server
        try:
            self.engine = start_engine(*load_model_and_tokenizer(model), server)
        except LoadError as error:  # the one error that a person has to read among Ray's own lines
            raise RuntimeError(str(error)) from error

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self.build_app(self.engine, self.server, self.sampling)

    def check_health(self) -> None:
        """Tell Ray, which asks from time to time, whether this replica must be replaced."""
        if not self.engine.alive:
            raise RuntimeError("the thread that computes answers has ended")


def deploy(
    model: ModelArguments, sampling: SamplingArguments, server: ServerArguments, replicas: ReplicaArguments
) -> None:
    """Start the replicas on the Ray that this process is connected to, or replace those that run, one by one."""
    from ray import serve

    serve.start(http_options={"host": server.host, "port": server.port})
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="chatglm",
        num_replicas=replicas.replicas,
        max_ongoing_requests=server.max_batch_size + server.max_queue,
        health_check_period_s=HEALTH_SECONDS,
        health_check_timeout_s=3 * HEALTH_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=server.drain_seconds,
        ray_actor_options={"num_cpus": replicas.cpus_per_replica, "num_gpus": replicas.gpus_per_replica},
    )
    serve.run(deployment.bind(model, sampling, server), name="chatglm", route_prefix="/")
