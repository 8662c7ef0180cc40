"""Prompts: read a few layers at a time, and kept for when they are asked again.

Shapes: `s` tokens of the prompt, `e` hidden size, `v` vocabulary.
"""

from __future__ import annotations

import collections
import time

import torch
from torch import Tensor, nn

from chatglm import ChatGLMCache
from chatglm.modeling_chatglm import AttentionPlan, PromptLayout, rotary_tables


class ReadPrompt:
    """A prompt on its way through the layers, or all the way through.

    Args:
        model: a `ChatGLMForConditionalGeneration`.
        prompt_ids: its ids.

    Attributes:
        cache: the keys and values of the layers done.
        logits: float32 [v] of the first answer token, None before the end.
        embedding: mean of the last hidden states, float32 [e], None before the end.
    """

    def __init__(self, model: nn.Module, prompt_ids: list[int]) -> None:
        self.model, self.prompt_ids = model, prompt_ids
        self.logits: Tensor | None = None
        self.embedding: Tensor | None = None
        transformer, config = model.transformer, model.config
        input_ids = torch.tensor([prompt_ids], device=model.device)
        layout = PromptLayout.from_input_ids(input_ids, torch.ones_like(input_ids), config)
        self.context_length, self.mask_position = int(layout.context_length[0]), int(layout.mask_position[0])
        self.hidden_states: Tensor | None = transformer.word_embeddings(input_ids)  # [1, s, e]
        self.cache, self.prefix = ChatGLMCache(), None
        if config.pre_seq_len is not None:
            self.prefix = transformer.prefix_encoder(1, self.hidden_states.dtype)
            self.cache.prefix_length = config.pre_seq_len
        self.plan = AttentionPlan.build(layout, 0, len(prompt_ids), self.cache.prefix_length, input_ids.device)
        self.rotary = rotary_tables(
            layout.position_ids(0, len(prompt_ids)),
            config.hidden_size // config.num_attention_heads,
            self.hidden_states.dtype,
        )

    def advance(self, seconds: float) -> bool:
        """Compute layers for about so many seconds, at least one; return whether all are done."""
        deadline = time.monotonic() + seconds
        transformer = self.model.transformer
        while (layer := len(self.cache)) < len(transformer.layers):
            prefix = None if self.prefix is None else self.prefix[layer]
            self.hidden_states, _ = transformer.layers[layer](
                self.hidden_states, self.rotary, self.plan, self.cache, prefix
            )
            if time.monotonic() >= deadline and layer + 1 < len(transformer.layers):
                return False
        hidden_states = transformer.final_layernorm(self.hidden_states)
        self.logits = self.model.lm_head(hidden_states[:, -1:])[0, 0].float()
        self.embedding = hidden_states[0].float().mean(dim=0)
        self.hidden_states = self.rotary = self.plan = self.prefix = None
        return True

    def bytes(self) -> int:
        """Return the memory that the keys, the values and the logits take."""
        tensors = (*self.cache.keys, *self.cache.values, self.logits)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


class PromptCache:
    """The prompts read last, up to a number of bytes; the very last one in any case."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.prompts: collections.OrderedDict[tuple[int, ...], ReadPrompt] = collections.OrderedDict()
        self.size = 0

    def get(self, prompt_ids: list[int]) -> ReadPrompt | None:
        """Return a prompt that was read, or None."""
        key = tuple(prompt_ids)
        if key in self.prompts:
            self.prompts.move_to_end(key)
        return self.prompts.get(key)

    def put(self, prompt: ReadPrompt) -> None:
        """Keep a prompt, and drop those unused for longest."""
        self.prompts[tuple(prompt.prompt_ids)] = prompt
        self.size += prompt.bytes()
        while self.size > self.limit and len(self.prompts) > 1:
            self.size -= self.prompts.popitem(last=False)[1].bytes()
