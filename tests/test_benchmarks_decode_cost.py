"""The benchmark of decoding compares two caches that give the same logits."""

import torch

from chatglm.configuration_chatglm import ChatGLMConfig
from chatglm.modeling_chatglm import ChatGLMCache, ChatGLMForConditionalGeneration
from tests.benchmarks.decode_cost import ConcatenatingCache, token_times


def small_model() -> ChatGLMForConditionalGeneration:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        vocab_size=1024,
        hidden_size=64,
        num_layers=2,
        num_attention_heads=4,
        bos_token_id=5,
        eos_token_id=6,
        mask_token_id=7,
        gmask_token_id=8,
        pad_token_id=3,
    )
    return ChatGLMForConditionalGeneration(config).float().eval()


@torch.no_grad()
def test_both_caches_give_the_same_logits() -> None:
    model, logits = small_model(), []
    prompt = torch.tensor([[20, 30, 40, 8, 5]])
    for cache in (ChatGLMCache(), ConcatenatingCache()):
        model(prompt, past_key_values=cache, use_cache=True)
        steps = [model(torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits for token in (50, 60, 70)]
        logits.append(torch.cat(steps))
    torch.testing.assert_close(*logits)


def test_token_times_times_every_token_with_either_cache() -> None:
    model = small_model()
    for cache in (ChatGLMCache, ConcatenatingCache):
        assert len(token_times(model, cache, context=12, tokens=3)) == 3
