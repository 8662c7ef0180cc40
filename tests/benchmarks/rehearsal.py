"""Rehearse with ChatGLM-6B's real shape and random weights: what loads, answers, converts, trains and serves, and how.

    python -m tests.benchmarks.rehearsal FOLDER                  28 layers: writes 30 GB, needs 16 GB of memory
    python -m tests.benchmarks.rehearsal FOLDER --num_layers 2   a small rehearsal
    python -m tests.benchmarks.rehearsal FOLDER --device cuda
    python -m tests.benchmarks.rehearsal FOLDER --only write,chat-3gb

Writes the half-precision checkpoint (8 `.bin` shards with their index) and the quantised ones (one `.bin` file each),
as they are published, into FOLDER. Each step runs in a process of its own, which is measured; the result is one
Markdown table. Calibration, `--only write,calibrate-int4`, runs on request only: at 28 layers a CPU takes hours.
"Peak memory" is the process' largest resident memory, pages of mapped files included; "own" is without
them, as the system can drop those at any time. A checkpoint that is there is used again; --keep leaves what was
written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from chatglm import ChatGLMForConditionalGeneration, ChatGLMTokenizer
from loading.arguments import ModelArguments
from loading.calibration import CALIBRATION_TOKENS, Calibration, encode_dialogue
from loading.conversion import convert_checkpoint
from loading.devices import choose_device
from loading.load import load_model_and_tokenizer
from resources.chatglm_mini.corpus import draw_dialogues
from tests.benchmarks.load_memory import special_ids, write_checkpoint
from tests.benchmarks.peak_memory import PeakMemory
from tests.conftest import ROOT

QUESTION = "你好"
TOKENIZER_FILES = ("ice_text.model", "tokenizer_config.json")
QUANTISED = {"int8": (8, False), "int4": (4, False), "int4-qe": (4, True)}  # bits, and whether the embedding is, too
CALIBRATED = "int4-calibrated"
PREFIX_TOKENS, TRAINED_TOKENS = 128, 64  # of the P-Tuning step: prefix, and example


# Steps: each gets the command line's arguments and returns a note for the table


def load(arguments: argparse.Namespace, name: str = "float16", **more) -> tuple:
    """Load a checkpoint that the rehearsal has written as the scripts do."""
    dtype = "float16" if name == "float16" else "auto"
    place = {} if "max_memory" in more else {"device": arguments.device}
    model_arguments = ModelArguments(str(arguments.folder / name), dtype=dtype, **place, **more)
    return load_model_and_tokenizer(model_arguments)


def write(arguments: argparse.Namespace) -> str:
    """Write the half-precision checkpoint."""
    folder = arguments.folder / "float16"
    tokenizer = ChatGLMTokenizer.from_pretrained(arguments.tokenizer)
    shape = {"hidden_size": arguments.hidden_size, "num_attention_heads": arguments.num_attention_heads}
    write_checkpoint(folder, arguments.num_layers, "bin", **shape, **special_ids(tokenizer))
    for name in TOKENIZER_FILES:
        shutil.copy(arguments.tokenizer / name, folder)
    return f"{size(folder)}, {len(list(folder.glob('*.bin')))} shards"


def load_only(arguments: argparse.Namespace, name: str = "float16") -> str:
    """Load, and look at each weight."""
    model, _ = load(arguments, name)
    touched = sum(float(parameter.detach().flatten()[::4096].float().sum()) for parameter in model.parameters())
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e9:.2f} G weights, sum {touched:.4g}"


def chat(arguments: argparse.Namespace, name: str = "float16", **more) -> str:
    """Answer a question greedily; tell reading the prompt from a token of the answer."""
    model, tokenizer = load(arguments, name, **more)
    seconds = []
    for tokens in (1, 1, arguments.tokens):  # the first time, kernels may be compiled and pages read
        start = time.perf_counter()
        model.chat(tokenizer, QUESTION, temperature=0, min_new_tokens=tokens, max_new_tokens=tokens)
        seconds.append(time.perf_counter() - start)
    each = (seconds[2] - seconds[1]) / (arguments.tokens - 1)
    first = f"prompt and first token {seconds[0]:.2f} s the first time, {seconds[1]:.2f} s the second"
    return f"{first}; {each:.2f} s for each further token"


def stream(arguments: argparse.Namespace) -> str:
    """Answer a question as a stream."""
    model, tokenizer = load(arguments, "int4")
    start, arrived = time.perf_counter(), []
    for _ in model.stream_chat(tokenizer, QUESTION, temperature=0, max_new_tokens=arguments.tokens):
        arrived.append(time.perf_counter() - start)
    if not arrived:
        raise RuntimeError("the stream brought nothing")
    return f"{len(arrived)} pieces, the first after {arrived[0]:.2f} s, the last after {arrived[-1]:.2f} s"


def quantise(arguments: argparse.Namespace) -> str:
    """Quantise while loading, as `--quantize 4` does."""
    model, _ = load(arguments, quantization_bit=4)
    return f"{model.config.quantization_bit} bits"


def convert(arguments: argparse.Namespace, name: str) -> str:
    """Convert the half-precision checkpoint."""
    target = arguments.folder / name
    shutil.rmtree(target, ignore_errors=True)
    convert_checkpoint(arguments.folder / "float16", target, *QUANTISED[name])
    return f"{size(target)}, files: {len(list(target.glob('*.safetensors')))}"


def calibrate(arguments: argparse.Namespace) -> str:
    """Convert the half-precision checkpoint to calibrated INT4, on as many tokens as quantize.py takes."""
    source, target = arguments.folder / "float16", arguments.folder / CALIBRATED
    tokenizer = ChatGLMTokenizer.from_pretrained(source)
    drawn = (each for step in itertools.count() for each in draw_dialogues(seed=0, step=step, count=100))
    examples, tokens = [], 0
    while tokens < arguments.calibration_tokens:
        each = next(drawn)
        examples.append(encode_dialogue(tokenizer, each.question, each.answer, each.history))
        tokens += len(examples[-1])
    shutil.rmtree(target, ignore_errors=True)
    convert_checkpoint(source, target, 4, False, Calibration(examples, choose_device(arguments.device)))
    return f"{size(target)}, calibrated on {tokens} tokens"


def put_into_one_file(arguments: argparse.Namespace, name: str) -> str:
    """Put a converted checkpoint into one `.bin` file, as the published ones are."""
    folder = arguments.folder / name
    shards = sorted(folder.glob("*.safetensors"))
    weights = {key: weight for shard in shards for key, weight in load_file(shard).items()}
    torch.save(weights, folder / "pytorch_model.bin")
    for file in (*shards, *folder.glob("*.index.json")):
        file.unlink()
    return f"{size(folder)}, files: {len(list(folder.glob('*.bin')))}"


def tune(arguments: argparse.Namespace) -> str:
    """Train a P-Tuning v2 prefix for one step on the INT4 weights."""
    folder = arguments.folder / "int4"
    model = ChatGLMForConditionalGeneration.from_pretrained(folder, pre_seq_len=PREFIX_TOKENS).train()
    model.to(arguments.device if arguments.device != "auto" else choose_device("auto"))
    model.float() if model.device.type == "cpu" else model.half().transformer.prefix_encoder.float()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    tokenizer = ChatGLMTokenizer.from_pretrained(folder)
    ids = tokenizer.encode_prompt(QUESTION * TRAINED_TOKENS)[-TRAINED_TOKENS:] + [tokenizer.eos_token_id] * 4
    ids = torch.tensor([ids], device=model.device)
    labels = ids.clone()
    labels[:, :-4] = -100
    loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    optimizer.step()
    weights = sum(parameter.numel() for parameter in trained)
    return f"loss {loss.item():.2f}, {weights / 1e6:.1f} M weights trained, {ids.shape[1]} tokens"


def request(arguments: argparse.Namespace) -> str:
    """Start api.py with the INT4 checkpoint and ask it a question."""
    command = [sys.executable, str(ROOT / "api.py"), "--model", str(arguments.folder / "int4"), "--port", "0"]
    command += ["--device", arguments.device]
    start = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8", cwd=ROOT) as server:
        try:
            peak, log = PeakMemory(server.pid), []
            for line in server.stderr:
                log.append(line)
                if line.startswith("http://"):
                    break
            else:
                raise RuntimeError(f"api.py ended: {''.join(log)}")
            ready = time.perf_counter() - start
            body = {"prompt": QUESTION, "temperature": 0, "max_new_tokens": arguments.tokens}
            message = urllib.request.Request(line.strip(), json.dumps(body).encode())
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            answer = json.load(opener.open(message, timeout=3600))
        finally:
            server.terminate()
    if answer["status"] != 200:
        raise RuntimeError(f"the server answered {answer}")
    asked = time.perf_counter() - start - ready
    memory = f"server {peak.resident / 1e9:.2f} GB, own {peak.own / 1e9:.2f} GB"
    return f"ready after {ready:.1f} s, {arguments.tokens} tokens in {asked:.1f} s; {memory}"


STEPS: dict[str, Callable[[argparse.Namespace], str]] = {
    "write": write,
    "load": load_only,
    "chat": chat,
    "chat-3gb": lambda arguments: chat(arguments, max_memory=arguments.max_memory),
    "quantise": quantise,
    **{f"convert-{name}": lambda arguments, name=name: convert(arguments, name) for name in QUANTISED},
    "calibrate-int4": calibrate,
    **{f"one-file-{name}": lambda arguments, name=name: put_into_one_file(arguments, name) for name in QUANTISED},
    **{f"chat-{name}": lambda arguments, name=name: chat(arguments, name) for name in QUANTISED},
    "stream": stream,
    "p-tuning": tune,
    "api": request,
}
ON_REQUEST = ("calibrate-int4",)


def size(folder: Path) -> str:
    """Return the size of a folder's weights."""
    return f"{sum(file.stat().st_size for file in folder.iterdir() if file.stat().st_size > 1 << 20) / 1e9:.2f} GB"


# The rehearsal


def run_step(step: str, arguments: argparse.Namespace) -> None:
    """Do one step in this process and print what was measured."""
    peak, start = PeakMemory(), time.perf_counter()
    note = STEPS[step](arguments)
    time.sleep(0.05)
    seconds = time.perf_counter() - start
    print("RESULT", json.dumps({"seconds": seconds, "resident": peak.resident, "own": peak.own, "note": note}))


def rehearse(steps: list[str]) -> tuple[list[str], int]:
    """Do each step in a new process with this one's flags; return the table's lines and how many steps failed."""
    lines = ["| step | seconds | peak memory | own | |", "|---|---|---|---|---|"]
    failed = 0
    for step in tqdm(steps, unit="step", disable=not sys.stderr.isatty()):
        command = [sys.executable, "-m", "tests.benchmarks.rehearsal", *sys.argv[1:], "--step", step]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
        if done.returncode:
            failed += 1
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            lines.append(f"| {step} | failed | | | {reason.replace('|', '/')} |")
            continue
        result = json.loads(done.stdout.split("RESULT ")[1])
        memory = " | ".join(f"{result[kind] / 1e9:.2f} GB" for kind in ("resident", "own"))
        lines.append(f"| {step} | {result['seconds']:.1f} | {memory} | {result['note']} |")
    return lines, failed


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the checkpoints")
    parser.add_argument("--num_layers", type=int, default=28, help="layers")
    parser.add_argument("--hidden_size", type=int, default=4096, help="width of the hidden states")
    parser.add_argument("--num_attention_heads", type=int, default=32, help="attention heads")
    parser.add_argument("--device", default="cpu", help="as of the scripts: cpu, cuda, mps, auto")
    parser.add_argument("--max_memory", default="cpu=2GiB", help="budget of the step chat-3gb")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of an answer; 2 and up")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "chatglm", help="folder with the vocabulary")
    parser.add_argument("--calibration_tokens", type=int, default=CALIBRATION_TOKENS, help="of calibrate-int4")
    parser.add_argument("--only", help=f"some of the steps, by commas: {', '.join(STEPS)}")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints there")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    return parser


def main() -> int:
    """Rehearse, print the table, and remove what was written."""
    arguments = build_parser().parse_args()
    arguments.folder = arguments.folder.resolve()
    if arguments.step:
        run_step(arguments.step, arguments)
        return 0
    steps = arguments.only.split(",") if arguments.only else [step for step in STEPS if step not in ON_REQUEST]
    if unknown := set(steps) - set(STEPS):
        raise SystemExit(f"no such step: {', '.join(sorted(unknown))}. There are {', '.join(STEPS)}")
    if "write" in steps and (arguments.folder / "float16" / "config.json").exists():
        steps.remove("write")
    lines, failed = rehearse(steps)
    print(f"{arguments.num_layers} layers of width {arguments.hidden_size}, {arguments.device},")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("\n".join(lines))
    if not arguments.keep:
        for name in ("float16", CALIBRATED, *QUANTISED):
            shutil.rmtree(arguments.folder / name, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
