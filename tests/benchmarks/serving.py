"""Compare the server with the original's way, one request after another, on the same model in one run.

    python -m tests.benchmarks.serving                    the embedded checkpoint and a quarter of the 6B shape, INT4
    python -m tests.benchmarks.serving --models quarter --clients 16 --seconds 60
    python -m tests.benchmarks.serving --models /path/to/chatglm-6b-int4

"original" is a server with the original's structure: an `async` handler that generates to the end before anything else
is done. Its first tokens and the times between tokens are those at which it computed them, as if it had streamed. Both
servers run as processes of their own and use the same model code; every answer has the same number of tokens, and each
token is shown as one character, so that each is an event whatever random weights choose. "> x" marks what had not
happened when the time was up. The client runs on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import torch
import uvicorn
from fastapi import FastAPI, Request
from transformers import LogitsProcessorList, StoppingCriteriaList

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from loading.arguments import EMBEDDED_CHECKPOINT, ModelArguments
from loading.devices import choose_device, choose_dtype
from loading.load import load_model_and_tokenizer
from tests.benchmarks.load_memory import special_ids

WAYS = ("original", "here")
QUARTER_LAYERS = 7


# --------------------------------------------------------------------------------------------------------------------
# The two servers
# --------------------------------------------------------------------------------------------------------------------


def quarter_model(device: torch.device) -> ChatGLMForConditionalGeneration:
    """Return 7 of the 28 layers of ChatGLM-6B and its whole output layer, random INT4 weights."""
    ids = special_ids(ChatGLMTokenizer.from_pretrained(EMBEDDED_CHECKPOINT))
    config = ChatGLMConfig(num_layers=QUARTER_LAYERS, quantization_bit=4, **ids)
    torch.set_default_dtype(torch.float16)
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    torch.manual_seed(0)
    # random numbers are repeated in steps that no row length divides, so that rows differ
    small, packed = torch.randn(1_000_003).mul_(0.02).half(), torch.randint(-128, 128, (1_000_003,), dtype=torch.int8)
    for name, tensor in model.state_dict().items():
        if name.endswith("weight_scale"):
            tensor.fill_(0.004)
        elif "layernorm" in name:
            tensor.fill_(float(name.endswith("weight")))
        else:
            pattern = packed if tensor.dtype == torch.int8 else small
            for start in range(0, tensor.numel(), len(pattern)):
                part = tensor.view(-1)[start : start + len(pattern)]
                part.copy_(pattern[: len(part)])
    return model.to(device=device, dtype=choose_dtype("auto", device, config)).eval()


def load(name: str) -> tuple[ChatGLMForConditionalGeneration, ChatGLMTokenizer]:
    """Return a model and a tokenizer that shows every token as one character."""
    if name == "quarter":
        model = quarter_model(choose_device("auto"))
        tokenizer = ChatGLMTokenizer.from_pretrained(EMBEDDED_CHECKPOINT)
    else:
        path = EMBEDDED_CHECKPOINT if name == "embedded" else name
        model, tokenizer = load_model_and_tokenizer(ModelArguments(model_name_or_path=path))
    tokenizer.surface = lambda token_id: "字"  # every token is a character, those that end answers, too
    type(tokenizer).all_special_ids = property(lambda tokenizer: [])
    return model, tokenizer


def serve_here(name: str) -> int:
    """Serve by this project's server; answers end at their number of tokens only."""
    from engine import Engine
    from server.app import build_app, serve
    from server.arguments import ServerArguments

    model, tokenizer = load(name)
    engine = Engine(model, tokenizer)
    engine.end_ids = set()
    return serve(build_app(engine), engine, ServerArguments(port=0, drain_seconds=0))


def serve_originals_way(name: str) -> int:
    """Serve by a handler that keeps the event loop until its answer is complete."""
    model, tokenizer = load(name)
    app = FastAPI()

    @app.post("/")
    async def create_item(request: Request) -> dict:
        body, times = await request.json(), []
        options = {"min_new_tokens": body["max_new_tokens"], "max_new_tokens": body["max_new_tokens"]}

        def note_time(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            times.append(time.monotonic())
            return scores

        def is_over(input_ids: torch.Tensor, scores: torch.Tensor, **_) -> torch.Tensor:
            return torch.full(
                (len(input_ids),), time.monotonic() > body["deadline"]
            )  # do not keep the next one waiting

        if time.monotonic() < body["deadline"]:
            options |= {"logits_processor": LogitsProcessorList([note_time])}
            model.chat(tokenizer, body["prompt"], [], stopping_criteria=StoppingCriteriaList([is_over]), **options)
        return {"times": times}

    @app.get("/health")
    async def health() -> dict:
        return {"running": 0}

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", backlog=1024)).run(sockets=[listener])
    return 0


@contextmanager
def server(way: str, model: str) -> Iterator[int]:
    """Run a server as a process; give its port."""
    command = [sys.executable, "-m", "tests.benchmarks.serving", "--serve", way, "--models", model]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, stderr=log, cwd=Path(__file__).resolve().parent.parent.parent)
        try:
            yield int(wait_for_address(process, log).rsplit(":", 1)[1])
        finally:
            process.kill()
            process.wait()


def wait_for_address(process: subprocess.Popen, log: TextIO) -> str:
    """Return the address that a server writes to its log when it is ready."""
    while True:
        ended = process.poll() is not None
        log.seek(0)
        said = log.read()
        if found := re.search(r"^http://\S+:\d+$", said, re.M):
            return found[0]
        if ended:
            raise RuntimeError(f"the server ended:\n{said}")
        time.sleep(0.1)


# --------------------------------------------------------------------------------------------------------------------
# Clients
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the clients saw in one measurement: seconds, each with whether the thing had happened when time was up."""

    tokens: int = 0
    first: list[tuple[float, bool]] = field(default_factory=list)
    between: list[tuple[float, bool]] = field(default_factory=list)
    health: list[tuple[float, bool]] = field(default_factory=list)


def percentile(times: list[tuple[float, bool]], share: float) -> str:
    """Return a percentile in milliseconds; "> x" if it falls on something that had not happened."""
    if not times:
        return "–"
    seconds, happened = sorted(times)[min(len(times) - 1, math.ceil(share * len(times)) - 1)]
    return f"{'' if happened else '> '}{1000 * seconds:,.0f}"


async def request(port: int, method: str, path: str, body: dict | None = None) -> AsyncIterator[bytes]:
    """Send a request on a connection of its own and yield the lines of the answer's body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{path} answered {status!r} {await reader.read()!r}")
        while (await reader.readline()).strip():
            pass
        while line := await reader.readline():
            yield line
    finally:
        writer.close()


async def answer(port: int, way: str, prompt: str, tokens: int, end: float) -> AsyncIterator[float]:
    """Ask one question and yield the moment of each token of its answer."""
    body = {"prompt": prompt, "max_new_tokens": tokens, "deadline": end}
    if way == "original":
        async with aclosing(request(port, "POST", "/", body)) as lines:
            async for line in lines:
                if line.startswith(b"{"):
                    for moment in json.loads(line)["times"]:
                        yield moment
        return
    async with aclosing(request(port, "POST", "/stream", body)) as lines:
        async for line in lines:
            if line.startswith(b"data: {"):
                for _ in json.loads(line[6:])["delta"]:
                    yield time.monotonic()


async def keep_asking(port: int, way: str, client: int, tokens: int, end: float, seen: Seen) -> None:
    """Ask one question after another until the time is up."""
    number = 0
    while (start := time.monotonic()) < end:
        number, last = number + 1, None
        try:
            async with aclosing(answer(port, way, f"第{client}位，第{number}问：你好", tokens, end)) as moments:
                while True:
                    limit = None if way == "original" else max(0.0, end - time.monotonic())
                    moment = await asyncio.wait_for(anext(moments), limit)
                    if moment > end:
                        break
                    seen.tokens += 1
                    (seen.first if last is None else seen.between).append((moment - (last or start), True))
                    last = moment
        except StopAsyncIteration:
            if last is not None and last <= end:
                continue
        except asyncio.TimeoutError:  # noqa: UP041 (Python 3.10 has two of that name)
            pass
        if last is None:
            seen.first.append((end - start, False))
        return


async def watch_health(port: int, end: float, seen: Seen) -> None:
    """Ask for the server's health every 50 ms."""
    while (start := time.monotonic()) < end:
        try:
            await asyncio.wait_for(health(port), end - start)
            seen.health.append((time.monotonic() - start, True))
        except asyncio.TimeoutError:  # noqa: UP041
            seen.health.append((end - start, False))
        await asyncio.sleep(0.05)


async def health(port: int) -> dict:
    """Return what the server says about itself."""
    return json.loads(b"".join([line async for line in request(port, "GET", "/health")]))


async def idle(port: int) -> None:
    """Wait until the server has ended what it had begun."""
    while (await health(port))["running"]:
        await asyncio.sleep(0.1)


async def measure_clients(port: int, way: str, clients: int, tokens: int, seconds: float) -> Seen:
    """Let clients ask for some seconds."""
    seen, end = Seen(), time.monotonic() + seconds
    asking = [keep_asking(port, way, client, tokens, end, seen) for client in range(clients)]
    await asyncio.gather(watch_health(port, end, seen), *asking)
    await idle(port)
    return seen


async def measure_17th(port: int, way: str, tokens: int, limit: float) -> tuple[float, bool]:
    """Return the time to the first token of a client that comes after 16 others, whose answers have begun."""
    end, begun = time.monotonic() + limit, asyncio.Semaphore(0)

    async def occupy(client: int) -> None:
        async for _ in answer(port, way, f"{client}：你好", tokens, end):
            begun.release()

    others = [asyncio.create_task(occupy(client)) for client in range(16)]
    if way == "original":  # they are in its queue
        await asyncio.sleep(0.5)
    else:
        for _ in range(17):  # at least: all have begun soon after
            await begun.acquire()
    start = time.monotonic()
    first, happened = limit, False
    async with aclosing(answer(port, way, "第十七位：你好", tokens, end)) as moments:
        async for moment in moments:
            first, happened = moment - start, moment <= end
            break
    if way == "original":
        await asyncio.gather(*others)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await idle(port)
    return (first, True) if happened else (end - start, False)


async def measure_pause(port: int, tokenizer: ChatGLMTokenizer, length: int) -> dict[str, float]:
    """Return what a long prompt costs a running stream, in seconds; see the keys."""
    end = time.monotonic() + 600

    def prompt(number: int) -> str:
        text = f"{number}：" + "天气真好" * (length // 4)
        while len(tokenizer.encode_prompt(text)) > length:
            text = text[:-1]
        return text

    async def first_token(number: int) -> tuple[float, float]:
        start = time.monotonic()
        async with aclosing(answer(port, "here", prompt(number), 1, end)) as moments:
            return start, await anext(moments)

    start, moment = await first_token(1)
    alone, arrived, times = moment - start, None, []
    async with aclosing(answer(port, "here", "你好", 400, end)) as moments:
        async for moment in moments:
            times.append(moment)
            if len(times) == 20:
                arrived = asyncio.create_task(first_token(2))
            if arrived is not None and arrived.done():
                break
    start, done = await arrived
    gaps = [(after - before, after) for before, after in zip(times, times[1:], strict=False)]
    return {
        "token before": statistics.median(gap for gap, after in gaps if after <= start),
        "pause": max(gap for gap, after in gaps if after > start and after - gap < done),
        "prompt alone": alone,
        "prompt meanwhile": done - start,
    }


# --------------------------------------------------------------------------------------------------------------------
# The tables
# --------------------------------------------------------------------------------------------------------------------


async def compare(name: str, ports: dict[str, int], arguments: argparse.Namespace) -> None:
    """Measure one model and print its tables."""
    print(
        "| clients | server | tokens/s | first token, ms: median | p99 | between tokens, ms: median | p99 "
        "| /health, ms: p99 |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    rates: dict[tuple[int, str], float] = {}
    for clients in arguments.clients:
        for way, port in ports.items():
            seen = await measure_clients(port, way, clients, arguments.tokens, arguments.seconds)
            rates[clients, way] = seen.tokens / arguments.seconds
            times = [percentile(values, share) for values in (seen.first, seen.between) for share in (0.5, 0.99)]
            cells = [clients, way, f"{rates[clients, way]:.1f}", *times, percentile(seen.health, 0.99)]
            print("|", *(f"{cell} |" for cell in cells), flush=True)
    print()
    for clients in arguments.clients:
        if rates[clients, "original"]:
            ratio = rates[clients, "here"] / rates[clients, "original"]
            print(f"- {clients} clients: {ratio:.1f} times the original's total tokens a second")
    waits = {way: await measure_17th(port, way, arguments.tokens, arguments.limit) for way, port in ports.items()}
    (original, happened), (here, _) = waits["original"], waits["here"]
    print(
        f"- a 17th client's first token: {here:.2f} s here, {'' if happened else '> '}{original:.2f} s in the "
        f"original's queue, {'' if happened else 'at least '}{original / here:.0f} times as long"
    )
    path = name if Path(name).is_dir() else EMBEDDED_CHECKPOINT
    config = ChatGLMConfig() if name == "quarter" else ChatGLMConfig.from_pretrained(path)
    length = min(arguments.prompt_tokens, config.max_sequence_length - 100)
    pause = await measure_pause(ports["here"], ChatGLMTokenizer.from_pretrained(path), length)
    print(
        f"- a {length}-token prompt arrives: the longest pause of a running stream is "
        f"{1000 * pause['pause']:.0f} ms (a token takes {1000 * pause['token before']:.0f} ms before it comes; reading "
        f"it takes {1000 * pause['prompt alone']:.0f} ms alone, {1000 * pause['prompt meanwhile']:.0f} ms beside the "
        "stream)\n",
        flush=True,
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run the servers and the clients, or be one of the servers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["embedded", "quarter"], help="embedded, quarter, or a folder")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16, 64], help="numbers of clients (1 4 16 64)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each answer (32)")
    parser.add_argument("--seconds", type=float, default=20, help="time of each measurement (20)")
    parser.add_argument("--limit", type=float, default=300, help="longest wait of the 17th client, seconds (300)")
    parser.add_argument("--prompt-tokens", type=int, default=1500, help="the long prompt (1500)")
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.serve:
        serve = serve_originals_way if arguments.serve == "original" else serve_here
        return serve(arguments.models[0])
    for name in arguments.models:
        title = {"quarter": f"{QUARTER_LAYERS} layers of the 6B shape, INT4, random weights"}.get(name, name)
        print(
            f"**{title}**: {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
            f"answers of {arguments.tokens} tokens, {arguments.seconds:g} s a row\n",
            flush=True,
        )
        with server("original", name) as original, server("here", name) as here:
            asyncio.run(compare(name, {"original": original, "here": here}, arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
