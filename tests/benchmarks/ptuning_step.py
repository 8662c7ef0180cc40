"""Time a P-Tuning v2 step on an INT4 base of ChatGLM-6B's widths against one that unpacks every matrix, on a CPU.

    python -m tests.benchmarks.ptuning_step [--layers 3] [--steps 3] [--source 64] [--target 64] [--threads N]

Both train the same prefix on the same random base and the same batch, in turn in one process, and must come to the
same loss and gradient. The straightforward step does what the original does: in forward and again in backward it
unpacks each whole matrix to floats and multiplies, and it computes the logits of all tokens.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration
from chatglm import quantization as layers
from loading import adapters
from ptuning.data import IGNORED, Collator


class UnpackingLinear(torch.autograd.Function):
    """Multiply with a matrix that is unpacked as a whole, twice (Source: W8A16Linear of the original)."""

    @staticmethod
    def forward(ctx, input, weight, weight_scale, bits, bias):
        ctx.save_for_backward(weight, weight_scale)
        ctx.bits = bits
        return nn.functional.linear(input, layers.dequantize_weight(weight, weight_scale, bits), bias)

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ layers.dequantize_weight(*ctx.saved_tensors, ctx.bits), None, None, None, None


def unpacking_linear(input, weight, weight_scale, bits, bias=None, exact=False):
    """Stand in for `quantized_linear`."""
    return UnpackingLinear.apply(input, weight, weight_scale, bits, bias)


def build_model(num_layers: int, prefix_length: int) -> ChatGLMForConditionalGeneration:
    """Return a model of the real widths with random INT4 matrices and a new prefix, without a float copy of it."""
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(ChatGLMConfig(num_layers=num_layers, quantization_bit=4))
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.dtype == torch.int8:
                tensor.random_(-128, 128, generator=generator)
            elif name.endswith("weight_scale"):
                tensor.fill_(0.02 / 4)
            elif "layernorm" in name or name.endswith("bias"):
                tensor.fill_(float("layernorm.weight" in name))
            else:
                tensor.normal_(std=0.02, generator=generator)
    model.tie_weights()
    embedding = model.transformer.word_embeddings
    half = nn.Parameter(embedding.weight.detach().half(), requires_grad=False)  # as a checkpoint stores it
    embedding.weight = model.lm_head.weight = half
    adapters.add_prefix(model, prefix_length)
    return model.train()


def step(model, batch, optimizer) -> tuple[float, torch.Tensor]:
    """Do one training step; return the loss and the prefix's gradient."""
    torch.manual_seed(0)  # of the prefix's dropout
    optimizer.zero_grad()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    optimizer.step()
    return float(loss), model.transformer.prefix_encoder.embedding.weight.grad.clone()


def main() -> None:
    """Build, check that both steps agree, time them in turn, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=3, help="of the base (default 3; the real depth is 28)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each kind (default 3)")
    parser.add_argument("--source", type=int, default=64, help="tokens of the prompt (default 64)")
    parser.add_argument("--target", type=int, default=64, help="tokens of the answer (default 64)")
    parser.add_argument("--prefix", type=int, default=128, help="pre_seq_len (default 128)")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = build_model(arguments.layers, arguments.prefix)
    config = model.config
    prompt = [*range(100, 100 + arguments.source - 2), config.gmask_token_id, config.bos_token_id]
    answer = list(range(5000, 5000 + arguments.target))
    row = {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}
    batch = Collator(config.pad_token_id)([row])
    whole = {name: value for name, value in batch.items() if name != "logits_to_keep"}
    fast, float_weight = layers.quantized_linear, model.lm_head.weight.float()
    output = model.lm_head.forward
    seconds: dict[str, list[float]] = {"here": [], "unpacking": []}
    first = {}
    for number in range(arguments.steps + 1):
        for name in seconds:
            straight = name == "unpacking"
            layers.quantized_linear = unpacking_linear if straight else fast
            model.lm_head.forward = (lambda x: nn.functional.linear(x, float_weight)) if straight else output
            optimizer = torch.optim.AdamW([model.transformer.prefix_encoder.embedding.weight], lr=0.0)
            start = time.perf_counter()
            result = step(model, whole if straight else batch, optimizer)
            if number:
                seconds[name].append(time.perf_counter() - start)
            else:  # not timed: memory is touched, kernels are compiled
                first[name] = result
    (loss, gradient), (expected_loss, expected) = first["here"], first["unpacking"]
    error = float((gradient - expected).norm() / expected.norm())
    print(f"loss {loss:.5f} and {expected_loss:.5f}; gradients differ by {error:.2%} of their norm (INT8 activations)")
    best = {name: min(times) for name, times in seconds.items()}
    print(f"{arguments.layers} layers, {len(prompt)} + {len(answer)} tokens, {torch.get_num_threads()} threads")
    print(f"| step | s | steps/s |\n|---|---|---|\n| here | {best['here']:.2f} | {1 / best['here']:.3f} |")
    print(f"| unpacking everything | {best['unpacking']:.2f} | {1 / best['unpacking']:.3f} |")
    print(f"ratio {best['unpacking'] / best['here']:.2f}")


if __name__ == "__main__":
    main()
