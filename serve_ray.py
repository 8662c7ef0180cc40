"""Serve ChatGLM-6B by several replicas behind one address, with Ray Serve: health checks, restarts without a gap.

    pip install "ray[serve]"
    python serve_ray.py --replicas 2                  the embedded mini checkpoint, here, until Ctrl-C
    python serve_ray.py --address auto --replicas 4 --gpus-per-replica 1 --model THUDM/chatglm-6b

The routes are those of api.py. On a cluster, `ray start --head` runs on one machine and `ray start --address HEAD:6379`
on the others; then the second command, on the first machine, puts the replicas there and ends. Given again, also with
another model, it replaces them one by one: a replica ends its own answers (--drain-seconds) while the others go on, and
the next one follows when the new one is ready. `serve status` shows them, `serve shutdown` ends them. The model's path
must exist on each machine.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from loading.arguments import ModelArguments, SamplingArguments, parse_arguments, run_main
from loading.checkpoint import LoadError
from loading.command_line import Text, flag
from server.arguments import ServerArguments

if TYPE_CHECKING:
    from fastapi import FastAPI

ROOT = Path(__file__).resolve().parent
CHINESE = """用 Ray Serve 以多个副本在同一地址提供 ChatGLM-6B：健康检查、不间断重启。

    pip install "ray[serve]"
    python serve_ray.py --replicas 2                  自带的迷你模型，在本机，直到 Ctrl-C
    python serve_ray.py --address auto --replicas 4 --gpus-per-replica 1 --model THUDM/chatglm-6b

接口与 api.py 相同。在集群上，一台机器运行 `ray start --head`，其余运行 `ray start --address HEAD:6379`；然后在第一台上
执行第二条命令，副本启动后命令即结束。再次执行（也可换模型）会逐个替换副本：旧副本先完成自己的回答（--drain-seconds），
其余副本照常服务，新副本就绪后再替换下一个。`serve status` 查看，`serve shutdown` 结束。模型路径须在每台机器上存在。
"""
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


def main() -> int:
    """Deploy the replicas, stay while they run here, and return the exit status."""
    model, sampling, server, replicas = parse_arguments(
        Text(__doc__, CHINESE), ModelArguments, SamplingArguments, ServerArguments, ReplicaArguments
    )
    if importlib.util.find_spec("ray") is None:
        raise LoadError('serve_ray.py needs Ray Serve: pip install "ray[serve]"')
    if not replicas.address:  # else model and port are those of other computers
        server.check_address()
        model.announce()
    import ray  # takes seconds, as PyTorch does in the replicas

    code = {"working_dir": str(ROOT), "excludes": [".git", "tests", "resources"]} if replicas.address else None
    ray.init(address=replicas.address or "local", runtime_env=code, include_dashboard=False, log_to_driver=True)
    deploy(model, sampling, server, replicas)
    print(f"http://{server.host}:{server.port}", file=sys.stderr, flush=True)
    try:
        while not replicas.address:
            time.sleep(1)
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    run_main(main)
