"""Measure decoding on a CUDA device at the real 6B shape with random weights: speed against the memory's, and memory.

    python -m tests.benchmarks.cuda_decode --matrices      # FP16, INT8 and INT4; needs 20 GB of GPU memory
    python -m tests.benchmarks.cuda_decode --bits 4 --num_layers 4

The bound is the bytes that a token has to read (weights of the blocks, output layer, cache) over the bandwidth of a
large copy, measured in the same run and counting bytes read and written. `step` decodes greedily with the model's
`forward` alone, `generate` by the library's loop; `no graph` launches step by step; `original` unpacks every matrix
before it multiplies, as the original does. All are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from unittest import mock

import torch
from torch.nn import functional as F

from chatglm import ChatGLMCache, ChatGLMConfig, ChatGLMForConditionalGeneration, cuda_kernels, modeling_chatglm

LEVELS = {0: "FP16", 8: "INT8", 4: "INT4"}
MATRICES = ((12288, 4096), (4096, 4096), (16384, 4096), (4096, 16384), (130528, 4096))


def build_model(
    config: ChatGLMConfig, bits: int, device: str = "cuda", dtype: torch.dtype = torch.float16
) -> ChatGLMForConditionalGeneration:
    """Build a model of random weights on the device, quantised to `bits` or not (0)."""
    config.quantization_bit = bits
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = ChatGLMForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    # `model.to_empty` would make the tied matrix twice: 1.07 GB, which the device's peak would count
    model.eval().transformer.to_empty(device=device)
    model.tie_weights()
    spread = {8: 74.0, 4: 4.6}.get(bits, 1.0)  # standard deviation of random packed numbers
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dtype == torch.int8:
                tensor.random_(-128, 128)
            elif name.endswith("weight_scale"):
                tensor.fill_(0.02 / spread)
            elif "layernorm" in name:
                tensor.fill_(float(name.endswith("weight")))
            else:
                tensor.normal_(std=0.02)
    return model


def random_prompt(config: ChatGLMConfig, length: int, device: torch.device) -> torch.Tensor:
    """Return a prompt [1, length] of random words, ending in `[gMASK] <sop>`."""
    end = min(config.bos_token_id, config.gmask_token_id, config.mask_token_id)
    words = torch.randint(end // 100, end, (1, length - 2), device=device)
    return torch.cat([words, torch.tensor([[config.gmask_token_id, config.bos_token_id]], device=device)], dim=1)


@torch.no_grad()
def three_rounds(model: ChatGLMForConditionalGeneration, question: int = 64, answer: int = 192) -> None:
    """Hold a dialogue of three rounds: each prompt holds the rounds before."""
    for round_index in range(3):
        length = question + round_index * (question + answer)
        prompt = random_prompt(model.config, length, model.device)
        model.generate(prompt, max_new_tokens=answer, min_new_tokens=answer, do_sample=True, top_p=0.7)


def token_bytes(model: ChatGLMForConditionalGeneration, context: int, rows: int = 1) -> int:
    """Return the bytes that a step of some rows has to read: the weights that it multiplies with, and the cache."""
    config = model.config
    tensors = [*model.transformer.layers.state_dict().values(), *model.lm_head.state_dict().values()]
    cache = rows * 2 * config.num_layers * config.hidden_size * context * 2
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + cache


def median_ms(function: Callable[[], object], repeats: int, device: str = "cuda") -> float:
    """Return the median time of a call, on a GPU its time there, in milliseconds, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        if torch.device(device).type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            function()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            began = time.perf_counter()
            function()
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def copy_bandwidth(device: str = "cuda", size: int = 1 << 32) -> float:
    """Return the bandwidth of a copy of `size` bytes within the device, bytes read and written, in bytes a second."""
    source = torch.randint(-128, 128, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_ms(lambda: target.copy_(source), 10, device) * 1000


@contextmanager
def no_graph():
    """Let the ordinary forward pass decode."""
    with mock.patch.object(modeling_chatglm, "decode_step", lambda *_: None):
        yield


@contextmanager
def unpack_first():
    """Let every quantised layer unpack its whole matrix and multiply then, as the original does."""
    with no_graph(), mock.patch.object(cuda_kernels, "can_fuse", lambda *_: False):
        yield


@torch.no_grad()
def read_rows(model: ChatGLMForConditionalGeneration, context: int, rows: int) -> ChatGLMCache:
    """Return a cache of so many rows, each with the same prompt of `context` tokens, which is read once."""
    prompt = random_prompt(model.config, context, model.device)
    cache = ChatGLMCache()
    cache.expected_length = context + 256  # decoded behind it
    model(prompt, cache=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(rows)
    return cache


@torch.no_grad()
def step_ms(model: ChatGLMForConditionalGeneration, cache: ChatGLMCache, tokens: int, repeats: int) -> float:
    """Return the milliseconds of a greedy step of all rows by `forward`, the sampled tokens staying on the device."""

    def decode() -> None:
        nonlocal token
        for _ in range(tokens):
            token = model(token, cache=cache).logits[:, -1:].argmax(dim=-1)
        cache.crop(context)

    context = cache.get_seq_length()
    token = torch.full((cache.batch_size, 1), 5000 % model.config.vocab_size, device=model.device)
    return median_ms(decode, repeats, model.device.type) / tokens


def generate_ms(model: ChatGLMForConditionalGeneration, prompt: torch.Tensor, tokens: int, repeats: int) -> float:
    """Return the milliseconds of a greedy token by `generate`: the time of many tokens less that of a few."""

    def seconds(count: int) -> float:
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(4)
    many, few = [statistics.median(seconds(count) for _ in range(repeats)) for count in (tokens + 4, 4)]
    return (many - few) / tokens * 1000


def measure_level(bits: int, arguments: argparse.Namespace, bandwidth: float) -> None:
    """Print a table's row for a model of so many bits."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = build_model(ChatGLMConfig(num_layers=arguments.num_layers), bits)
    three_rounds(model)
    memory = torch.cuda.max_memory_reserved() / 1e9
    prompt = random_prompt(model.config, arguments.prompt, model.device)
    timing = (arguments.tokens, arguments.repeats)
    one, eight = read_rows(model, arguments.prompt, 1), read_rows(model, arguments.prompt, 8)
    bound = token_bytes(model, arguments.prompt + arguments.tokens // 2) / bandwidth * 1000
    step, generate = step_ms(model, one, *timing), generate_ms(model, prompt, *timing)
    with no_graph():
        slow = step_ms(model, one, *timing)
    original = float("nan")
    if bits:
        with unpack_first():
            original = step_ms(model, one, max(8, arguments.tokens // 8), arguments.repeats)
    batch = step_ms(model, eight, *timing)
    columns = [LEVELS[bits], f"{1000 / bound:.0f}", f"{1000 / step:.0f}", f"{100 * bound / step:.0f} %"]
    columns += [f"{1000 / generate:.0f}", f"{1000 / slow:.0f}", f"{1000 / original:.0f}", f"{original / step:.1f}"]
    print("| " + " | ".join([*columns, f"{8000 / batch:.0f}", f"{memory:.1f}"]) + " |", flush=True)


def measure_matrices(bandwidth: float, repeats: int) -> None:
    """Print the time of each product of a token and how much of the bandwidth it uses, against PyTorch's."""
    print("| matrix | rows | INT4 µs | % | INT8 µs | % | FP16 µs | % | PyTorch FP16 µs | unpack INT4 and multiply µs |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for features, columns in MATRICES:
        copies = max(2, -(-(1 << 29) // (features * columns)))  # several times the second-level cache
        scale = torch.full((features,), 0.01, dtype=torch.float16, device="cuda")
        weights = {}
        for bits in (4, 8):
            shape = (features, columns * bits // 8)
            weights[bits] = [torch.randint(-128, 128, shape, dtype=torch.int8, device="cuda") for _ in range(copies)]
        weights[16] = [torch.randn(features, columns, dtype=torch.float16, device="cuda") for _ in range(copies)]
        for rows in (1, 4, 8, 32):
            input = torch.randn(rows, columns, dtype=torch.float16, device="cuda")
            cells = [f"{features} x {columns}", str(rows)]

            def fused(bits: int, input: torch.Tensor = input, weights: dict = weights, scale=scale) -> None:
                for weight in weights[bits]:
                    cuda_kernels.fused_linear(input, weight, scale if bits < 16 else None, bits)

            def plain(input: torch.Tensor = input, weights: dict = weights) -> None:
                for weight in weights[16]:
                    F.linear(input, weight)

            def unpacked(input: torch.Tensor = input, weights: dict = weights, scale=scale) -> None:
                for weight in weights[4]:
                    F.linear(input, cuda_kernels.unpack(weight, scale, 4, torch.float16))

            for bits in (4, 8, 16):
                ms = graph_ms(lambda bits=bits: fused(bits), repeats) / copies
                share = features * columns * bits / 8 / bandwidth * 1000 / ms
                cells += [f"{1000 * ms:.1f}", f"{100 * share:.0f}"]
            cells += [f"{1000 * graph_ms(call, repeats) / copies:.1f}" for call in (plain, unpacked)]
            print("| " + " | ".join(cells) + " |", flush=True)


def graph_ms(function: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call whose launches a graph holds, in milliseconds."""
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=aside):
        function()
    return median_ms(graph.replay, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[0, 8, 4], choices=LEVELS, help="0 for FP16")
    parser.add_argument("--num_layers", type=int, default=28)
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--tokens", type=int, default=128, help="decoded in a measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--matrices", action="store_true", help="measure the products one by one, too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("cuda_decode.py needs a CUDA device; PyTorch sees none")
    if not cuda_kernels.available(torch.device("cuda", torch.cuda.current_device())):
        raise SystemExit("the CUDA kernels do not run here, see the warning above")
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    print(f"copy {bandwidth / 1e9:.0f} GB/s; {arguments.num_layers} layers, prompt {arguments.prompt} tokens\n")
    print(
        "| weights | bound tokens/s | step tokens/s | of the bound | generate tokens/s | no graph | original | "
        "step / original | 8 rows tokens/s | memory after three rounds, GB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for bits in arguments.bits:
        measure_level(bits, arguments, bandwidth)
    if arguments.matrices:
        print()
        measure_matrices(bandwidth, arguments.repeats)


if __name__ == "__main__":
    main()
