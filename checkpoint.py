"""Find a checkpoint, and refuse what is missing, cut short or another model's before anything is computed with it.

The format of a trained P-Tuning v2 prefix is here, too: `write_prefix`, `read_prefix`, `check_base`.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm.conversion import WEIGHT_FILES

VOCABULARY_FILE = "ice_text.model"
PREFIX_FILE = "ptuning_prefix.safetensors"
ORIGINAL_PREFIX_FILE = "pytorch_model.bin"
PREFIX_KEYS = "transformer.prefix_encoder."
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


class LoadError(Exception):
    """A checkpoint or a device that cannot be used. The message says in a line or two what is wrong and what to do."""


def find_checkpoint(model_name_or_path: str) -> Path:
    """Return the folder of a checkpoint, downloading it first if this is a name on the Hugging Face hub."""
    folder = Path(model_name_or_path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise LoadError(f"{folder} is a file: --model takes the folder that holds config.json and the weights")
    if not HUB_NAME.fullmatch(model_name_or_path):
        raise LoadError(f"{folder}: no such folder")
    try:
        for patterns in (["*.json", "*.model", "*.safetensors"], ["*.bin"]):
            folder = Path(snapshot_download(model_name_or_path, allow_patterns=patterns))
            if any(folder.glob("*.safetensors")):
                break
    except LocalEntryNotFoundError as error:
        raise LoadError(
            f"{model_name_or_path}: no such folder here, and no connection to the Hugging Face hub.\n"
            "Download the model's files on a connected machine, copy them here and give their folder: --model PATH"
        ) from error
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot download {model_name_or_path}: {shorten(error)}") from error
    return folder


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """Check the files of a checkpoint folder, without reading the weights; return the content of its config.json."""
    settings = read_json(folder / "config.json")
    if settings.get("model_type") != "chatglm":
        kind = settings.get("model_type", "nameless")
        raise LoadError(f"{folder / 'config.json'} describes a {kind} model, not ChatGLM-6B: choose another --model")
    if "padded_vocab_size" in settings:
        raise LoadError(f"{folder} holds a ChatGLM2 or later model, built differently from ChatGLM-6B: not supported")
    check_file(folder / VOCABULARY_FILE)
    find_weights(folder)
    return settings


def find_weights(folder: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights, one or several shards, checked to be whole."""
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if weights is None:
        raise LoadError(f"{folder} holds no weights ({' or '.join(WEIGHT_FILES)}): download them into it")
    check_file(weights)
    if weights.suffix != ".json":
        return [weights]
    shards = read_json(weights).get("weight_map")
    if not shards:
        raise LoadError(f"{weights} names no weights: download it again")
    files = [folder / name for name in sorted(set(shards.values()))]
    for file in files:
        check_file(file)
    return files


def check_file(file: Path) -> None:
    """Refuse a file that is missing, a Git LFS pointer, or cut short."""
    if not file.is_file():
        raise LoadError(f"{file} is missing: download it, or give the folder that has it")
    with file.open("rb") as stream:
        beginning = stream.read(64)
    if beginning.startswith(b"version https://git-lfs"):
        raise LoadError(
            f"{file} is a Git LFS pointer instead of the file: run `git lfs pull` in its folder, or download the file"
        )
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt"):
                return
        except SafetensorError as error:
            raise LoadError(f"{file} is damaged or cut short ({shorten(error)}): download it again") from error
    # a .bin file is a zip archive, whose table of contents stands at its end; before PyTorch 1.6 it was a bare pickle
    if file.suffix == ".bin" and not (zipfile.is_zipfile(file) or beginning.startswith(b"\x80")):
        raise LoadError(f"{file} ({file.stat().st_size} bytes) is damaged or cut short: download it again")


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    check_file(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"{file} is not JSON ({shorten(error)}): download it again") from error
    if not isinstance(content, dict):
        raise LoadError(f"{file} holds a JSON {type(content).__name__}, not an object: download it again")
    return content


def check_vocabulary(folder: Path, tokenizer: ChatGLMTokenizer, config: ChatGLMConfig) -> None:
    """Refuse a vocabulary that is another ChatGLM's, recognised by its special tokens."""
    found, expected = (
        (ids.bos_token_id, ids.eos_token_id, ids.gmask_token_id, ids.mask_token_id) for ids in (tokenizer, config)
    )
    if found != expected:
        raise LoadError(
            f"{folder / VOCABULARY_FILE} is another model's vocabulary: <sop>, <eop>, [gMASK] and [MASK] are tokens "
            f"{found} in it and {expected} in config.json"
        )


def check_loaded(folder: Path, report: dict[str, Any]) -> None:
    """Refuse weights that are incomplete or do not fit config.json, by the loading report of `from_pretrained`."""
    for name, found, expected in report["mismatched_keys"]:
        raise LoadError(f"{folder}: {name} is {tuple(found)} in the weights and {tuple(expected)} by config.json")
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(PREFIX_KEYS))
    if missing:
        raise LoadError(f"{folder} lacks {len(missing)} of the model's weights, first {missing[0]}: download it again")


def fingerprint(model: ChatGLMForConditionalGeneration) -> str:
    """Return what tells a base model from others: a hash of norms that stay the same in float, INT8 and INT4."""
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


def write_prefix(folder: Path, model: ChatGLMForConditionalGeneration) -> None:
    """Write the model's P-Tuning v2 prefix, in float32, into a folder: `ptuning_prefix.safetensors` with a header."""
    encoder = model.transformer.prefix_encoder
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in encoder.state_dict().items()}
    header = base_header(model) | {"pre_seq_len": str(len(weights["embedding.weight"])), "format": "pt"}
    save_file(weights, folder / PREFIX_FILE, metadata=header)


def read_prefix(folder: Path, config: ChatGLMConfig) -> dict[str, torch.Tensor]:
    """Return the prefix encoder's weights of a P-Tuning v2 checkpoint, this project's or the original's.

    Args:
        folder: holds ptuning_prefix.safetensors; or (Source: the original's ptuning/main.py) pytorch_model.bin, and
            perhaps config.json with the prefix's length.
        config: the base model's, which the prefix has to fit. The base itself is checked by `check_base`.
    """
    own = (folder / PREFIX_FILE).exists()
    file = folder / (PREFIX_FILE if own else ORIGINAL_PREFIX_FILE)
    check_file(file)
    if own:
        header = read_header(file)
        with safe_open(file, framework="pt") as opened:
            prefix = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        configured = header.get("pre_seq_len")
    else:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        prefix = {name.removeprefix(PREFIX_KEYS): weights[name] for name in weights if name.startswith(PREFIX_KEYS)}
        has_config = (folder / "config.json").exists()
        configured = read_json(folder / "config.json").get("pre_seq_len") if has_config else None
    if "embedding.weight" not in prefix:
        name = "embedding.weight" if own else f"{PREFIX_KEYS}embedding.weight"
        raise LoadError(f"{file} holds no P-Tuning prefix: it lacks {name}")
    length = len(prefix["embedding.weight"])
    if int(configured or length) != length:
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


def read_header(file: Path) -> dict[str, str]:
    """Return the header of a .safetensors file."""
    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}


def shorten(error: BaseException) -> str:
    """Return the beginning of an error's message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + " …"
