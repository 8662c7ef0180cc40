"""Tests of ptuning/export.py, and of the original's flags in ptuning/web_demo.py."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from conftest import ROOT

from loading import adapters
from loading.arguments import ModelArguments
from loading.checkpoint import LoadError
from loading.load import load_model_and_tokenizer
from ptuning import export

PROMPT = "你好"


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    pytest.importorskip("peft", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")
    folder = tmp_path_factory.mktemp("lora")
    model, _ = load(base)
    adapters.add_lora(model, rank=2, alpha=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapters.save_adapter(model, folder)
    return folder


def load(folder, **arguments):
    return load_model_and_tokenizer(ModelArguments(str(folder), "cpu", "float32", **arguments))


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, words)])
    export.main()


def test_export_with_lora_merges_and_then_quantises(base, lora, tmp_path, monkeypatch):
    words = ("--model", base, "--ptuning_checkpoint", lora, "--device", "cpu", "--dtype", "float32")
    run(monkeypatch, *words, "--quantize", 4, "--export_dir", tmp_path / "small")
    small, tokenizer = load(tmp_path / "small")
    merged, _ = load(base, ptuning_checkpoint=str(lora))
    adapters.merge_lora(merged)
    merged.quantize(4)
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode_prompt(PROMPT)])
        assert torch.equal(small(ids).logits, merged(ids).logits) and small.config.quantization_bit == 4


def test_export_in_the_originals_layout_is_for_a_prefix(base, lora, tmp_path, monkeypatch):
    model, _ = load(base)
    adapters.add_prefix(model, 3)
    adapters.save_adapter(model, tmp_path / "prefix")
    words = ("--model", base, "--device", "cpu", "--layout", "original", "--ptuning_checkpoint")
    run(monkeypatch, *words, tmp_path / "prefix", "--export_dir", tmp_path / "theirs")
    assert {file.name for file in (tmp_path / "theirs").iterdir()} >= {"config.json", "pytorch_model.bin"}
    with pytest.raises(LoadError, match="is for a P-Tuning v2 prefix"):
        run(monkeypatch, *words, lora, "--export_dir", tmp_path / "other")


def test_web_demo_takes_the_originals_flags_of_a_prefix(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    place = importlib.util.spec_from_file_location("ptuning_web_demo", ROOT / "ptuning" / "web_demo.py")
    script = importlib.util.module_from_spec(place)
    place.loader.exec_module(script)
    words = [
        "--model",
        "m",
        "--pre_seq_len",
        "128",
        "--port",
        "80",
        "--prefix_projection",
        "--pre-seq-len=4",
        "--share",
    ]
    assert script.without_prefix_flags(words) == ["--model", "m", "--port", "80", "--share"]
    assert capsys.readouterr().err.count("is not needed") == 3
