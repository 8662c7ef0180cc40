"""One copy of the code, three ways: a package, remote code, and what `save_pretrained` writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import chatglm
from tests.conftest import ROOT

LEGACY_FILES = ("configuration_chatglm.py", "modeling_chatglm.py", "tokenization_chatglm.py", "quantization.py")
CHAT = """
import sys, torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
for auto_class in (AutoModel, AutoModelForSeq2SeqLM, AutoModelForCausalLM):
    model = auto_class.from_pretrained(folder, trust_remote_code=True).float().eval()
    assert "chatglm" not in sys.modules
    for thing in (tokenizer, config, model):
        assert type(thing).__module__.startswith("transformers_modules."), type(thing)
print(model.chat(tokenizer, "你好", do_sample=False, max_length=12)[0])
if len(sys.argv) > 2:
    model.save_pretrained(sys.argv[2])
    tokenizer.save_pretrained(sys.argv[2])
"""


def run_python(code, *arguments, tmp_path):
    """Run code in a fresh process that knows nothing of this project, offline and in a C locale; return its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf_home"), "HF_HUB_OFFLINE": "1", "LC_ALL": "C", "PYTHONUTF8": "1"}
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def copy_code(folder: Path) -> None:
    shutil.copytree(ROOT / "chatglm" / "kernels", folder / "kernels")
    for file in (ROOT / "chatglm").glob("*.py"):
        shutil.copy(file, folder)


@pytest.fixture
def checkpoint(reference, tmp_path) -> Path:
    """Return a copy of the reference checkpoint that nothing but weights, vocabulary and configuration is in."""
    folder = tmp_path / "check point 模型"
    shutil.copytree(reference / "tiny-chatglm", folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModelForCausalLM"] = config["auto_map"]["AutoModel"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def expected(tiny_model, tiny_tokenizer) -> str:
    return tiny_model.chat(tiny_tokenizer, "你好", do_sample=False, max_length=12)[0]


def test_remote_code_and_what_it_saves(checkpoint, tmp_path, expected):
    copy_code(checkpoint)
    saved = tmp_path / "saved"
    assert run_python(CHAT, checkpoint, saved, tmp_path=tmp_path).splitlines()[-1] == expected
    assert {path.name for path in (saved / "kernels").iterdir()} == {
        path.name for path in (ROOT / "chatglm" / "kernels").glob("*.c*")
    }
    assert run_python(CHAT, saved, tmp_path=tmp_path).splitlines()[-1] == expected


def test_embedded_checkpoint_loads_as_remote_code(tmp_path):
    if not (ROOT / "chatglm" / "model.safetensors").exists():
        pytest.skip("the embedded checkpoint is not there")
    assert run_python(CHAT, ROOT / "chatglm", tmp_path=tmp_path)


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": True}])
@pytest.mark.parametrize("legacy", [False, True])
def test_import_makes_auto_classes_use_this_code(reference, tmp_path, trust, legacy):
    folder = tmp_path / "v1.1 (int4)"
    shutil.copytree(reference / "tiny-chatglm", folder)
    if legacy:
        for name in LEGACY_FILES:
            (folder / name).write_text("raise RuntimeError('code of the checkpoint was executed')")
    assert type(AutoConfig.from_pretrained(folder, **trust)) is chatglm.ChatGLMConfig
    assert type(AutoTokenizer.from_pretrained(folder, **trust)) is chatglm.ChatGLMTokenizer
    for auto_class in (AutoModel, AutoModelForSeq2SeqLM, AutoModelForCausalLM):
        assert type(auto_class.from_pretrained(folder, **trust)) is chatglm.ChatGLMForConditionalGeneration


def test_save_pretrained_gives_equal_logits_and_ids(tiny_model, tiny_tokenizer, tmp_path, expected):
    tiny_model.save_pretrained(tmp_path / "saved")
    tiny_tokenizer.save_pretrained(tmp_path / "saved")
    model = AutoModel.from_pretrained(tmp_path / "saved").float().eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = "你好，世界！ hello\n\t  x"
    assert tokenizer(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    ids = torch.tensor([tokenizer.encode_prompt(text)])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, tiny_model(ids).logits)
    assert run_python(CHAT, tmp_path / "saved", tmp_path=tmp_path).splitlines()[-1] == expected


def test_sharded_checkpoints_load_alike(tiny_model, tiny_tokenizer, reference, tmp_path):
    weights = torch.load(reference / "tiny-chatglm" / "pytorch_model.bin", weights_only=True)
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(1, 9):  # 8 shards, as the published checkpoint has
        name = f"pytorch_model-{number:05}-of-00008.bin"
        shard = {key: weights[key] for key in sorted(weights)[number - 1 :: 8]}
        index["weight_map"] |= dict.fromkeys(shard, name)
        torch.save(shard, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    shutil.copy(reference / "tiny-chatglm" / "config.json", folder)
    model = AutoModel.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    for name, weight in tiny_model.state_dict().items():
        assert torch.equal(model.state_dict()[name].float(), weight)


def test_import_changes_nothing_for_other_models():
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=8, bos_token_id=0, eos_token_id=0)
    assert type(AutoModel.from_config(config)) is transformers.GPT2Model


def test_package_imports_nothing_of_the_project():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import chatglm; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "chatglm.modeling_chatglm" in modules
    assert not {"utils", "cli_demo", "api", "web_demo", "ptuning", "cpm_kernels", "gradio", "fastapi"} & set(modules)
