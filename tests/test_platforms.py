"""Tests of what other systems need, without having them: Apple's GPUs, Windows."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest
import torch
from conftest import ROOT

from chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, cpu_kernels
from chatglm.cache import ChatGLMCache
from chatglm.positions import AttentionPlan, rotary_tables
from loading import devices

SHAPE = {"vocab_size": 128, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 2, "bos_token_id": 104}


def test_mps_is_asked_whether_it_computes_in_half(monkeypatch):
    """Where PyTorch cannot compute on mps at all, as here, the answer is no; where it gives NaN, too."""
    if not torch.backends.mps.is_available():
        assert not devices.mps_computes_in_half()
    make = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device, **more: make(*shape, **more))
    assert devices.mps_computes_in_half()
    monkeypatch.setattr(torch, "ones", lambda *shape, device, **more: make(*shape, **more) * torch.nan)
    assert not devices.mps_computes_in_half()


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_layers_on_other_devices_take_pytorch_operations_only(bits):
    """A device that is neither CPU nor CUDA, as mps: `meta` refuses kernels and everything that reads values."""
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(ChatGLMConfig(**SHAPE, quantization_bit=bits)).half().eval()
    cache, plan = ChatGLMCache(), AttentionPlan(split=5, context=5)
    for count in (5, 1):  # a prompt, then a token
        ids = torch.zeros(1, count, dtype=torch.int64, device="meta")
        hidden_states = model.transformer.word_embeddings(ids)
        rotary = rotary_tables(torch.zeros(1, 2, count, dtype=torch.int64, device="meta"), 16, torch.float16)
        with torch.no_grad():
            for layer in model.transformer.layers:
                hidden_states, _ = layer(hidden_states, rotary, plan, cache)
            logits = model.lm_head(model.transformer.final_layernorm(hidden_states))
        assert logits.shape == (1, count, 128) and logits.dtype == torch.float16
        plan = AttentionPlan(split=0, context=6)


@pytest.mark.long
def test_nothing_of_cuda_is_imported_without_it():
    """cpm_kernels raises at import on macOS: loading and quantising a model must not ask for it."""
    code = (
        "import sys; sys.modules['cpm_kernels'] = None\n"  # makes its import fail
        "import torch._dynamo  # PyTorch's CUDA build imports triton here by itself\n"
        "before = set(sys.modules)\n"
        "import chatglm\n"
        f"model = chatglm.ChatGLMForConditionalGeneration(chatglm.ChatGLMConfig(**{SHAPE}))\n"
        "model.quantize(4)\n"
        "assert 'triton' not in set(sys.modules) - before\n"
        "print(model(torch.tensor([[7, 101, 104]])).logits.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "[1, 3, 128]" in done.stdout, done.stderr


def test_windows_computes_without_compiled_kernels(monkeypatch, tmp_path):
    """No compiler is looked for on Windows; the error says so, and quantised layers compute by PyTorch."""
    windows = types.SimpleNamespace(
        **{name: getattr(cpu_kernels.os, name) for name in dir(cpu_kernels.os)} | {"name": "nt"}
    )
    monkeypatch.setattr(cpu_kernels, "os", windows)
    with pytest.raises(cpu_kernels.KernelError, match="use WSL on Windows"):
        cpu_kernels.compile_kernels(tmp_path / "kernels.c", tmp_path / "kernels.dll")
    torch.manual_seed(0)
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**SHAPE)).eval().quantize(4)
    ids = torch.tensor([[7, 8, 101, 104]])
    with torch.no_grad():
        by_kernels = model(ids).logits
        monkeypatch.setattr(cpu_kernels, "available", lambda dtype: False)
        by_pytorch = model(ids).logits
    torch.testing.assert_close(by_pytorch, by_kernels, atol=0.05, rtol=0.05)
