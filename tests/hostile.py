"""Files, clients and failures that mean no good: each case is tried, and held if it ends as it should.

    python -m tests.hostile              all of them: a table of tried, held and fell, then what fell
    python -m tests.hostile --kinds index,pickle --list all

A file is held if it is refused by one or two lines, or loads and chats. `tests/test_hostile.py` tries a part of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import logging
import os
import pickle
import random
import shutil
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "tests") not in sys.path:  # as pytest has it
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import httpx  # noqa: E402
import torch  # noqa: E402
from replay import change_json, write_small_checkpoint  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from chatglm import InvalidLogitsError  # noqa: E402
from loading import adapters  # noqa: E402
from loading.arguments import ModelArguments  # noqa: E402
from loading.calibration import read_dialogues  # noqa: E402
from loading.checkpoint import LoadError, refusals  # noqa: E402
from loading.dispatch import read_device_map  # noqa: E402
from loading.load import load_model_and_tokenizer  # noqa: E402

LONGEST = 10.0  # seconds of computing for a case
DEEP = "[" * 100_000 + "]" * 100_000
NUMBERS = [None, "256", "x", 0, -1, -5, 1.5, 1e308, 10**6, 10**12, 10**30, True, [], {}, [4], float("nan")]
TEXTS = {
    "empty": b"",
    "half": b"{",
    "list": b"[]",
    "null": b"null",
    "number": b"1",
    "text": b'"x"',
    "deep": DEEP.encode(),
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "zeros": bytes(1000),
    "long number": b'{"a": ' + b"9" * 10_000 + b"}",
    "control": b'{"a": "\x01"}',
    "trailing": b"{} {}",
    "comment": b"// {}",
}


@dataclass
class Case:
    """Something hostile: its kind, its name, and what tries it and raises unless it is held."""

    kind: str
    name: str
    attempt: Callable[[], None]


# --------------------------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------------------------


class Checkpoints:
    """Gives fresh copies of a small checkpoint, whole, in shards, and as pickles."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        write_small_checkpoint(folder / "whole")
        self.weights = load_file(folder / "whole" / "model.safetensors")
        self.bytes = (folder / "whole" / "model.safetensors").read_bytes()

    def copy(self, form: str = "safetensors") -> Path:
        """Return a new folder; form is `safetensors`, `bin`, or `index` for two shards."""
        self.number += 1
        folder = Path(shutil.copytree(self.folder / "whole", self.folder / f"copy{self.number}"))
        if form == "bin":
            (folder / "model.safetensors").unlink()
            torch.save(self.weights, folder / "pytorch_model.bin")
        if form == "index":
            (folder / "model.safetensors").unlink()
            names = sorted(self.weights)
            shards = {f"model-0000{half + 1}-of-00002.safetensors": names[half::2] for half in range(2)}
            for file, part in shards.items():
                save_file({name: self.weights[name] for name in part}, folder / file, metadata={"format": "pt"})
            index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder


def must_be_refused_or_chat(load: Callable[[], tuple]) -> None:
    """Load what may be damaged; it must be refused by one or two lines, or chat."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            model, tokenizer = load()
    except LoadError as error:
        check_refusal(str(error))
        return
    with contextlib.suppress(InvalidLogitsError):  # which says what may be the matter
        answer, _ = model.chat(tokenizer, "你好", max_new_tokens=3, do_sample=False)
        assert isinstance(answer, str)


def must_be_refused(load: Callable[[], Any]) -> None:
    """Load what is damaged; it must be refused by one or two lines."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            load()
    except LoadError as error:
        check_refusal(str(error))
        return
    raise AssertionError("was taken")


def check_refusal(message: str) -> None:
    assert 1 <= len(message.splitlines()) <= 2 and len(message) < 1500, message
    assert "Traceback" not in message and "weights_only" not in message, message


def load(folder: Path, **arguments: Any) -> tuple:
    return load_model_and_tokenizer(ModelArguments(str(folder), device="cpu", **arguments))


def config_cases(checkpoints: Checkpoints) -> Iterator[Case]:
    """Give every number of config.json every wrong value, and other keys what they cannot be."""

    def attempt(key: str, value: Any, refused: bool) -> None:
        folder = checkpoints.copy()
        change_json(folder / "config.json", **{key: value})
        (must_be_refused if refused else must_be_refused_or_chat)(lambda: load(folder))

    counts = ("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "inner_hidden_size")
    counts += ("max_sequence_length", "bos_token_id", "eos_token_id", "mask_token_id", "gmask_token_id")
    for key, value in itertools.product((*counts, "pad_token_id", "pre_seq_len", "layernorm_epsilon"), NUMBERS):
        allowed = value is None or key in ("pad_token_id", "pre_seq_len", "layernorm_epsilon")
        limit = key == "max_sequence_length" and value == 10**6
        yield Case("config", f"{key} = {value!r}", partial(attempt, key, value, not (allowed or limit)))
    yield Case("config", "num_layers = 1 of 2", partial(attempt, "num_layers", 1, True))
    yield Case("config", "num_layers = 3 of 2", partial(attempt, "num_layers", 3, True))
    others = (
        "quantization_bit",
        "quantization_embeddings",
        "position_encoding_2d",
        "use_cache",
        "dtype",
        "torch_dtype",
    )
    others += ("tie_word_embeddings", "architectures", "auto_map", "model_type", "transformers_version", "id2label")
    others += ("attn_implementation", "prefix_projection", "num_labels", "rope_scaling", "quantization_config")
    for key, value in itertools.product(others, ["x", -1, [], {"a": 1}, [[[]]], "../../etc", 10**30]):
        yield Case("config", f"{key} = {value!r}", partial(attempt, key, value, False))


def json_cases(checkpoints: Checkpoints) -> Iterator[Case]:
    """Put every kind of broken JSON into every JSON file."""
    files = ("config.json", "model.safetensors.index.json", "generation_config.json", "tokenizer_config.json")
    files += ("special_tokens_map.json", "added_tokens.json")

    def attempt(file: str, text: bytes) -> None:
        folder = checkpoints.copy("index")
        (folder / file).write_bytes(text)
        must_be_refused_or_chat(lambda: load(folder))

    for file, (name, text) in itertools.product(files, TEXTS.items()):
        yield Case("JSON", f"{file}: {name}", partial(attempt, file, text))
    values = ["x", -1, 1.5, {}, [], ["x"], [[1]], 10**30, True, None]
    keys = [("generation_config.json", key) for key in ("eos_token_id", "bos_token_id", "pad_token_id", "max_length")]
    keys += [("generation_config.json", key) for key in ("temperature", "num_beams", "cache_implementation")]
    keys += [
        ("tokenizer_config.json", key) for key in ("model_max_length", "eos_token", "padding_side", "do_lower_case")
    ]
    keys += [("tokenizer_config.json", key) for key in ("added_tokens_decoder", "chat_template", "num_image_tokens")]

    def attempt_value(file: str, key: str, value: Any) -> None:
        folder = checkpoints.copy()
        if not (folder / file).exists():
            (folder / file).write_text("{}")
        change_json(folder / file, **{key: value})
        must_be_refused_or_chat(lambda: load(folder))

    for (file, key), value in itertools.product(keys, values):
        yield Case("JSON", f"{file}: {key} = {value!r}", partial(attempt_value, file, key, value))


def index_cases(checkpoints: Checkpoints) -> Iterator[Case]:
    """Let the index of shards name what it must not."""

    def attempt(name: Any, everything: bool) -> None:
        folder = checkpoints.copy("index")
        file = folder / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        first = next(iter(index["weight_map"]))
        index["weight_map"] = (
            dict.fromkeys(index["weight_map"], name) if everything else index["weight_map"] | {first: name}
        )
        file.write_text(json.dumps(index))
        must_be_refused(lambda: load(folder))

    names = [
        "/etc/passwd",
        "../whole/model.safetensors",
        "a/../../x",
        "..",
        ".",
        "",
        "/",
        "a/b",
        "\\\\server\\x",
        "x\0y",
    ]
    names += ["~/x", "C:\\x", "a" * 5000, "a\nb", " ", "no.safetensors", None, 1, [], {}, "file:///etc/passwd", "🙂"]
    for name, everything in itertools.product(names, (False, True)):
        yield Case("index", f"{name!r:.40}{' for all' * everything}", partial(attempt, name, everything))

    def attempt_whole(content: Any) -> None:
        folder = checkpoints.copy("index")
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        must_be_refused(lambda: load(folder))

    for content in ([], {}, {"weight_map": []}, {"weight_map": "x"}, {"weight_map": 1}, {"weight_map": None}, {"a": 1}):
        yield Case("index", f"is {content}", partial(attempt_whole, content))


class Evil:
    """What a pickle that executes code holds."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


def pickled(content: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(content, protocol=protocol)


def zipped(data: bytes, name: str = "archive/data.pkl") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def pickles(mark: Path) -> Iterator[tuple[str, bytes]]:
    """Yield .bin files, by name, that hold something else than a model's tensors."""
    zero = torch.zeros(2)
    contents = {
        "list": [zero],
        "scalar": 5,
        "text": "x",
        "none": None,
        "int keys": {1: zero},
        "tuple keys": {("a", 1): zero},
        "no tensors": {"a": 1},
        "nested": {"state_dict": {"a": zero}},
        "set": {1, 2},
        "one tensor": zero,
        "empty": {},
        "other names": {"a": zero},
        "sparse": {"a": torch.eye(2).to_sparse()},
        "lists in lists": json.loads("[" * 150 + "]" * 150),
    }
    for name, content in contents.items():
        yield name, saved(content)
    codes = {
        "system": Evil(mark),
        "in a dict": {"a": Evil(mark)},
        "in a list": [Evil(mark)],
        "partial": partial(print, 1),
    }
    codes |= {"class": Evil, "builtin": eval, "path": Path("/etc"), "range": range(10**9), "big": bytearray(10)}
    for name, content in codes.items():
        for form, wrap in (("bare", bytes), ("zip", zipped)):
            yield f"code: {name}, {form}", wrap(pickled(content))
    yield "opcodes: getattr", zipped(b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR.")
    yield "opcodes: memo bomb", zipped(b"\x80\x02]" + b"q\x00h\x00a" * 1000 + b".")
    yield "opcodes: endless", zipped(b"(" * 100_000 + b".")
    yield "opcodes: nothing", zipped(b".")
    yield "opcodes: unknown", zipped(b"\x80\x02\xff\xfe.")
    yield "huge text", zipped(b"\x80\x02X\xff\xff\xff\x7f.")
    yield "zip without a pickle", zipped(b"x", "other")
    yield "zip of nothing", zipped(b"")
    yield "zip slip", zipped(b"x", "../../x")
    yield "end of a zip", b"PK\x05\x06" + bytes(18)


def pickle_cases(checkpoints: Checkpoints) -> Iterator[Case]:
    """Put pickles of all kinds where weights and where a prefix should be; cut and change whole ones."""
    mark = checkpoints.folder / "executed"

    def attempt(data: bytes, as_prefix: bool, refused: bool = True) -> None:
        folder = checkpoints.copy("safetensors" if as_prefix else "bin")
        place = folder.with_name(folder.name + "-prefix") if as_prefix else folder
        place.mkdir(exist_ok=True)
        (place / "pytorch_model.bin").write_bytes(data)
        more = {"ptuning_checkpoint": str(place)} if as_prefix else {}
        (must_be_refused if refused else must_be_refused_or_chat)(lambda: load(folder, **more))
        assert not mark.exists(), "code was executed"

    for (name, data), as_prefix in itertools.product(pickles(mark), (False, True)):
        yield Case("pickle", f"{name}{', as a prefix' * as_prefix}", partial(attempt, data, as_prefix))
    whole = saved(checkpoints.weights)
    dice = random.Random(0)
    for _ in range(20):
        end = dice.randrange(len(whole))
        yield Case("pickle", f"cut to {end}", partial(attempt, whole[:end], False))
    for number in range(40):
        changed = bytearray(whole)
        for _ in range(8):
            changed[dice.randrange(3000)] = dice.randrange(256)
        yield Case("pickle", f"changed {number}", partial(attempt, bytes(changed), False, False))


def safetensors_cases(checkpoints: Checkpoints) -> Iterator[Case]:
    """Cut and change safetensors files, and give them headers that are none."""

    def attempt(data: bytes, refused: bool) -> None:
        folder = checkpoints.copy()
        (folder / "model.safetensors").write_bytes(data)
        (must_be_refused if refused else must_be_refused_or_chat)(lambda: load(folder))

    whole, dice = checkpoints.bytes, random.Random(1)
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    for _ in range(20):
        end = dice.randrange(len(whole))
        yield Case("safetensors", f"cut to {end}", partial(attempt, whole[:end], True))
    for number in range(50):
        changed = bytearray(whole)
        for _ in range(4):
            changed[dice.randrange(8 + length)] = dice.randrange(256)
        yield Case("safetensors", f"header changed {number}", partial(attempt, bytes(changed), False))

    def with_header(content: Any) -> bytes:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        return struct.pack("<Q", len(data)) + data + whole[8 + length :]

    first = next(name for name in header if name != "__metadata__")
    one = header[first]
    for name, change in {
        "negative offset": {"data_offsets": [-1, 4]},
        "far offset": {"data_offsets": [0, 10**15]},
        "turned offsets": {"data_offsets": [8, 0]},
        "no offsets": {"data_offsets": []},
        "negative shape": {"shape": [-1, 4]},
        "large shape": {"shape": [2**62, 4]},
        "text shape": {"shape": "x"},
        "no shape": {"shape": []},
        "other dtype": {"dtype": "F13"},
        "integers": {"dtype": "I16"},
        "truths": {"dtype": "U8", "shape": [*one["shape"], 2]},
    }.items():
        yield Case("safetensors", name, partial(attempt, with_header(header | {first: one | change}), True))
    for name, text in {**TEXTS, "metadata": b'{"__metadata__": 5}', "large": b" " * 1000}.items():
        yield Case("safetensors", f"header: {name}", partial(attempt, with_header(text), True))
    for size in (0, 1, 7, 2**31, 2**63, 2**64 - 1):
        data = struct.pack("<Q", size) + whole[8:]
        yield Case("safetensors", f"header of {size}", partial(attempt, data, True))
    others = {"F": torch.zeros(3), "transformer.layers.7.x": torch.zeros(3), "🙂": torch.zeros(1)}

    def attempt_names(weights: dict[str, torch.Tensor], refused: bool) -> None:
        folder = checkpoints.copy()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (must_be_refused if refused else must_be_refused_or_chat)(lambda: load(folder))

    for name, value in others.items():
        layers = name.startswith("transformer")
        yield Case("safetensors", f"also {name}", partial(attempt_names, checkpoints.weights | {name: value}, layers))
    for name in list(checkpoints.weights)[::4]:
        fewer = {key: value for key, value in checkpoints.weights.items() if key != name}
        yield Case("safetensors", f"without {name}", partial(attempt_names, fewer, name != "lm_head.weight"))
        halved = checkpoints.weights | {name: checkpoints.weights[name][:1].clone()}
        yield Case("safetensors", f"{name} of one row", partial(attempt_names, halved, name != "lm_head.weight"))


def vocabulary_cases(checkpoints: Checkpoints) -> Iterator[Case]:
    """Cut and change the vocabulary."""
    whole, dice = (checkpoints.folder / "whole" / "ice_text.model").read_bytes(), random.Random(2)

    def attempt(data: bytes) -> None:
        folder = checkpoints.copy()
        (folder / "ice_text.model").write_bytes(data)
        must_be_refused_or_chat(lambda: load(folder))

    for _ in range(15):
        end = dice.randrange(len(whole))
        yield Case("vocabulary", f"cut to {end}", partial(attempt, whole[:end]))
    for number in range(30):
        changed = bytearray(whole)
        for _ in range(6):
            changed[dice.randrange(len(whole))] = dice.randrange(256)
        yield Case("vocabulary", f"changed {number}", partial(attempt, bytes(changed)))


def adapter_cases(checkpoints: Checkpoints) -> Iterator[Case]:
    """Change a LoRA adapter's configuration and a prefix's file."""
    base, _ = load(checkpoints.copy())
    adapters.add_lora(base, 2, 4.0)
    lora, prefix = checkpoints.folder / "lora", checkpoints.folder / "prefix"
    adapters.save_adapter(base, lora)
    prefixed, _ = load(checkpoints.copy())
    adapters.add_prefix(prefixed, 3)
    adapters.save_adapter(prefixed, prefix)

    def attempt(adapter: Path, change: Callable[[Path], None], refused: bool) -> None:
        checkpoints.number += 1
        folder = Path(shutil.copytree(adapter, checkpoints.folder / f"adapter{checkpoints.number}"))
        change(folder)
        (must_be_refused if refused else must_be_refused_or_chat)(
            lambda: load(checkpoints.folder / "whole", ptuning_checkpoint=str(folder))
        )

    def set_key(key: str, value: Any, folder: Path) -> None:
        change_json(folder / "adapter_config.json", **{key: value})

    slow = r"(.*.*.*.*.*.*.*.*)*x"
    for key in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "target_parameters"):
        for value in (slow, [slow], "x", 5, {"a": 1}, [5], ["(a+)+$"]):
            yield Case("adapter", f"{key} = {value!r}", partial(attempt, lora, partial(set_key, key, value), True))
    for key in ("rank_pattern", "alpha_pattern"):
        for value in ({slow: 1}, {"(": 1}, [1], "x", 5):
            yield Case("adapter", f"{key} = {value!r}", partial(attempt, lora, partial(set_key, key, value), True))
    for value in ("x", 0, -1, 10**9, 1.5, [], True):
        yield Case("adapter", f"r = {value!r}", partial(attempt, lora, partial(set_key, "r", value), True))
    keys = (
        "lora_alpha",
        "lora_dropout",
        "bias",
        "peft_type",
        "use_dora",
        "use_rslora",
        "init_lora_weights",
        "task_type",
    )
    keys += (
        "layers_to_transform",
        "layer_replication",
        "auto_mapping",
        "loftq_config",
        "megatron_config",
        "fan_in_fan_out",
    )
    for key, value in itertools.product(keys, ("x", -1, [], {"a": 1}, 10**30)):
        yield Case("adapter", f"{key} = {value!r}", partial(attempt, lora, partial(set_key, key, value), False))

    def write(name: str, data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)

    for name, text in TEXTS.items():
        yield Case(
            "adapter",
            f"configuration: {name}",
            partial(attempt, lora, partial(write, "adapter_config.json", text), True),
        )
    for adapter, name in ((lora, "adapter_model.safetensors"), (prefix, "ptuning_prefix.safetensors")):
        whole, dice = (adapter / name).read_bytes(), random.Random(3)
        for _ in range(6):
            end = dice.randrange(len(whole))
            yield Case(
                "adapter", f"{name} cut to {end}", partial(attempt, adapter, partial(write, name, whole[:end]), True)
            )
        for number in range(12):
            changed = bytearray(whole)
            for _ in range(3):
                changed[dice.randrange(600)] = dice.randrange(256)
            yield Case(
                "adapter",
                f"{name} changed {number}",
                partial(attempt, adapter, partial(write, name, bytes(changed)), False),
            )

    def write_tensors(tensors: dict[str, torch.Tensor], folder: Path) -> None:
        save_file(tensors, folder / "ptuning_prefix.safetensors", metadata={"pre_seq_len": "x", "num_layers": "2"})

    key = "embedding.weight"
    for name, tensors in {
        "scalar": {key: torch.tensor(1.0)},
        "flat": {key: torch.zeros(5)},
        "integers": {key: torch.zeros(3, 128, dtype=torch.int32)},
        "no rows": {key: torch.zeros(0, 128)},
        "no columns": {key: torch.zeros(3, 0)},
        "half a network": {key: torch.zeros(3, 32), "trans.0.weight": torch.zeros(4, 32)},
        "other": {"x": torch.zeros(3)},
    }.items():
        yield Case("adapter", f"prefix: {name}", partial(attempt, prefix, partial(write_tensors, tensors), True))


def data_cases(checkpoints: Checkpoints) -> Iterator[Case]:
    """Give calibration, and a device map, files that are none."""
    _, tokenizer = load(checkpoints.copy())
    lines = {
        **TEXTS,
        "no prompt": b'{"response": "a"}',
        "numbers": b'{"prompt": 1, "response": 2}',
        "history is text": b'{"prompt": "a", "response": "b", "history": "x"}',
        "history of numbers": b'{"prompt": "a", "response": "b", "history": [1]}',
        "history of threes": b'{"prompt": "a", "response": "b", "history": [["a", "b", "c"]]}',
        "history is a number": b'{"prompt": "a", "response": "b", "history": 5}',
        "history of objects": b'{"prompt": "a", "response": "b", "history": [{"a": 1}]}',
    }
    file = checkpoints.folder / "data.jsonl"

    def attempt(data: bytes) -> None:
        file.write_bytes(data)

        def read() -> None:
            with refusals("cannot quantise"):
                read_dialogues(file, tokenizer)

        must_be_refused(read)

    for name, data in lines.items():
        yield Case("data", f"dialogues: {name}", partial(attempt, data))

    def attempt_map(data: bytes) -> None:
        file.write_bytes(data)
        try:
            read_device_map(file)
        except LoadError as error:
            check_refusal(str(error))

    maps = {
        **TEXTS,
        **{str(value): json.dumps({"lm_head": value}).encode() for value in (1.5, [], {}, None, True, -1, 10**30)},
    }
    maps |= {name: json.dumps({"lm_head": name}).encode() for name in ("x", "cuda:x", "cuda:-1", "disk:1", "", "\0")}
    for name, data in maps.items():
        yield Case("data", f"device map: {name!r}", partial(attempt_map, data))


FILES = (
    config_cases,
    json_cases,
    index_cases,
    pickle_cases,
    safetensors_cases,
    vocabulary_cases,
    adapter_cases,
    data_cases,
)


# --------------------------------------------------------------------------------------------------------------------
# Requests
# --------------------------------------------------------------------------------------------------------------------

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
PATHS = ("/", "/stream", "/predict?user_msg=a", CHAT, COMPLETIONS, EMBEDDINGS, "/chat", "/clear")
QUESTION = {"role": "user", "content": "a"}
DELIBERATE = (429, 503, 504)
SCALARS = [None, True, 0, -1, 1.5, 1e308, 10**30, "", "x", "\0", "\u2028", [], {}, [[]], [None], {"a": 1}]


def server(folder: Path):
    """Return an application with every route, and its engine, on a small model."""
    from chatglm import ChatGLMForConditionalGeneration, ChatGLMTokenizer
    from engine import Engine
    from server.app import build_app
    from server.arguments import ServerArguments

    model = ChatGLMForConditionalGeneration.from_pretrained(folder).float().eval()
    made = Engine(model, ChatGLMTokenizer.from_pretrained(folder))
    return build_app(made, ServerArguments(glm_bot=True)), made


def request_cases(folder: Path) -> Iterator[Case]:
    """Send every route what it must refuse, and what costs much."""
    write_small_checkpoint(folder / "served")
    app, _ = server(folder / "served")

    async def send(path: str, content: bytes, headers: dict[str, str], method: str) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            answer = await client.request(method, path, content=content, headers=headers)
            assert (await client.get("/health")).status_code == 200
            return answer

    def attempt(path: str, content: Any, headers: dict[str, str] | None = None, method: str = "POST") -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        answer = asyncio.run(send(path, data, headers or {}, method))
        assert answer.status_code < 500 or answer.status_code in DELIBERATE, (
            f"{answer.status_code}: {answer.text[:200]}"
        )
        if answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.text.endswith("data: [DONE]\n\n")
        elif method == "POST":
            answer.json()

    for path, (name, text) in itertools.product(PATHS, TEXTS.items()):
        yield Case("request", f"{path}: {name}", partial(attempt, path, text))
    bodies = {"/": {"prompt": "a", "max_new_tokens": 2}, CHAT: {"messages": [QUESTION], "max_tokens": 2}}
    bodies |= {COMPLETIONS: {"prompt": "a", "max_tokens": 2}, EMBEDDINGS: {"input": "a"}}
    keys = {"/": ("prompt", "history", "max_length", "temperature", "top_p", "stop", "stream", "seed", "language")}
    keys[CHAT] = ("messages", "n", "stop", "logprobs", "top_logprobs", "stream_options", "tools", "response_format")
    keys[COMPLETIONS] = ("prompt", "n", "stop", "logprobs", "max_tokens", "logit_bias", "echo", "seed")
    keys[EMBEDDINGS] = ("input", "encoding_format", "dimensions", "model")
    for path, names in keys.items():
        for name, value in itertools.product(names, SCALARS):
            yield Case("request", f"{path}: {name} = {value!r}", partial(attempt, path, bodies[path] | {name: value}))
    for name, (path, body) in costly_requests().items():
        yield Case("costly request", name, partial(attempt, path, body))
    for name, query in {
        "many users": "msg=" + "&usrid=" * 8000,
        "many sources": "msg=a" + "&source=" * 8000,
        "many signs": "msg=" + "&" * 60_000,
        "percents": "msg=" + "%" * 60_000,
    }.items():
        yield Case("costly request", f"/chatglm: {name}", partial(attempt, f"/chatglm?{query}", b"", None, "GET"))
    for method, path in itertools.product(
        ("PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "GET"), (*PATHS, "/no", "/../x")
    ):
        yield Case("request", f"{method} {path}", partial(attempt, path, b"{}", None, method))


def costly_requests() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return requests of up to 1 MiB that took long, or could: a path and a body each, by name."""
    system = {"role": "system", "content": "a"}
    short = {"max_new_tokens": 1}
    found = {
        "24,000 system messages": (CHAT, {"messages": [system] * 24_000 + [QUESTION], "max_tokens": 1}),
        "24,000 questions": (CHAT, {"messages": [QUESTION] * 24_000, "max_tokens": 1}),
        "8,000 rounds of messages": (
            CHAT,
            {"messages": [QUESTION, {"role": "assistant", "content": ""}] * 8000 + [QUESTION]},
        ),
        "340,000 wrong messages": (CHAT, {"messages": [1] * 340_000}),
        "340,000 wrong parts": (CHAT, {"messages": [{"role": "user", "content": [1] * 340_000}]}),
        "60,000 unknown roles": (CHAT, {"messages": [{"role": "x"}] * 60_000}),
        "100,000 unknown fields": (CHAT, {"messages": [QUESTION], **{f"k{number}": 1 for number in range(100_000)}}),
        "100,000 biases": (CHAT, {"messages": [QUESTION], "logit_bias": {str(number): 1 for number in range(100_000)}}),
        "100,000 empty rounds": ("/", {"prompt": "a", "history": [["", ""]] * 100_000, **short}),
        "4,000 rounds": ("/", {"prompt": "a", "history": [["a", "b"]] * 4000, **short}),
        "340,000 wrong rounds": ("/", {"prompt": "a", "history": [[]] * 340_000}),
        "a history of 1 MB, streamed": ("/", {"prompt": "a", "history": [["a" * 1_000_000, "b"]], "stream": True}),
        "2,048 letters to embed": (EMBEDDINGS, {"input": ["a"] * 2048}),
        "340,000 ids to embed": (EMBEDDINGS, {"input": [1] * 340_000}),
        "64 prompts": (COMPLETIONS, {"prompt": ["a"] * 64, "max_tokens": 1}),
        "16 long stops": (
            CHAT,
            {"messages": [QUESTION], "stop": ["a" * 255 + str(number) for number in range(10, 26)]},
        ),
        "logprobs of all": (CHAT, {"messages": [QUESTION], "logprobs": True, "top_logprobs": 20, "max_tokens": 90}),
        "logprobs of a completion": (COMPLETIONS, {"prompt": "a", "logprobs": 5, "max_tokens": 90}),
    }
    for name, unit in {
        "letters": "a",
        "spaces": " ",
        "tabs": "\t",
        "signs": "<",
        "emoji": "🙂",
        "marks": "\u0301",
    }.items():
        found |= {f"a prompt of {name}": ("/", {"prompt": unit * 150_000, **short})}
        found |= {f"a history of {name}": ("/", {"prompt": "a", "history": [[unit * 150_000, "b"]], **short})}
    return found


# --------------------------------------------------------------------------------------------------------------------
# Failures in the engine's loop, kernels, signals
# --------------------------------------------------------------------------------------------------------------------


def engine_cases(folder: Path) -> Iterator[Case]:
    """Let every call of the engine's loop raise, by number."""
    import pytest
    import test_engine_failures as failures
    from serving import write_lively_checkpoint

    from chatglm import ChatGLMTokenizer

    patch = pytest.MonkeyPatch()
    model = write_lively_checkpoint(folder / "lively")
    calls = failures.Calls(patch)
    made = failures.small_engine((model, ChatGLMTokenizer.from_pretrained(folder / "lively")), patch)
    logging.getLogger("engine.engine").setLevel(logging.CRITICAL)  # its tracebacks were asked for
    failures.check_still_sound(made, calls)

    def attempt(number: int) -> None:
        calls.restart(number)
        failures.ask(made)
        failures.check_still_sound(made, calls)

    for number in range(0, len(calls.made), 3):
        yield Case("engine", f"call {number} raises", partial(attempt, number))
    made.close()
    patch.undo()


def pytest_cases(folder: Path) -> Iterator[Case]:
    """Run the tests that are cases of their own: compiled kernels, connections, signals."""
    import pytest

    class Counter:
        def __init__(self) -> None:
            self.reports: list[Any] = []

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.failed:
                self.reports.append(report)

    def told(report: Any) -> None:
        assert not report.failed, str(report.longrepr)[-500:]

    for kind, file in (("kernels", "test_kernel_cache.py"), ("connection", "test_server_connections.py")):
        counter = Counter()
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", str(ROOT / "tests" / file)], plugins=[counter])
        for report in counter.reports:
            if not report.skipped:
                yield Case(kind, report.nodeid, partial(told, report))


# --------------------------------------------------------------------------------------------------------------------
# Trying them
# --------------------------------------------------------------------------------------------------------------------


def attempt(case: Case) -> str | None:
    """Try a case; return why it fell, None if it held."""
    start = time.process_time()  # whatever else the machine does
    try:
        case.attempt()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    return f"took {seconds:.0f} s" if seconds > LONGEST else None


def all_cases(folder: Path) -> Iterator[Case]:
    """Yield every case; what they need is made in a folder, and copies in it are removed after each."""
    checkpoints = Checkpoints(folder)
    for cases in FILES:
        for case in cases(checkpoints):
            yield case
            for copy in (*folder.glob("copy*"), *folder.glob("adapter[0-9]*")):
                shutil.rmtree(copy)
    for cases in (request_cases, engine_cases, pytest_cases):
        yield from cases(folder)


def run(kinds: Sequence[str] = (), every: int = 1, show: str = "fell") -> tuple[dict[str, list[int]], list[str]]:
    """Try cases; return how many of each kind were tried and fell, and a line for each that fell.

    Args:
        kinds: which, all if none are given.
        every: only each so many-th case.
        show: `all` writes each case to standard error before it is tried.
    """
    counts: dict[str, list[int]] = {}
    fell: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(all_cases(Path(folder))):
            if (kinds and case.kind not in kinds) or number % every:
                continue
            if show == "all":
                print(f"{case.kind}: {case.name[:100]}", file=sys.stderr, flush=True)
            why = attempt(case)
            count = counts.setdefault(case.kind, [0, 0])
            count[0] += 1
            if why is not None:
                count[1] += 1
                fell.append(f"{case.kind}: {case.name[:100]}: {why[:500]}")
    return counts, fell


def main(words: Sequence[str] | None = None) -> int:
    """Try the cases, print the table, and return 1 if one fell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="", help="kinds of cases, by commas (all)")
    parser.add_argument("--every", type=int, default=1, help="try each so many-th case (1)")
    parser.add_argument("--list", choices=("fell", "all"), default="fell", help="name those that fell, or all (fell)")
    arguments = parser.parse_args(words)
    from transformers.utils import logging as library

    library.set_verbosity_error()
    library.disable_progress_bar()
    counts, fell = run([kind for kind in arguments.kinds.split(",") if kind], arguments.every, arguments.list)
    print("| kind | tried | held | fell |\n|---|---|---|---|")
    total = [sum(column) for column in zip(*counts.values(), strict=True)] or [0, 0]
    for kind, (tried, down) in (*counts.items(), ("all", total)):
        print(f"| {kind} | {tried} | {tried - down} | {down} |")
    for line in fell:
        print(line, file=sys.stderr)
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main())
