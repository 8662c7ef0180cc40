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
from pathlib import Path

from loading.arguments import ModelArguments, SamplingArguments, parse_arguments, run_main
from loading.checkpoint import LoadError
from loading.command_line import Text
from server.arguments import ServerArguments
from server.ray import ReplicaArguments, deploy

ROOT = Path(__file__).resolve().parent
CHINESE = """用 Ray Serve 以多个副本在同一地址提供 ChatGLM-6B：健康检查、不间断重启。

    pip install "ray[serve]"
    python serve_ray.py --replicas 2                  自带的迷你模型，在本机，直到 Ctrl-C
    python serve_ray.py --address auto --replicas 4 --gpus-per-replica 1 --model THUDM/chatglm-6b

接口与 api.py 相同。在集群上，一台机器运行 `ray start --head`，其余运行 `ray start --address HEAD:6379`；然后在第一台上
执行第二条命令，副本启动后命令即结束。再次执行（也可换模型）会逐个替换副本：旧副本先完成自己的回答（--drain-seconds），
其余副本照常服务，新副本就绪后再替换下一个。`serve status` 查看，`serve shutdown` 结束。模型路径须在每台机器上存在。
"""


def main() -> int:
    """Deploy the replicas, stay while they run here, and return the exit status."""
    model, sampling, server, replicas = parse_arguments(
        Text(__doc__, CHINESE), ModelArguments, SamplingArguments, ServerArguments, ReplicaArguments
    )
    if importlib.util.find_spec("ray") is None:
        raise LoadError('serve_ray.py needs Ray Serve: pip install "ray[serve]"')
    if not replicas.address:  # else model and port are those of other computers
        server.check_address()
        server.adapters()
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
