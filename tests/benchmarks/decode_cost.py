"""Time a decoded token at short and long context: the growing cache against concatenation, in one run.

    python -m tests.benchmarks.decode_cost --num_layers 4 --dtype bfloat16

The model has the widths of ChatGLM-6B and random weights. "concatenating" is the original's way: each token copies
every layer's keys and values into new, one token longer tensors.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from chatglm import ChatGLMCache, ChatGLMConfig, ChatGLMForConditionalGeneration


class ConcatenatingCache(ChatGLMCache):
    """The original's cache: `torch.cat` at every token."""

    def update(self, key_states, value_states, layer_idx, cache_kwargs=None, dtype=None):
        if layer_idx == len(self.keys):
            self.keys.append(key_states)
            self.values.append(value_states)
            self.lengths.append(0)
        else:
            self.keys[layer_idx] = torch.cat([self.keys[layer_idx], key_states], dim=2)
            self.values[layer_idx] = torch.cat([self.values[layer_idx], value_states], dim=2)
        self.lengths[layer_idx] = self.keys[layer_idx].shape[2]
        return self.keys[layer_idx], self.values[layer_idx]


@torch.no_grad()
def token_times(model, cache_class, context: int, tokens: int) -> list[float]:
    """Return the seconds of each of `tokens` decoding steps behind a prompt of `context` tokens."""
    config = model.config
    prompt = torch.randint(10, 100, (1, context))
    prompt[0, -2], prompt[0, -1] = config.gmask_token_id, config.bos_token_id
    cache = cache_class()
    model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
    times = []
    for _ in range(tokens):
        start = time.perf_counter()
        model(torch.tensor([[7]]), past_key_values=cache, use_cache=True)
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_layers", type=int, default=4, help="layers of the 6B width (default 4)")
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16 or float32 (default bfloat16)")
    parser.add_argument("--tokens", type=int, default=24, help="tokens timed in each round (default 24)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, the two caches in turn (default 5)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    config = ChatGLMConfig(num_layers=arguments.num_layers, vocab_size=4096, bos_token_id=4004, eos_token_id=4005)
    model = ChatGLMForConditionalGeneration(config).eval()
    print(
        f"{arguments.num_layers} layers of the 6B width, {arguments.dtype}, {torch.get_num_threads()} threads, batch 1"
    )
    print(
        "| context | growing cache, ms a token | concatenating, ms a token | ratio | attention and cache a layer, ms |"
    )
    print("|---|---|---|---|---|")
    shortest = None
    for context in (100, 2000):
        times = {ChatGLMCache: [], ConcatenatingCache: []}
        for _ in range(arguments.rounds):
            for cache_class, collected in times.items():
                collected += token_times(model, cache_class, context, arguments.tokens)
        own, other = (1000 * statistics.median(collected) for collected in times.values())
        shortest = own if shortest is None else shortest
        extra = (own - shortest) / arguments.num_layers
        print(f"| {context} | {own:.2f} | {other:.2f} | {other / own:.2f} | +{extra:.2f} |")


if __name__ == "__main__":
    main()
