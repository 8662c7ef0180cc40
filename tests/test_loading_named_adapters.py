"""Tests of loading/named_adapters.py: with each adapter the model is the one that has it alone, without it its base."""

from __future__ import annotations

import pytest
import torch

from chatglm import ChatGLMForConditionalGeneration
from loading import adapters
from loading.arguments import EMBEDDED_CHECKPOINT, ModelArguments
from loading.checkpoint import LoadError
from loading.load import load_model_and_tokenizer
from loading.named_adapters import NamedAdapters

pytest.importorskip("peft", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")

PROMPT = "你好"


def load(bits=None, adapter=None, base=EMBEDDED_CHECKPOINT) -> ChatGLMForConditionalGeneration:
    path = None if adapter is None else str(adapter)
    arguments = ModelArguments(str(base), "cpu", "float32", quantization_bit=bits, ptuning_checkpoint=path)
    return load_model_and_tokenizer(arguments)[0]


@torch.inference_mode()
def steps(model, tokenizer) -> torch.Tensor:
    """Return the logits of a prompt and of a few tokens behind it, which come one by one and then together."""
    first = model(torch.tensor([tokenizer.encode_prompt(PROMPT)]), use_cache=True)
    found, cache = [first.logits[0]], first.cache if "cache" in first else first.past_key_values
    for ids in ([2001], [2002], [2003, 2004]):
        found.append(model(torch.tensor([ids]), cache=cache, use_cache=True).logits[0])
    return torch.cat(found)


@pytest.mark.filterwarnings("error:Already found a `peft_config`")
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_each_adapter_gives_the_bits_that_it_gives_alone(adapter_folders, mini_tokenizer, bits):
    expected = {
        name: steps(load(bits, folder), mini_tokenizer) for name, folder in (adapter_folders | {None: None}).items()
    }
    model = load(bits)
    plain = dict(model.named_modules())
    named = NamedAdapters(model, adapter_folders)
    assert named.names == list(adapter_folders) and named.active is None
    order = [None, "poet", "short", None, "long", "poet", "broad", "short", "long", None]
    for name in order:
        named.use(name)
        assert torch.equal(steps(model, mini_tokenizer), expected[name]), name
    assert dict(model.named_modules()) == plain and not adapters.has_adapter(model)
    names = list(expected)
    for number, name in enumerate(names):
        assert not any(torch.allclose(expected[name], expected[other], atol=1e-3) for other in names[:number])


def test_bases_weights_are_in_memory_once(adapter_folders):
    model = load()
    before = {parameter.data_ptr() for parameter in model.parameters()}
    named = NamedAdapters(model, adapter_folders)
    for name in adapter_folders:
        named.use(name)
        assert before <= {parameter.data_ptr() for parameter in model.parameters()}


def test_base_with_an_adapter_of_its_own_is_refused(adapter_folders):
    for name in ("poet", "long"):
        with pytest.raises(LoadError, match="--adapter needs a base without an adapter"):
            NamedAdapters(load(adapter=adapter_folders[name]), adapter_folders)
        assert NamedAdapters(load(adapter=adapter_folders[name]), {}).names == []


def test_folder_that_holds_none_or_anothers_is_refused(adapter_folders, base, tmp_path):
    with pytest.raises(LoadError, match=f"{tmp_path} holds no adapter"):
        NamedAdapters(load(), {"none": tmp_path})
    for name in ("poet", "long"):
        with pytest.raises(LoadError, match="another"):
            NamedAdapters(load(base=base), {name: adapter_folders[name]})
