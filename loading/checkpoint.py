"""Find a checkpoint, and refuse what is missing, cut short or another model's before anything is computed with it.

Nothing here imports PyTorch, so that scripts refuse a wrong folder at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

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
# What a checkpoint's other files must be, where they are there: the library takes an object for granted.
OBJECT_FILES = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
DTYPES = ("F64", "F32", "F16", "BF16", "I8")  # safetensors' names of what weights are stored in, quantised ones in I8
LARGEST_JSON = 1 << 26  # bytes
PREFIX_KEYS = "transformer.prefix_encoder."
LAYER_KEY = re.compile(r"transformer\.layers\.(\d{1,6})\.")
logger = logging.getLogger(__name__)
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


class LoadError(Exception):
    """A checkpoint or a device that cannot be used. The message says in a line or two what is wrong and what to do."""


@contextlib.contextmanager
def refusals(what: str) -> Iterator[None]:
    """Make a LoadError of whatever is raised while a user's files are read: they can make libraries raise anything.

    Args:
        what: begins the message, such as "cannot load FOLDER".

    Raises:
        LoadError: one line; one that is raised inside passes as it is.
    """
    try:
        yield
    except LoadError:
        raise
    except Exception as error:
        logger.debug("%s", what, exc_info=True)
        raise LoadError(f"{what}: {shorten(error)}") from error


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
    for name in OBJECT_FILES:
        if (folder / name).exists():
            content = read_json(folder / name)
            if name == "generation_config.json":
                check_token_ids(folder / name, content)
            images = content.get("num_image_tokens", 0)  # of the first release's vocabulary: 20,000
            if isinstance(images, bool) or not isinstance(images, int) or not 0 <= images < 1 << 24:
                raise LoadError(f"{folder / name}: num_image_tokens must be a number of tokens, got {images!r:.80}")
    weights, files = find_weights(folder)
    check_layers(folder, settings, stored_names(weights, files))
    return settings


def check_token_ids(file: Path, settings: dict[str, Any]) -> None:
    """Refuse special tokens that are no token ids."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = settings.get(name)
        for number in ids if isinstance(ids, list) else [] if ids is None else [ids]:
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise LoadError(f"{file}: {name} must be a token id, a list of them or null, got {ids!r:.80}")


def stored_names(weights: Path, files: Iterable[Path]) -> list[str]:
    """Return the names of a checkpoint's weights as far as they stand outside of pickles, which are not read here."""
    if weights.suffix == ".json":
        return list(read_json(weights)["weight_map"])
    names = []
    for file in files:
        if file.suffix == ".safetensors":
            with refusals(f"{file} is damaged"), safe_open(file, framework="np") as opened:
                names += opened.keys()
                for name in opened.keys():  # noqa: SIM118  (the library's object is no mapping)
                    if (dtype := opened.get_slice(name).get_dtype()) not in DTYPES:
                        raise LoadError(f"{file}: {name:.80} is stored as {dtype}, not as {', '.join(DTYPES)}")
    return names


def check_layers(folder: Path, settings: dict[str, Any], names: Iterable[str]) -> None:
    """Refuse a number of layers that is not that of the weights: with fewer, the answers would be noise.

    Args:
        folder: of the checkpoint.
        settings: of its config.json.
        names: of its weights; none of a layer if they are not known.
    """
    stored = {int(found[1]) for name in names if (found := LAYER_KEY.match(name))}
    configured = settings.get("num_layers", settings.get("num_hidden_layers", 28))
    if stored and (isinstance(configured, bool) or configured != max(stored) + 1):
        raise LoadError(
            f"{folder / 'config.json'}: num_layers is {configured!r:.80}, and the weights have {max(stored) + 1} "
            "layers: take both from the same checkpoint"
        )


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
    if not shards or not isinstance(shards, dict):
        raise LoadError(f"{weights} names no weights: download it again")
    for name in shards.values():  # of files beside it, and no others
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]{0,199}", name):
            raise LoadError(f"{weights}: weights must lie in files beside it, got {name!r:.80}: download it again")
    files = [folder / name for name in sorted(set(shards.values()))]
    for file in files:
        check_file(file)
    return weights, files


def check_file(file: Path) -> None:
    """Refuse a file that is missing, cannot be read, is a Git LFS pointer, or is cut short."""
    if not file.is_file():
        raise LoadError(f"{file} is missing: download it, or give the folder that has it")
    with refusals(f"{file} cannot be read"), file.open("rb") as stream:
        beginning = stream.read(64)
    if beginning.startswith(b"version https://git-lfs"):
        raise LoadError(
            f"{file} is a Git LFS pointer instead of the file: run `git lfs pull` in its folder, or download the file"
        )
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="np"):
                return
        except Exception as error:  # the library's own, and what memory mapping raises
            raise LoadError(f"{file} is damaged or cut short ({shorten(error)}): download it again") from error
    # a .bin file is a zip archive, whose table of contents stands at its end; before PyTorch 1.6 it was a bare pickle
    if file.suffix == ".bin" and not (zipfile.is_zipfile(file) or beginning.startswith(b"\x80")):
        raise LoadError(f"{file} ({file.stat().st_size} bytes) is damaged or cut short: download it again")


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    check_file(file)
    if file.stat().st_size > LARGEST_JSON:
        raise LoadError(f"{file} has {format_bytes(file.stat().st_size)}, too much for JSON: download it again")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
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
    if len(tokenizer) > config.vocab_size:
        raise LoadError(
            f"{folder / VOCABULARY_FILE} has {len(tokenizer)} tokens, but config.json's vocab_size is "
            f"{config.vocab_size}: take both from the same checkpoint"
        )


def check_loaded(folder: Path, report: dict[str, Any], num_layers: int) -> None:
    """Refuse weights that are incomplete or do not fit config.json, by the loading report of `from_pretrained`.

    Weights that the model has no use for are said on standard error.
    """
    for name, found, expected in report["mismatched_keys"]:
        raise LoadError(f"{folder}: {name} is {tuple(found)} in the weights and {tuple(expected)} by config.json")
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(PREFIX_KEYS))
    if missing:
        raise LoadError(f"{folder} lacks {len(missing)} of the model's weights, first {missing[0]}: download it again")
    unexpected = sorted(name for name in report.get("unexpected_keys", ()) if not name.startswith(PREFIX_KEYS))
    check_layers(folder, {"num_layers": num_layers}, [f"transformer.layers.{num_layers - 1}.", *unexpected])
    if unexpected:
        print(
            f"{folder}: {len(unexpected)} weights are not the model's and not used, first {unexpected[0]:.80}",
            file=sys.stderr,
        )


def read_header(file: Path) -> dict[str, str]:
    """Return the header of a .safetensors file."""
    with refusals(f"{file} is damaged"), safe_open(file, framework="np") as opened:
        return opened.metadata() or {}


def shorten(error: BaseException) -> str:
    """Return the beginning of an error's message, on one line, without advice that would have a pickle executed."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "a .bin file holds something else than tensors, which is not executed, or is damaged: download it again"
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, OSError | ValueError | RuntimeError):  # whose messages alone say little
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 500 else text[:500] + " …"


def format_bytes(count: int) -> str:
    """Return a number of bytes as people read it: 3.35 GB, 8.9 MB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
