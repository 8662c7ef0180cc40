"""The ChatGLM-6B model: a prefix language model with two-dimensional rotary positions.

Shapes: `b` batch, `s` new tokens, `t` tokens so far (prefix and cache included), `h` heads, `d` head size, `e` hidden,
`v` vocabulary, `l` layers, `p` P-Tuning prefix.

A token's way through this file: `ChatGLMForConditionalGeneration.forward` to `ChatGLMModel.forward`, which makes a
`Pass` of the new tokens and advances it through the `GLMBlock`s (`SelfAttention`, `GLU`), and back to the output layer.
Positions and masks stand in `positions.py`, keys and values in `cache.py`, `chat` and `generate` in
`generation_chatglm.py`; `cpu_decode` and `cuda_decode` are asked once a token whether they compute it faster.

Source: GLM (arXiv 2103.10360), GLM-130B (2210.02414), rotary positions (2104.09864), residual scaling (2203.00555),
P-Tuning v2 (2110.07602); parameter names and numbers of THUDM/chatglm-6b v1.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import GenerationMixin, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

# the library copies those Python files of a checkpoint that this file names as `from .name import`, and no others
from . import cpu_decode, kernel_cache
from .answer_text import AnswerText  # noqa: F401
from .bits import check_bits  # noqa: F401
from .cache import CACHE_NAME, CausalOutput, ChatGLMCache, ModelOutput, one_cache
from .configuration_chatglm import IS_REMOTE_CODE, RESIDUAL_SCALE, ChatGLMConfig
from .cpu_decode import cache_dtype  # noqa: F401
from .cpu_kernels import KernelError  # noqa: F401
from .cuda_compiler import CudaKernelError  # noqa: F401
from .cuda_decode import decode_step, release_graphs
from .cuda_driver import Kernels  # noqa: F401
from .cuda_kernels import linear  # noqa: F401
from .dialogue import build_prompt  # noqa: F401
from .drafts import Drafts  # noqa: F401
from .generation_chatglm import ChatMixin, InvalidScoreLogitsProcessor  # noqa: F401
from .grammar import Grammar  # noqa: F401
from .host_transfer import upload  # noqa: F401
from .int8_states import to_buffer  # noqa: F401
from .kernel_cache import find_source  # noqa: F401
from .logits_processors import FiniteLogits  # noqa: F401
from .mapped_memory import release_pages  # noqa: F401
from .positions import AttentionPlan, PromptLayout, apply_rotary, rotary_tables
from .quantization import BlockQuantizer, QuantizedEmbedding, QuantizedLinear, tie_quantized_embeddings
from .quantization import quantize as quantize_layers
from .sampler import Sampler  # noqa: F401
from .sampling import Sampling  # noqa: F401
from .tokenization_chatglm import ChatGLMTokenizer  # noqa: F401
from .tools import CallReader  # noqa: F401
from .vocabulary import load_vocabulary  # noqa: F401

logger = logging.get_logger(__name__)

NO_POSITIONS = (
    "{} and no position_ids [b, 2, s]: they follow from a prompt's ids. peft's PROMPT_TUNING, P_TUNING and "
    "PREFIX_TUNING put vectors before them and do not fit this model: use its own prefix (pre_seq_len in the "
    "configuration, see ptuning/) or LoRA"
)

# --------------------------------------------------------------------------------------------------------------------
# Attention, feed-forward, block
# --------------------------------------------------------------------------------------------------------------------


def prefix_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    """Attend as the plan allows, with no mask in memory where none is needed.

    Args:
        query: [b, h, s, d], the last `s` of the `t` tokens.
        key, value: [b, h, t, d].

    Returns:
        [b, h, s, d].
    """
    if plan.full_mask is not None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=_open_empty_rows(plan.full_mask))
    split, s, t, parts = plan.split, query.shape[2], key.shape[2], []
    if split:  # the prompt: bidirectional
        mask = None if plan.key_mask is None else plan.key_mask[..., : plan.context]
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, :split], key[:, :, : plan.context], value[:, :, : plan.context], attn_mask=mask
            )
        )
    if split < s:  # the answer: causal
        mask = plan.key_mask
        if s - split > 1:
            causal = torch.ones(s - split, t, dtype=torch.bool, device=query.device).tril(t - (s - split))
            mask = causal if mask is None else causal & mask
        parts.append(F.scaled_dot_product_attention(query[:, :, split:], key, value, attn_mask=mask))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _attention_kernels(device: torch.device) -> AbstractContextManager:
    """Leave cuDNN's attention out: it is prepared anew for each length, which takes longer than a prompt's reading."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def attention_probabilities(query: Tensor, key: Tensor, plan: AttentionPlan) -> Tensor:
    """Return the attention weights [b, h, s, t] that `prefix_attention` uses but does not give out."""
    s, t = query.shape[2], key.shape[2]
    if plan.full_mask is not None:
        mask = _open_empty_rows(plan.full_mask)
    else:
        mask = torch.ones(s, t, dtype=torch.bool, device=query.device).tril(t - s)
        mask[: plan.split] = torch.arange(t, device=query.device) < plan.context
        mask = mask if plan.key_mask is None else mask & plan.key_mask
    scores = query.float() @ key.float().transpose(-1, -2) / math.sqrt(query.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1).to(query.dtype)


def _open_empty_rows(mask: Tensor) -> Tensor:
    """Let rows that see nothing (padding) see everything: their output is not used, but must not be NaN."""
    return mask | ~mask.any(dim=-1, keepdim=True)


class SelfAttention(nn.Module):
    """Multi-head attention with rotary positions over a prefix language model's tokens."""

    def __init__(self, config: ChatGLMConfig, layer_id: int) -> None:
        super().__init__()
        self.layer_id = layer_id
        self.num_attention_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,  # [b, s, e]
        rotary: tuple[Tensor, Tensor],
        plan: AttentionPlan,
        cache: ChatGLMCache | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,  # P-Tuning keys and values [b, h, p, d], where there is no cache
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        b, s, _ = hidden_states.shape
        mixed = self.query_key_value(hidden_states).view(b, s, self.num_attention_heads, 3, self.head_size)
        rotated = apply_rotary(mixed[..., :2, :], *rotary)  # [b, s, h, 2, d]
        query, key = rotated[..., 0, :].transpose(1, 2), rotated[..., 1, :].transpose(1, 2)  # [b, h, s, d]
        value = mixed[..., 2, :].transpose(1, 2)
        if prefix is not None:
            key, value = torch.cat([prefix[0], key], dim=2), torch.cat([prefix[1], value], dim=2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_id)  # [b, h, t, d]
        with _attention_kernels(query.device):
            context = prefix_attention(query, key, value, plan)  # [b, h, s, d]
        probabilities = attention_probabilities(query, key, plan) if output_attentions else None
        return self.dense(context.transpose(1, 2).reshape(b, s, -1)), probabilities


class GLU(nn.Module):
    """The feed-forward layer; named as in the original, though it is not gated."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden_states), approximate="tanh"))


class GLMBlock(nn.Module):
    """Attention and feed-forward, each added to `RESIDUAL_SCALE` times its *normalised* input (2203.00555)."""

    def __init__(self, config: ChatGLMConfig, layer_id: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = SelfAttention(config, layer_id)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = GLU(config)

    def forward(
        self,
        hidden_states: Tensor,  # [b, s, e]
        rotary: tuple[Tensor, Tensor],
        plan: AttentionPlan,
        cache: ChatGLMCache | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        attention_input = self.input_layernorm(hidden_states)
        attention_output, probabilities = self.attention(
            attention_input, rotary, plan, cache, prefix, output_attentions
        )
        hidden_states = torch.add(attention_output, attention_input, alpha=RESIDUAL_SCALE)
        mlp_input = self.post_attention_layernorm(hidden_states)
        return torch.add(self.mlp(mlp_input), mlp_input, alpha=RESIDUAL_SCALE), probabilities


class PrefixEncoder(nn.Module):
    """Keys and values of `pre_seq_len` virtual tokens for every layer (P-Tuning v2, 2110.07602)."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.config = config
        width = 2 * config.num_layers * config.hidden_size
        if config.prefix_projection:
            self.embedding = nn.Embedding(config.pre_seq_len, config.hidden_size)
            self.trans = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size), nn.Tanh(), nn.Linear(config.hidden_size, width)
            )
        else:
            self.embedding = nn.Embedding(config.pre_seq_len, width)
            self.trans = nn.Identity()
        self.dropout = nn.Dropout(0.1)

    def forward(self, batch_size: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Return a (key, value) pair, each [b, h, p, d], for every layer."""
        config = self.config
        states = self.trans(self.embedding.weight).to(dtype)  # [p, 2 l e]
        heads = config.num_attention_heads
        states = states.expand(batch_size, *states.shape).reshape(
            batch_size, config.pre_seq_len, 2 * config.num_layers, heads, config.hidden_size // heads
        )
        states = self.dropout(states).permute(2, 0, 3, 1, 4)  # [2 l, b, h, p, d]
        return [(states[2 * layer], states[2 * layer + 1]) for layer in range(config.num_layers)]


# --------------------------------------------------------------------------------------------------------------------
# Model
# --------------------------------------------------------------------------------------------------------------------


class ChatGLMPreTrainedModel(PreTrainedModel):
    """What the library needs to know to load, place and initialise the model."""

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    _input_embed_layer = "word_embeddings"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_cache_class = True
    _no_split_modules = ["GLMBlock"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    # compat: the original stores a table for each layer, which is computed here
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, QuantizedLinear | QuantizedEmbedding):
            module.init_weights(std=0.02)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load weights as the library does, and refuse those that do not go together with the configuration.

        As a package, this executes no code of a checkpoint, whatever `trust_remote_code` says.

        Raises:
            ValueError: weights of other shapes than the configuration has, or no scales of quantised weights.
        """
        if kwargs.get("trust_remote_code") and not IS_REMOTE_CODE:
            logger.warning_once("trust_remote_code has no effect: with the package chatglm, its own code is used")
            kwargs["trust_remote_code"] = False  # the library would look for a `custom_generate` folder
        wants_report = kwargs.pop("output_loading_info", False)
        takes_other_shapes = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model, report = loaded
        wrong = sorted(name for name in report["missing_keys"] if name.endswith("weight_scale"))
        wrong = [f"{name} (missing)" for name in wrong]
        if not takes_other_shapes:
            other = sorted(report["mismatched_keys"])
            wrong += [f"{name} ({list(stored)} stored, {list(own)} needed)" for name, stored, own in other]
        if wrong:
            bits = model.config.quantization_bit
            advice = f". For float weights, leave quantization_bit out and call model.quantize({bits})" if bits else ""
            raise ValueError(
                f"{pretrained_model_name_or_path}: weights and config.json (quantization_bit {bits}) do not go "
                f"together: {wrong[0]}{f' and {len(wrong) - 1} more' * (len(wrong) > 1)}{advice}"
            )
        model.freeze_for_prefix()  # loading makes new parameters
        return loaded if wants_report else model

    @property
    def device(self) -> torch.device:
        """Where inputs belong; of a model that is spread over devices, where it computes first."""
        # accelerate's hooks say so: the weights themselves may be on no device yet
        own = _execution_device(self)
        if own is None:
            weight = next(self.parameters())
            if weight.device.type != "meta":
                return weight.device
            own = next(filter(None, map(_execution_device, self.modules())), weight.device)
        return torch.device(own)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in; a quantised model stores its word embedding in another one."""
        return getattr(self.get_input_embeddings(), "output_dtype", super().dtype)

    def get_masks(self, input_ids: Tensor, device: torch.device | str) -> Tensor:
        """Return the mask of a batch without padding, bool [b, 1, s, s], true where attention is blocked.

        compat: the original's, for programs that build their own batches; `forward` needs none.

        Args:
            input_ids: int64 [b, s], each row with `<sop>` and `[gMASK]` or `[MASK]`.
            device: of the mask.

        Raises:
            ValueError: a row without these tokens.
        """
        layout = PromptLayout.from_input_ids(input_ids, torch.ones_like(input_ids), self.config)
        column = torch.arange(input_ids.shape[1], device=input_ids.device)
        in_answer = column >= layout.context_length[:, None, None]  # [b, 1, s]
        return ((column > column[:, None]) & in_answer)[:, None].to(device)

    def get_position_ids(
        self,
        input_ids: Tensor,
        mask_positions: Sequence[int],
        device: torch.device | str,
        use_gmasks: Sequence[bool] | None = None,
    ) -> Tensor:
        """Return the positions of a batch without padding, int64 [b, 2, s].

        compat: the original's, for programs that build their own batches; `forward` needs none.

        Args:
            input_ids: int64 [b, s], each row with `<sop>` and `[gMASK]` or `[MASK]`.
            mask_positions: column of the mask token in each row, which is the position of answer tokens.
            device: of the result.
            use_gmasks: without effect on two-dimensional positions, as in the original.

        Raises:
            ValueError: a row without these tokens.
        """
        layout = PromptLayout.from_input_ids(input_ids, torch.ones_like(input_ids), self.config)
        layout.mask_position = torch.as_tensor(mask_positions, device=input_ids.device)
        return layout.position_ids(0, input_ids.shape[1]).to(device)

    def freeze_for_prefix(self) -> None:
        """With a P-Tuning v2 prefix, let nothing but the prefix be trained."""
        if self.config.pre_seq_len is not None:
            for name, parameter in self.named_parameters():
                if "prefix_encoder." not in name:
                    parameter.requires_grad = False


def _execution_device(module: nn.Module) -> torch.device | str | int | None:
    """Return the device that a hook of accelerate's computes a module on, None if there is none or it names none."""
    hook = getattr(module, "_hf_hook", None)
    devices = (getattr(each, "execution_device", None) for each in (hook, *getattr(hook, "hooks", ())))
    return next((device for device in devices if device is not None), None)


def refuse_tracing() -> None:
    """Refuse tracing and export: what is computed depends on where the prompt ends, which a recording would fix.

    Raises:
        RuntimeError: `torch.jit.trace` or `torch.export` is recording.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise RuntimeError(
            "ChatGLM cannot be traced or exported (torch.jit.trace, torch.export): a recording of one prompt would be "
            "wrong for prompts of other lengths. Run the model itself"
        )


class Pass:
    """One pass of new tokens through the blocks, block by block; everything that runs the model uses it.

    Args:
        transformer: a `ChatGLMModel`.
        input_ids, position_ids, attention_mask, inputs_embeds: as its `forward` takes them.
        cache: of the tokens before, or an empty one, which takes the new ones; None for none.
        dtype: what the blocks compute in, if it is not the embedding's.

    Attributes:
        hidden_states: [b, s, e], behind the blocks done.
        done: number of blocks done.
        rotary: tables of the new tokens' positions, see `rotary_tables`.
        plan: what they may attend to.
    """

    def __init__(
        self,
        transformer: ChatGLMModel,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: ChatGLMCache | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = transformer.config
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        self.layers, self.cache, self.done = transformer.layers, cache, 0
        hidden_states = transformer.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        self.hidden_states = hidden_states.to(dtype or hidden_states.dtype)
        b, s, _ = self.hidden_states.shape
        start = 0 if cache is None else cache.get_seq_length()
        layout = None if cache is None else cache.layout
        if start == 0 and layout is None:
            layout = self._layout(config, input_ids, position_ids, attention_mask)
            if cache is not None:
                cache.layout = layout
        if position_ids is None:
            if layout is None or inputs_embeds is not None:
                what = "inputs_embeds" if inputs_embeds is not None else "a cache that another class has filled"
                raise ValueError(NO_POSITIONS.format(what))
            position_ids = layout.position_ids(start, s)
        self.prefix, prefix_length = None, 0 if cache is None else cache.prefix_length
        if config.pre_seq_len is not None and start == 0 and prefix_length == 0:
            self.prefix, prefix_length = transformer.prefix_encoder(b, self.hidden_states.dtype), config.pre_seq_len
            if cache is not None:
                cache.prefix_length = prefix_length
        if cache is not None and start == 0:
            cache.dtype = cpu_decode.cache_dtype(self.layers, self.hidden_states, transformer.cache_bits)
        self.plan = AttentionPlan.build(layout, start, s, prefix_length, position_ids.device)
        head_size = config.hidden_size // config.num_attention_heads
        self.rotary = rotary_tables(position_ids, head_size, self.hidden_states.dtype)
        if cache is not None and start == 0 and b == 1 and cache.expected_length and self._is_on_one_gpu():
            cache.allocate(len(self.layers), (b, config.num_attention_heads, head_size), self.hidden_states)

    def _is_on_one_gpu(self) -> bool:
        return self.hidden_states.is_cuda and not any(hasattr(layer, "_hf_hook") for layer in self.layers)

    def advance(self, output_attentions: bool = False, call: Callable | None = None) -> Tensor | None:
        """Compute the next block; return its attention weights [b, h, s, t] if asked for.

        Args:
            output_attentions: whether to compute the weights as well.
            call: calls the block with its arguments, for gradient checkpointing.
        """
        layer = self.layers[self.done]
        prefix = None if self.prefix is None else self.prefix[self.done]
        arguments = self.hidden_states, self.rotary, self.plan, self.cache, prefix, output_attentions
        self.hidden_states, probabilities = layer(*arguments) if call is None else call(layer.__call__, *arguments)
        self.done += 1
        return probabilities

    @staticmethod
    def _layout(
        config: ChatGLMConfig, input_ids: Tensor | None, position_ids: Tensor | None, attention_mask: Tensor | None
    ) -> PromptLayout:
        if input_ids is not None:
            return PromptLayout.from_input_ids(input_ids, attention_mask, config)
        if position_ids is None:
            raise ValueError(NO_POSITIONS.format("inputs_embeds"))
        # no ids to read the layout from: write ids that have it
        stand_in = torch.full_like(position_ids[:, 0], config.gmask_token_id)
        stand_in[position_ids[:, 1] > 0] = config.bos_token_id
        if attention_mask is None:
            attention_mask = torch.ones_like(stand_in)
        return PromptLayout.from_input_ids(stand_in, attention_mask, config)


class ChatGLMModel(ChatGLMPreTrainedModel):
    """The blocks between word embedding and output layer.

    Attributes:
        cache_bits: of the keys and values of a quantised model on a CPU, 8 or 16; see `cpu_decode.cache_dtype`.
    """

    def __init__(self, config: ChatGLMConfig, empty_init: bool = True) -> None:
        """Build the blocks; `empty_init` is the original's and has no effect."""
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(GLMBlock(config, layer_id) for layer_id in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.gradient_checkpointing, self.cache_bits = False, None
        if config.pre_seq_len is not None:
            self.prefix_encoder = PrefixEncoder(config)
        self.freeze_for_prefix()
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: ChatGLMCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: ChatGLMCache | None = None,
    ) -> tuple | ModelOutput:
        """Compute the hidden states of new tokens.

        Args:
            input_ids: int64 [b, s]. Without a cache they hold the whole prompt, `<sop>` included.
            position_ids: int64 [b, 2, s]; from the ids if not given.
            attention_mask: 1 for tokens, 0 for padding [b, t]; or the tokenizer's [b, 1, s, s] (true means blocked);
                from the padding tokens on the left if not given. Not needed once the prompt is cached.
            cache: the cache that a former call returned; `past_key_values` is its older name.
            inputs_embeds: [b, s, e] instead of `input_ids`; then `position_ids` must be given, and tokens whose
                second position is 0 count as the prompt.
            use_cache: whether to return a cache; `config.use_cache` outside of training if not given.

        Returns:
            `last_hidden_state` [b, s, e], and the cache, hidden states and attention weights if asked for.

        Raises:
            RuntimeError: `torch.jit.trace` or `torch.export` is recording.
            ValueError: neither or both of `input_ids` and `inputs_embeds`; a prompt without `<sop>` or mask token; two
                caches; `inputs_embeds` or another class' cache without positions.
        """
        refuse_tracing()
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = getattr(config, "return_dict", True) if return_dict is None else return_dict
        checkpointing = self.gradient_checkpointing and self.training
        if use_cache is None:
            use_cache = config.use_cache and not self.training
        use_cache = use_cache and not checkpointing
        cache = one_cache(cache, past_key_values)
        cache = ChatGLMCache.from_past(cache) if use_cache or cache is not None else None
        tokens = Pass(self, input_ids, position_ids, attention_mask, inputs_embeds, cache)
        all_hidden_states, all_attentions = [], []
        if not (output_hidden_states or output_attentions):
            cpu_decode.decode_step(tokens)
        while tokens.done < len(self.layers):
            all_hidden_states.append(tokens.hidden_states)
            call = self._gradient_checkpointing_func if checkpointing else None
            all_attentions.append(tokens.advance(bool(output_attentions), call))
        hidden_states = self.final_layernorm(tokens.hidden_states)
        all_hidden_states.append(hidden_states)

        output = ModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(all_attentions) if output_attentions else None,
            **{CACHE_NAME: cache if use_cache else None},
        )
        return output if return_dict else output.to_tuple()


class ChatGLMForConditionalGeneration(ChatGLMPreTrainedModel, ChatMixin, GenerationMixin):
    """ChatGLM-6B with its output layer: `forward` for training, `generate`, `chat` and `stream_chat` for use."""

    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}
    # tied as well where they are quantised, see `tie_weights`
    _keys_to_ignore_on_load_missing = [r"lm_head\.weight_scale"]
    accepts_loss_kwargs = True

    def __init__(self, config: ChatGLMConfig, empty_init: bool = True) -> None:
        """Build the model; `empty_init` is the original's and has no effect: loading fills no weights at random."""
        super().__init__(config)
        kernel_cache.look_in(getattr(config, "_name_or_path", ""))
        self.transformer = ChatGLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.quantization_bit:
            quantize_layers(self, config.quantization_bit, config.quantization_embeddings, empty=True)
        self.freeze_for_prefix()
        self.post_init()

    def tie_weights(self, *args, **kwargs) -> None:
        """Let the output layer use the word embedding's weight, and its scales where both are quantised."""
        super().tie_weights(*args, **kwargs)
        if isinstance(self.lm_head, QuantizedLinear):
            tie_quantized_embeddings(self)

    def quantize(
        self, bits: int, quantize_embeddings: bool = False, calibration: BlockQuantizer | None = None
    ) -> ChatGLMForConditionalGeneration:
        """Quantise the weights of all layers to 8 or 4 bits, in place; the float weights are released as it goes.

        Args:
            bits: 4 or 8.
            quantize_embeddings: the word embedding and the output layer, too.
            calibration: a `loading.calibration.Calibration`, which loses less than rounding to nearest does.

        Raises:
            ValueError: another number of bits, a model that is quantised already, or a shape that cannot be packed.
        """
        release_graphs(self)
        quantize_layers(self, bits, quantize_embeddings, calibration=calibration)
        return self

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: ChatGLMCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | int | None = None,
        cache: ChatGLMCache | None = None,
    ) -> tuple | CausalOutput:
        """Compute logits, and the loss if labels are given; for the other arguments see `ChatGLMModel.forward`.

        Args:
            labels: int64 [b, s], -100 where there is nothing to predict; compared with the logits one place before.
            logits_to_keep: compute the logits of the last so many tokens only; 0 for all. With labels at least 2, and
                the labels before them are not counted.
            num_items_in_batch: divide the summed loss by this instead of by the number of labels (the trainer's
                gradient accumulation).

        Returns:
            `logits` [b, s, v], `loss` (float32 mean over the labels), and what else was asked for.

        Raises:
            RuntimeError: `torch.jit.trace` or `torch.export` is recording.
            ValueError: labels of another shape than the tokens; and what `ChatGLMModel.forward` refuses.
        """
        refuse_tracing()
        config = self.config
        tokens = inputs_embeds if input_ids is None else input_ids
        if labels is not None and tokens is not None and labels.shape != tokens.shape[:2]:
            raise ValueError(
                f"labels must have the shape of input_ids (a label for each token, -100 for none): labels are "
                f"{list(labels.shape)}, the tokens {list(tokens.shape[:2])}"
            )
        return_dict = getattr(config, "return_dict", True) if return_dict is None else return_dict
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        cache = one_cache(cache, past_key_values)
        logits_only = labels is None and use_cache is not False and not (output_attentions or output_hidden_states)
        if logits_only and position_ids is None and isinstance(cache, ChatGLMCache):
            logits = decode_step(self, input_ids, cache)  # on CUDA
            if logits is not None:
                output = CausalOutput(logits=logits, **{CACHE_NAME: cache})
                return output if return_dict else output.to_tuple()
        outputs = self.transformer(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            cache=cache,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden_states = outputs.last_hidden_state
        logits = self.lm_head(hidden_states[:, -logits_to_keep:] if logits_to_keep else hidden_states)  # [b, s, v]
        loss = None
        if labels is not None:
            targets = labels[:, 1 - logits.shape[1] :].reshape(-1).to(logits.device)
            predictions = logits[:, :-1].float().reshape(-1, logits.shape[-1])
            reduction = "mean" if num_items_in_batch is None else "sum"
            loss = F.cross_entropy(predictions, targets, ignore_index=-100, reduction=reduction)
            if num_items_in_batch is not None:
                loss = loss / num_items_in_batch
        output = CausalOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: outputs.cache},
        )
        return output if return_dict else output.to_tuple()


# The trainer looks here whether labels are compared with the logits one place before (label smoothing), and pipelines
# whether the model generates text; registering a class does not enter its name.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(ChatGLMConfig.model_type, ChatGLMForConditionalGeneration.__name__)
