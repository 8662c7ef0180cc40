"""One copy of the code, three ways: a package, remote code, and what `save_pretrained` writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import original
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.dynamic_module_utils import get_relative_import_files

import chatglm
from tests.conftest import ROOT

VOCABULARY = "ice_text.model"
LEGACY_FILES = ("configuration_chatglm.py", "modeling_chatglm.py", "tokenization_chatglm.py", "quantization.py")
CHAT = """
import sys, torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
given, saved = sys.argv[1:]
for folder in (given, saved):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    for auto_class in (AutoModel, AutoModelForSeq2SeqLM, AutoModelForCausalLM):
        model = auto_class.from_pretrained(folder, trust_remote_code=True).float().eval()
        assert "chatglm" not in sys.modules
        for thing in (tokenizer, config, model):
            assert type(thing).__module__.startswith("transformers_modules."), type(thing)
    print(model.chat(tokenizer, "你好", do_sample=False, max_length=12)[0])
    if folder == given:
        model.save_pretrained(saved)
        tokenizer.save_pretrained(saved)
"""

# The same for a checkpoint without vocabulary: prints logits and greedy answers to the reference's prompts.
COMPUTE = """
import json, pathlib, sys
import numpy as np, torch
from transformers import AutoModel, AutoModelForCausalLM
given, saved, packaged, reference = map(pathlib.Path, sys.argv[1:])
stored = np.load(reference / "forward.npz")
ids = {name.split(".")[0]: torch.tensor(stored[name]) for name in stored.files if name.endswith("input_ids")}
cases = json.loads((reference / "generation.json").read_text())["greedy"]
for folder in (given, saved, packaged):
    for auto_class in (AutoModel, AutoModelForCausalLM):
        model = auto_class.from_pretrained(folder, trust_remote_code=True).float().eval()
        assert "chatglm" not in sys.modules
        assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.no_grad():
        logits = {name: model(value).logits[0].tolist() for name, value in ids.items() if len(value) == 1}
    greedy = [
        model.generate(torch.tensor([case["input_ids"]]), max_length=case["max_length"], do_sample=False)[0].tolist()
        for case in cases
    ]
    print("COMPUTED", json.dumps({"logits": logits, "greedy": greedy}))
    if folder == given:
        model.save_pretrained(saved)
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
def checkpoint(small_reference, tmp_path) -> Path:
    """Return a copy of the reference checkpoint that nothing but weights and configuration is in."""
    folder = tmp_path / "check point 模型"
    folder.mkdir()
    shutil.copy(small_reference / "pytorch_model.bin", folder)
    config = json.loads((small_reference / "config.json").read_text())
    config["auto_map"]["AutoModelForCausalLM"] = config["auto_map"]["AutoModel"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_remote_code_and_what_is_saved_equal_original(checkpoint, small_model, tmp_path):
    copy_code(checkpoint)
    saved, packaged = tmp_path / "saved", tmp_path / "packaged"  # by remote code, by the package
    small_model.save_pretrained(packaged)
    printed = run_python(COMPUTE, checkpoint, saved, packaged, original.FOLDER, tmp_path=tmp_path).splitlines()
    found = [json.loads(line.removeprefix("COMPUTED ")) for line in printed if line.startswith("COMPUTED ")]
    assert len(found) == 3
    for computed in found:
        for prompt in original.PROMPTS:
            original.assert_close(torch.tensor(computed["logits"][prompt]), original.FORWARD[f"{prompt}.logits"])
        assert computed["greedy"] == original.GREEDY
    assert {path.name for path in (saved / "kernels").iterdir()} == {
        path.name for path in (ROOT / "chatglm" / "kernels").glob("*.c*")
    }


@pytest.mark.long
def test_embedded_checkpoint_as_remote_code_and_what_it_saves(mini_model, mini_tokenizer, tmp_path):
    expected = mini_model.chat(mini_tokenizer, "你好", do_sample=False, max_length=12)[0]
    printed = run_python(CHAT, ROOT / "chatglm", tmp_path / "saved", tmp_path=tmp_path).splitlines()
    assert printed[-2:] == [expected] * 2


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": True}])
@pytest.mark.parametrize("legacy", [False, True])
def test_import_makes_auto_classes_use_this_code(checkpoint, trust, legacy):
    for name in (VOCABULARY, "tokenizer_config.json"):
        shutil.copy(ROOT / "chatglm" / name, checkpoint)
    if legacy:
        for name in LEGACY_FILES:
            (checkpoint / name).write_text("raise RuntimeError('code of the checkpoint was executed')")
    assert type(AutoConfig.from_pretrained(checkpoint, **trust)) is chatglm.ChatGLMConfig
    assert type(AutoTokenizer.from_pretrained(checkpoint, **trust)) is chatglm.ChatGLMTokenizer
    for auto_class in (AutoModel, AutoModelForSeq2SeqLM, AutoModelForCausalLM):
        model = auto_class.from_pretrained(checkpoint, **trust)
        assert type(model) is chatglm.ChatGLMForConditionalGeneration
    original.assert_computes_the_same(model.float().eval())


@pytest.fixture
def hostile(tmp_path) -> Path:
    """Return a copy of the embedded checkpoint that wants its own code executed wherever a checkpoint can."""
    folder = tmp_path / "hostile"
    names = ("config.json", "generation_config.json", "tokenizer_config.json", "ice_text.model", "model.safetensors")
    (folder / "custom_generate").mkdir(parents=True)
    for name in names:
        shutil.copy(ROOT / "chatglm" / name, folder)
    for name in ("evil.py", "custom_generate/generate.py"):
        (folder / name).write_text("raise RuntimeError('code of the checkpoint was executed')")
    model_classes = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification")
    auto_map = dict.fromkeys(("AutoConfig", "AutoProcessor", *model_classes), "evil.Evil")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": auto_map, "custom_pipelines": {"own-task": {"impl": "evil.Evil", "pt": ["AutoModel"]}}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def map_tokenizer(folder: Path, auto_map) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"auto_map": auto_map}))


def test_import_keeps_out_all_code_of_a_checkpoint(hostile):
    assert type(AutoConfig.from_pretrained(hostile, trust_remote_code=True)) is chatglm.ChatGLMConfig
    for auto_map in (["evil.Evil", None], {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}):
        map_tokenizer(hostile, auto_map)
        assert type(AutoTokenizer.from_pretrained(hostile, trust_remote_code=True)) is chatglm.ChatGLMTokenizer
    for auto_class in (AutoModel, AutoModelForSeq2SeqLM, AutoModelForCausalLM, chatglm.ChatGLMForConditionalGeneration):
        model = auto_class.from_pretrained(hostile, trust_remote_code=True)
        assert type(model) is chatglm.ChatGLMForConditionalGeneration
        model.generate(torch.tensor([[5, 4649, 4652]]), max_new_tokens=1)  # not the folder's `custom_generate`
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        transformers.AutoModelForSequenceClassification.from_pretrained(hostile, trust_remote_code=True)
    config = AutoConfig.from_pretrained(hostile, trust_remote_code=True)
    assert type(AutoModel.from_config(config, trust_remote_code=True)) is chatglm.ChatGLMForConditionalGeneration
    pipeline = transformers.pipeline("text-generation", model=str(hostile), trust_remote_code=True)
    assert type(pipeline.model) is chatglm.ChatGLMForConditionalGeneration
    with pytest.raises(KeyError, match="own-task"):
        transformers.pipeline("own-task", model=str(hostile), trust_remote_code=True)


@pytest.mark.parametrize("name", ["AutoProcessor", "AutoFeatureExtractor"])
def test_import_refuses_code_that_the_package_has_nothing_in_place_of(hostile, name):
    config = {"auto_map": {name: "evil.Evil"}, "processor_class": "Evil", "feature_extractor_type": "Evil"}
    for file in ("processor_config.json", "preprocessor_config.json"):
        (hostile / file).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is not executed once the package chatglm is imported"):
        getattr(transformers, name).from_pretrained(hostile, trust_remote_code=True)


def test_import_leaves_other_checkpoints_their_code(tmp_path):
    code = "from transformers import PretrainedConfig\nclass Other(PretrainedConfig):\n    model_type = 'other'\n"
    (tmp_path / "other.py").write_text(code)
    (tmp_path / "config.json").write_text('{"model_type": "other", "auto_map": {"AutoConfig": "other.Other"}}')
    assert type(AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)).__name__ == "Other"


def test_save_pretrained_copies_what_remote_code_imports_only(random_model, tmp_path):
    random_model.save_pretrained(tmp_path)
    imported = get_relative_import_files(ROOT / "chatglm" / "modeling_chatglm.py")
    assert {path.name for path in tmp_path.glob("*.py")} == {"modeling_chatglm.py", *(Path(p).name for p in imported)}
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"]["AutoModel"].startswith("modeling_chatglm.")


def test_save_pretrained_gives_equal_logits(small_model, tmp_path):
    small_model.save_pretrained(tmp_path / "saved")
    original.assert_computes_the_same(AutoModel.from_pretrained(tmp_path / "saved").float().eval())


def test_tokenizers_save_pretrained_gives_equal_ids(mini_tokenizer, tmp_path):
    mini_tokenizer.save_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = "你好，世界！ hello\n\t  x"
    assert tokenizer(text)["input_ids"] == mini_tokenizer(text)["input_ids"]


def test_sharded_checkpoints_load_alike(small_model, small_reference, tmp_path):
    weights = torch.load(small_reference / "pytorch_model.bin", weights_only=True)
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(1, 9):  # 8 shards, as the published checkpoint has
        name = f"pytorch_model-{number:05}-of-00008.bin"
        shard = {key: weights[key] for key in sorted(weights)[number - 1 :: 8]}
        index["weight_map"] |= dict.fromkeys(shard, name)
        torch.save(shard, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    shutil.copy(small_reference / "config.json", folder)
    model = AutoModel.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    for name, weight in small_model.state_dict().items():
        assert torch.equal(model.state_dict()[name].float(), weight)
    original.assert_computes_the_same(model.float().eval())


def test_import_changes_nothing_for_other_models():
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=8, bos_token_id=0, eos_token_id=0)
    assert type(AutoModel.from_config(config)) is transformers.GPT2Model


@pytest.mark.long
def test_package_imports_nothing_of_the_project():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import chatglm; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "chatglm.modeling_chatglm" in modules
    assert not {"utils", "cli_demo", "api", "web_demo", "ptuning", "cpm_kernels", "gradio", "fastapi"} & set(modules)


def test_embedded_checkpoint_is_named_by_the_package():
    assert Path(chatglm.EMBEDDED_CHECKPOINT) == ROOT / "chatglm"
    assert "EMBEDDED_CHECKPOINT" in chatglm.__all__
