"""What must work on every supported Python with what README's first command installs; CI runs it on several."""

from __future__ import annotations

import importlib

import pytest
from conftest import ROOT
from transformers import AutoModel, AutoTokenizer

FOLDER = ROOT / "chatglm"


# Rounded to INT4 without calibration, so small a model greets, but no longer adds.
@pytest.mark.parametrize(("bits", "question", "found"), [(None, "7 + 8 = ?", "15"), (4, "你好", "你好")])
def test_embedded_checkpoint_loads_and_answers(tmp_path, bits, question, found):
    if not (FOLDER / "model.safetensors").exists():
        pytest.skip("no embedded checkpoint in chatglm/")
    importlib.import_module("chatglm")  # registers the classes
    tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModel.from_pretrained(FOLDER)
    if bits is not None:
        model.quantize(bits).save_pretrained(tmp_path)
        model = AutoModel.from_pretrained(tmp_path)
        assert model.config.quantization_bit == bits
    model = model.float().eval()
    answer, history = model.chat(tokenizer, question, temperature=0)
    assert found in answer
    assert list(model.stream_chat(tokenizer, question, temperature=0))[-1] == (answer, history)


@pytest.mark.parametrize(("page", "package"), [("web_demo", "gradio"), ("web_demo2", "streamlit")])
def test_pages_can_be_imported(page, package):
    pytest.importorskip(package, reason=f"needs {package}")
    assert callable(importlib.import_module(page).main)
