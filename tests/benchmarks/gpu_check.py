"""Check and measure everything that needs a GPU, in one command of at most nine minutes on an H100 or H200.

    python -m tests.benchmarks.gpu_check                              # FP16, INT8, INT4; an 80 GB GPU for 32 rows
    python -m tests.benchmarks.gpu_check --bits 4 --batches 1         # a small GPU
    python -m tests.benchmarks.gpu_check --device cpu --num-layers 1  # dry run: small widths, nothing is judged

Weights are random and made on the device; nothing is downloaded. Writes `gpu_check.json` and `gpu_check.md` into
`--output`, anew after each part, so that what was measured is kept whatever comes later. A part that fails says why,
and the others go on; a part for which no time is left is skipped, and says so. The bound of decoding is the bytes that
a step has to read over the bandwidth of a large copy in the same run, counting bytes read and written. Ends with status
1 if a goal was missed or a part failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest import mock

import torch
import transformers
from torch import nn
from torch.nn import functional as F

from chatglm import (
    ChatGLMConfig,
    ChatGLMForConditionalGeneration,
    ChatGLMTokenizer,
    cuda_decode,
    cuda_driver,
    cuda_kernels,
)
from chatglm.cuda_compiler import kernel_image
from chatglm.quantization import set_exact
from engine import Engine, Request
from loading import adapters
from loading.arguments import EMBEDDED_CHECKPOINT
from tests.benchmarks.cuda_decode import (
    LEVELS,
    MATRICES,
    build_model,
    copy_bandwidth,
    graph_ms,
    median_ms,
    no_graph,
    random_prompt,
    read_rows,
    step_ms,
    three_rounds,
    token_bytes,
    unpack_first,
)
from tests.benchmarks.load_memory import special_ids
from tests.conftest import ROOT

SMALL = {"hidden_size": 64, "inner_hidden_size": 256, "num_attention_heads": 2, "max_sequence_length": 2048}
# what to reach at one row behind a prompt of 128 tokens: share of the bound, times the original's way, gigabytes
SHARES = {0: 0.75, 8: 0.65, 4: 0.55}
TIMES_THE_ORIGINAL = 8.0
GIGABYTES = {0: 13.0, 8: 8.0, 4: 5.0}
LOGITS_TOLERANCE = 0.02  # relative norm: rounding of 28 layers in float16
# published shares of the bound, for comparison: bf16 by plain PyTorch, vLLM and SGLang, gpt-fast at INT4
PUBLISHED = "plain bf16 27 %, vLLM and SGLang at most 50 %, gpt-fast INT4 42 %"


@dataclass
class Goal:
    """A figure, what it must at least (or at most) be, and whether it is; None where it is not judged."""

    name: str
    value: float
    limit: float
    at_most: bool = False
    passed: bool | None = None


@dataclass
class Report:
    """What was found so far.

    Attributes:
        parts: for each part its rows, each a dictionary of columns.
        seconds: that each part took.
        skipped, failed: the reason, by the part's name.
        goals: in the order they were measured in.
    """

    output: Path
    judged: bool
    parts: dict[str, list[dict]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)

    def judge(self, name: str, value: float, limit: float, at_most: bool = False) -> None:
        """Add a goal."""
        passed = (value <= limit if at_most else value >= limit) if self.judged else None
        self.goals.append(Goal(name, value, limit, at_most, passed))

    @property
    def passed(self) -> bool:
        """Whether nothing failed and no goal was missed."""
        return not self.failed and all(goal.passed is not False for goal in self.goals)

    def markdown(self) -> str:
        """Return goals, what was skipped or failed, and a table for each part."""
        lines = ["# GPU check", "", "| goal | measured | limit | |", "|---|---|---|---|"]
        marks = {True: "pass", False: "**fail**", None: "not judged"}
        for goal in self.goals:
            sign = "≤" if goal.at_most else "≥"
            lines.append(f"| {goal.name} | {goal.value:.3g} | {sign} {goal.limit:g} | {marks[goal.passed]} |")
        lines += ["", f"Published, for comparison: {PUBLISHED}.", ""]
        lines += [f"- skipped: {name}: {reason}" for name, reason in self.skipped.items()]
        lines += [f"- **failed**: {name}: {reason.splitlines()[-1]}" for name, reason in self.failed.items()]
        for name, rows in self.parts.items():
            lines += ["", f"## {name} ({self.seconds[name]:.0f} s)", ""]
            columns = list(dict.fromkeys(column for row in rows for column in row))
            lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """Write both files."""
        self.output.mkdir(parents=True, exist_ok=True)
        content = {name: value for name, value in vars(self).items() if name not in ("output", "goals")}
        content |= {"goals": [asdict(goal) for goal in self.goals], "passed": self.passed}
        (self.output / "gpu_check.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        (self.output / "gpu_check.md").write_text(self.markdown(), encoding="utf-8")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


class Skip(Exception):
    """A part does not apply here; its text says why."""


@dataclass
class Check:
    """What the parts share.

    Attributes:
        arguments: of the command line.
        report: takes rows and goals.
        bandwidth: of a copy, bytes a second.
        models: the model in use, by its bits: one at a time.
    """

    arguments: argparse.Namespace
    report: Report
    bandwidth: float = 1.0
    models: dict[int, ChatGLMForConditionalGeneration] = field(default_factory=dict)

    @property
    def device(self) -> str:
        return self.arguments.device

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def config(self, **changes) -> ChatGLMConfig:
        """Return the configuration of the 6B shape, or of a small one on a CPU, with the embedded vocabulary's ids."""
        ids = special_ids(tokenizer())
        small = {} if self.on_gpu else SMALL | {"vocab_size": 4992}
        return ChatGLMConfig(num_layers=self.arguments.num_layers, **(ids | small | changes))

    def model(self, bits: int) -> ChatGLMForConditionalGeneration:
        """Return the model of so many bits (0: not quantised); another one is released before."""
        if bits not in self.models:
            self.release()
            dtype = torch.float16 if self.on_gpu else torch.float32
            self.models[bits] = build_model(self.config(), bits, self.device, dtype)
        return self.models[bits]

    def release(self) -> None:
        """Release the model and what its graphs hold, and begin to count memory anew."""
        self.models.clear()
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gigabytes(self) -> float:
        """Return the most that PyTorch has held of the device since `release`, in 10^9 bytes; 0 on a CPU."""
        return torch.cuda.max_memory_reserved() / 1e9 if self.on_gpu else 0.0


class OneCharacterTokenizer(ChatGLMTokenizer):
    """Shows every token as one character, so that each is an event whatever random weights choose."""

    def surface(self, token_id: int) -> str:
        return "字"

    @property
    def all_special_ids(self) -> list[int]:
        return []


def tokenizer() -> ChatGLMTokenizer:
    """Return the embedded checkpoint's tokenizer."""
    return ChatGLMTokenizer.from_pretrained(EMBEDDED_CHECKPOINT)


# --------------------------------------------------------------------------------------------------------------------
# The parts
# --------------------------------------------------------------------------------------------------------------------


def environment(check: Check) -> list[dict]:
    """Say what this runs on, and measure the bandwidth that shares refer to."""
    row = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    row["date"] = time.strftime("%Y-%m-%d")
    if check.on_gpu:
        properties = torch.cuda.get_device_properties(check.device)
        row |= {"device": properties.name, "capability": f"{properties.major}.{properties.minor}"}
        row |= {"GB": properties.total_memory / 1e9, "CUDA": torch.version.cuda}
        row["driver"] = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    else:
        row["device"] = platform.processor() or platform.machine()
    check.bandwidth = copy_bandwidth(check.device, 1 << 32 if check.on_gpu else 1 << 20)
    return [row | {"copy GB/s": check.bandwidth / 1e9}]


def _first_line(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        return f"not known ({error})"


def kernels(check: Check) -> list[dict]:
    """Compile, load and check the kernels; without a GPU, the self-check's cases are not run."""
    if not check.on_gpu:
        raise Skip("needs a CUDA device")
    start = time.perf_counter()
    image = kernel_image(torch.cuda.get_device_capability())
    compiled = time.perf_counter() - start
    if not cuda_kernels.available(torch.device("cuda", torch.cuda.current_device())):
        raise RuntimeError("the CUDA kernels do not run here, see the warning above")
    seconds = time.perf_counter() - start - compiled
    return [{"compile (or read) s": compiled, "load and check s": seconds, "bytes": len(image)}]


@torch.no_grad()
def logits(check: Check) -> list[dict]:
    """Compare decoded logits with those of the ordinary pass, quantised layers exact, and prompts' reduced sums."""
    rows = []
    for bits in check.arguments.bits:
        model = check.model(bits)
        tokens = torch.randint(10, 1000, (1, 4), device=model.device)
        decoded = _decoded_logits(model, tokens)
        set_exact(model)
        with no_graph(), _full_sums():
            exact = _decoded_logits(model, tokens)
        set_exact(model, False)
        prompt = random_prompt(model.config, 64, model.device)
        reduced = model(prompt, logits_to_keep=1).logits
        with _full_sums():
            full = model(prompt, logits_to_keep=1).logits
        errors = _relative_error(decoded, exact), _relative_error(reduced, full)
        graphs = len(cuda_decode._decoders[model].graphs) if model in cuda_decode._decoders else 0
        rows.append(
            {"weights": LEVELS[bits], "graph against exact": errors[0], "prompt: reduced sums against full": errors[1]}
            | {"graphs": graphs}
        )
        check.report.judge(f"{LEVELS[bits]} logits, relative error", errors[0], LOGITS_TOLERANCE, at_most=True)
        if check.on_gpu and not graphs:
            raise RuntimeError(f"{LEVELS[bits]}: no graph was captured, see the warning above")
    return rows


def _decoded_logits(model: ChatGLMForConditionalGeneration, tokens: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    cache = read_rows(model, 32, 1)
    return torch.cat([model(token[:, None], cache=cache).logits for token in tokens.T])


def _relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@contextlib.contextmanager
def _full_sums() -> Iterator[None]:
    """Let cuBLAS add in float32 to the end."""
    setting, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    setting.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        setting.allow_fp16_reduced_precision_reduction = before


def decode(check: Check) -> list[dict]:
    """Time a step at each number of bits, batch size and context, and by the original's way and plain PyTorch."""
    rows = []
    arguments = check.arguments
    for bits in arguments.bits:
        model = check.model(bits)
        for batch in arguments.batches:
            for context in arguments.contexts:
                cache = read_rows(model, context, batch)
                step = step_ms(model, cache, arguments.tokens, arguments.repeats)
                middle = context + arguments.tokens // 2
                bound = 1000 * token_bytes(model, middle, batch) / check.bandwidth
                row = {"weights": LEVELS[bits], "batch": batch, "context": context, "step ms": step}
                row |= {"tokens/s": 1000 * batch / step, "bound ms": bound, "share of the bound": bound / step}
                if (batch, context) == (arguments.batches[0], arguments.contexts[0]):
                    row |= _other_ways(model, cache, bits, step, arguments.repeats)
                    if batch == 1:
                        check.report.judge(f"{LEVELS[bits]} share of the bound", bound / step, SHARES[bits])
                        if bits:
                            ratio = row["original ms"] / step
                            check.report.judge(f"{LEVELS[bits]} times the original's way", ratio, TIMES_THE_ORIGINAL)
                rows.append(row)
                del cache
    return rows


def _other_ways(model, cache, bits: int, step: float, repeats: int) -> dict:
    """Time the same step without a graph (at FP16: plain PyTorch), by unpacking first, and without early launches."""
    with no_graph():
        row = {"no graph ms": step_ms(model, cache, 8, repeats)}
    if bits:
        with unpack_first():
            row["original ms"] = step_ms(model, cache, 8, repeats)
    with mock.patch.object(cuda_driver, "OVERLAP", False):
        cuda_decode.release_graphs(model)  # the next ones are captured without
        row["without overlap ms"] = step_ms(model, cache, 8, repeats)
    cuda_decode.release_graphs(model)
    return row


@torch.no_grad()
def matrices(check: Check) -> list[dict]:
    """Time the products of a layer by each kernel, by PyTorch in half precision, and by `_weight_int4pack_mm`."""
    shapes = MATRICES if check.on_gpu else ((96, 64),)
    rows = []
    for features, columns in shapes:
        copies = max(2, (1 << 28) // (features * columns)) if check.on_gpu else 1  # several times the cache's size
        products = _products(check, features, columns, copies)
        for batch in (1, 8, 16, 32, 64):
            row = {"matrix": f"{features} x {columns}", "rows": batch}
            for name, (dtype, bits, multiply) in products.items():
                input = torch.randn(batch, columns, dtype=dtype, device=check.device)
                timed = _graph_or_plain_ms(check, multiply, input) / copies
                row[f"{name} µs"] = 1000 * timed
                row[f"{name} share"] = features * columns * bits / 8 / check.bandwidth * 1000 / timed
            rows.append(row)
        del products
    return rows


def _graph_or_plain_ms(check: Check, multiply: Callable, input: torch.Tensor) -> float:
    if check.on_gpu:
        return graph_ms(lambda: multiply(input), check.arguments.repeats)
    return median_ms(lambda: multiply(input), 1, "cpu")


def _products(check: Check, features: int, columns: int, copies: int) -> dict[str, tuple[torch.dtype, int, Callable]]:
    """Return for each way its input's dtype, bits of a weight, and a function that multiplies with all copies."""
    device, half = check.device, torch.float16 if check.on_gpu else torch.float32
    scale = torch.full((features,), 0.01, dtype=torch.float16, device=device)
    products = {}
    fused = cuda_kernels.fused_linear if check.on_gpu else cuda_kernels.fused_linear_reference
    unpack = cuda_kernels.unpack if check.on_gpu else cuda_kernels.unpack_reference
    for bits in (4, 8):
        shape = (features, columns * bits // 8)
        packed = [torch.randint(-128, 128, shape, dtype=torch.int8, device=device) for _ in range(copies)]
        products[f"INT{bits}"] = (
            half,
            bits,
            lambda x, packed=packed, bits=bits: [fused(x, w, scale, bits) for w in packed],
        )
        products[f"unpack INT{bits}"] = (
            half,
            bits,
            lambda x, packed=packed, bits=bits: [F.linear(x, unpack(w, scale, bits, x.dtype)) for w in packed],
        )
    plain = [torch.randn(features, columns, dtype=half, device=device) for _ in range(copies)]
    width = 8 * half.itemsize
    products["FP16"] = half, width, lambda x: [fused(x, weight, None, width) for weight in plain]
    products["PyTorch FP16"] = half, width, lambda x: [F.linear(x, weight) for weight in plain]
    packed_by_pytorch = _pytorch_int4(check, features, columns, copies)
    if packed_by_pytorch is not None:
        products["PyTorch INT4"] = torch.bfloat16, 4, packed_by_pytorch
    return products


def _pytorch_int4(check: Check, features: int, columns: int, copies: int) -> Callable | None:
    """Return a function that multiplies by PyTorch's own INT4 kernel, None where it has none for this device."""
    if not check.on_gpu:
        return None
    raw = torch.randint(0, 256, (features, columns // 2), dtype=torch.uint8, device=check.device)
    try:
        packed = [torch.ops.aten._convert_weight_to_int4pack(raw, 8) for _ in range(copies)]
        scales = torch.rand(columns // 128, features, 2, dtype=torch.bfloat16, device=check.device)
        probe = torch.zeros(1, columns, dtype=torch.bfloat16, device=check.device)
        torch.ops.aten._weight_int4pack_mm(probe, packed[0], 128, scales)
    except RuntimeError as error:
        check.report.skipped["_weight_int4pack_mm"] = str(error).splitlines()[0]
        return None
    return lambda x: [torch.ops.aten._weight_int4pack_mm(x, weight, 128, scales) for weight in packed]


@torch.no_grad()
def prompts(check: Check) -> list[dict]:
    """Time the reading of prompts."""
    rows = []
    for bits in check.arguments.bits:
        model = check.model(bits)
        for length in check.arguments.prompts:
            prompt = random_prompt(model.config, length, model.device)
            read = lambda prompt=prompt, model=model: model(prompt, use_cache=True, logits_to_keep=1)  # noqa: E731
            ms = median_ms(read, check.arguments.repeats, check.device)
            rows.append({"weights": LEVELS[bits], "prompt": length, "ms": ms, "tokens/s": 1000 * length / ms})
    return rows


def memory(check: Check) -> list[dict]:
    """Hold a dialogue of three rounds and look at the most memory that was held; then chat to the model's limit."""
    rows = []
    for bits in check.arguments.bits:
        check.release()
        model = check.model(bits)
        three_rounds(model, *((64, 192) if check.on_gpu else (8, 4)))
        rounds = check.peak_gigabytes()
        limit = model.config.max_sequence_length if check.on_gpu else 32
        prompt = random_prompt(model.config, limit - (64 if check.on_gpu else 4), model.device)
        model.generate(prompt, max_length=limit, min_length=limit, do_sample=True)
        rows.append(
            {"weights": LEVELS[bits], "after three rounds GB": rounds, f"{limit} tokens GB": check.peak_gigabytes()}
        )
        check.report.judge(f"{LEVELS[bits]} GB after three rounds", rounds, GIGABYTES[bits], at_most=True)
        del model
    return rows


def serving(check: Check) -> list[dict]:
    """Answer many clients at once by the engine."""
    bits = check.arguments.bits[-1]
    model, tokens = check.model(bits), 128 if check.on_gpu else 4
    shown = OneCharacterTokenizer.from_pretrained(EMBEDDED_CHECKPOINT)
    rows = []
    for clients in check.arguments.clients:
        engine = Engine(model, shown, max_batch_size=32)
        engine.end_ids = set()
        try:
            _serve(engine, 1, 4)  # captures graphs, not timed
            seconds, firsts = _serve(engine, clients, tokens)
        finally:
            engine.close()
        row = {"weights": LEVELS[bits], "clients": clients, "tokens/s": clients * tokens / seconds}
        rows.append(row | {"first token s, median": statistics.median(firsts), "first token s, last": max(firsts)})
    return rows


def _serve(engine: Engine, clients: int, tokens: int) -> tuple[float, list[float]]:
    """Return the seconds that all answers took, and after which each began."""
    firsts, errors = [], []

    def client(number: int) -> None:
        prompt = random_prompt(engine.model.config, 48 + number % 16, torch.device("cpu"))[0].tolist()
        try:
            answer = engine.submit(Request(prompt, tokens, seed=number))
            for _ in answer:
                pass
            firsts.append(answer.first_token - answer.submitted)
        except Exception as error:  # a thread's error would be printed and forgotten
            errors.append(error)

    start = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - start, firsts


def tuning(check: Check) -> list[dict]:
    """Train a P-Tuning v2 prefix on an INT4 base for a few steps."""
    check.release()
    dtype = torch.float16 if check.on_gpu else torch.float32
    model = build_model(check.config(), 4, check.device, dtype)
    adapters.add_prefix(model, 128 if check.on_gpu else 4)
    prefix = model.train().transformer.prefix_encoder
    optimizer = torch.optim.AdamW(prefix.parameters(), lr=1e-3)
    ids = random_prompt(model.config, 64, model.device)
    ids = torch.cat([ids, torch.randint(10, 1000, (1, 64), device=model.device)], dim=1)
    labels = ids.clone()
    labels[:, :64] = -100

    def step() -> None:
        optimizer.zero_grad()
        loss = model(ids, labels=labels, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(prefix.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())

    losses: list[torch.Tensor] = []
    ms = median_ms(step, check.arguments.repeats, check.device)
    if not torch.isfinite(torch.stack(losses)).all():
        raise RuntimeError("the loss of a tuning step is not finite")
    return [{"weights": "INT4", "prefix": len(prefix.embedding.weight), "ms": ms, "GB": check.peak_gigabytes()}]


def suite(check: Check) -> list[dict]:
    """Run the tests that are marked `cuda`, in a process of their own."""
    if not check.on_gpu:
        raise Skip("needs a CUDA device")
    check.release()
    # only their files: others import what the machine may not have, a web framework
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in path.read_text("utf-8")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "cuda",
        "-n",
        "0",
        "-q",
        "-p",
        "no:cacheprovider",
        *map(str, files),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=check.arguments.seconds)
    counts = test_counts(result.stdout)
    if result.returncode:
        raise RuntimeError(f"{result.stdout[-6000:]}\n{result.stderr[-2000:]}\ntests marked cuda: {counts}")
    return [counts]


def test_counts(output: str) -> dict[str, int]:
    """Return how many tests passed, failed and so on, from the last line that pytest printed."""
    lines = [line for line in output.splitlines() if re.search(r"\d+ \w+.* in [\d.]+s", line)]
    return (
        {name: int(count) for count, name in re.findall(r"(\d+) ([a-z]+)", lines[-1].split(" in ")[0])} if lines else {}
    )


test_counts.__test__ = False  # its name is not a test's

PARTS: dict[str, Callable[[Check], list[dict]]] = {
    "environment": environment,
    "kernels": kernels,
    "logits": logits,
    "decode": decode,
    "memory": memory,
    "prompts": prompts,
    "serving": serving,
    "tuning": tuning,
    "matrices": matrices,
    "tests marked cuda": suite,
}


# --------------------------------------------------------------------------------------------------------------------
# Running
# --------------------------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> Report:
    """Run all parts in their order, and write what was found after each."""
    check = Check(arguments, Report(arguments.output, arguments.device != "cpu" and arguments.num_layers == 28))
    report, began = check.report, time.perf_counter()
    for name in arguments.parts:
        start = time.perf_counter()
        if start - began > arguments.seconds:
            report.skipped[name] = f"more than {arguments.seconds} s had passed"
            continue
        try:
            report.parts[name] = PARTS[name](check)
        except Skip as reason:
            report.skipped[name] = str(reason)
        except Exception:  # the other parts go on, and the report says what happened
            report.failed[name] = traceback.format_exc()
        report.seconds[name] = time.perf_counter() - start
        print(f"{name}: {report.seconds[name]:.1f} s", file=sys.stderr, flush=True)
        report.write()
    return report


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; a dry run has shorter defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: a dry run at small widths")
    parser.add_argument("--num-layers", type=int, default=28)
    parser.add_argument("--bits", type=int, nargs="+", default=[0, 8, 4], choices=LEVELS, help="0 for FP16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="rows that decode together")
    parser.add_argument("--contexts", type=int, nargs="+", help="tokens before the decoded ones (default 128 1900)")
    parser.add_argument("--prompts", type=int, nargs="+", help="lengths to read (default 64 512 2000)")
    parser.add_argument("--clients", type=int, nargs="+", help="of the engine, at once (default 1 16 64)")
    parser.add_argument("--tokens", type=int, help="decoded in a measurement (default 64)")
    parser.add_argument("--repeats", type=int, help="of a measurement, whose median counts (default 5)")
    parser.add_argument("--seconds", type=int, default=480, help="after which no further part begins (default 480)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="to run (default all)")
    parser.add_argument("--output", type=Path, default=Path("gpu_check"), help="folder for both files")
    arguments = parser.parse_args(words)
    whole = {"contexts": [128, 1900], "prompts": [64, 512, 2000], "clients": [1, 16, 64], "tokens": 64, "repeats": 5}
    dry = {"contexts": [8, 12], "prompts": [8, 16], "clients": [1, 3], "tokens": 2, "repeats": 1}
    for name, value in (dry if arguments.device == "cpu" else whole).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def main() -> None:
    """Run, print the tables, and end with 1 if anything failed."""
    arguments = parse()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no CUDA device; --device cpu does a dry run")
    report = run(arguments)
    print(report.markdown())
    for name, reason in report.failed.items():
        print(f"== {name}\n{reason}", file=sys.stderr)
    raise SystemExit(not report.passed)


if __name__ == "__main__":
    main()
