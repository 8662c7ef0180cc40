"""Tests of serve_ray.py: two replicas, a stream through the proxy, and a rolling restart under load.

Skipped where Ray is not installed, as in CI: Ray is large. To run them: pip install "ray[serve]".
"""

from __future__ import annotations

import socket
import threading
import time

import pytest
from serving import ROOT, client, frames, wait_until, write_lively_checkpoint

ray = pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("ray.serve", reason="ray[serve] is not installed")

from chatglm import ChatGLMTokenizer  # noqa: E402
from loading.arguments import ModelArguments, SamplingArguments  # noqa: E402
from serve_ray import ReplicaArguments, deploy  # noqa: E402
from server.arguments import ServerArguments  # noqa: E402

QUESTION = {"prompt": "你好", "temperature": 0, "max_new_tokens": 20}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """Deploy two replicas of a small checkpoint; give the address, the expected answer, and a function to redeploy."""
    folder = tmp_path_factory.mktemp("ray") / "small"
    model = write_lively_checkpoint(folder)
    expected = model.chat(ChatGLMTokenizer.from_pretrained(folder), "你好", temperature=0, max_new_tokens=20)[0]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ray.init(address="local", num_cpus=8, include_dashboard=False, runtime_env={"env_vars": environment})
    arguments = ModelArguments(str(folder), device="cpu"), SamplingArguments(), ServerArguments(port=port)

    def redeploy() -> None:
        deploy(*arguments, ReplicaArguments(replicas=2, cpus_per_replica=0))

    redeploy()
    yield f"http://127.0.0.1:{port}", expected, redeploy
    ray.shutdown()


def replica_names() -> set[str]:
    from ray import serve

    replicas = serve.status().applications["chatglm"].deployments["chatglm"].replica_states
    return {f"{state}: {count}" for state, count in replicas.items()}


def test_replicas_answer_and_stream(deployed):
    address, expected, _ = deployed
    with client(address) as http:
        assert http.post("/", json=QUESTION).json()["response"] == expected
        body = {"messages": [{"role": "user", "content": "你好"}], "temperature": 0, "max_tokens": 20, "stream": True}
        chunks = frames(http.post("/v1/chat/completions", json=body).text)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected
        assert http.get("/health").status_code == 200
    assert replica_names() == {"RUNNING: 2"}


def test_a_rolling_restart_drops_no_request(deployed, capsys):
    """Requests and streams go on while both replicas are replaced; each has its whole answer."""
    address, expected, redeploy = deployed
    answers: list[str] = []
    stopped = threading.Event()

    def ask() -> None:
        with client(address) as http:
            while not stopped.is_set():
                try:
                    answer = http.post("/", json=QUESTION)
                    answers.append(answer.json()["response"] if answer.status_code == 200 else answer.text)
                except Exception as error:  # whatever a client would see
                    answers.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answers) > 20)
    before, start = len(answers), time.monotonic()
    redeploy()
    seconds, during = time.monotonic() - start, len(answers) - before
    wait_until(lambda: len(answers) > before + during + 20)
    stopped.set()
    for thread in threads:
        thread.join()
    with capsys.disabled():
        print(f"\nrolling restart of 2 replicas: {seconds:.1f} s, {during} requests during it")
    assert during > 0
    assert set(answers) == {expected}
