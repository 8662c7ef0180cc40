"""Tests of loading/adapters.py and of the prefix file: what is saved, what is loaded, what is refused."""

from __future__ import annotations

import copy
import json
import shutil

import original
import pytest
import torch
from replay import write_small_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from loading import adapters
from loading.adapters import PREFIX_FILE, read_prefix
from loading.arguments import ModelArguments
from loading.checkpoint import LoadError
from loading.load import load_model_and_tokenizer

PROMPT = "你好"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base with spaces 模型")
    write_small_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def prefixed(base, tmp_path_factory):
    """Return a folder with a prefix of 4 tokens for the base."""
    folder = tmp_path_factory.mktemp("prefix")
    model, _ = load(base)
    adapters.add_prefix(model, 4)
    with torch.no_grad():
        model.transformer.prefix_encoder.embedding.weight.normal_(std=1.5)
    adapters.save_adapter(model, folder)
    return folder


def load(base, **arguments):
    return load_model_and_tokenizer(ModelArguments(str(base), "cpu", "float32", **arguments))


@torch.no_grad()
def logits(model, tokenizer):
    return model.eval()(torch.tensor([tokenizer.encode_prompt(PROMPT)]), use_cache=False).logits


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_prefix_can_be_switched_off_and_on(base, prefixed, bits):
    plain, tokenizer = load(base, quantization_bit=bits)
    model, _ = load(base, quantization_bit=bits, ptuning_checkpoint=str(prefixed))
    tuned = logits(model, tokenizer)
    assert not torch.allclose(tuned, logits(plain, tokenizer), atol=1e-3)
    with adapters.adapters_off(model):
        assert torch.equal(logits(model, tokenizer), logits(plain, tokenizer))
        answer = model.chat(tokenizer, PROMPT, temperature=0, max_new_tokens=5)[0]
    assert answer == plain.chat(tokenizer, PROMPT, temperature=0, max_new_tokens=5)[0]
    assert torch.equal(logits(model, tokenizer), tuned)


def test_prefix_file_holds_the_prefix_only(base, prefixed):
    assert [file.name for file in prefixed.iterdir()] == [PREFIX_FILE]
    with safe_open(prefixed / PREFIX_FILE, framework="pt") as opened:
        header = opened.metadata()
        assert list(opened.keys()) == ["embedding.weight"]
    assert (header["pre_seq_len"], header["num_layers"], header["base"]) == ("4", "2", str(base))


@pytest.mark.parametrize("name", original.PREFIXES)
def test_originals_prefix_saved_as_ours_equals_original(small_model, small_reference, tmp_path, name):
    """A checkpoint of the original's ptuning/ is read, saved as our prefix file, and read again."""
    (tmp_path / "theirs").mkdir()
    shutil.copy(small_reference / f"{name}.pt", tmp_path / "theirs" / "pytorch_model.bin")
    folder = tmp_path / "theirs"
    for _ in range(2):
        model = copy.deepcopy(small_model)
        adapters.add_prefix(model, 5, projection=name == "prefix_projection_True")
        model.transformer.prefix_encoder.load_state_dict(read_prefix(folder, model.config))
        model.eval()
        original.assert_computes_the_same_with_prefix(model, name)
        folder = tmp_path / "ours"
        adapters.save_adapter(model, folder)
        assert (folder / PREFIX_FILE).exists()
    with adapters.adapters_off(model):
        original.assert_computes_the_same(model)


def changed(prefixed, folder, header=None, weights=None):
    """Write the prefix again with another header or other weights."""
    with safe_open(prefixed / PREFIX_FILE, framework="pt") as opened:
        old = opened.metadata()
    save_file(weights or load_file(prefixed / PREFIX_FILE), folder / PREFIX_FILE, metadata=old | (header or {}))
    return folder


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ({"pre_seq_len": "128"}, ["128", "4"]),
        ({"num_layers": "28"}, ["28", "2"]),
        ({"hidden_size": "4096"}, ["4096", "32"]),
        ({"base_fingerprint": "0123", "base": "other"}, ["other", "0123", "another base"]),
    ],
)
def test_prefix_with_another_header_is_refused(base, prefixed, tmp_path, header, parts):
    with pytest.raises(LoadError) as caught:
        load(base, ptuning_checkpoint=str(changed(prefixed, tmp_path, header)))
    for part in parts:
        assert part in str(caught.value)


def test_prefix_that_is_cut_short_is_refused(base, prefixed, tmp_path):
    data = (prefixed / PREFIX_FILE).read_bytes()
    (tmp_path / PREFIX_FILE).write_bytes(data[:-10])
    with pytest.raises(LoadError, match="damaged or cut short"):
        load(base, ptuning_checkpoint=str(tmp_path))


def test_prefix_of_another_base_of_the_same_shape_is_refused(base, prefixed, tmp_path):
    other = tmp_path / "other"
    model = write_small_checkpoint(other)
    with torch.no_grad():
        model.transformer.final_layernorm.weight.add_(0.5)
    model.half().save_pretrained(other)
    with pytest.raises(LoadError, match="another base") as caught:
        load(other, ptuning_checkpoint=str(prefixed))
    assert str(base) in str(caught.value) and str(other) in str(caught.value)


@pytest.mark.parametrize("bits", [None, 4])
def test_prefix_and_quantised_base_load_as_one_folder(base, prefixed, tmp_path, bits):
    model, tokenizer = load(base, quantization_bit=bits, ptuning_checkpoint=str(prefixed))
    adapters.save_whole(model, tokenizer, tmp_path / "both")
    shutil.move(tmp_path / "both", tmp_path / "moved")
    again, _ = load(tmp_path / "moved")
    assert torch.equal(logits(again, tokenizer), logits(model, tokenizer))
    assert again.config.quantization_bit == (bits or 0) and again.config.pre_seq_len == 4
    assert model.config.pre_seq_len == 4  # saving leaves the model as it was


@pytest.mark.filterwarnings("error:Unsupported layer type")
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_lora_trains_saves_loads_and_switches(base, tmp_path, bits):
    pytest.importorskip("peft", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")
    model, tokenizer = load(base, quantization_bit=bits)
    plain = logits(model, tokenizer)
    adapters.add_lora(model, rank=2, alpha=4)
    assert torch.equal(logits(model, tokenizer), plain)  # a new adapter adds nothing
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 4 * 2 and all("lora_" in name for name in trained)
    input_ids = torch.tensor([tokenizer.encode_prompt(PROMPT)])
    model.train()(input_ids, labels=input_ids, use_cache=False).loss.backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == (name in trained)
            if "lora_B" in name:
                assert parameter.grad.abs().sum() > 0
                parameter.normal_(std=0.1)
    tuned = logits(model, tokenizer)
    adapters.save_adapter(model, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    again, _ = load(base, quantization_bit=bits, ptuning_checkpoint=str(tmp_path))
    assert torch.equal(logits(again, tokenizer), tuned) and not torch.allclose(tuned, plain, atol=1e-3)
    with adapters.adapters_off(again):
        assert torch.equal(logits(again, tokenizer), plain)
    assert torch.equal(logits(again, tokenizer), tuned)
    if bits:
        with pytest.raises(ValueError, match=f"{bits}-bit"):
            adapters.merge_lora(again)
    else:
        adapters.merge_lora(again)
        assert not adapters.lora_layers(again)
        torch.testing.assert_close(logits(again, tokenizer), tuned, atol=1e-3, rtol=1e-3)


FROM_2023 = {"enable_lora": None, "merge_weights": False, "task_type": "CAUSAL_LM", "inference_mode": True}


@pytest.mark.parametrize("layout", ["today", "2023"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"key_of_a_release_to_come": None},
    ],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_lora_adapter_that_peft_wrote_is_loaded(base, tmp_path, settings, layout):
    """An adapter made by the installed library alone gives the logits it gave there; it trains on, saves and merges."""
    peft = pytest.importorskip("peft", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")
    model, tokenizer = load(base)
    known = {name: value for name, value in settings.items() if hasattr(peft.LoraConfig, name)}
    made = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query_key_value", "dense"], **known))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name or ".modules_to_save." in name:
                parameter.normal_(std=0.1)
    expected = logits(made, tokenizer)
    made.save_pretrained(tmp_path, safe_serialization=layout == "today")
    file = tmp_path / adapters.LORA_CONFIG_FILE
    settings = settings | (FROM_2023 if layout == "2023" else {})
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    if layout == "2023" and not (tmp_path / adapters.OLD_LORA_FILE).exists():  # as newer releases do not write it
        torch.save(load_file(tmp_path / adapters.LORA_FILE), tmp_path / adapters.OLD_LORA_FILE)
        (tmp_path / adapters.LORA_FILE).unlink()
    again, _ = load(base, ptuning_checkpoint=str(tmp_path))
    assert torch.equal(logits(again, tokenizer), expected)
    trained = {name for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert trained and len(trained) == len(adapters.lora_weights(again))
    adapters.save_adapter(again, tmp_path / "ours")
    ours, _ = load(base, ptuning_checkpoint=str(tmp_path / "ours"))
    assert torch.equal(logits(ours, tokenizer), expected)
    with adapters.adapters_off(ours):
        assert torch.equal(logits(ours, tokenizer), logits(load(base)[0], tokenizer))
    adapters.merge_lora(ours)
    adapters.save_whole(ours, tokenizer, tmp_path / "merged")
    torch.testing.assert_close(logits(load(tmp_path / "merged")[0], tokenizer), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings, weights: settings.update(peft_type="IA3"), "peft_type must be LORA, got .IA3"),
        (lambda settings, weights: weights.update({"base_model.model.x.bias": torch.ones(1)}), "model.x.bias"),
        (lambda settings, weights: weights.pop(sorted(weights)[0]), "lacks base_model.model.transformer.layers.0"),
    ],
)
def test_lora_that_cannot_be_loaded_names_the_key(base, tmp_path, change, message):
    pytest.importorskip("peft", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")
    model, _ = load(base)
    adapters.add_lora(model, rank=2, alpha=4)
    adapters.save_adapter(model, tmp_path)
    config, file = tmp_path / adapters.LORA_CONFIG_FILE, tmp_path / adapters.LORA_FILE
    settings, weights = json.loads(config.read_text(encoding="utf-8")), load_file(file)
    change(settings, weights)
    config.write_text(json.dumps(settings), encoding="utf-8")
    save_file(weights, file)
    with pytest.raises(LoadError, match=message):
        load(base, ptuning_checkpoint=str(tmp_path))


def test_prefix_is_written_in_the_originals_layout(base, prefixed, tmp_path):
    """As the original's code reads it: its keys without their beginning are the prefix encoder's."""
    model, tokenizer = load(base, ptuning_checkpoint=str(prefixed))
    adapters.write_original_prefix(tmp_path / "theirs", model)
    state = torch.load(tmp_path / "theirs" / "pytorch_model.bin", weights_only=True)
    beginning = "transformer.prefix_encoder."
    assert all(name.startswith(beginning) for name in state)
    encoder = copy.deepcopy(model.transformer.prefix_encoder)
    encoder.load_state_dict({name[len(beginning) :]: weight for name, weight in state.items()})
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["pre_seq_len"] == 4
    again, _ = load(base, ptuning_checkpoint=str(tmp_path / "theirs"))
    assert torch.equal(logits(again, tokenizer), logits(model, tokenizer))


def test_lora_of_another_base_is_refused(base, tmp_path):
    pytest.importorskip("peft", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")
    model, _ = load(base)
    adapters.add_lora(model, rank=2, alpha=4)
    adapters.save_adapter(model, tmp_path)
    file = tmp_path / adapters.LORA_FILE
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata() | {"base_fingerprint": "0123", "base": "other"}
    save_file(load_file(file), file, metadata=header)
    with pytest.raises(LoadError, match="other .base_fingerprint 0123"):
        load(base, ptuning_checkpoint=str(tmp_path))
