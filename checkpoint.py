"""Find a checkpoint, and refuse what is missing, cut short or another model's before anything is computed with it."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from chatglm import ChatGLMConfig, ChatGLMTokenizer

VOCABULARY_FILE = "ice_text.model"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PREFIX_FILE = "pytorch_model.bin"
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


def read_prefix(folder: Path, config: ChatGLMConfig) -> dict[str, torch.Tensor]:
    """Return the prefix encoder's weights of a P-Tuning v2 checkpoint (Source: the original's ptuning/main.py).

    Args:
        folder: holds pytorch_model.bin, and perhaps config.json with the prefix's length.
        config: the base model's, which the prefix has to fit.
    """
    file = folder / PREFIX_FILE
    check_file(file)
    weights = torch.load(file, map_location="cpu", weights_only=True)
    prefix = {name.removeprefix(PREFIX_KEYS): weights[name] for name in weights if name.startswith(PREFIX_KEYS)}
    if "embedding.weight" not in prefix:
        raise LoadError(f"{file} holds no P-Tuning prefix: it lacks {PREFIX_KEYS}embedding.weight")
    length = len(prefix["embedding.weight"])
    if (folder / "config.json").exists():
        configured = read_json(folder / "config.json").get("pre_seq_len") or length
        if configured != length:
            raise LoadError(f"{folder}: pre_seq_len is {configured} in config.json, but {length} in {PREFIX_FILE}")
    width = prefix.get("trans.2.weight", prefix["embedding.weight"].T).shape[0]
    expected = 2 * config.num_layers * config.hidden_size
    if width != expected:
        raise LoadError(f"{file} belongs to another model: its prefix is {width} wide, this model's is {expected}")
    return prefix


def shorten(error: BaseException) -> str:
    """Return the beginning of an error's message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + " …"
