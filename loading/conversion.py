"""Quantise a checkpoint from folder to folder, a block at a time, without ever holding the model.

Weights are read from memory-mapped files, and their pages given back once they are converted; quantised ones are
written as soon as a shard is full. What is written is what `model.quantize(bits)` and `save_pretrained` would write.
It comes to its name when it is complete: a conversion that fails leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration
from chatglm.bits import check_bits
from chatglm.quantization import BlockQuantizer, QuantizedEmbedding, StoredEmbedding, quantize_block

from .checkpoint import check_layers
from .weights import CheckpointWeights, release

# What a checkpoint folder holds besides weights, configuration and code.
OTHER_FILES = ("*.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "*LICENSE*")
SHARD_BYTES = 1 << 29  # a shard is written when it holds so much; the float word embedding is larger and alone
EMBEDDING, BLOCKS, OUTPUT = "transformer.word_embeddings.", "transformer.layers.", "lm_head."


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGTERM, SIGHUP and Ctrl-C end the block as an exception does, so that it cleans up; a second one is ignored.

    The exit status is the shells': 128 and the signal's number.
    """
    stopping = False

    def stop(number: int, _: object) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            sys.exit(128 + number)

    names = ("SIGTERM", "SIGHUP", "SIGINT") if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for name in names if (number := getattr(signal, name, None))}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def unfinished_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside a target; at the end of the block it is removed, unless it was given another name.

    It is locked while this process lives, so that the next one can tell what a killed one has left, and removes it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    name, number = f"{target.name}.unfinished-", 0
    for found in target.parent.iterdir() if os.name == "posix" else ():
        if found.name.startswith(name) and found.is_dir():
            with contextlib.suppress(OSError), locked(found):
                shutil.rmtree(found, ignore_errors=True)
    while (folder := target.with_name(f"{name}{number}")).exists():
        number += 1
    folder.mkdir()
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process at the latest. Windows has no such lock.

    Raises:
        OSError: another process holds it.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


class ShardWriter:
    """Write weights into safetensors shards of a folder, with an index if there are several."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.total_size, self._size = 0, 0
        self._shard: dict[str, Tensor] = {}  # what is not written yet
        self._names: list[list[str]] = []  # of the weights in each shard that is written

    def add(self, weights: dict[str, Tensor]) -> None:
        """Add weights, and write those that are there if they fill a shard.

        Raises:
            OSError, safetensors.SafetensorError: they cannot be written.
        """
        size = sum(weight.numel() * weight.element_size() for weight in weights.values())
        if self._shard and self._size + size > SHARD_BYTES:
            self._write()
        self._shard.update(weights)
        self._size += size
        self.total_size += size
        if self._size >= SHARD_BYTES:
            self._write()

    def holds(self, name: str) -> bool:
        """Return whether a weight that was added is still to be written."""
        return name in self._shard

    def _write(self) -> None:
        shard = {name: weight.contiguous() for name, weight in self._shard.items()}
        save_file(shard, self._temporary_name(len(self._names)), metadata={"format": "pt"})
        self._names.append(list(shard))
        self._shard.clear()
        self._size = 0

    def _temporary_name(self, number: int) -> Path:
        return self.folder / f"{number}.safetensors"

    def close(self) -> None:
        """Write what is left, give the files the names that loading expects, and write the index."""
        if self._shard:
            self._write()
        count, weight_map = len(self._names), {}
        for number, names in enumerate(self._names):
            name = SAFE_WEIGHTS_NAME if count == 1 else f"model-{number + 1:05}-of-{count:05}.safetensors"
            self._temporary_name(number).rename(self.folder / name)
            weight_map |= dict.fromkeys(names, name)
        if count > 1:
            index = {"metadata": {"total_size": self.total_size}, "weight_map": weight_map}
            (self.folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    bits: int,
    quantize_embeddings: bool = False,
    calibration: BlockQuantizer | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> int:
    """Quantise a checkpoint folder into a new one.

    Args:
        source: float weights, in safetensors or `.bin` files, whole or in shards with an index.
        target: the folder to make, with safetensors files, configuration, code, and the source's other files.
        bits: 4 or 8.
        quantize_embeddings: the word embedding and the output layer, too.
        calibration: a `calibration.Calibration`; rounded to nearest if not given.
        progress: wraps the numbers of the blocks, which are converted one by one, as `tqdm` does.

    Returns:
        The bytes of the weights that were written.

    Raises:
        FileExistsError: the target exists.
        LoadError: the source's weights are missing, damaged or incomplete.
        ValueError: other bits, a source that is quantised, or weights that cannot be quantised.
        OSError, safetensors.SafetensorError: the target cannot be written, for example because the disk is full.
    """
    check_bits(bits)
    source, target = Path(source), Path(target)
    config = ChatGLMConfig.from_pretrained(source)
    if config.quantization_bit:
        raise ValueError(f"{source} is quantised to {config.quantization_bit} bits already: give the float checkpoint")
    if target.exists():
        raise FileExistsError(f"{target} exists: give a new folder, or remove that one first")
    weights = CheckpointWeights(source)
    check_layers(source, {"num_layers": config.num_layers}, weights)
    with unfinished_folder(target) as unfinished:
        writer = ShardWriter(unfinished)
        _convert_weights(config, weights, writer, bits, quantize_embeddings, calibration, progress)
        writer.close()
        for pattern in OTHER_FILES:
            for file in source.glob(pattern):
                shutil.copyfile(file, unfinished / file.name)
        config.quantization_bit, config.quantization_embeddings = bits, quantize_embeddings
        config.architectures = [ChatGLMForConditionalGeneration.__name__]
        config.save_pretrained(unfinished)
        unfinished.rename(target)
    return writer.total_size


@torch.no_grad()
def _convert_weights(
    config: ChatGLMConfig,
    weights: CheckpointWeights,
    writer: ShardWriter,
    bits: int,
    quantize_embeddings: bool,
    calibration: BlockQuantizer | None,
    progress: Callable[[Sequence[int]], Iterable[int]],
) -> None:
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    others = [name for name in model.state_dict() if not name.startswith((EMBEDDING, BLOCKS, OUTPUT))]

    embedding = model.transformer.word_embeddings
    loaded = _load(embedding, EMBEDDING, weights)
    if quantize_embeddings:
        embedding = QuantizedEmbedding.from_embedding(embedding, bits)
    writer.add(_named(embedding, EMBEDDING))
    if calibration is not None:
        # where it is mapped, the stored embedding reads the rows of the dialogues alone
        stored = embedding if quantize_embeddings else StoredEmbedding.from_embedding(embedding)
        model.transformer.word_embeddings = stored
        calibration.begin(model)
    if quantize_embeddings or not writer.holds(f"{EMBEDDING}weight"):
        release(loaded)

    for number in progress(range(config.num_layers)):
        block, prefix = model.transformer.layers[number], f"{BLOCKS}{number}."
        loaded = _load(block, prefix, weights)
        try:
            if calibration is None:
                quantize_block(block, bits)
            else:
                calibration.quantize_block(block, bits)
        except ValueError as error:
            raise ValueError(f"block {number}: {error}") from error
        converted = _named(block, prefix)
        writer.add(converted)
        kept = {weight.data_ptr() for weight in converted.values()}
        release(weight for weight in loaded if weight.data_ptr() not in kept)
        model.transformer.layers[number] = nn.Identity()
    writer.add({name: weights.read(name) for name in others})


def _load(module: nn.Module, prefix: str, weights: CheckpointWeights) -> list[Tensor]:
    """Fill a module on the meta device with what the files hold, without copying it; return that."""
    loaded = {name: weights.read(prefix + name) for name in module.state_dict()}
    try:
        module.load_state_dict(loaded, assign=True)
    except RuntimeError as error:  # sizes that config.json does not describe
        raise ValueError(f"{weights.folder}: weights and config.json do not go together: {error}") from error
    return list(loaded.values())


def _named(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in module.state_dict().items()}
