"""The benchmark of decoding compares two caches that give the same logits."""

import torch

from chatglm.modeling_chatglm import ChatGLMCache
from tests.benchmarks.decode_cost import ConcatenatingCache, token_times


@torch.no_grad()
def test_both_caches_give_the_same_logits(random_model) -> None:
    logits = []
    prompt = torch.tensor([[20, 30, 40, random_model.config.gmask_token_id, random_model.config.bos_token_id]])
    for cache in (ChatGLMCache(), ConcatenatingCache()):
        random_model(prompt, past_key_values=cache, use_cache=True)
        steps = [random_model(torch.tensor([[token]]), past_key_values=cache).logits for token in (50, 60, 70)]
        logits.append(torch.cat(steps))
    torch.testing.assert_close(*logits)


def test_token_times_times_every_token_with_either_cache(random_model) -> None:
    for cache in (ChatGLMCache, ConcatenatingCache):
        assert len(token_times(random_model, cache, context=12, tokens=3)) == 3
