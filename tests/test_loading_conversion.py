"""The converter: what it writes is what `quantize` and `save_pretrained` write, and a failure leaves nothing behind."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import original
import pytest
import torch
from replay import change_json, write_small_checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm.configuration_chatglm import copy_code
from loading import conversion
from loading.calibration import Calibration
from loading.checkpoint import LoadError
from loading.conversion import convert_checkpoint
from loading.weights import CheckpointWeights, release

KINDS = ("int8", "int4", "int4_qe")
PUBLISHED_FORMAT = "bin shards"
OTHER_FORMATS = ("safetensors", "safetensors shards", "bin", "bin of old PyTorch")


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "checkpoint"
    write_small_checkpoint(folder)
    (folder / "MODEL_LICENSE").write_text("terms")
    (folder / "modeling_chatglm.py").write_text("raise RuntimeError('code of the checkpoint')")
    return folder


@pytest.fixture
def source(small_checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(small_checkpoint, tmp_path / "source"))


def rewrite(folder: Path, file_format: str) -> None:
    """Store a checkpoint's weights another way: in `.bin` files with both copies of the embedding, or in shards."""
    weights = load_file(folder / "model.safetensors")
    suffix = file_format.split()[0]
    if suffix == "bin":
        weights["lm_head.weight"] = weights["transformer.word_embeddings.weight"]
        weights["transformer.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(4)  # as the original's
    (folder / "model.safetensors").unlink()
    count, names = 3 if "shards" in file_format else 1, sorted(weights)
    stem = {"bin": "pytorch_model", "safetensors": "model"}[suffix]
    weight_map = {}
    for number in range(count):
        file = f"{stem}-{number + 1:05}-of-{count:05}.{suffix}" if count > 1 else f"{stem}.{suffix}"
        # a block's weights in several files, as where shards meet
        shard = {name: weights[name].clone() for name in names[number::count]}
        weight_map |= dict.fromkeys(shard, file)
        if suffix == "bin":
            torch.save(shard, folder / file, _use_new_zipfile_serialization="old" not in file_format)
        else:
            save_file(shard, folder / file, metadata={"format": "pt"})
    if count > 1:
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def assert_equal_weights(folder: Path, expected: Path) -> None:
    """Assert that two folders hold weights of the same names, formats and bytes."""
    weights, others = read_weights(folder), read_weights(expected)
    assert weights.keys() == others.keys()
    for name, other in others.items():
        assert weights[name].dtype == other.dtype and torch.equal(weights[name], other), name


def nothing_is_left(folder: Path) -> bool:
    return [path.name for path in folder.parent.iterdir()] == ["source"]


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "file_format"),
    [(kind, PUBLISHED_FORMAT) for kind in KINDS] + [("int4", file_format) for file_format in OTHER_FORMATS],
)
def test_convert_checkpoint_writes_what_quantize_and_save_pretrained_write(source, tmp_path, kind, file_format):
    rewrite(source, file_format)
    bits, quantize_embeddings = int(kind[3]), kind == "int4_qe"
    size = convert_checkpoint(source, tmp_path / "deep" / "target", bits, quantize_embeddings)
    model = ChatGLMForConditionalGeneration.from_pretrained(source).quantize(bits, quantize_embeddings)
    model.save_pretrained(tmp_path / "expected")
    assert_equal_weights(tmp_path / "deep" / "target", tmp_path / "expected")
    weights = read_weights(tmp_path / "expected").values()
    assert size == sum(weight.numel() * weight.element_size() for weight in weights)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("deep/target", "expected")]
    configs[1].pop("_name_or_path", None)  # older libraries write down where the source lay
    assert configs[0] == configs[1]


@torch.no_grad()
def test_converted_checkpoint_is_whole(source, tmp_path):
    convert_checkpoint(source, tmp_path / "target", 4)
    target = tmp_path / "target"
    model = ChatGLMForConditionalGeneration.from_pretrained(target).float()
    expected = ChatGLMForConditionalGeneration.from_pretrained(source).quantize(4).float()
    tokenizers = [ChatGLMTokenizer.from_pretrained(folder) for folder in (source, target)]
    input_ids = torch.tensor([tokenizers[0].encode_chat("今天")[0]])
    assert tokenizers[1].encode_chat("今天")[0] == input_ids[0].tolist()
    assert torch.equal(model(input_ids).logits, expected(input_ids).logits)
    (tmp_path / "code").mkdir()
    copy_code(tmp_path / "code")
    for file in (file for file in (tmp_path / "code").rglob("*") if file.is_file()):
        written = target / file.relative_to(tmp_path / "code")
        assert written.read_bytes() == file.read_bytes(), "the code beside it is ours"
    for name in ("ice_text.model", "tokenizer_config.json", "generation_config.json", "MODEL_LICENSE"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert list(target.parent.glob("*unfinished*")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_convert_checkpoint_gives_the_original_bytes(reference, tmp_path, kind):
    convert_checkpoint(reference / "tiny-chatglm", tmp_path / "target", int(kind[3]), kind == "int4_qe")
    golden = torch.load(reference / "golden" / f"quantized_{kind}.pt", weights_only=True)
    weights = read_weights(tmp_path / "target")
    names = [name for name in golden if not name.startswith("lm_head") and "rotary_emb" not in name]
    assert sum(golden[name].dtype == torch.int8 for name in names) == 8 + (kind == "int4_qe")
    for name in names:
        assert torch.equal(weights[name], golden[name]), name


@torch.no_grad()
@pytest.mark.parametrize("quantize_embeddings", [False, True])
def test_converted_int8_checkpoint_stays_near_original(small_reference, tmp_path, quantize_embeddings):
    convert_checkpoint(small_reference, tmp_path / "target", 8, quantize_embeddings)
    model = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "target").float()
    for prompt in original.PROMPTS:
        logits = model(original.FORWARD[f"{prompt}.input_ids"]).logits[0]
        expected = original.FORWARD[f"{prompt}.logits"]
        assert (logits - expected).norm() <= 0.15 * expected.norm()


@torch.no_grad()
def test_large_checkpoint_becomes_shards_with_an_index(source, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "SHARD_BYTES", 4000)
    size = convert_checkpoint(source, tmp_path / "target", 8)
    files = sorted(file.name for file in (tmp_path / "target").glob("*.safetensors"))
    assert len(files) > 2
    assert files == [f"model-{number + 1:05}-of-{len(files):05}.safetensors" for number in range(len(files))]
    index = json.loads((tmp_path / "target" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == size
    assert {name: file for file in files for name in load_file(tmp_path / "target" / file)} == index["weight_map"]
    ChatGLMForConditionalGeneration.from_pretrained(source).quantize(8).save_pretrained(tmp_path / "expected")
    assert_equal_weights(tmp_path / "target", tmp_path / "expected")
    model = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "target")
    for name, weight in read_weights(tmp_path / "expected").items():
        assert torch.equal(model.state_dict()[name], weight)


@pytest.mark.parametrize("quantize_embeddings", [False, True])
def test_convert_checkpoint_calibrates_as_quantize_does(source, tmp_path, quantize_embeddings):
    tokenizer = ChatGLMTokenizer.from_pretrained(source)
    examples = [torch.tensor(tokenizer.encode_chat(text)[0]) for text in ("今天", "你好 hello", "a b c")]
    convert_checkpoint(source, tmp_path / "target", 4, quantize_embeddings, Calibration(examples))
    model = ChatGLMForConditionalGeneration.from_pretrained(source)
    model.quantize(4, quantize_embeddings, calibration=Calibration(examples)).save_pretrained(tmp_path / "expected")
    assert_equal_weights(tmp_path / "target", tmp_path / "expected")


def test_progress_sees_every_block(source, tmp_path):
    seen = []
    convert_checkpoint(source, tmp_path / "target", 4, progress=lambda blocks: seen.append(len(blocks)) or blocks)
    assert seen == [2]


def test_convert_checkpoint_keeps_a_prefix(tmp_path, small_checkpoint):
    model = write_small_checkpoint(tmp_path / "source", pre_seq_len=3)
    convert_checkpoint(tmp_path / "source", tmp_path / "target", 8)
    name = "transformer.prefix_encoder.embedding.weight"
    assert torch.equal(read_weights(tmp_path / "target")[name], model.state_dict()[name].half())


# -- what goes wrong --------------------------------------------------------------------------------------------------


def lose_a_shard(source: Path) -> None:
    rewrite(source, "bin shards")
    (source / "pytorch_model-00002-of-00003.bin").unlink()


def lose_all_weights(source: Path) -> None:
    (source / "model.safetensors").unlink()


def be_quantised(source: Path) -> None:
    change_json(source / "config.json", quantization_bit=8)


def be_larger(source: Path) -> None:
    change_json(source / "config.json", inner_hidden_size=256)


def change_weights(source: Path, change) -> None:
    weights = load_file(source / "model.safetensors")
    weights = {name: weight.clone() for name, weight in weights.items()}
    change(weights)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})


def lose_a_weight(source: Path) -> None:
    change_weights(source, lambda weights: weights.pop("transformer.layers.1.mlp.dense_4h_to_h.bias"))


def lose_a_weight_of_the_index(source: Path) -> None:
    lose_a_weight(source)
    rewrite(source, "safetensors shards")


def hold_nan(source: Path) -> None:
    change_weights(source, lambda weights: weights["transformer.layers.1.mlp.dense_4h_to_h.weight"][3].fill_(torch.nan))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lose_a_shard, LoadError, "pytorch_model-00002-of-00003.bin"),
        (lose_all_weights, LoadError, "holds no weights"),
        (be_quantised, ValueError, "quantised to 8 bits already"),
        (be_larger, ValueError, "(?s)weights and config.json do not go together.*dense_h_to_4h"),
        (lose_a_weight, LoadError, r"model.safetensors lacks the weight transformer.layers.1.mlp.dense_4h_to_h.bias"),
        (lose_a_weight_of_the_index, LoadError, r"index.json lacks the weight .*layers.1.mlp.dense_4h_to_h.bias"),
        (hold_nan, ValueError, "block 1: weights must be finite .* 1 rows"),
    ],
)
def test_bad_source_leaves_nothing_behind(source, tmp_path, damage, error, message):
    damage(source)
    with pytest.raises(error, match=message):
        convert_checkpoint(source, tmp_path / "target", 4)
    assert nothing_is_left(source)


def test_convert_checkpoint_refuses_other_bits(source, tmp_path):
    with pytest.raises(ValueError, match="must be 4 or 8, got 3"):
        convert_checkpoint(source, tmp_path / "target", 3)
    assert nothing_is_left(source)


def test_existing_target_is_not_touched(source, tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="target exists: give a new folder"):
        convert_checkpoint(source, tmp_path / "target", 4)
    assert [file.name for file in (tmp_path / "target").iterdir()] == ["file"]


def test_full_disk_leaves_nothing_behind(source, tmp_path, monkeypatch):
    """Files may grow to 6 kB: writing fails in the midst of the second shard, as on a full disk."""
    monkeypatch.setattr(conversion, "SHARD_BYTES", 4000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        with pytest.raises((OSError, SafetensorError)):
            convert_checkpoint(source, tmp_path / "target", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert nothing_is_left(source)


def test_interrupt_leaves_nothing_behind(source, tmp_path):
    def stop_in_the_midst(blocks):
        yield blocks[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, tmp_path / "target", 4, progress=stop_in_the_midst)
    assert nothing_is_left(source)


def test_unfinished_folder_does_not_look_like_a_checkpoint(source, tmp_path):
    """What a killed process leaves has no config.json, and not the name that was asked for."""
    found = []

    def look(blocks):
        for number in blocks:
            (unfinished,) = tmp_path.glob("target*")
            found.append((unfinished.name != "target", (unfinished / "config.json").exists()))
            yield number

    convert_checkpoint(source, tmp_path / "target", 4, progress=look)
    assert found == [(True, False)] * 2
    assert ChatGLMConfig.from_pretrained(tmp_path / "target").quantization_bit == 4


# -- memory -----------------------------------------------------------------------------------------------------------


def mapped_memory() -> int:
    """Return how many bytes of this process' memory are pages of mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssFile"].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process' memory apart")
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_are_mapped_and_given_back(tmp_path, file):
    weight = torch.arange(1 << 24).to(torch.int16).view(4096, 4096)  # 32 MiB
    save = save_file if file.endswith("safetensors") else torch.save
    save({"weight": weight}, tmp_path / file)
    weights = CheckpointWeights(tmp_path)
    read = weights.read("weight")
    before = mapped_memory()
    assert torch.equal(read, weight)
    assert mapped_memory() - before > 24 << 20
    release([read])
    assert mapped_memory() - before < 8 << 20
    assert torch.equal(read, weight)  # it is read again
