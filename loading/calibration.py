"""Calibrated quantisation: the format of `quantization`, but integers chosen so that a layer's outputs change least.

Rounding to nearest gives every weight the integer next to it, as if inputs did not matter. On sample dialogues they are
known: with `C`, the mean of `x xᵀ` over the inputs `x` of a layer, row `w` of its matrix is quantised to the `q` that
makes `(w - q) C (w - q)ᵀ`, the mean squared change of its output, small. Columns are rounded one after another, those
with the largest inputs first, and the error of each is made up for by the columns that are still to come. Blocks are
quantised in order, each on the outputs of the quantised ones before it. Rows keep one half-precision scale each, so
every reader of the format reads the result.

    calibration = Calibration(read_dialogues("dialogues.jsonl", tokenizer))
    model.quantize(4, calibration=calibration)

Source: GPTQ (arXiv 2210.17323).

Shape legend: `n` input rows, `i` input features, `o` output features, `s` tokens of a dialogue, `e` hidden.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chatglm import ChatGLMTokenizer
from chatglm.bits import check_bits
from chatglm.dialogue import read_messages
from chatglm.modeling_chatglm import Pass
from chatglm.quantization import (
    BLOCK_LINEARS,
    QuantizedLinear,
    check_scales,
    dequantize_weight,
    pack_int4,
)

from .arguments import CALIBRATION_TOKENS

LONGEST_DIALOGUE = 2048  # tokens
# Part of the mean of C's diagonal that is added to it: samples say little about directions that they hardly have.
DAMPING = 0.01
ROWS_AT_ONCE, COLUMNS_AT_ONCE = 1024, 128
# Scales to choose from, as parts of the one that lets the largest weight of the row fit: rows with a few large weights
# of columns that matter little are best off with half of it.
SCALE_PARTS = tuple(part / 20 for part in range(20, 7, -1))  # 1 to 0.4


# --------------------------------------------------------------------------------------------------------------------
# Dialogues
# --------------------------------------------------------------------------------------------------------------------


def encode_dialogue(
    tokenizer: ChatGLMTokenizer, prompt: str, response: str, history: Sequence[Sequence[str]] = ()
) -> Tensor:
    """Return the ids, int64 `[s]`, of a question with its history and answer, as `chat` would have formatted them."""
    prompt_ids, _ = tokenizer.encode_chat(prompt, history)
    return torch.tensor([*prompt_ids, *tokenizer.encode_text(response), tokenizer.eos_token_id])


def read_dialogues(file: str | Path, tokenizer: ChatGLMTokenizer, max_tokens: int = CALIBRATION_TOKENS) -> list[Tensor]:
    """Read sample dialogues, in the form that fine-tuning on dialogues takes.

    Args:
        file: UTF-8, an object `{"prompt": …, "response": …, "history": [[question, answer], …]}` on each line;
            `history` may be left out. Or in the chat form, `{"messages": [{"role": "user", "content": …}, …]}`.
        tokenizer: the model's.
        max_tokens: stop when the dialogues have so many together.

    Returns:
        The ids of each dialogue, int64 `[s]`; those of more than 2048 tokens are cut.

    Raises:
        ValueError: a line that is not such an object, or no line at all.
        OSError: the file cannot be read.
    """
    examples, tokens = [], 0
    with Path(file).open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            examples.append(_encode_line(line, tokenizer, f"{file}, line {number}")[:LONGEST_DIALOGUE])
            tokens += len(examples[-1])
            if tokens >= max_tokens:
                break
    if not examples:
        raise ValueError(f"{file} holds no dialogues: each line must be an object with prompt and response")
    return examples


def _encode_line(line: str, tokenizer: ChatGLMTokenizer, place: str) -> Tensor:
    try:
        dialogue: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON: {error}") from error
    if isinstance(dialogue, dict) and "messages" in dialogue:
        try:
            prompt, history, response = read_messages(dialogue["messages"])
            if response is None:
                raise ValueError("the last message must be the assistant's")
            return encode_dialogue(tokenizer, prompt, response, history)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    if not isinstance(dialogue, dict) or not all(isinstance(dialogue.get(key), str) for key in ("prompt", "response")):
        raise ValueError(f'{place} must be an object with "messages", or with the texts "prompt" and "response"')
    try:
        return encode_dialogue(tokenizer, dialogue["prompt"], dialogue["response"], dialogue.get("history") or [])
    except (TypeError, ValueError) as error:
        raise ValueError(f'{place}: "history" must be a list of [question, answer] pairs of texts ({error})') from error


# --------------------------------------------------------------------------------------------------------------------
# One matrix
# --------------------------------------------------------------------------------------------------------------------


def quantize_weight_calibrated(weight: Tensor, correlation: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Quantise a matrix so that its outputs on inputs of a given correlation change little.

    Args:
        weight: `[o, i]`, any float dtype.
        correlation: `C`, the mean of `x xᵀ` over inputs `x`, float32 `[i, i]`; overwritten.
        bits: 4 or 8.

    Returns:
        The packed weight, int8 `[o, i * bits / 8]`, and the scales, float16 `[o]`, as `quantize_weight` does.

    Raises:
        ValueError: other bits, an odd number of columns with 4 bits, or weights or inputs that are not finite.
    """
    check_bits(bits)
    limit = 2 ** (bits - 1) - 1
    weight_scale = _choose_scales(weight, correlation.diagonal(), limit)
    check_scales(int((~torch.isfinite(weight_scale)).sum()), bits)
    order = correlation.diagonal().argsort(descending=True)
    factor = _error_factor(correlation, order)
    quantized = _round_columns(weight.float()[:, order], weight_scale.float(), factor, limit)
    quantized = quantized[:, order.argsort()]
    return pack_int4(quantized) if bits == 4 else quantized, weight_scale


def _choose_scales(weight: Tensor, importance: Tensor, limit: int) -> Tensor:
    """Return for each row the scale with which rounding errs least, columns weighted by their importance `[i]`."""
    weight_scale = torch.empty(len(weight), dtype=torch.float16, device=weight.device)
    for start in range(0, len(weight), ROWS_AT_ONCE):
        rows = weight[start : start + ROWS_AT_ONCE].float()
        largest, least = rows.abs().amax(dim=1) / limit, torch.full((len(rows),), torch.inf, device=rows.device)
        chosen = largest.half()
        for part in SCALE_PARTS:
            scale = (part * largest).half()
            unpacked = _nearest(rows, scale.float()[:, None], limit) * scale.float()[:, None]
            error = (unpacked - rows).square() @ importance
            chosen, least = torch.where(error < least, scale, chosen), torch.minimum(error, least)
        weight_scale[start : start + ROWS_AT_ONCE] = chosen
    return weight_scale


def _nearest(weight: Tensor, scale: Tensor, limit: int) -> Tensor:
    return (weight / torch.where(scale == 0, 1.0, scale)).round().clamp(-limit, limit)


def _error_factor(correlation: Tensor, order: Tensor) -> Tensor:
    """Return the upper triangular `U` `[i, i]` with `UᵀU` the inverse of the damped correlation, columns in `order`.

    The correlation is overwritten, by the result.
    """
    mean = correlation.diagonal().mean()
    if not torch.isfinite(mean):
        raise ValueError("a layer's inputs overflow on the calibration dialogues: check the checkpoint")
    # without any input all columns count alike
    correlation.diagonal().add_(DAMPING * mean if mean > 0 else 1.0)
    # turned around twice, the lower Cholesky factor is an upper one R with C = R Rᵀ, and U its inverse; all in two
    # matrices, which can take a gigabyte each: LAPACK writes into what it reads where that is stored by columns
    backwards = order.flip(0)
    correlation.copy_(correlation[backwards[:, None], backwards])
    torch.linalg.cholesky(correlation.mT, out=correlation.mT)
    inverse = torch.eye(len(order), device=correlation.device).mT
    torch.linalg.solve_triangular(correlation.mT, inverse, upper=False, out=inverse)
    for end in range(len(order), 0, -ROWS_AT_ONCE):
        rows = inverse[max(0, end - ROWS_AT_ONCE) : end].flip(0, 1)
        correlation[len(order) - end :][: len(rows)] = rows
    return correlation


def _round_columns(weight: Tensor, scale: Tensor, factor: Tensor, limit: int) -> Tensor:
    """Round column after column of `weight` (overwritten), letting the later ones make up for the errors.

    Returns:
        The integers, int8 `[o, i]`.
    """
    quantized = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    for start in range(0, weight.shape[1], COLUMNS_AT_ONCE):
        end = min(start + COLUMNS_AT_ONCE, weight.shape[1])
        errors = torch.empty(len(weight), end - start, device=weight.device)
        for column in range(start, end):
            integers = _nearest(weight[:, column], scale, limit)
            quantized[:, column] = integers.to(torch.int8)
            error = (weight[:, column] - integers * scale) / factor[column, column]
            weight[:, column:end] -= error[:, None] * factor[column, column:end]
            errors[:, column - start] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    return quantized


# --------------------------------------------------------------------------------------------------------------------
# All blocks
# --------------------------------------------------------------------------------------------------------------------


class _Reached(Exception):
    """Ends a forward pass at the layer whose input was wanted."""


class Calibration:
    """Quantise the blocks of a model in order, on sample dialogues, one block in float32 at a time.

    Memory, besides the model: the hidden states of all dialogues (16 KB a token at hidden size 4096), a block in
    float32 (0.8 GB) and two matrices of the widest input squared (2.1 GB at 16,384).

    Args:
        examples: the ids of each dialogue, int64 `[s]`, as `read_dialogues` returns them. A few tens of thousands of
            tokens of what the model will be used for are enough.
        device: where blocks are calibrated; the model's own if not given.

    Raises:
        ValueError: no dialogues.
    """

    def __init__(self, examples: Sequence[Tensor], device: torch.device | str | None = None) -> None:
        if not len(examples):
            raise ValueError("calibration needs at least one dialogue, got none")
        self.examples, self.device = examples, device
        self.inputs: list[Pass] = []  # each dialogue's, before the next block

    @torch.no_grad()
    def begin(self, model: nn.Module) -> None:
        """Compute what the dialogues bring into the first block, from the word embedding alone.

        Raises:
            ValueError: a model with a P-Tuning prefix, whose keys each block has of its own.
        """
        if model.config.pre_seq_len is not None:
            raise ValueError("a model with a P-Tuning prefix cannot be calibrated: quantise the model, then add it")
        where = model.transformer.word_embeddings.weight.device
        self.inputs = []
        for ids in self.examples:
            each = Pass(model.transformer, ids[None].to(where), dtype=torch.float32)
            each.hidden_states, *each.rotary = (
                part.to(self.device or where) for part in (each.hidden_states, *each.rotary)
            )
            self.inputs.append(each)

    @torch.no_grad()
    def quantize_block(self, block: nn.Module, bits: int) -> None:
        """Swap the matrices of the next block for quantised ones, in place, and go on to its outputs.

        Raises:
            ValueError: weights or inputs that are not finite.
        """
        dtype, home = block.input_layernorm.weight.dtype, block.input_layernorm.weight.device
        block.to(self.inputs[0].hidden_states.device, torch.float32)
        packed_layers = {}
        for part, name in BLOCK_LINEARS:
            linear = getattr(getattr(block, part), name)
            packed, weight_scale = quantize_weight_calibrated(linear.weight, self._correlation(block, linear), bits)
            packed_layers[part, name] = QuantizedLinear(packed, weight_scale, bits, linear.bias)
            linear.weight.copy_(dequantize_weight(packed, weight_scale, bits))  # the next layers' inputs see it
        for each in self.inputs:
            each.advance()
        for (part, name), layer in packed_layers.items():
            setattr(getattr(block, part), name, layer)
        block.to(home, dtype)

    def _correlation(self, block: nn.Module, linear: nn.Linear) -> Tensor:
        """Return the mean of `x xᵀ` over the inputs of one of the block's layers, float32 `[i, i]`."""
        size, device = linear.in_features, linear.weight.device
        correlation, rows = torch.zeros(size, size, device=device), 0

        def add(module: nn.Module, arguments: tuple) -> None:
            nonlocal rows
            input = arguments[0].flatten(0, -2)  # [n, i]
            correlation.addmm_(input.T, input)
            rows += len(input)
            raise _Reached

        hook = linear.register_forward_pre_hook(add)
        try:
            for each in self.inputs:
                with contextlib.suppress(_Reached):
                    block(each.hidden_states, each.rotary, each.plan)
        finally:
            hook.remove()
        return correlation.div_(rows)
