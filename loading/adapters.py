"""Small trained parts beside a base model: a P-Tuning v2 prefix or LoRA layers; load, save, merge, switch off.

A P-Tuning v2 prefix lies in `ptuning_prefix.safetensors`, a LoRA adapter in the files of the `peft` library. The header
of either, in the safetensors file, names the base that it was trained for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm.modeling_chatglm import PrefixEncoder
from chatglm.quantization import BLOCK_LINEARS, QuantizedLinear

from .checkpoint import PREFIX_KEYS, LoadError, check_file, read_header, read_json, refusals
from .weights import load_pickle

PREFIX_FILE = "ptuning_prefix.safetensors"
ORIGINAL_PREFIX_FILE = "pytorch_model.bin"
LORA_CONFIG_FILE = "adapter_config.json"
LORA_FILE = "adapter_model.safetensors"
OLD_LORA_FILE = "adapter_model.bin"  # as `peft` wrote it in 2023
LORA_KEYS = "base_model.model."  # before each parameter's name, as `peft` writes it
LORA_NAME = "default"
LORA_TARGETS = tuple(name for _, name in BLOCK_LINEARS)
LARGEST_RANK = 4096
PLAIN_NAME = re.compile(r"[\w.]+")  # peft takes other names for regular expressions


def fingerprint(model: ChatGLMForConditionalGeneration) -> str:
    """Return a fingerprint of the base model: a hash of its norms, which are the same in float, INT8 and INT4."""
    digest = hashlib.sha256()
    for norm in (model.transformer.layers[0].input_layernorm, model.transformer.final_layernorm):
        for values in (norm.weight, norm.bias):  # rounded to the coarsest format that a base is loaded in
            digest.update(values.detach().bfloat16().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def base_header(model: ChatGLMForConditionalGeneration) -> dict[str, str]:
    """Return the header by which an adapter's file names its base: name, fingerprint, layers and width."""
    return {
        "base": str(model.config.name_or_path),
        "base_fingerprint": fingerprint(model),
        "num_layers": str(model.config.num_layers),
        "hidden_size": str(model.config.hidden_size),
    }


def check_base(file: Path, header: Mapping[str, str], model: ChatGLMForConditionalGeneration) -> None:
    """Refuse an adapter that was trained for another base than this; a file without a header is not checked.

    Raises:
        LoadError: names both bases.
    """
    expected = base_header(model)
    for name in ("num_layers", "hidden_size", "base_fingerprint"):
        if header.get(name, expected[name]) != expected[name]:
            raise LoadError(
                f"{file} was trained for another base model: {header.get('base', 'unknown')} ({name} {header[name]}); "
                f"this is {expected['base']} ({name} {expected[name]}). Give the base it was trained for: --model"
            )


def check_prefix_base(folder: Path, model: ChatGLMForConditionalGeneration) -> None:
    """Refuse a P-Tuning v2 prefix that was trained for another base than this; the original's do not say for which.

    Raises:
        LoadError: names both bases.
    """
    if (folder / PREFIX_FILE).exists():
        check_base(folder / PREFIX_FILE, read_header(folder / PREFIX_FILE), model)


def write_prefix(folder: Path, model: ChatGLMForConditionalGeneration) -> None:
    """Write the model's P-Tuning v2 prefix, in float32, into a folder: `ptuning_prefix.safetensors` with a header."""
    encoder = model.transformer.prefix_encoder
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in encoder.state_dict().items()}
    header = base_header(model) | {"pre_seq_len": str(len(weights["embedding.weight"])), "format": "pt"}
    save_file(weights, folder / PREFIX_FILE, metadata=header)


def write_original_prefix(folder: Path, model: ChatGLMForConditionalGeneration) -> None:
    """Write the model's P-Tuning v2 prefix as the original did: `pytorch_model.bin` and `config.json`."""
    folder.mkdir(parents=True)
    weights = model.transformer.prefix_encoder.state_dict()
    named = {PREFIX_KEYS + name: weight.detach().float().cpu() for name, weight in weights.items()}
    torch.save(named, folder / ORIGINAL_PREFIX_FILE)
    model.config.save_pretrained(folder)


def read_prefix(folder: Path, config: ChatGLMConfig) -> dict[str, torch.Tensor]:
    """Return the prefix encoder's weights of a P-Tuning v2 checkpoint, this project's or the original's.

    Args:
        folder: holds ptuning_prefix.safetensors; or (Source: the original's ptuning/main.py) pytorch_model.bin, and
            perhaps config.json with the prefix's length.
        config: the base model's, which the prefix has to fit. The base itself is checked by `check_base`.
    """
    own = (folder / PREFIX_FILE).exists()
    file = folder / (PREFIX_FILE if own else ORIGINAL_PREFIX_FILE)
    if not file.exists():
        raise LoadError(f"{folder} holds no adapter: none of {PREFIX_FILE}, {ORIGINAL_PREFIX_FILE}, {LORA_CONFIG_FILE}")
    check_file(file)
    if own:
        header = read_header(file)
        with refusals(f"{file} is damaged"), safe_open(file, framework="pt") as opened:
            prefix = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        configured = header.get("pre_seq_len")
    else:
        weights = load_pickle(file)
        prefix = {name.removeprefix(PREFIX_KEYS): weights[name] for name in weights if name.startswith(PREFIX_KEYS)}
        has_config = (folder / "config.json").exists()
        configured = read_json(folder / "config.json").get("pre_seq_len") if has_config else None
    if "embedding.weight" not in prefix:
        name = "embedding.weight" if own else f"{PREFIX_KEYS}embedding.weight"
        raise LoadError(f"{file} holds no P-Tuning prefix: it lacks {name}")
    for name, weight in prefix.items():
        if not weight.is_floating_point() or weight.ndim != (1 if name.endswith("bias") else 2) or not len(weight):
            raise LoadError(
                f"{file} holds no P-Tuning prefix: {name:.80} is {weight.dtype} of shape {tuple(weight.shape)}"
            )
    length = len(prefix["embedding.weight"])
    if configured is not None and str(configured) != str(length):
        place = "the file's header" if own else "config.json"
        raise LoadError(f"{folder}: pre_seq_len is {configured} in {place}, but {length} in {file.name}")
    if own:
        for name in ("num_layers", "hidden_size"):
            if header.get(name) != str(getattr(config, name)):
                raise LoadError(
                    f"{file} belongs to another model, {header.get('base')}: its {name} is {header.get(name)}, this "
                    f"model's is {getattr(config, name)}"
                )
    width = prefix.get("trans.2.weight", prefix["embedding.weight"].T).shape[0]
    expected = 2 * config.num_layers * config.hidden_size
    if width != expected:
        raise LoadError(f"{file} belongs to another model: its prefix is {width} wide, this model's is {expected}")
    return prefix


@functools.cache
def _quantized_lora_linear() -> type:
    """Return the LoRA layer around a `QuantizedLinear`, a class of `peft`'s kind; `peft` is needed for LoRA only."""
    from peft.tuners import lora

    class QuantizedLoraLinear(lora.Linear):
        """Add a low-rank product in float32 to what a quantised matrix computes."""

        def _get_in_out_features(self, module: QuantizedLinear) -> tuple[int, int]:
            return module.in_features, module.out_features  # the library's own warns of a class that it does not know

        def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
            raise ValueError(
                f"a LoRA adapter cannot be merged into {self.get_base_layer().bits}-bit weights (rounding would lose "
                "it): merge it into the float model, then quantise"
            )

    return QuantizedLoraLinear


def _import_peft():
    try:
        import peft
    except ImportError as error:
        raise LoadError("LoRA needs the package peft: pip install -r ptuning/requirements.txt") from error
    return peft


def _inject(model: ChatGLMForConditionalGeneration, config) -> None:
    peft = _import_peft()
    config._register_custom_module({QuantizedLinear: _quantized_lora_linear()})
    peft.inject_adapter_in_model(config, model, adapter_name=LORA_NAME)
    model.peft_config = {LORA_NAME: config}
    for name, parameter in model.named_parameters():
        parameter.requires_grad = _is_trained(name)
        if "lora_" in name:  # trained and kept in float32, whatever the base computes in
            parameter.data = parameter.data.float()


def add_prefix(model: ChatGLMForConditionalGeneration, length: int, projection: bool = False) -> None:
    """Put a new P-Tuning v2 prefix of `length` virtual tokens, in float32, before the model; only it will be trained.

    Args:
        model: changed in place.
        length: virtual tokens, at least 1.
        projection: compute the prefix by a two-layer network from a smaller embedding.
    """
    model.config.pre_seq_len, model.config.prefix_projection = length, projection
    # compat: PyTorch's own initial values, as the original's; keys of the usual size 0.02 would hardly be attended to
    model.transformer.prefix_encoder = PrefixEncoder(model.config).to(model.device)
    model.freeze_for_prefix()


def add_lora(
    model: ChatGLMForConditionalGeneration,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Sequence[str] = LORA_TARGETS,
) -> None:
    """Put new LoRA layers around matrices of every block, float or quantised; only they will be trained.

    Args:
        model: changed in place; stays a `ChatGLMForConditionalGeneration`.
        rank: columns of the low-rank factors, at least 1.
        alpha: the product is scaled by alpha / rank.
        dropout: of the layers' inputs in training, 0 to 1.
        targets: names of the matrices, of those in `LORA_TARGETS`.
    """
    config = _import_peft().LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        base_model_name_or_path=str(model.config.name_or_path),
    )
    _inject(model, config)


def is_lora(folder: Path) -> bool:
    """Return whether a folder holds a LoRA adapter."""
    return (folder / LORA_CONFIG_FILE).exists()


def lora_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that a LoRA adapter has put around others, by name; none if no adapter was added.

    Besides low-rank layers these are whole copies of layers (`modules_to_save`).
    """
    named = model.named_modules()
    return {name: module for name, module in named if hasattr(module, "lora_A") or hasattr(module, "modules_to_save")}


def _is_trained(name: str) -> bool:
    return "lora_" in name or f".modules_to_save.{LORA_NAME}." in name


def _name_in_file(name: str) -> str:
    """Return a parameter's name as `peft` writes it, then and now."""
    name = name.replace(".modules_to_save", "").replace(f".{LORA_NAME}", "")
    return name.removesuffix(".weight") if name.endswith("lora_magnitude_vector.weight") else name


def lora_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the adapter's parameters as `peft` names them in its files."""
    named = model.named_parameters()
    return {LORA_KEYS + _name_in_file(name): parameter for name, parameter in named if _is_trained(name)}


def load_lora_weights(model: ChatGLMForConditionalGeneration, folder: Path) -> None:
    """Fill the model's LoRA layers from a folder.

    Raises:
        LoadError: the file is missing, damaged, another base's, or has other names or shapes; names the first.
    """
    file = folder / (LORA_FILE if (folder / LORA_FILE).exists() else OLD_LORA_FILE)
    check_file(file if file.exists() else folder / LORA_FILE)
    with refusals(f"{file} is damaged"):
        if file.name == LORA_FILE:
            check_base(file, read_header(file), model)
            stored = load_file(file)
        else:
            stored = torch.load(file, map_location="cpu", weights_only=True)
        stored, expected = {_name_in_file(name): weight for name, weight in stored.items()}, lora_weights(model)
    if unknown := sorted(stored.keys() - expected.keys()):
        raise LoadError(f"{file} holds {unknown[0]}, which this model has no place for by {LORA_CONFIG_FILE}")
    if missing := sorted(expected.keys() - stored.keys()):
        raise LoadError(f"{file} lacks {missing[0]}, which {LORA_CONFIG_FILE} says it has")
    with torch.no_grad():
        for name, parameter in expected.items():
            if stored[name].shape != parameter.shape:
                raise LoadError(
                    f"{file}: {name} is {tuple(stored[name].shape)}, this model's is {tuple(parameter.shape)}"
                )
            parameter.copy_(stored[name])


def load_lora(model: ChatGLMForConditionalGeneration, folder: Path) -> None:
    """Put the LoRA adapter in a folder around the model's matrices, in place, ready to be trained further.

    Raises:
        LoadError: a setting is not one that can be loaded here.
    """
    check_lora_config(folder / LORA_CONFIG_FILE)
    with refusals(f"cannot load {folder}"):
        config = _import_peft().LoraConfig.from_pretrained(folder)
        config.inference_mode = False
        if model.config.quantization_bit and config.use_dora:
            raise LoadError(f"{folder / LORA_CONFIG_FILE}: use_dora needs a float base: leave out --quantize")
        _inject(model, config)
        load_lora_weights(model, folder)


def load_adapter(model: ChatGLMForConditionalGeneration, folder: Path) -> None:
    """Put the prefix or LoRA adapter in a folder into a base model, in place, ready to answer.

    Raises:
        LoadError: what is missing, damaged, or another base's.
    """
    with refusals(f"cannot load {folder}"):
        if is_lora(folder):
            load_lora(model, folder)
        else:
            prefix = read_prefix(folder, model.config)
            add_prefix(model, len(prefix["embedding.weight"]), "trans.0.weight" in prefix)
            model.transformer.prefix_encoder.load_state_dict(prefix)
            check_prefix_base(folder, model)
    model.eval()


def check_lora_config(file: Path) -> None:
    """Refuse an adapter's configuration that is not LoRA's, or names matrices by regular expressions.

    Expressions can take longer than anybody waits, and the names that training writes need none.

    Raises:
        LoadError: names the key and the rule.
    """
    settings = read_json(file)
    if settings.get("peft_type") != "LORA":
        raise LoadError(f"{file}: peft_type must be LORA, got {settings.get('peft_type')!r:.80}")
    rank = settings.get("r", 8)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= LARGEST_RANK:
        raise LoadError(f"{file}: r must be 1 to {LARGEST_RANK}, got {rank!r:.80}")
    for name in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "target_parameters"):
        names = settings.get(name)
        if names is not None and not (isinstance(names, list) and all(map(is_plain_name, names))):
            raise LoadError(f"{file}: {name} must be a list of modules' names or null, got {names!r:.80}")
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = settings.get(name) or {}
        if not isinstance(pattern, dict) or not all(map(is_plain_name, pattern)):
            raise LoadError(f"{file}: {name} must have modules' names as keys, got {pattern!r:.80}")


def is_plain_name(name: object) -> bool:
    """Return whether this is a module's name, and not an expression for several."""
    return isinstance(name, str) and PLAIN_NAME.fullmatch(name) is not None


def merge_lora(model: ChatGLMForConditionalGeneration) -> None:
    """Add the adapter to the float matrices it stands around and take its layers out, in place.

    Raises:
        ValueError: quantised matrices, into which nothing can be merged without loss.
    """
    for name, layer in lora_layers(model).items():
        parent, _, child = name.rpartition(".")
        if hasattr(layer, "modules_to_save"):  # a trained copy, which replaces the original
            setattr(model.get_submodule(parent), child, layer.modules_to_save[LORA_NAME])
        else:
            layer.merge()
            setattr(model.get_submodule(parent), child, layer.get_base_layer())


def save_adapter(model: ChatGLMForConditionalGeneration, folder: Path) -> None:
    """Write the model's prefix or LoRA adapter, and nothing of its base, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if lora_layers(model):
        model.peft_config[LORA_NAME].save_pretrained(str(folder))
        weights = {name: weight.detach().cpu().contiguous() for name, weight in lora_weights(model).items()}
        save_file(weights, folder / LORA_FILE, metadata={"format": "pt", **base_header(model)})
    else:
        write_prefix(folder, model)


def save_whole(model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, folder: Path) -> None:
    """Write base (float or quantised), prefix if there is one, and tokenizer as one folder that all scripts load.

    Raises:
        ValueError: the model has a LoRA adapter; merge it first, or load it with `--ptuning_checkpoint`.
    """
    if lora_layers(model):
        raise ValueError("a LoRA adapter is not saved with its base: merge it, or keep it in its own folder")
    prefixed, length = hasattr(model.transformer, "prefix_encoder"), model.config.pre_seq_len
    weights = {name: weight for name, weight in model.state_dict().items() if "prefix_encoder." not in name}
    model.config.pre_seq_len = None  # the folder's base is an ordinary checkpoint, the prefix a file beside it
    try:
        model.save_pretrained(folder, state_dict=weights)
    finally:
        model.config.pre_seq_len = length
    tokenizer.save_pretrained(folder)
    if prefixed:
        write_prefix(folder, model)


def has_adapter(model: ChatGLMForConditionalGeneration) -> bool:
    """Return whether the model has a prefix or LoRA layers."""
    return hasattr(model.transformer, "prefix_encoder") or bool(lora_layers(model))


@contextlib.contextmanager
def adapters_off(model: ChatGLMForConditionalGeneration) -> Iterator[None]:
    """Let the model answer as its base does, exactly, for the time of a `with` block."""
    length, layers = model.config.pre_seq_len, lora_layers(model).values()
    model.config.pre_seq_len = None
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        model.config.pre_seq_len = length
        for layer in layers:
            layer.enable_adapters(True)
