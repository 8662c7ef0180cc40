"""Prompts: read a few layers at a time, and kept for when they are asked again.

Shapes: `s` tokens of the prompt, `e` hidden size, `v` vocabulary.
"""

from __future__ import annotations

import collections
import time

import torch
from torch import Tensor, nn

from chatglm import ChatGLMCache
from chatglm.modeling_chatglm import Pass

LAYERS_AHEAD = 2  # blocks that a GPU has been asked for while the clock is looked at


class _Computed:
    """Stands for an event where nothing is computed later than it is asked for."""

    def synchronize(self) -> None:
        """Do nothing."""


def record_event(device: torch.device) -> torch.cuda.Event | _Computed:
    """Return what can be waited for until a device has computed all that it was asked for so far."""
    if device.type != "cuda":
        return _Computed()
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


class Prefill:
    """A prompt that is being read, or has been: its `Pass` through the blocks.

    Args:
        model: a `ChatGLMForConditionalGeneration`.
        prompt_ids: its ids.

    Attributes:
        cache: the keys and values of the blocks done.
        logits: float32 [v] of the first answer token, None before the end.
        embedding: mean of the last hidden states, float32 [e], None before the end.
    """

    def __init__(self, model: nn.Module, prompt_ids: list[int]) -> None:
        self.model, self.prompt_ids, self.cache = model, prompt_ids, ChatGLMCache()
        self.logits: Tensor | None = None
        self.embedding: Tensor | None = None
        input_ids = torch.tensor([prompt_ids], device=model.device)
        self.tokens: Pass | None = Pass(
            model.transformer, input_ids, attention_mask=torch.ones_like(input_ids), cache=self.cache
        )
        layout = self.cache.layout
        self.context_length, self.mask_position = int(layout.context_length[0]), int(layout.mask_position[0])

    def advance(self, seconds: float) -> bool:
        """Compute blocks for about so many seconds, at least one; return whether all are done."""
        deadline, tokens, computed = time.monotonic() + seconds, self.tokens, collections.deque()
        while tokens.done < len(tokens.layers):
            tokens.advance()
            computed.append(record_event(tokens.hidden_states.device))
            if len(computed) > LAYERS_AHEAD:  # else the clock would tell how long asking takes, not computing
                computed.popleft().synchronize()
            if time.monotonic() >= deadline and tokens.done < len(tokens.layers):
                return False
        hidden_states = self.model.transformer.final_layernorm(tokens.hidden_states)  # [1, s, e]
        self.logits = self.model.lm_head(hidden_states[:, -1:])[0, 0].float()
        self.embedding = hidden_states[0].float().mean(dim=0)
        self.tokens = None
        return True

    def bytes(self) -> int:
        """Return the memory that the keys, the values and the logits take."""
        tensors = (*self.cache.keys, *self.cache.values, self.logits)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


class PromptCache:
    """The prompts read last, up to a number of bytes; the very last one in any case."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.prompts: collections.OrderedDict[tuple, Prefill] = collections.OrderedDict()  # by adapter and ids
        self.size = 0

    def get(self, prompt_ids: list[int], adapter: str | None = None) -> Prefill | None:
        """Return a prompt that was read with an adapter, or None."""
        key = (adapter, *prompt_ids)
        if key in self.prompts:
            self.prompts.move_to_end(key)
        return self.prompts.get(key)

    def put(self, prompt: Prefill, adapter: str | None = None) -> None:
        """Keep a prompt, and drop those unused for longest."""
        size = prompt.bytes()
        self.prompts[(adapter, *prompt.prompt_ids)] = prompt
        self.size += size
        while self.size > self.limit and len(self.prompts) > 1:
            self.size -= self.prompts.popitem(last=False)[1].bytes()
