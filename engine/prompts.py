"""Prompts: read a few layers at a time, several at once where that is faster, and kept for when they are asked again.

Shapes: `b` prompts read together, `s` tokens of the longest, `t` with the P-Tuning prefix, `h` heads, `d` head size,
`e` hidden size, `v` vocabulary.
"""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from chatglm import ChatGLMCache
from chatglm.int8_states import from_buffer, to_buffer
from chatglm.modeling_chatglm import Pass

LAYERS_AHEAD = 2  # blocks that a GPU has been asked for while the clock is looked at


def record_event(device: torch.device) -> torch.cuda.Event | None:
    """Return what can be waited for until a GPU has computed all it was asked for so far; None for other devices."""
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


@dataclass(eq=False)
class Prompt:
    """A prompt and, once it has been read, what an answer to it begins with.

    Attributes:
        prompt_ids: its ids.
        cache: its keys and values, those of the P-Tuning prefix before them; as many columns as there are tokens.
        context_length, mask_position: as in `PromptLayout`.
        logits: float32 [v] of the first answer token, None before the end.
        embedding: mean of the last hidden states, float32 [e], None before the end.
    """

    prompt_ids: list[int]
    cache: ChatGLMCache = field(default_factory=ChatGLMCache)
    context_length: int = 0
    mask_position: int = 0
    logits: Tensor | None = None
    embedding: Tensor | None = None

    def bytes(self) -> int:
        """Return the memory that the keys, the values and the logits take."""
        tensors = (*self.cache.keys, *self.cache.values, self.logits)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


class PromptsCache(ChatGLMCache):
    """Gives each prompt of a batch its own keys and values, without padding, as the blocks compute them.

    Args:
        padding: number of padding tokens before each.

    Attributes:
        caches: of the prompts.
    """

    def __init__(self, padding: list[int]) -> None:
        super().__init__()
        self.padding, self.caches = padding, [ChatGLMCache() for _ in padding]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs=None):
        """Take the [b, h, t, d] keys and values of a layer, padding and prefix included; return them as kept."""
        prefix, dtype = self.prefix_length, key_states.dtype
        key_states, value_states = (to_buffer(states, self.dtype or dtype) for states in (key_states, value_states))
        for row, (cache, padding) in enumerate(zip(self.caches, self.padding, strict=True)):
            cache.prefix_length = prefix
            for buffers, states in ((cache.keys, key_states[row, None]), (cache.values, value_states[row, None])):
                buffers.append(torch.cat([states[:, :, :prefix], states[:, :, prefix + padding :]], dim=2))
            cache.lengths.append(cache.keys[-1].shape[2])
        return from_buffer(key_states, dtype), from_buffer(value_states, dtype)


class Prefill:
    """Prompts that are being read together, in one `Pass` through the blocks.

    Args:
        model: a `ChatGLMForConditionalGeneration`.
        prompts: which get what has been read when all of it has been.
    """

    def __init__(self, model: nn.Module, prompts: list[Prompt]) -> None:
        self.model, self.prompts = model, prompts
        longest = max(len(prompt.prompt_ids) for prompt in prompts)
        self.padding = [longest - len(prompt.prompt_ids) for prompt in prompts]
        pad = model.config.pad_token_id
        rows = [[pad] * count + prompt.prompt_ids for count, prompt in zip(self.padding, prompts, strict=True)]
        mask = torch.arange(longest) >= torch.tensor(self.padding)[:, None]  # [b, s]
        input_ids, self.cache = torch.tensor(rows, device=model.device), PromptsCache(self.padding)
        self.tokens: Pass | None = Pass(
            model.transformer, input_ids, attention_mask=mask.to(model.device), cache=self.cache
        )
        layout = self.cache.layout
        positions = torch.stack([layout.context_length - layout.padding, layout.mask_position], dim=-1).tolist()
        for prompt, position in zip(prompts, positions, strict=True):
            prompt.context_length, prompt.mask_position = position

    def advance(self, seconds: float) -> bool:
        """Compute blocks for about so many seconds, at least one; return whether all are done."""
        deadline, tokens, computed = time.monotonic() + seconds, self.tokens, collections.deque()
        while tokens.done < len(tokens.layers):
            tokens.advance()
            if event := record_event(tokens.hidden_states.device):
                computed.append(event)
            if len(computed) > LAYERS_AHEAD:  # else the clock would tell how long asking takes, not computing
                computed.popleft().synchronize()
            if time.monotonic() >= deadline and tokens.done < len(tokens.layers):
                return False
        hidden_states = self.model.transformer.final_layernorm(tokens.hidden_states)  # [b, s, e]
        logits = self.model.lm_head(hidden_states[:, -1:])[:, 0].float()  # [b, v]
        for row, (prompt, padding) in enumerate(zip(self.prompts, self.padding, strict=True)):
            prompt.cache = self.cache.caches[row]
            prompt.embedding = hidden_states[row, padding:].float().mean(dim=0)
            prompt.logits = logits[row].clone()  # not a view, with which those of all others would be kept
        self.tokens = None
        return True


class PromptCache:
    """The prompts read last, up to a number of bytes; the very last one in any case."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.prompts: collections.OrderedDict[tuple, Prompt] = collections.OrderedDict()  # by adapter and ids
        self.size = 0

    def get(self, prompt_ids: list[int], adapter: str | None = None) -> Prompt | None:
        """Return a prompt that was read with an adapter, or None."""
        key = (adapter, *prompt_ids)
        if key in self.prompts:
            self.prompts.move_to_end(key)
        return self.prompts.get(key)

    def put(self, prompt: Prompt, adapter: str | None = None) -> None:
        """Keep a prompt, and drop those unused for longest."""
        size = prompt.bytes()
        self.prompts[(adapter, *prompt.prompt_ids)] = prompt
        self.size += size
        while self.size > self.limit and len(self.prompts) > 1:
            self.size -= self.prompts.popitem(last=False)[1].bytes()
