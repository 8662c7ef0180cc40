"""Measure an INT4 model of ChatGLM-6B's shape on the CPU, against the memory's speed, unpacking, and llama.cpp.

    python -m tests.benchmarks.quantized_decode [--num_layers 28] [--folder FOLDER]

Writes a checkpoint of random weights (3.9 GB at 28 layers) and prints a Markdown table of medians. Stop other programs
first. "Unpacking" is the original's way: each matrix is unpacked for every product, here by PyTorch. With fewer layers
the output layer, whose size stays, weighs more: ratios are those of the real depth at 28 only.

Where `gguf` and `llama-cpp-python` or `ik-llama-cpp-python` are installed (see llama_cpp_q4_0.py), it also writes a
Q4_0 GGUF file of the same matrix shapes (3.9 GB) and compares with each in turn, a few tokens or one prompt at a time,
as the speed of a shared machine changes within minutes: medians of the ratios of neighbours in time.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from chatglm import (
    ChatGLMConfig,
    ChatGLMForConditionalGeneration,
    cpu_kernels,
    mapped_memory,
    quantization,
)
from loading.devices import choose_dtype, keep_memory_together
from loading.load import load_model
from tests.benchmarks import llama_cpp_q4_0
from tests.conftest import ROOT

LONG_PROMPT = 2000
STEPS_IN_TURN = 4  # tokens of one, then of the other

CHAT = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.benchmarks.peak_memory import PeakMemory
from tests.benchmarks.quantized_decode import load, random_prompt
memory, start = PeakMemory(), time.perf_counter()
model = load(Path(sys.argv[1]))
seconds = time.perf_counter() - start
model.generate(random_prompt(model.config, 64), max_new_tokens=32, min_new_tokens=32, do_sample=True)
chat, start = (memory.resident, memory.own), time.perf_counter()
model.generate(random_prompt(model.config, int(sys.argv[3])), max_new_tokens=1, do_sample=False)
print("RESULT", seconds, *chat, time.perf_counter() - start, memory.resident)
"""


def fill_random(model: torch.nn.Module) -> None:
    """Give every tensor of a model random or neutral values: packed bytes of all values, weights of about 0.02."""
    packed, weights = torch.randint(-128, 128, (1 << 24,), dtype=torch.int8), torch.empty(1 << 24).normal_(std=0.02)
    for name, tensor in model.state_dict().items():
        noise = packed if tensor.dtype == torch.int8 else weights
        if name.endswith("weight_scale"):
            tensor.fill_(0.02 / 4.6)  # a random nibble has the standard deviation 4.6
        elif "layernorm" in name or name.endswith("bias"):
            tensor.fill_(name.endswith("weight"))
        else:
            for part in tensor.flatten().split(len(noise)):
                part.copy_(noise[: len(part)])


def build_model(config: ChatGLMConfig) -> ChatGLMForConditionalGeneration:
    """Return a model of random weights, quantised as its configuration says."""
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    fill_random(model)
    return model.eval()


def write_checkpoint(folder: Path, config: ChatGLMConfig) -> None:
    """Write an INT4 checkpoint with random weights, as `save_pretrained` would, one file a layer."""
    torch.set_default_dtype(torch.float16)
    try:
        model = build_model(config)
    finally:
        torch.set_default_dtype(torch.float32)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("lm_head.")}
    files: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        layer = name.split("layers.")[1].split(".")[0] if "layers." in name else "embedding"
        files.setdefault(f"model-{layer}.safetensors", {})[name] = tensor
    for file, content in files.items():
        save_file(content, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, content in files.items() for name in content}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)


def load(folder: Path) -> ChatGLMForConditionalGeneration:
    """Load a checkpoint as the scripts do."""
    transformers.utils.logging.disable_progress_bar()
    keep_memory_together()
    config, device = ChatGLMConfig.from_pretrained(folder), torch.device("cpu")
    return load_model(folder, config, device, choose_dtype("auto", device, config))


def random_prompt(config: ChatGLMConfig, length: int, rows: int = 1) -> torch.Tensor:
    """Return ids of random text between the special tokens, int64 [rows, length]."""
    prompt = torch.randint(10, 1000, (rows, length))
    prompt[:, -2], prompt[:, -1] = config.gmask_token_id, config.bos_token_id
    return prompt


@torch.no_grad()
def prompt_seconds(model: ChatGLMForConditionalGeneration, length: int) -> float:
    """Return the seconds that reading a prompt takes."""
    prompt, start = random_prompt(model.config, length), time.perf_counter()
    model(prompt, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - start


@torch.no_grad()
def token_seconds(model: ChatGLMForConditionalGeneration, length: int, rows: int, tokens: int) -> float:
    """Return the median seconds of a greedy step of `rows` sequences behind prompts of `length` tokens."""
    output = model(random_prompt(model.config, length, rows), use_cache=True, logits_to_keep=1)
    times = []
    for _ in range(tokens + 1):
        start = time.perf_counter()
        token = output.logits[:, -1:].argmax(dim=-1)
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


@contextlib.contextmanager
def unpack_first() -> Iterator[None]:
    """Let quantised layers unpack each matrix before a product, forwards and backwards, as the original does."""

    def linear(input, weight, weight_scale, bits, bias, exact):
        matrix = quantization.dequantize_weight(weight, weight_scale, bits, input.dtype)
        return torch.nn.functional.linear(input, matrix, bias)

    def input_gradient(gradient, weight, weight_scale, bits):
        return gradient @ quantization.dequantize_weight(weight, weight_scale, bits, gradient.dtype)

    own = quantization._linear, cpu_kernels.input_gradient, cpu_kernels.can_attend
    quantization._linear, cpu_kernels.input_gradient = linear, input_gradient
    cpu_kernels.can_attend = lambda *_: False  # else a token goes through a block in one call
    try:
        yield
    finally:
        quantization._linear, cpu_kernels.input_gradient, cpu_kernels.can_attend = own


@contextlib.contextmanager
def wide_output(model: ChatGLMForConditionalGeneration) -> Iterator[None]:
    """Let the output layer keep an INT8 copy instead of an INT4 one."""
    output = model.lm_head
    own, output.bits, output._copy, output._copy_of = (output.bits, output._copy, output._copy_of), 8, None, None
    try:
        yield
    finally:
        output.bits, output._copy, output._copy_of = own


def ratio(change, model: ChatGLMForConditionalGeneration, length: int, tokens: int, pairs: int) -> float:
    """Return how many times as long a token takes with what `change` makes of the model, by pairs in turn."""
    ratios = []
    for _ in range(pairs):
        own = token_seconds(model, length, 1, tokens)
        with change(model):
            ratios.append(token_seconds(model, length, 1, tokens) / own)
    return statistics.median(ratios)


def tuning_seconds(model: ChatGLMForConditionalGeneration, length: int) -> float:
    """Return the seconds of a P-Tuning step without its optimiser: forward and backward through the blocks."""
    prompt, start = random_prompt(model.config, length), time.perf_counter()
    hidden = model.transformer(prompt, use_cache=False, return_dict=True).last_hidden_state
    hidden.square().mean().backward()
    return time.perf_counter() - start


def read_bandwidth(threads: int, size: int = 1 << 30) -> float:
    """Return the bytes a second that threads read of a buffer, the median of 10 times."""
    words = mapped_memory.use_huge_pages(torch.empty(size // 8, dtype=torch.int64)).fill_(1)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "read_bandwidth.so"
        cpu_kernels.compile_kernels(Path(__file__).with_name("read_bandwidth.c"), target)
        sum_words = ctypes.CDLL(str(target)).sum_words
    sum_words.argtypes, sum_words.restype = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32], ctypes.c_uint64
    times = []
    for _ in range(10):
        start = time.perf_counter()
        assert sum_words(words.data_ptr(), len(words), threads) == len(words)
        times.append(time.perf_counter() - start)
    return size / statistics.median(times)


def token_bytes(model: ChatGLMForConditionalGeneration, length: int) -> int:
    """Return the bytes that a token reads: packed matrices, the output layer's copy, cached keys and values."""
    packed = (m.weight for m in model.modules() if isinstance(m, quantization.QuantizedLinear))
    cached = 2 * model.config.num_layers * model.config.hidden_size * length * torch.float16.itemsize
    return sum(weight.numel() for weight in packed) + model.lm_head.weight.numel() * model.lm_head.bits // 8 + cached


class Here:
    """Our model behind the methods of `LlamaCpp`; with its keys and values in so many bits, if given."""

    def __init__(self, model: ChatGLMForConditionalGeneration, cache_bits: int | None = None) -> None:
        self.model, self.cache_bits, self.cache = model, cache_bits, None

    def clear(self) -> None:
        """Forget what was read."""
        self.cache = None

    @torch.no_grad()
    def read(self, tokens: list[int], sequences: int = 1) -> float:
        """Read tokens (the same for each sequence), logits at the last; return the seconds it took."""
        start, config = time.perf_counter(), self.model.config
        if self.cache is None:  # a prompt
            tokens = [*tokens[:-2], config.gmask_token_id, config.bos_token_id]
            self.model.transformer.cache_bits = self.cache_bits
        rows = torch.tensor([tokens] * sequences)
        output = self.model(rows, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = output.past_key_values
        return time.perf_counter() - start


def steps_in_turn(here: Here, other: Here | llama_cpp_q4_0.LlamaCpp, pairs: int, sequences: int = 1) -> tuple:
    """Decode a few tokens by one, then by the other, which have read their prompts; see `in_turn`."""

    def steps(each) -> float:
        times = [each.read([7], sequences) for _ in range(1 + STEPS_IN_TURN)]
        return statistics.median(times[1:])  # the first waits for the other's threads to sleep

    return in_turn(here, other, steps, pairs)


def in_turn(
    here: Here, other: Here | llama_cpp_q4_0.LlamaCpp, measure: Callable, pairs: int
) -> tuple[float, float, str]:
    """Measure both in turn, each first in every other pair; return both medians, and their ratio with its range."""
    seconds = []
    for number in range(pairs):
        order = (here, other) if number % 2 == 0 else (other, here)
        found = {id(each): measure(each) for each in order}
        seconds.append((found[id(here)], found[id(other)]))
    ratios = sorted(theirs / ours for ours, theirs in seconds)
    ours, theirs = (statistics.median(column) for column in zip(*seconds, strict=True))
    return ours, theirs, f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def compare(name: str, folder: Path, gguf: Path, arguments: argparse.Namespace) -> None:
    """Print a table of decoding and prompts beside llama.cpp or ik_llama.cpp."""
    threads = torch.get_num_threads()
    print()
    row("measured in turn", "here", f"{name} Q4_0", "times as fast")
    row("---", "---", "---", "---")
    here, pairs = Here(load(folder)), 2 * arguments.repeats + 1
    words = [5 + number % 900 for number in range(max(arguments.prompts))]

    def prompt(each) -> float:
        each.clear()
        return each.read(words)

    for sequences, length in [*((1, length) for length in arguments.prompts), (8, arguments.prompts[0])]:
        other = llama_cpp_q4_0.LlamaCpp(name, gguf, threads, length + 512, sequences)
        for each in (here, other):
            each.clear()
            each.read(words[:length], sequences)
        ours, theirs, ratio = steps_in_turn(here, other, pairs, sequences)
        label = f"decode, prompt {length}" if sequences == 1 else f"{sequences} sequences together"
        row(label, *(f"{sequences / each:.2f} tokens/s" for each in (ours, theirs)), ratio)
        other.close()
    other = llama_cpp_q4_0.LlamaCpp(name, gguf, threads, len(words) + 8)
    prompt(here), prompt(other)
    ours, theirs, ratio = in_turn(here, other, prompt, pairs)
    row(f"prompt of {len(words)}", *(f"{len(words) / each:.1f} tokens/s" for each in (ours, theirs)), ratio)
    other.close()


def median(measure: Callable[[], float], repeats: int) -> float:
    """Return the median of what a measurement returns, the first time not counted."""
    measure()
    return statistics.median(measure() for _ in range(repeats))


def row(name: str, value: str, *ratios: str) -> None:
    """Print a row of the table at once."""
    print("| " + " | ".join([name, value, *ratios]) + " |", flush=True)


def measure_memory(folder: Path) -> None:
    """Print what a process takes that loads a checkpoint, chats, and reads a long prompt."""
    command = [sys.executable, "-c", CHAT, str(folder), str(ROOT), str(LONG_PROMPT)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
    load_seconds, peak, own, first_token, long_peak = map(float, output.split("RESULT")[1].split())
    row("load, file in page cache", f"{load_seconds:.1f} s", "")
    row("peak memory of a chat", f"{peak / 1e9:.2f} GB", f"{own / 1e9:.2f} GB without pages of the file")
    row(f"first token of a prompt of {LONG_PROMPT}", f"{first_token:.1f} s", f"{long_peak / 1e9:.2f} GB at most")


def measure_long(model: ChatGLMForConditionalGeneration, pairs: int) -> None:
    """Print how long a token takes behind a long prompt: beside a short one's, and with keys and values in INT8."""
    short, long, narrow = Here(model), Here(model), Here(model, 8)
    short.read(list(range(5, 21)))
    for each in (narrow, long):
        each.read([5 + number % 900 for number in range(LONG_PROMPT)])
    row(f"decode, prompt {LONG_PROMPT}", "", f"{steps_in_turn(short, long, pairs)[2]} times as long as after 16")
    row("the same, keys and values in INT8", "", f"{steps_in_turn(short, narrow, pairs)[2]} times as long as after 16")
    row("the same, keys and values in INT8", "", f"{steps_in_turn(long, narrow, pairs)[2]} times as long as in half")


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Print the table."""
    threads, tokens, repeats = torch.get_num_threads(), arguments.tokens, arguments.repeats
    bandwidth = {number: read_bandwidth(number) for number in sorted({1, threads})}
    path = cpu_kernels.supported_paths()[-1]
    print(f"{arguments.num_layers} layers of the 6B shape, INT4, {threads} threads, {path} kernels, medians\n")
    row("measured", "here", "notes")
    row("---", "---", "---")
    for number, speed in bandwidth.items():
        row(f"read bandwidth, {number} threads", f"{speed / 1e9:.1f} GB/s", "")
    measure_memory(folder)
    model, single = load(folder), None
    for length in arguments.prompts:
        before = read_bandwidth(threads)  # of a shared machine it changes by half from minute to minute
        seconds = token_seconds(model, length, 1, tokens)
        share = token_bytes(model, length) / seconds / statistics.mean((before, read_bandwidth(threads)))
        single = single or seconds
        note = f"{100 * share:.0f} % of the read bandwidth before and after, {seconds / single:.2f} times the first"
        row(f"decode, prompt {length}", f"{1 / seconds:.2f} tokens/s", note)
    measure_long(model, 2 * repeats + 1)
    length = arguments.prompts[-1]
    wide = ratio(wide_output, model, arguments.prompts[0], tokens, repeats)
    row("decode, an INT8 copy of the output layer", "", f"{wide:.3f} times as long")
    seconds = median(lambda: prompt_seconds(model, length), repeats)
    row(f"prompt of {length}", f"{length / seconds:.1f} tokens/s", "")
    eight = token_seconds(model, arguments.prompts[0], 8, tokens)
    row("8 sequences together", f"{8 / eight:.2f} tokens/s", f"{8 * single / eight:.2f} times one alone")
    with unpack_first():
        slow = token_seconds(model, arguments.prompts[0], 1, 2)
    row("decode by unpacking each matrix", f"{1 / slow:.2f} tokens/s", f"{slow / single:.0f} times slower")
    small = {"vocab_size": 4096, "bos_token_id": 4004, "eos_token_id": 4005}
    tuned = build_model(ChatGLMConfig(num_layers=2, quantization_bit=4, pre_seq_len=64, **small))
    seconds = median(lambda: tuning_seconds(tuned, 256), repeats)
    with unpack_first():
        slow = median(lambda: tuning_seconds(tuned, 256), repeats)
    row("P-Tuning step, 2 layers, 256 tokens", f"{seconds:.2f} s", f"{slow / seconds:.2f} times unpacking")


def main() -> None:
    """Write, measure, print, and remove what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_layers", type=int, default=28, help="layers (default 28, the real depth)")
    parser.add_argument("--quantization_embeddings", action="store_true", help="memory only, with INT4 embeddings")
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 512], help="prompt lengths (default 16 512)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens decoded in a measurement (default 16)")
    parser.add_argument("--repeats", type=int, default=3, help="of prompts and tuning steps (default 3)")
    parser.add_argument("--only_compare", action="store_true", help="nothing but the comparison with llama.cpp")
    parser.add_argument("--folder", type=Path, help="where to write, 8 GB; a temporary folder if not given")
    arguments = parser.parse_args()
    if not cpu_kernels.available(torch.float32):
        raise SystemExit("the CPU kernels cannot be compiled here, see the warning above")
    folder = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="chatglm-benchmark-"))
    try:
        config = ChatGLMConfig(
            num_layers=arguments.num_layers,
            quantization_bit=4,
            quantization_embeddings=arguments.quantization_embeddings,
            dtype="float16",
        )
        write_checkpoint(folder, config)
        if arguments.quantization_embeddings:
            measure_memory(folder)
            return
        if not arguments.only_compare:
            measure(folder, arguments)
        if peers := llama_cpp_q4_0.installed():
            gguf = folder / "model.gguf"
            llama_cpp_q4_0.write_gguf(gguf, ChatGLMConfig(num_layers=arguments.num_layers))
            for name in peers:
                process = multiprocessing.get_context("spawn").Process(
                    target=compare, args=(name, folder, gguf, arguments)
                )
                process.start()
                process.join()
                if process.exitcode:
                    raise SystemExit(f"the comparison with {name} ended with {process.exitcode}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
