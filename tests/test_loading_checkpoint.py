"""Tests of loading/checkpoint.py: every way a checkpoint can be wrong is one or two clear lines and exit status 2."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from replay import ROOT, change_json, write_small_checkpoint
from safetensors.torch import load_file, save_file
from test_tokenization_chatglm import write_vocabulary

import cli_demo
from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration
from loading.adapters import read_prefix
from loading.arguments import run_main
from loading.checkpoint import LoadError, check_checkpoint, find_checkpoint

LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1878448640\n"


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory) -> Path:
    """Return a whole checkpoint that tests copy before they damage it."""
    folder = tmp_path_factory.mktemp("small_checkpoint") / "checkpoint"
    write_small_checkpoint(folder)
    return folder


@pytest.fixture
def folder(small_checkpoint, tmp_path) -> Path:
    """Return a checkpoint in one safetensors file."""
    return Path(shutil.copytree(small_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def sharded(folder) -> Path:
    """Return a checkpoint in three .bin shards with an index, as the published one is."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {f"pytorch_model-0000{i + 1}-of-00003.bin": names[i::3] for i in range(3)}
    for file, part in shards.items():
        torch.save({name: weights[name].clone() for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def cut(file: Path, share: float = 0.6) -> None:
    os.truncate(file, int(file.stat().st_size * share))


def load_error(monkeypatch, capsys, model: Path | str, *arguments: str) -> str:
    """Run cli_demo.py, which must end with status 2 and nothing but one or two lines; return them."""
    monkeypatch.setattr(sys, "argv", ["cli_demo.py", "--model", str(model), "--device", "cpu", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_main(cli_demo.main)
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert err.startswith("cli_demo.py: error: ") and 1 <= len(err.splitlines()) <= 2
    return err


def test_whole_checkpoints_pass(folder, small_checkpoint):
    assert check_checkpoint(folder)["model_type"] == "chatglm"
    assert check_checkpoint(small_checkpoint)["num_layers"] == 2


def test_sharded_checkpoint_answers_alike(sharded, small_checkpoint, monkeypatch, capsys):
    answers = []
    for folder in (sharded, small_checkpoint):
        arguments = ["--model", str(folder), "--device", "cpu", "--temperature", "0", "--max-new-tokens", "9"]
        monkeypatch.setattr(sys, "argv", ["cli_demo.py", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO("今天\n"))
        with pytest.raises(SystemExit) as ended:
            run_main(cli_demo.main)
        assert ended.value.code == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != "\n"


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "../missing", "~/no-such-folder", "a/b/c", "中文"])
def test_missing_folder(monkeypatch, capsys, name):
    assert "no such folder" in load_error(monkeypatch, capsys, name)


def test_file_instead_of_a_folder(folder, monkeypatch, capsys):
    assert "takes the folder" in load_error(monkeypatch, capsys, folder / "model.safetensors")


@pytest.mark.parametrize("offline", [{}, {"HF_HUB_OFFLINE": "1"}])
@pytest.mark.long
def test_hub_name_without_a_network(tmp_path, offline):
    """No connection is two lines that say what to do, at once; the process is a new one, as the hub's settings are."""
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)} | offline
    command = [sys.executable, ROOT / "cli_demo.py", "--model", "THUDM/chatglm-6b"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("cli_demo.py: error: THUDM/chatglm-6b: no such folder here, and no connection")
    assert "--model PATH" in done.stderr and len(done.stderr.splitlines()) == 2


def test_downloaded_snapshot_is_used_without_a_network(folder, tmp_path, monkeypatch):
    """What an earlier run has downloaded is found in the hub's cache, safetensors and .bin files alike."""
    commit = "0" * 40
    snapshot = tmp_path / "models--someone--chatglm-6b" / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    (tmp_path / "models--someone--chatglm-6b" / "refs").mkdir()
    (tmp_path / "models--someone--chatglm-6b" / "refs" / "main").write_text(commit)
    original = huggingface_hub.snapshot_download

    def download(name, allow_patterns):
        return original(name, allow_patterns=allow_patterns, cache_dir=tmp_path, local_files_only=True)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_checkpoint("someone/chatglm-6b") == snapshot


@pytest.mark.parametrize("file", ["config.json", "ice_text.model", "model.safetensors"])
def test_missing_file(folder, monkeypatch, capsys, file):
    (folder / file).unlink()
    message = load_error(monkeypatch, capsys, folder)
    assert (file if file != "model.safetensors" else "holds no weights") in message and "download" in message


@pytest.mark.parametrize("file", ["config.json", "ice_text.model", "model.safetensors"])
def test_git_lfs_pointer(folder, monkeypatch, capsys, file):
    (folder / file).write_text(LFS_POINTER)
    message = load_error(monkeypatch, capsys, folder)
    assert file in message and "Git LFS pointer" in message and "git lfs pull" in message


def test_truncated_safetensors(folder, monkeypatch, capsys):
    cut(folder / "model.safetensors")
    message = load_error(monkeypatch, capsys, folder)
    assert "model.safetensors is damaged or cut short" in message


@pytest.mark.parametrize("damage", [Path.unlink, cut, lambda file: file.write_text(LFS_POINTER), Path.touch])
def test_damaged_shard(sharded, monkeypatch, capsys, damage):
    shard = sharded / "pytorch_model-00002-of-00003.bin"
    if damage is Path.touch:
        shard.unlink()
    damage(shard)
    assert shard.name in load_error(monkeypatch, capsys, sharded)


@pytest.mark.parametrize("text", ["{", "[]", "", "\x00"])
def test_broken_config(folder, monkeypatch, capsys, text):
    (folder / "config.json").write_text(text)
    assert "config.json" in load_error(monkeypatch, capsys, folder)


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": {}}'])
def test_broken_index(sharded, monkeypatch, capsys, text):
    (sharded / "pytorch_model.bin.index.json").write_text(text)
    assert "pytorch_model.bin.index.json" in load_error(monkeypatch, capsys, sharded)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "describes a llama model, not ChatGLM-6B"),
        ({"padded_vocab_size": 65024, "ffn_hidden_size": 13696}, "ChatGLM2 or later"),
        ({"hidden_size": 33}, "hidden_size must be a multiple"),
        ({"hidden_size": 64}, r"by config\.json|which has shape"),  # in the words of either end of transformers
        ({"num_layers": 3}, "num_layers is 3, and the weights have 2 layers"),
        ({"num_layers": 1}, "num_layers is 1, and the weights have 2 layers"),
        ({"quantization_bit": 3}, "quantization_bit must be"),
        ({"bos_token_id": 17}, "another model's vocabulary"),
    ],
)
def test_config_that_does_not_fit(folder, monkeypatch, capsys, changes, message):
    change_json(folder / "config.json", **changes)
    assert re.search(message, load_error(monkeypatch, capsys, folder))


def test_weight_missing_in_whole_files(folder, monkeypatch, capsys):
    weights = load_file(folder / "model.safetensors")
    name = "transformer.layers.1.mlp.dense_h_to_4h.weight"
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = load_error(monkeypatch, capsys, folder)
    assert "lacks 1 of the model's weights" in message and name in message


def test_quantised_checkpoint_without_scales(folder, monkeypatch, capsys):
    change_json(folder / "config.json", quantization_bit=8)
    message = load_error(monkeypatch, capsys, folder)
    assert "weight_scale" in message


def test_quantising_a_quantised_checkpoint(folder, monkeypatch, capsys):
    ChatGLMForConditionalGeneration.from_pretrained(folder).quantize(4).save_pretrained(folder)
    assert "quantised to 4 bits already" in load_error(monkeypatch, capsys, folder, "--quantize", "8")


@pytest.mark.parametrize("content", [b"", b"this is no vocabulary", None])
def test_wrong_vocabulary(folder, tmp_path, monkeypatch, capsys, content):
    vocabulary = folder / "ice_text.model"
    if content is None:  # another SentencePiece model, without ChatGLM's tokens
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy(write_vocabulary(other, [], ["<n>"]), vocabulary)
    else:
        vocabulary.write_bytes(content)
    assert "ice_text.model" in load_error(monkeypatch, capsys, folder)


# P-Tuning


def write_prefix(folder: Path, width: int, length: int = 5, **settings) -> Path:
    folder.mkdir()
    torch.save(
        {"transformer.prefix_encoder.embedding.weight": torch.zeros(length, width)}, folder / "pytorch_model.bin"
    )
    if settings:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_prefix_of_another_model(folder, tmp_path, monkeypatch, capsys):
    prefix = write_prefix(tmp_path / "prefix", width=256)
    message = load_error(monkeypatch, capsys, folder, "--ptuning-checkpoint", str(prefix))
    assert "256" in message and "128" in message  # 2 layers, key and value, 32 wide


def test_prefix_whose_config_differs(tmp_path):
    config = ChatGLMConfig(hidden_size=32, num_layers=2, num_attention_heads=2)
    prefix = write_prefix(tmp_path / "prefix", width=128, pre_seq_len=128)
    with pytest.raises(LoadError, match="pre_seq_len is 128 in config.json, but 5"):
        read_prefix(prefix, config)


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "whole model"])
def test_prefix_that_is_none(folder, tmp_path, monkeypatch, capsys, kind):
    prefix = write_prefix(tmp_path / "prefix", width=128)
    file = prefix / "pytorch_model.bin"
    if kind == "missing":
        shutil.rmtree(prefix)
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "cut":
        cut(file)
    else:
        torch.save({"transformer.final_layernorm.weight": torch.zeros(32)}, file)
    message = load_error(monkeypatch, capsys, folder, "--ptuning-checkpoint", str(prefix))
    assert "pytorch_model.bin" in message
