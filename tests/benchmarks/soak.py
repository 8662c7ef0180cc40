"""Let 64 clients treat a server well and badly for ten minutes, and check every answer against its own prompt.

    python -m tests.benchmarks.soak                    starts `python api.py` with the embedded checkpoint
    python -m tests.benchmarks.soak --seconds 60 --clients 16

The clients chat and stream over all routes, leave in the middle of an answer or before it begins, send garbage and
histories of a megabyte, do not read what they asked for, and keep connections idle. With --restarts the server is
ended by SIGTERM under load and started again; with --log-bytes its log meets a full disk after so many.
Greedy answers are compared with those that the prompts got alone before; what a client reads before it leaves must be
how its own answer begins. The exit status is 1 if there was a 5xx other than 503 and 504, an answer lost or mixed up,
memory or file descriptors that grew from minute 2 to the end, memory that did not come back within 20 % of what the
server took before, or a place not free at the end. Prompts that may be asked again get 32 MiB, so that the place is
full by minute 2.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import psutil

from tests.benchmarks.serving import wait_for_address

ROOT = Path(__file__).resolve().parent.parent.parent
CHAT = "/v1/chat/completions"
GARBAGE = [
    b"",
    b"{",
    b"[" * 50_000,
    b'{"prompt": 5}',
    b'{"prompt": "a", "history": "b"}',
    b'{"prompt": "\\ud800", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"prompt": "a", "messages": [{"role": "nobody", "content": "a"}]}',
    b'{"prompt": "a", "temperature": NaN, "messages": []}',
    '{"prompt": "你好"}'.encode("gbk"),
    b"\x00\xff" * 1000,
    json.dumps({"prompt": "好" * 20_000, "messages": [{"role": "user", "content": "好" * 20_000}]}).encode(),
    b" " * 2_000_000,
]
PATHS = ("/", "/stream", CHAT, "/v1/completions", "/v1/embeddings", "/nowhere")
LEVEL_SECONDS = 240.0  # a run of so many seconds is judged by its memory from minute 2 on
IDLE_SECONDS = 5.0  # after the last request, until the memory should have come back
COMES_BACK = 1.2  # within so many times what the server took before
FLAGS = ["--prompt-cache-mb", "32"]
SHORT_GROWTH = 512  # MiB that a shorter run may add: the allocator takes one to two minutes to level off
QUESTIONS = ("你好", "{} + 4 = ?", "第{}天的天气怎么样？", "hello, number {}", "请介绍一下{}号", "{}", "a {} b")


class Clients:
    """What the clients do, and what went wrong.

    Args:
        http: asks the server.
        tokens: limit of each answer.
        seed: of the clients' choices.
    """

    def __init__(self, http: httpx.AsyncClient, tokens: int, seed: int) -> None:
        self.http, self.tokens, self.dice = http, tokens, random.Random(seed)
        self.expected: dict[str, str] = {}
        self.done: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[int] = collections.Counter()
        self.wrong: list[str] = []
        self.restarting = False  # then connections may fail
        self.waits: list[float] = []  # seconds that /health took

    async def learn(self, count: int) -> None:
        """Ask some questions one after another, for the answers that they get alone."""
        for number in range(count):
            question = QUESTIONS[number % len(QUESTIONS)].format(number)
            answer = await self.http.post("/", json=self.original(question))
            answer.raise_for_status()
            self.expected[question] = answer.json()["response"]

    def original(self, question: str) -> dict:
        """Return the original route's request."""
        return {"prompt": question, "temperature": 0, "max_new_tokens": self.tokens}

    def chat(self, question: str, **more) -> dict:
        """Return OpenAI's request."""
        messages = [{"role": "user", "content": question}]
        return {"messages": messages, "temperature": 0, "max_tokens": self.tokens} | more

    def compare(self, what: str, question: str, text: str, complete: bool = True) -> None:
        """Note an answer that is not the question's own."""
        expected = self.expected[question]
        if text != expected if complete else not expected.startswith(text):
            self.wrong.append(f"{what}: {question!r} got {text!r}, not {expected!r}")

    def accept(self, status: int, *more: int) -> bool:
        """Count a status; return whether it is 200; note one that must not be."""
        self.statuses[status] += 1
        if status not in (200, 429, 503, 504, *more):
            self.wrong.append(f"status {status}")
        return status == 200

    async def post(self, question: str) -> None:
        """Ask the original's route, or OpenAI's, and read the whole answer."""
        if self.dice.random() < 0.5:
            answer = await self.http.post("/", json=self.original(question))
            if self.accept(answer.status_code):
                self.compare("POST /", question, answer.json()["response"])
            return
        answer = await self.http.post(CHAT, json=self.chat(question, n=self.dice.choice([1, 1, 1, 2])))
        if self.accept(answer.status_code):
            for choice in answer.json()["choices"]:
                self.compare(CHAT, question, choice["message"]["content"])

    async def events(self, path: str, body: dict) -> AsyncIterator[dict]:
        """Yield the events of a stream; note one without an end."""
        async with self.http.stream("POST", path, json=body) as answer:
            if not self.accept(answer.status_code):
                return
            line = ""
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    return
                if line:
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        self.wrong.append(f"{path}: {event}")
                        return
                    yield event
            self.wrong.append(f"{path}: a stream without an end")

    async def stream(self, question: str, leave_after: int | None = None) -> None:
        """Read a stream, to its end or to some event, and leave then."""
        text, count, complete = "", 0, False
        chat = self.dice.random() < 0.5
        path, body = (CHAT, self.chat(question, stream=True)) if chat else ("/stream", self.original(question))
        events = self.events(path, body)
        try:
            async for event in events:
                count += 1
                text += event["choices"][0]["delta"].get("content", "") if chat else event["delta"]
                complete = bool(event["choices"][0]["finish_reason"]) if chat else event["finished"]
                if count == leave_after:
                    break
        finally:
            await events.aclose()
        self.compare(path, question, text, complete)

    async def leave(self, question: str) -> None:
        """Leave in the middle of a stream, or before a whole answer has come."""
        if self.dice.random() < 0.5:
            await self.stream(question, self.dice.randint(1, 8))
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.post(question), self.dice.random() / 2)

    async def send_garbage(self, _: str) -> None:
        """Send what no route can take."""
        path, content = self.dice.choice(PATHS), self.dice.choice(GARBAGE)
        answer = await self.http.post(path, content=content)
        self.accept(answer.status_code, 400, 404, 413, 422)

    async def send_much(self, question: str) -> None:
        """Send a history far longer than what fits, which leaves the answer as it is."""
        rounds = self.dice.choice([[["a" * 900_000, "b"]], [["好" * 200, "b" * 100]] * 600, [["a", "b" * 160_000]]])
        body = self.original(question) | {"history": rounds, "stream": self.dice.random() < 0.3}
        answer = await self.http.post("/", json=body)
        self.accept(answer.status_code)

    async def read_slowly(self, question: str) -> None:
        """Ask for a stream on a bare connection, read nothing for a while, and go."""
        host, port = self.http.base_url.host, self.http.base_url.port
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            if not self.restarting:
                raise
            return
        content = json.dumps(self.original(question)).encode()
        head = f"POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n"
        whole = head.encode() + content
        writer.write(whole[: self.dice.choice([0, 10, len(head), len(whole)])])  # idle, half a header, no body, all
        await asyncio.sleep(self.dice.random() * 3)
        writer.transport.abort()

    async def watch_health(self, end: float) -> None:
        """Ask ten times a second whether the server is well, and note how long that takes."""
        while time.monotonic() < end:
            start = time.monotonic()
            with contextlib.suppress(httpx.HTTPError):
                if (await self.http.get("/health")).status_code == 200:
                    self.waits.append(time.monotonic() - start)
            await asyncio.sleep(0.1)

    async def embed(self, question: str) -> None:
        """Ask for a vector, which is the same each time."""
        answer = await self.http.post("/v1/embeddings", json={"input": question})
        if self.accept(answer.status_code):
            vector = answer.json()["data"][0]["embedding"]
            key = f"vector of {question}"
            self.expected.setdefault(key, json.dumps(vector))
            self.compare("/v1/embeddings", key, json.dumps(vector))

    async def live(self, end: float) -> None:
        """Do one thing after another until the time is up."""
        acts: list[tuple[Callable[[str], Awaitable[None]], int]] = [
            (self.post, 4),
            (self.stream, 4),
            (self.leave, 3),
            (self.send_garbage, 2),
            (self.embed, 1),
            (self.send_much, 1),
            (self.read_slowly, 1),
        ]
        questions = list(self.expected)
        while time.monotonic() < end:
            (act,) = self.dice.choices([act for act, _ in acts], [weight for _, weight in acts])
            try:
                await act(self.dice.choice(questions))
            except httpx.HTTPError as error:
                if self.restarting:
                    await asyncio.sleep(0.5)
                    continue
                self.wrong.append(f"{act.__name__}: {type(error).__name__}: {error}")
            self.done[act.__name__] += 1
            await asyncio.sleep(self.dice.random() / 20)


class ServerUnderTest:
    """`python api.py`, which can be ended and started again at the same address.

    Args:
        flags: of the server.
        log_bytes: size that its log may reach, as on a full disk; 0 for any.
    """

    def __init__(self, flags: Sequence[str], log_bytes: int = 0) -> None:
        self.flags, self.log_bytes, self.port = list(flags), log_bytes, 0
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  (closed by `close`)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        command = [sys.executable, str(ROOT / "api.py"), "--port", str(self.port), *self.flags]
        self.log.seek(0)
        self.log.truncate()
        self.process = subprocess.Popen(command, stderr=self.log, cwd=ROOT, env=os.environ)
        self.address = wait_for_address(self.process, self.log)
        self.port = int(self.address.rpartition(":")[2])
        self.watched = psutil.Process(self.process.pid)
        if self.log_bytes:  # what is longer is refused, as by a full disk
            self.watched.rlimit(psutil.RLIMIT_FSIZE, (self.log_bytes, self.log_bytes))

    def stop(self) -> list[str]:
        """End it as a supervisor does; return what was wrong."""
        self.process.terminate()
        status = self.process.wait(timeout=90)
        wrong = [f"the server's exit status is {status}"] if status else []
        self.log.seek(0)
        if "Traceback" in (said := self.log.read()):
            wrong.append(said[said.index("Traceback") :][:3000])
        return wrong

    def close(self) -> None:
        """End it by force, if it still runs."""
        self.process.kill()
        self.process.wait()
        self.log.close()


async def soak(server: ServerUnderTest, arguments: argparse.Namespace) -> list[str]:
    """Run the clients and print a summary; return what was wrong."""
    address = server.address
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=arguments.clients)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits, trust_env=False) as http:
        clients = Clients(http, arguments.tokens, arguments.seed)
        await clients.learn(arguments.questions)
        before, start = server.watched.memory_info().rss, time.monotonic()
        end, memory, files = start + arguments.seconds, [], []

        async def watch_memory() -> None:
            while time.monotonic() < end:
                with contextlib.suppress(psutil.Error):
                    memory.append((time.monotonic() - start, server.watched.memory_info().rss))
                    files.append((time.monotonic() - start, server.watched.num_fds()))
                await asyncio.sleep(min(1.0, arguments.seconds / 20))

        async def restart() -> None:
            for _ in range(arguments.restarts):
                await asyncio.sleep(arguments.seconds / (arguments.restarts + 1))
                clients.restarting = True
                clients.wrong += await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
                await asyncio.sleep(2)  # for connections of the old one to be noticed
                clients.restarting = False

        living = [clients.live(end) for _ in range(arguments.clients)]
        await asyncio.gather(watch_memory(), clients.watch_health(end), restart(), *living)
        health = {"running": None}
        for _ in range(200):
            health = (await http.get("/health")).json()
            if health["running"] == health["waiting"] == 0:
                break
            await asyncio.sleep(0.05)
        counted = (await http.get("/metrics")).text
    await asyncio.sleep(IDLE_SECONDS)
    afterwards = server.watched.memory_info().rss
    wrong, failures = clients.wrong, server_errors(counted)
    if health["running"] != 0 or health["waiting"] != 0:
        wrong.append(f"places are not free at the end: {health}")
    wrong += [f"{count} answers of status {status}" for status, count in failures.items() if status not in (503, 504)]
    long = arguments.seconds >= LEVEL_SECONDS  # a shorter run ends while the memory still levels off
    warm = 120.0 if long else arguments.seconds / 5
    early = [size for moment, size in memory if warm <= moment <= warm + arguments.seconds / 10]
    late = [size for _, size in memory[-max(1, len(memory) // 10) :]]
    growth = (max(late) - max(early or late)) / 2**20
    most = arguments.growth if long else max(arguments.growth, SHORT_GROWTH)
    if growth > most:
        wrong.append(f"memory grew by {growth:.0f} MiB (at most {most:g})")
    if long and afterwards > COMES_BACK * before:
        wrong.append(f"memory was {before >> 20} MiB, and {afterwards >> 20} MiB after {IDLE_SECONDS:g} s without work")
    early_files = [count for moment, count in files if warm <= moment <= warm + arguments.seconds / 10]
    late_files = [count for _, count in files[-max(1, len(files) // 10) :]]
    if max(late_files) > max(early_files or late_files) + arguments.clients:
        wrong.append(f"file descriptors grew from {max(early_files)} to {max(late_files)}")
    waits = sorted(clients.waits)
    health_times = [1000 * waits[int(share * (len(waits) - 1))] for share in (0.5, 0.99, 1)]
    print(f"| soak | {arguments.clients} clients, {arguments.seconds:g} s |\n|---|---|")
    print(f"| done | {', '.join(f'{count} {name}' for name, count in sorted(clients.done.items()))} |")
    print(f"| statuses | {', '.join(f'{count} × {status}' for status, count in sorted(clients.statuses.items()))} |")
    print(f"| 5xx by the server's count | {failures or 'none'} |")
    print(f"| memory at {warm:.0f} s and at the end, MiB | {max(early or late) >> 20}, {max(late) >> 20} |")
    print(f"| memory before, and {IDLE_SECONDS:g} s after, MiB | {before >> 20}, {afterwards >> 20} |")
    print(f"| file descriptors then | {max(early_files or late_files)}, {max(late_files)} |")
    print(f"| /health, median, 99 %, longest, ms | {', '.join(f'{value:.0f}' for value in health_times)} |")
    print(f"| restarts under load | {arguments.restarts} |")
    print(f"| places taken at the end | {health['running']} running, {health['waiting']} waiting |")
    print(f"| wrong | {len(wrong) or 'nothing'} |")
    return wrong


def server_errors(metrics: str) -> dict[int, int]:
    """Return the server's own count of 5xx answers, by status."""
    found: collections.Counter[int] = collections.Counter()
    for line in metrics.splitlines():
        if line.startswith("chatglm_requests_total") and 'status="5' in line:
            found[int(line.split('status="')[1][:3])] += int(float(line.rsplit(" ", 1)[1]))
    return dict(found)


def main(words: Sequence[str] | None = None) -> int:
    """Start a server, run the clients, return 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder or name (the embedded checkpoint)")
    parser.add_argument("--seconds", type=float, default=600, help="how long (600)")
    parser.add_argument("--clients", type=int, default=64, help="clients at once (64)")
    parser.add_argument("--questions", type=int, default=56, help="different questions (56)")
    parser.add_argument("--tokens", type=int, default=40, help="limit of an answer (40)")
    parser.add_argument(
        "--growth",
        type=float,
        default=32,
        help="memory that may be added after minute 2, in runs of 4 minutes and more, MiB (32)",
    )
    parser.add_argument("--restarts", type=int, default=0, help="times that the server is ended and started (0)")
    parser.add_argument("--log-bytes", type=int, default=0, help="of log that fit on the disk; 0 for any (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the clients' choices (0)")
    arguments = parser.parse_args(words)
    model = ["--model", arguments.model] if arguments.model else []
    server = ServerUnderTest([*FLAGS, *model], arguments.log_bytes)
    try:
        wrong = asyncio.run(soak(server, arguments))
        wrong += server.stop()
    finally:
        server.close()
    for text in wrong[:20]:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
