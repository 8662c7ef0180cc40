"""What all scripts share: their arguments, loading a model onto its device, and how they end.

    model_arguments, sampling = parse_arguments(__doc__, ModelArguments, SamplingArguments)
    model, tokenizer = load_model_and_tokenizer(model_arguments)

No other file of the project chooses devices and number formats.
"""

import argparse
import inspect
import io
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Optional

import psutil
import torch
import transformers
from safetensors import SafetensorError

import adapters
from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from checkpoint import (
    PREFIX_FILE,
    LoadError,
    check_base,
    check_checkpoint,
    check_loaded,
    check_vocabulary,
    find_checkpoint,
    read_header,
    read_prefix,
    shorten,
)
from dispatch import (
    Place,
    auto_configure_device_map,
    dispatch,
    gpu_count,
    load_dispatched,
    main_place,
    parse_max_memory,
    plan_device_map,
    read_device_map,
    spell_out,
    torch_device,
)

EMBEDDED_CHECKPOINT = str(Path(__file__).resolve().parent / "chatglm")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
SMALL_MODEL_BYTES = 1 << 30  # a model below this size in float32 runs in float32 on any CPU
LOADING_ERRORS = (OSError, ValueError, RuntimeError, LookupError, EOFError, MemoryError, SafetensorError)
CHAT_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(ChatGLMForConditionalGeneration.stream_chat).parameters.items()
}


# Arguments


@dataclass
class ModelArguments:
    """Which checkpoint is loaded, and how."""

    model_name_or_path: str = field(
        default=EMBEDDED_CHECKPOINT,
        metadata={"aliases": ["--model"], "help": "checkpoint folder, or a model's name on the Hugging Face hub"},
    )
    device: str = field(
        default="auto",
        metadata={"help": "auto, cpu, cuda, cuda:N or mps; auto is cuda if there is one, else mps, else cpu"},
    )
    dtype: str = field(
        default="auto",
        metadata={
            "help": "auto, float16, bfloat16 or float32; auto is half precision on cuda and mps, and on a CPU "
            "bfloat16 for a large model if the CPU computes in it, else float32"
        },
    )
    quantization_bit: Optional[int] = field(
        default=None,
        metadata={"aliases": ["--quantize"], "help": "bits of a weight after quantising: 8 or 4; None: float"},
    )
    ptuning_checkpoint: Optional[str] = field(
        default=None,
        metadata={"help": "folder with a P-Tuning v2 prefix (ours or the original's) or a LoRA adapter for this model"},
    )
    num_gpus: Optional[int] = field(
        default=None, metadata={"help": "spread the layers evenly over the first so many NVIDIA GPUs; 1 and up"}
    )
    device_map: Optional[str] = field(
        default=None,
        metadata={
            "help": "auto fills what memory is free on GPUs, then main memory, then leaves the rest on disk; or a JSON "
            'file that says where parts lie, such as {"transformer.layers.0": 1, "lm_head": "cpu"}'
        },
    )
    max_memory: Optional[str] = field(
        default=None,
        metadata={
            "help": "memory for weights, such as cuda:0=3GiB,cpu=8GiB; on places in this order, and the rest stays on "
            "disk, where it is read for each token"
        },
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, got {self.device}")
        if self.dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype must be auto, float16, bfloat16 or float32, got {self.dtype}")
        if self.quantization_bit not in (None, 4, 8):
            raise ValueError(f"quantization_bit must be 4 or 8, got {self.quantization_bit}")
        if self.num_gpus is not None and self.num_gpus < 1:
            raise ValueError(f"num_gpus must be at least 1, got {self.num_gpus}")
        if self.num_gpus and (self.device_map or self.max_memory):
            raise ValueError("num_gpus spreads evenly: give either it, or device_map or max_memory")
        if self.max_memory:
            parse_max_memory(self.max_memory)
            if self.device_map not in (None, "auto"):
                raise ValueError("max_memory plans a device map: give either it, or a file as device_map")
        if self.is_spread and self.device != "auto":
            raise ValueError(f"device names one place: leave {self.device} out with num_gpus, device_map or max_memory")

    @property
    def is_spread(self) -> bool:
        """Whether the model's parts may lie in several places."""
        return any(value is not None for value in (self.num_gpus, self.device_map, self.max_memory))


@dataclass
class SamplingArguments:
    """How answers are drawn; the defaults are those of the model's `chat`."""

    max_length: int = field(
        default=CHAT_DEFAULTS["max_length"],
        metadata={"help": "limit of history, question and answer together, in tokens; 2 up to what the model allows"},
    )
    max_new_tokens: Optional[int] = field(
        default=None, metadata={"help": "limit of an answer alone, in tokens; 1 and up"}
    )
    top_p: float = field(
        default=CHAT_DEFAULTS["top_p"],
        metadata={"help": "draw from the likeliest tokens that have this probability together; above 0, up to 1"},
    )
    temperature: float = field(
        default=CHAT_DEFAULTS["temperature"],
        metadata={"help": "0 always takes the likeliest token, more varies more; 0 to 100"},
    )
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "above 1 makes tokens that have occurred less likely; above 0, up to 10"}
    )
    answer_language: Optional[str] = field(
        default=None, metadata={"help": "zh or en keeps answers to the tokens of one language; None mixes"}
    )
    seed: Optional[int] = field(default=None, metadata={"help": "repeats the same answers; 0 to 4294967295"})

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ValueError(f"max_length must be at least 2 tokens, got {self.max_length}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.temperature <= 100:
            raise ValueError(f"temperature must be from 0 to 100, got {self.temperature}")
        if not 0 < self.repetition_penalty <= 10:
            raise ValueError(f"repetition_penalty must be above 0 and at most 10, got {self.repetition_penalty}")
        if self.answer_language not in (None, "zh", "en"):
            raise ValueError(f"answer_language must be zh or en, got {self.answer_language}")
        if self.seed is not None and not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed must be from 0 to {(1 << 32) - 1}, got {self.seed}")

    def chat_keywords(self) -> dict[str, Any]:
        """Return the keyword arguments for `model.chat` and `model.stream_chat`."""
        keywords = {
            "max_length": self.max_length,
            "max_new_tokens": self.max_new_tokens,
            "top_p": self.top_p,
            "temperature": self.temperature,
            "repetition_penalty": self.repetition_penalty,
            "language": self.answer_language,
        }
        return {name: value for name, value in keywords.items() if value is not None}


@dataclass
class ServingArguments:
    """Where a server or a page listens, and how many people it answers at the same time."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen at; 0.0.0.0 is all of this computer's"})
    port: int = field(default=8000, metadata={"help": "port to listen at; 0 to 65535, 0 picks a free one"})
    max_batch_size: int = field(default=32, metadata={"help": "answers that are generated together; 1 and up"})

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, got {self.port}")
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, got {self.max_batch_size}")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show each flag's default, and the script's docstring as it is written."""


def parse_arguments(description: str, *dataclass_types: type, arguments: Optional[Sequence[str]] = None) -> tuple:
    """Parse command-line arguments, the process's own if none are given, into an instance of each dataclass.

    Flags may be written with dashes or underscores. A wrong value ends the process: one line, exit status 2.
    """
    parser = transformers.HfArgumentParser(
        dataclass_types, description=description, formatter_class=HelpFormatter, allow_abbrev=False
    )
    words = sys.argv[1:] if arguments is None else arguments
    words = [re.sub(r"^--[^=]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), word) for word in words]
    try:
        return parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except ValueError as error:  # from a dataclass's own checks, or for a flag that there is not
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def run_main(main: Callable[[], Optional[int]]) -> NoReturn:
    """Run a script's `main` on UTF-8 streams and exit with what it returns; a LoadError is one message and status 2."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        status = main()
    except LoadError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130  # as shells report a program that Ctrl-C ended
    except BrokenPipeError:  # the reader has gone: send what is still buffered nowhere, so that exiting does not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


# Loading


def load_model_and_tokenizer(arguments: ModelArguments) -> tuple[ChatGLMForConditionalGeneration, ChatGLMTokenizer]:
    """Load a checkpoint onto its device, ready to chat, and say on standard error what was chosen.

    Raises:
        LoadError: whatever is wrong with the checkpoint, the device or the memory.
    """
    start = time.perf_counter()
    transformers.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    device = choose_device(arguments.device)
    folder = find_checkpoint(arguments.model_name_or_path)
    settings = check_checkpoint(folder)
    try:
        config = ChatGLMConfig.from_pretrained(folder)
        tokenizer = ChatGLMTokenizer.from_pretrained(folder)
        check_vocabulary(folder, tokenizer, config)
        prefix, adapter = None, find_adapter(arguments.ptuning_checkpoint, folder)
        has_lora = adapter is not None and (adapter / adapters.LORA_CONFIG_FILE).exists()
        if adapter is not None and not has_lora:
            prefix = read_prefix(adapter, config)
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
            if (adapter / PREFIX_FILE).exists():
                check_base(adapter / PREFIX_FILE, read_header(adapter / PREFIX_FILE), model)
        if has_lora:
            adapters.load_lora(model, adapter)
            model.eval()
    except LOADING_ERRORS as error:
        raise LoadError(f"cannot load {folder}: {shorten(error)}") from error
    dtype = model.transformer.final_layernorm.weight.dtype  # a quantised model's embedding stays in its own
    bits = f"{model.config.quantization_bit} bits, " if model.config.quantization_bit else ""
    name, seconds = folder.resolve().name, time.perf_counter() - start
    print(f"{name}: {bits}{dtype_name(dtype)} on {places(model)}, loaded in {seconds:.1f} s", file=sys.stderr)
    return model, tokenizer


def find_adapter(ptuning_checkpoint: Optional[str], folder: Path) -> Optional[Path]:
    """Return the folder of the adapter to load: the one asked for, or the checkpoint's own if it holds a prefix."""
    if ptuning_checkpoint is not None:
        return Path(ptuning_checkpoint).expanduser()
    return folder if (folder / PREFIX_FILE).exists() else None


def load_model(
    folder: Path, config: ChatGLMConfig, device: torch.device, dtype: torch.dtype, bits: Optional[int] = None
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
    check_loaded(folder, report)
    if bits:
        model.quantize(bits)
    return model.to(device=device, dtype=dtype).eval()


def load_spread_model(
    folder: Path, config: ChatGLMConfig, arguments: ModelArguments, stored_dtype: Optional[str] = None
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


def choose_device_map(arguments: ModelArguments, config: ChatGLMConfig) -> Optional[dict[str, Place]]:
    """Return the device map that the arguments name, or None if it has to be planned."""
    if arguments.num_gpus is not None:
        return auto_configure_device_map(arguments.num_gpus, config.num_layers, config.pre_seq_len is not None)
    if arguments.device_map not in (None, "auto"):
        return read_device_map(Path(arguments.device_map).expanduser())
    return None


def load_model_on_gpus(
    checkpoint_path: str | os.PathLike,
    num_gpus: int = 2,
    device_map: Optional[dict[str, Place]] = None,
    torch_dtype: torch.dtype = torch.float16,
    **kwargs: Any,
) -> ChatGLMForConditionalGeneration:
    """Load a model onto several GPUs, each weight straight to its own.

    Args:
        checkpoint_path: a checkpoint folder, or a name on the Hugging Face hub.
        num_gpus: over how many GPUs the layers are spread evenly, if there is no map.
        device_map: where parts lie; see `dispatch.py`.
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
    config = ChatGLMConfig.from_pretrained(folder, **kwargs)
    if device_map is None:
        device_map = auto_configure_device_map(num_gpus, config.num_layers, config.pre_seq_len is not None)
    check_gpus(gpu_count(device_map.values()))
    return load_dispatched(folder, config, torch_dtype, device_map)


def check_gpus(needed: int) -> None:
    """Refuse to use more NVIDIA GPUs than there are."""
    found = torch.cuda.device_count()
    if needed > found:
        raise LoadError(
            f"{needed} NVIDIA GPUs are asked for, and PyTorch {torch.__version__} finds {found}. Check the driver "
            "(nvidia-smi) and CUDA_VISIBLE_DEVICES, or use --max-memory cpu=SIZE"
        )


def places(model: ChatGLMForConditionalGeneration) -> str:
    """Return the name of a model's device, or of all places that it is spread over with their layers."""
    layers: dict[str, int] = {}
    for part, place in getattr(model, "hf_device_map", {}).items():
        name = f"cuda:{place}" if isinstance(place, int) else str(place)
        layers[name] = layers.get(name, 0) + bool(re.fullmatch(r"transformer\.layers\.\d+", part))
    return ", ".join(f"{name} ({count} layers)" for name, count in layers.items()) or str(model.device)


def choose_device(name: str) -> torch.device:
    """Return the device that a `--device` value means here."""
    gpus, has_mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if gpus else "mps" if has_mps else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise LoadError(
            f"--device {name}: PyTorch {torch.__version__} finds {gpus} NVIDIA GPUs. Check the driver (nvidia-smi) and "
            "that PyTorch is built for CUDA, or use --device cpu"
        )
    if device.type == "mps" and not has_mps:
        raise LoadError(f"--device mps: PyTorch {torch.__version__} finds no Apple GPU. Use --device cpu")
    return device


def choose_dtype(
    name: str, device: torch.device, config: ChatGLMConfig, stored_dtype: Optional[str] = None
) -> torch.dtype:
    """Return the number format that a `--dtype` value means for a model whose checkpoint is stored in another."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if stored_dtype == "bfloat16" else torch.float16
    if device.type == "mps":
        return torch.float16 if mps_computes_in_half() else torch.float32
    large = weight_bytes(config, torch.float32) > SMALL_MODEL_BYTES
    return torch.bfloat16 if large and cpu_supports_bfloat16() else torch.float32


def mps_computes_in_half() -> bool:
    """Return whether this Apple GPU multiplies and normalises in float16; some systems refuse, or give NaN."""
    try:
        ones = torch.ones(4, 4, dtype=torch.float16, device="mps")
        return bool(torch.isfinite(torch.nn.functional.layer_norm(ones @ ones, (4,))).all())
    except (RuntimeError, TypeError):
        return False


def cpu_supports_bfloat16() -> bool:
    """Return whether this CPU computes in bfloat16 (AVX-512 BF16, AMX, Arm's); no where /proc/cpuinfo does not tell."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return False
    return re.search(r"^(flags|Features)\b.*\b(avx512_bf16|amx_bf16|bf16)\b", information.read_text(), re.M) is not None


def dtype_name(dtype: torch.dtype) -> str:
    """Return a number format's name without PyTorch's prefix."""
    return str(dtype).removeprefix("torch.")


# Memory


def weight_bytes(config: ChatGLMConfig, dtype: torch.dtype, bits: Optional[int] = None) -> int:
    """Return the bytes of memory that a model's weights take, those of its layers with `bits` each if given."""
    layer = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.inner_hidden_size
    layer_bits = embedding_bits = 8 * dtype.itemsize
    if bits:  # then the output layer's INT8 copy is what a CPU holds; the float embedding stays in its file
        layer_bits, embedding_bits = bits, bits if config.quantization_embeddings else 8
    return (config.num_layers * layer * layer_bits + config.vocab_size * config.hidden_size * embedding_bits) // 8


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device, within the limit of the container that this runs in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        in_use = int((group / "memory.current").read_text()) - int(statistics["inactive_file"])
        available = min(available, int(limit) - in_use)
    return available


def find_shortage(
    config: ChatGLMConfig, device: torch.device, dtype: torch.dtype, bits: Optional[int]
) -> Optional[tuple[torch.device, int, int]]:
    """Return where a model would not fit, the bytes it needs there and those that are free; None if it fits."""
    needs = {device: weight_bytes(config, dtype, bits or config.quantization_bit or None)}
    if bits:  # the float weights are read into main memory
        needs[torch.device("cpu")] = weight_bytes(config, torch.float16)
    for place, needed in needs.items():
        free = available_bytes(place)
        if needed > free:
            return place, needed, free
    return None


def check_memory(config: ChatGLMConfig, device: torch.device, dtype: torch.dtype, bits: Optional[int]) -> None:
    """Refuse a model that would not fit, before any weight is read, and name the flags with which it would."""
    shortage = find_shortage(config, device, dtype, bits)
    if shortage is None:
        return
    place, needed, free = shortage
    cpu = torch.device("cpu")
    choices = {"--dtype bfloat16": (device, torch.bfloat16, bits)}
    if not config.quantization_bit:
        choices |= {"--quantize 8": (device, dtype, 8), "--quantize 4": (device, dtype, 4)}
    choices["--device cpu"] = (cpu, choose_dtype("auto", cpu, config), bits)
    fitting = [flag for flag, choice in choices.items() if find_shortage(config, *choice) is None]
    if fitting:
        way_out = f"It fits with {' or '.join(fitting)}"
    else:
        way_out = (
            "Load a quantised checkpoint: one of the model's on the hub, or one made by "
            "`python quantize.py SOURCE TARGET --bits 4`"
        )
    raise LoadError(
        f"not enough memory: the weights take {needed / 1e9:.1f} GB ({dtype_name(dtype)}), and {free / 1e9:.1f} GB are "
        f"free on {place}.\n{way_out}"
    )
