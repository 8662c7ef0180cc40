"""Find a checkpoint, and refuse what is missing, cut short or another model's before anything is computed with it.

Nothing here imports PyTorch, so that scripts refuse a wrong folder at once.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from chatglm import ChatGLMConfig, ChatGLMTokenizer

VOCABULARY_FILE = "ice_text.model"
# Where a checkpoint's weights may be, the first that is there being read; the names are transformers'.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PREFIX_KEYS = "transformer.prefix_encoder."
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


class LoadError(Exception):
    """A checkpoint or a device that cannot be used. The message says in a line or two what is wrong and what to do."""


def find_folder(model_name_or_path: str) -> Path | None:
    """Return a checkpoint's folder on this computer; None for what can only be a name on the Hugging Face hub.

    Raises:
        LoadError: it is neither.
    """
    folder = Path(model_name_or_path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise LoadError(f"{folder} is a file: --model takes the folder that holds config.json and the weights")
    if not HUB_NAME.fullmatch(model_name_or_path):
        raise LoadError(f"{folder}: no such folder")
    return None


def find_checkpoint(model_name_or_path: str) -> Path:
    """Return the folder of a checkpoint, downloading it first if this is a name on the Hugging Face hub."""
    if (folder := find_folder(model_name_or_path)) is not None:
        return folder
    import huggingface_hub  # takes a second, and only names need it
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        for patterns in (["*.json", "*.model", "*.safetensors"], ["*.bin"]):
            folder = Path(huggingface_hub.snapshot_download(model_name_or_path, allow_patterns=patterns))
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


def find_weights(folder: Path) -> tuple[Path, list[Path]]:
    """Find a checkpoint's weights and check their files to be whole.

    Returns:
        (the file that holds them or is the index of their shards, the files that hold them).

    Raises:
        LoadError: there are none, or a file is missing or damaged.
    """
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if weights is None:
        raise LoadError(f"{folder} holds no weights ({' or '.join(WEIGHT_FILES)}): download them into it")
    check_file(weights)
    if weights.suffix != ".json":
        return weights, [weights]
    shards = read_json(weights).get("weight_map")
    if not shards:
        raise LoadError(f"{weights} names no weights: download it again")
    files = [folder / name for name in sorted(set(shards.values()))]
    for file in files:
        check_file(file)
    return weights, files


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
            with safe_open(file, framework="np"):
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


def read_header(file: Path) -> dict[str, str]:
    """Return the header of a .safetensors file."""
    with safe_open(file, framework="np") as opened:
        return opened.metadata() or {}


def shorten(error: BaseException) -> str:
    """Return the beginning of an error's message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + " …"


def format_bytes(count: int) -> str:
    """Return a number of bytes as people read it: 3.35 GB, 8.9 MB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
