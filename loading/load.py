"""Load a checkpoint onto its device or devices, ready to chat; whatever is wrong with it is a LoadError."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm.cpu_decode import cache_dtype

from . import adapters
from .arguments import ModelArguments, find_adapter_folder, parse_max_memory
from .checkpoint import LoadError, check_checkpoint, check_loaded, check_vocabulary, find_checkpoint, refusals
from .devices import (
    DTYPES,
    check_gpus,
    check_memory,
    choose_device,
    choose_dtype,
    dtype_name,
    keep_memory_together,
)
from .dispatch import (
    Place,
    auto_configure_device_map,
    dispatch,
    gpu_count,
    load_dispatched,
    main_place,
    plan_device_map,
    read_device_map,
    spell_out,
    torch_device,
)


def load_model_and_tokenizer(arguments: ModelArguments) -> tuple[ChatGLMForConditionalGeneration, ChatGLMTokenizer]:
    """Load a checkpoint onto its device, ready to chat, and say on standard error what was chosen.

    Raises:
        LoadError: whatever is wrong with the checkpoint, the device or the memory.
    """
    start = time.perf_counter()
    keep_memory_together()
    transformers.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    device = choose_device(arguments.device)
    folder = find_checkpoint(arguments.model_name_or_path)
    settings = check_checkpoint(folder)
    with refusals(f"cannot load {folder}"):
        config = ChatGLMConfig.from_pretrained(folder)
        tokenizer = ChatGLMTokenizer.from_pretrained(folder)
        check_vocabulary(folder, tokenizer, config)
        prefix, adapter = None, find_adapter(arguments.ptuning_checkpoint, folder)
        has_lora = adapter is not None and adapters.is_lora(adapter)
        if adapter is not None and not has_lora:
            prefix = adapters.read_prefix(adapter, config)
            config.pre_seq_len = len(prefix["embedding.weight"])
            config.prefix_projection = "trans.0.weight" in prefix
        if arguments.quantization_bit and config.quantization_bit:
            raise LoadError(f"{folder} is quantised to {config.quantization_bit} bits already: leave out --quantize")
        stored_dtype = settings.get("dtype") or settings.get("torch_dtype")
        if arguments.is_spread:
            model = load_spread_model(folder, config, arguments, stored_dtype)
        else:
            dtype = choose_dtype(arguments.dtype, device, config, stored_dtype)
            check_memory(config, device, dtype, arguments.quantization_bit)
            model = load_model(folder, config, device, dtype, arguments.quantization_bit)
        if prefix is not None:  # in float32, as it was trained
            model.transformer.prefix_encoder.float().load_state_dict(prefix)
            adapters.check_prefix_base(adapter, model)
        if has_lora:
            adapters.load_lora(model, adapter)
            model.eval()
    model.drafts = not arguments.no_drafts
    if arguments.cache_bits is not None:
        choose_cache_bits(model, arguments.cache_bits)
    dtype = model.transformer.final_layernorm.weight.dtype  # a quantised model's embedding stays in its own
    bits = f"{model.config.quantization_bit} bits, " if model.config.quantization_bit else ""
    name, seconds = folder.resolve().name, time.perf_counter() - start
    print(f"{name}: {bits}{dtype_name(dtype)} on {places(model)}, loaded in {seconds:.1f} s", file=sys.stderr)
    return model, tokenizer


@torch.no_grad()
def choose_cache_bits(model: ChatGLMForConditionalGeneration, bits: int) -> None:
    """Let a model keep each key and value in so many bits, 8 or 16.

    Raises:
        LoadError: it cannot.
    """
    kept = cache_dtype(model.transformer.layers, torch.empty(0, dtype=model.dtype, device=model.device), bits)
    if (kept or model.dtype).itemsize * 8 != bits:
        raise LoadError(
            f"--cache-bits {bits} is for quantised layers that the CPU kernels compute, without LoRA on them: leave it "
            "out, or add --quantize 8 or 4 and --device cpu"
        )
    model.transformer.cache_bits = bits


def find_adapter(ptuning_checkpoint: str | None, folder: Path) -> Path | None:
    """Return the folder of the adapter to load: the one asked for, or the checkpoint's own if it holds a prefix."""
    asked_for = find_adapter_folder(ptuning_checkpoint)
    return folder if asked_for is None and (folder / adapters.PREFIX_FILE).exists() else asked_for


def load_model(
    folder: Path, config: ChatGLMConfig, device: torch.device, dtype: torch.dtype, bits: int | None = None
) -> ChatGLMForConditionalGeneration:
    """Load a checkpoint's weights onto a device, quantised to `bits` each if given."""
    # weights go straight to their device; those to be quantised are read into main memory, as they may not fit there
    reads_into = torch.device("cpu") if bits else device
    # quantised layers keep their own formats, and the embedding the stored one, whatever is computed in
    stored_dtype = torch.float16 if bits else "auto" if config.quantization_bit else dtype
    model, report = ChatGLMForConditionalGeneration.from_pretrained(
        folder,
        config=config,
        dtype=stored_dtype,
        device_map=None if reads_into.type == "cpu" else {"": reads_into},
        ignore_mismatched_sizes=True,  # `check_loaded` says which shapes differ
        output_loading_info=True,
    )
    check_loaded(folder, report, config.num_layers)
    if bits:
        model.quantize(bits)
    return model.to(device=device, dtype=dtype).eval()


def load_spread_model(
    folder: Path, config: ChatGLMConfig, arguments: ModelArguments, stored_dtype: str | None = None
) -> ChatGLMForConditionalGeneration:
    """Load a checkpoint's weights onto several GPUs, into main memory or leave them on disk, as the arguments say."""
    device_map, bits = choose_device_map(arguments, config), arguments.quantization_bit
    max_memory = parse_max_memory(arguments.max_memory) if arguments.max_memory else None
    named = list(max_memory or []) if device_map is None else list(device_map.values())
    check_gpus(gpu_count(named))
    device = torch_device(main_place(named)) if named else choose_device("auto")
    dtype = choose_dtype(arguments.dtype, device, config, stored_dtype)
    if arguments.dtype == "auto" and device.type == "cpu" and not (bits or config.quantization_bit):
        dtype = DTYPES.get(stored_dtype, dtype)  # weights on disk would be converted for each token
    if not bits:
        return load_dispatched(folder, config, dtype, device_map, max_memory)
    check_memory(config, torch.device("cpu"), torch.float16, None)  # to be quantised, they are read there
    model = load_model(folder, config, torch.device("cpu"), dtype, bits)
    return dispatch(model, plan_device_map(model, max_memory) if device_map is None else spell_out(device_map, config))


def choose_device_map(arguments: ModelArguments, config: ChatGLMConfig) -> dict[str, Place] | None:
    """Return the device map that the arguments name, or None if it has to be planned."""
    if arguments.num_gpus is not None:
        return auto_configure_device_map(arguments.num_gpus, config.num_layers, config.pre_seq_len is not None)
    if arguments.device_map not in (None, "auto"):
        return read_device_map(Path(arguments.device_map).expanduser())
    return None


def load_model_on_gpus(
    checkpoint_path: str | os.PathLike,
    num_gpus: int = 2,
    device_map: dict[str, Place] | None = None,
    torch_dtype: torch.dtype = torch.float16,
    **kwargs: Any,
) -> ChatGLMForConditionalGeneration:
    """Load a model onto several GPUs, each weight straight to its own.

    Args:
        checkpoint_path: a checkpoint folder, or a name on the Hugging Face hub.
        num_gpus: over how many GPUs the layers are spread evenly, if there is no map.
        device_map: where parts lie; see `loading/dispatch.py`.
        torch_dtype: to compute in.
        **kwargs: replace what config.json says, such as `pre_seq_len`. `trust_remote_code` has no effect.

    Raises:
        LoadError: the checkpoint cannot be used, or there are fewer GPUs.
        ValueError: more GPUs than layers, or a map that does not name every part.

    Source: the original's function of this name.
    """
    kwargs.pop("trust_remote_code", None)
    folder = find_checkpoint(str(checkpoint_path))
    check_checkpoint(folder)
    with refusals(f"cannot load {folder}"):
        config = ChatGLMConfig.from_pretrained(folder, **kwargs)
    if device_map is None:
        device_map = auto_configure_device_map(num_gpus, config.num_layers, config.pre_seq_len is not None)
    check_gpus(gpu_count(device_map.values()))
    return load_dispatched(folder, config, torch_dtype, device_map)


def places(model: ChatGLMForConditionalGeneration) -> str:
    """Return the name of a model's device, or of all places that it is spread over with their layers."""
    layers: dict[str, int] = {}
    for part, place in getattr(model, "hf_device_map", {}).items():
        name = f"cuda:{place}" if isinstance(place, int) else str(place)
        layers[name] = layers.get(name, 0) + bool(re.fullmatch(r"transformer\.layers\.\d+", part))
    named = [f"{name} ({count} layer{'s' * (count != 1)})" for name, count in layers.items()]
    return ", ".join(named) or str(model.device)
