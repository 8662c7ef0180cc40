"""Decode one token a row on a CUDA device by replaying a graph of seven fused kernels a layer.

Launched from Python one by one, the hundreds of small steps of a token take longer than the GPU needs for them; a CUDA
graph launches them all at once. The graph reads where the cache lies, and how long it is, from device memory, so that
it is captured once for a model and a number of rows and serves every later conversation.

`decode_step` answers None whenever the ordinary forward pass has to do: on other devices, with gradients, with modules
or hooks that are not the plain model's. Results differ from the ordinary pass by rounding only.

Shapes: `b` batch, `e` hidden, `h` heads, `d` head size, `l` layers, `v` vocabulary.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import logging

from .configuration_chatglm import RESIDUAL_SCALE
from .cuda_driver import overlapping_launches
from .cuda_kernels import (
    AttentionScratch,
    attention,
    available,
    can_attend,
    can_fuse,
    fused_linear,
    layer_norm,
    rotary_tables,
)
from .host_transfer import upload
from .positions import rotary_frequency
from .quantization import OutputLinear, QuantizedEmbedding, QuantizedLinear, StoredEmbedding, is_intercepted

logger = logging.get_logger(__name__)

GRAPH_ROWS = (1, 2, 4, 8, 16, 24, 32)  # a batch takes the next larger graph, whose other rows are not there
GRAPH_NODES_BYTES = 16 << 20  # that the driver keeps for the launches of a graph
TOKENS_WITHOUT = 64  # after running out of memory, before graphs are tried again


@dataclass(frozen=True)
class Matrix:
    """Arguments of `cuda_kernels.fused_linear` for a layer."""

    weight: Tensor
    weight_scale: Tensor | None
    bits: int
    bias: Tensor | None

    @classmethod
    def of(cls, module: nn.Module) -> Matrix | None:
        """Return a linear layer's matrix, or None if the kernels cannot multiply with it."""
        if type(module) in (nn.Linear, OutputLinear) and not getattr(module, "exact", False):
            matrix = cls(module.weight, None, 8 * module.weight.element_size(), module.bias)
        elif type(module) is QuantizedLinear and not module.exact:
            matrix = cls(module.weight, module.weight_scale, module.bits, module.bias)
        else:
            return None
        return matrix if can_fuse(1, matrix.weight, matrix.bits) else None

    def multiply(self, input: Tensor, *epilogue) -> Tensor:
        """Return `fused_linear` of `input` [b, i]; `epilogue` is its residual, residual scale and `gelu`."""
        return fused_linear(input, self.weight, self.weight_scale, self.bits, self.bias, *epilogue)


@dataclass(frozen=True)
class Norm:
    """Arguments of `cuda_kernels.layer_norm` for a layer."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    @classmethod
    def of(cls, module: nn.Module) -> Norm | None:
        """Return a layer norm's arguments, or None if the kernel does not take them."""
        if type(module) is not nn.LayerNorm or module.weight is None or module.bias is None:
            return None
        return cls(module.weight, module.bias, module.eps)

    def normalize(self, input: Tensor) -> Tensor:
        """Return `layer_norm` of `input` [b, e]."""
        return layer_norm(input, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class DecodeWeights:
    """A model's parts as the kernels take them.

    Attributes:
        embedding: maps ids to hidden states.
        blocks: for each layer, in the order of use: input norm, query_key_value, dense, second norm, the two matrices
            of the feed-forward layer.
        norm, output: final norm and output layer.
        heads, head_size: of the attention.
        dtype: of the hidden states.
        addresses: and dtypes of all parameters; the same ones mean that a captured graph still reads this model.
    """

    embedding: nn.Module
    blocks: list[tuple[Norm, Matrix, Matrix, Norm, Matrix, Matrix]]
    norm: Norm
    output: Matrix
    heads: int
    head_size: int
    dtype: torch.dtype
    addresses: tuple[tuple[int, torch.dtype], ...]

    @classmethod
    def of(cls, model: nn.Module, device: torch.device) -> DecodeWeights | None:
        """Read a `ChatGLMForConditionalGeneration`; None if it is not the plain model, whole and on one CUDA device."""
        if any(is_intercepted(module) for module in model.modules()):
            return None
        transformer, config = model.transformer, model.config
        embedding = transformer.word_embeddings
        if type(embedding) not in (nn.Embedding, StoredEmbedding, QuantizedEmbedding):
            return None
        blocks = []
        for layer in transformer.layers:
            query_key_value, dense = layer.attention.query_key_value, layer.attention.dense
            matrices = query_key_value, dense, layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h
            first, second, third, fourth = map(Matrix.of, matrices)
            blocks.append(
                (Norm.of(layer.input_layernorm), first, second, Norm.of(layer.post_attention_layernorm), third, fourth)
            )
        norm, output = Norm.of(transformer.final_layernorm), Matrix.of(model.lm_head)
        parts = [part for block in blocks for part in block] + [norm, output]
        if any(part is None for part in parts):
            return None
        parameters = [*model.parameters(), *model.buffers()]
        dtypes = {part.weight.dtype for part in parts if isinstance(part, Norm)}
        dtypes |= {part.weight.dtype for part in parts if isinstance(part, Matrix) and part.weight_scale is None}
        dtypes |= {part.bias.dtype for part in parts if part.bias is not None}
        dtypes.add(getattr(embedding, "output_dtype", embedding.weight.dtype))
        head_size = config.hidden_size // config.num_attention_heads
        if (
            len(dtypes) != 1
            or not can_attend(head_size, *dtypes)
            or any(parameter.device != device for parameter in parameters)
        ):
            return None
        return cls(
            embedding=embedding,
            blocks=blocks,
            norm=norm,
            output=output,
            heads=config.num_attention_heads,
            head_size=head_size,
            dtype=dtypes.pop(),
            addresses=tuple((parameter.data_ptr(), parameter.dtype) for parameter in parameters),
        )


class DecodeGraph:
    """The kernels of one token for each row of a batch, with their inputs and outputs at fixed places.

    Args:
        weights: what to compute with.
        batch: number of rows; of a smaller batch the last ones are not there, see `attention`.
        device: where the model lies.
        pool: memory that it shares with other graphs on the same stream; None for its own.
    """

    def __init__(self, weights: DecodeWeights, batch: int, device: torch.device, pool=None) -> None:
        self.weights, self.device, self.pool, self.rows = weights, device, pool, 0
        self.frequency = rotary_frequency(weights.head_size, device).contiguous()
        splits = max(1, min(16, 512 // (batch * weights.heads)))
        self.scratch = AttentionScratch(batch, weights.heads, weights.head_size, splits, device)
        self.input_ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.column = torch.full((batch,), -1, dtype=torch.int64, device=device)
        self.layout = torch.zeros(3, batch, dtype=torch.int64, device=device)
        self.place = torch.zeros(4 + 2 * len(weights.blocks), dtype=torch.int64, device=device)
        self.addresses: list[int] = []
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits: Tensor | None = None

    def compute(self) -> Tensor:
        """Launch the kernels of a token; return the logits [b, v]."""
        weights = self.weights
        rotary = rotary_tables(self.column, self.layout, self.frequency, weights.dtype)
        hidden_states = weights.embedding(self.input_ids[:, 0])  # [b, e]
        for layer, (norm, query_key_value, dense, second_norm, dense_h_to_4h, dense_4h_to_h) in enumerate(
            weights.blocks
        ):
            normalized = norm.normalize(hidden_states)
            mixed = query_key_value.multiply(normalized)  # [b, h * 3 * d]
            context = attention(mixed, *rotary, self.place, self.column, layer, self.scratch)
            hidden_states = dense.multiply(context, normalized, RESIDUAL_SCALE)
            normalized = second_norm.normalize(hidden_states)
            inner = dense_h_to_4h.multiply(normalized, None, 0.0, True)  # [b, 4 e]
            hidden_states = dense_4h_to_h.multiply(inner, normalized, RESIDUAL_SCALE)
        return weights.output.multiply(weights.norm.normalize(hidden_states))

    def prepare(self, input_ids: Tensor, cache) -> bool:
        """Put a step's inputs in place: ids int64 [b, 1], `b` at most the graph's, and where the next tokens go.

        Returns:
            Whether the cache is one that the kernels can use.
        """
        cache.reserve(cache.prefix_length + cache.get_seq_length() + 1)
        columns, prompts, key_mask = cache.next_columns()
        addresses = [cache.keys[0].shape[2], cache.prefix_length]
        addresses += [0, 0] if key_mask is None else [key_mask.data_ptr(), key_mask.stride(0)]
        for keys, values in zip(cache.keys, cache.values, strict=True):
            addresses += [keys.data_ptr(), values.data_ptr()]
        if addresses != self.addresses:  # when the cache has grown, or is another one
            if not _is_regular(cache, self.weights):
                return False
            self.place.copy_(upload(addresses, self.device))
            self.addresses = addresses
        rows = len(input_ids)
        if rows < self.rows:
            self.column.fill_(-1)
        self.rows = rows
        self.layout[:, :rows].copy_(prompts)
        self.column[:rows].copy_(columns)
        self.input_ids[:rows].copy_(input_ids)
        return True

    def capture(self) -> None:
        """Record the kernels, and check that the graph computes what they do one by one.

        What they do to the cache is done again by each replay, and the same.

        Raises:
            RuntimeError: the kernels cannot be captured, or the graph's logits are not exactly theirs.
        """
        current, aside = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            expected = self.compute()  # loads what is loaded at first use, too
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        options = {"pool": self.pool, "stream": aside, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, **options), overlapping_launches():
            self.logits = self.compute()
        graph.replay()
        if not torch.equal(self.logits.nan_to_num(), expected.nan_to_num()):
            raise RuntimeError("the graph does not compute what its kernels do")
        self.graph = graph

    def step(self, input_ids: Tensor, cache) -> Tensor | None:
        """Append a token to each row of the cache; return the logits [b, 1, v], or None for another kind of cache."""
        if not self.prepare(input_ids, cache):
            return None
        if self.graph is None:
            self.capture()
        self.graph.replay()
        cache.lengths = [length + 1 for length in cache.lengths]
        return self.logits[: self.rows, None].clone()


class _Decoder:
    """The CUDA graphs of a model, and the cache they were last used for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.weights: DecodeWeights | None = None
        self.graphs: dict[tuple[int, int], DecodeGraph] = {}  # by rows and stream
        self.pools: dict[int, tuple[int, int]] = {}  # by stream: graphs of several streams may run at once
        self.cache: Callable | None = None  # weak reference
        self.length = -1
        self.failed = False
        self.tokens_without = 0

    def suits(self, model: nn.Module, cache, device: torch.device) -> bool:
        """Return whether a graph can replace the model's forward pass; checked once an answer, not for every token."""
        length = cache.get_seq_length()
        if self.cache is None or self.cache() is not cache or self.length != length:
            weights = DecodeWeights.of(model, device)
            if weights is None or self.weights is None or weights.addresses != self.weights.addresses:
                self.clear()
            self.weights, self.cache = weights, weakref.ref(cache)
        self.length = length + 1
        return self.weights is not None

    def step(self, model, input_ids, cache, stream: int) -> Tensor | None:
        """Do the work of `decode_step` on a CUDA stream."""
        device, rows = input_ids.device, next(rows for rows in GRAPH_ROWS if rows >= len(input_ids))
        if self.tokens_without:
            self.tokens_without -= 1
            return None
        if self.failed or not self.suits(model, cache, device):
            return None
        try:
            # tensors made in inference mode could not be written outside of it
            with torch.inference_mode(False), torch.no_grad():
                if (rows, stream) not in self.graphs:
                    if stream not in self.pools and device.type == "cuda":
                        self.pools[stream] = torch.cuda.graph_pool_handle()
                    graph = DecodeGraph(self.weights, rows, device, self.pools.get(stream))
                    self.graphs[rows, stream] = graph
                return self.graphs[rows, stream].step(input_ids, cache)
        except RuntimeError as error:  # out of memory, or something that cannot be captured
            self.clear()
            if _is_out_of_memory(error):
                self.tokens_without = TOKENS_WITHOUT
            else:
                self.failed = True
            logger.warning("decoding goes on without a CUDA graph, slower: %s", error)
            return None

    def clear(self) -> None:
        """Release all graphs and their memory."""
        self.graphs.clear()
        self.pools.clear()


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether memory ran out; in a capture that is what the error that ends it came from."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def graph_bytes(model: nn.Module, batch: int) -> int:
    """Return about how much memory the graphs of a `ChatGLMForConditionalGeneration` for up to `batch` rows will take.

    They keep their logits; what they compute on the way lies in memory that they share.
    """
    config, sizes = model.config, [rows for rows in GRAPH_ROWS if rows < 2 * batch]
    numbers = sum(sizes) * config.vocab_size + sizes[-1] * (8 * config.hidden_size + 2 * config.inner_hidden_size)
    return numbers * model.dtype.itemsize + len(sizes) * GRAPH_NODES_BYTES


def _is_regular(cache, weights: DecodeWeights) -> bool:
    """Return whether all layers of a cache have the same shape, lie whole in memory and hold the weights' dtype."""
    buffers, shape = (*cache.keys, *cache.values), cache.keys[0].shape
    return (
        len(cache.keys) == len(weights.blocks)
        and len(set(cache.lengths)) <= 1
        and all(
            buffer.shape == shape and buffer.dtype == weights.dtype and buffer.is_contiguous() for buffer in buffers
        )
    )


_decoders: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def decode_step(model: nn.Module, input_ids: Tensor | None, cache) -> Tensor | None:
    """Compute the logits of one new token a row, and append it to the cache, by a CUDA graph.

    Args:
        model: a `ChatGLMForConditionalGeneration`.
        input_ids: int64 [b, 1].
        cache: a `ChatGLMCache`.

    Returns:
        Logits [b, 1, v], or None, and nothing is changed, if the ordinary forward pass has to compute them.
    """
    if not _is_next_token(input_ids, cache) or not _is_open(input_ids.device):
        return None
    decoder = _decoders.setdefault(model, _Decoder())
    with decoder.lock, torch.cuda.device(input_ids.device):
        stream = torch.cuda.current_stream().cuda_stream
        return decoder.step(model, input_ids, cache, stream)


def _is_next_token(input_ids: Tensor | None, cache) -> bool:
    """Return whether the ids are one more token for each row of a cache whose prompt is known."""
    if input_ids is None or input_ids.shape[1] != 1 or len(input_ids) > GRAPH_ROWS[-1]:
        return False
    if not cache.keys or cache.layout is None or cache.get_seq_length() < 1:
        return False
    return cache.batch_size == len(input_ids)


def _is_open(device: torch.device) -> bool:
    """Return whether CUDA graphs can be captured and replayed on a device now."""
    if device.type != "cuda" or torch.is_grad_enabled() or torch.is_autocast_enabled() or torch.compiler.is_compiling():
        return False
    return not torch.cuda.is_current_stream_capturing() and available(device)


def release_graphs(model: nn.Module) -> None:
    """Release a model's graphs, and with them the weights that they hold on to."""
    _decoders.pop(model, None)
