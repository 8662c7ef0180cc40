"""Tests of the Python surface that other programs use in their own process, replayed from their sources."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from serving import write_lively_checkpoint
from transformers import AutoConfig, AutoModel, AutoTokenizer

import chatglm  # noqa: F401  (registers the classes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in process") / "chatglm-6b v1.1"  # blanks and dots, as people have them
    write_lively_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def answers(folder) -> dict[str, str]:
    """Return greedy answers without a history, as this project's own code gives them."""
    model = chatglm.ChatGLMForConditionalGeneration.from_pretrained(folder).float().eval()
    tokenizer = chatglm.ChatGLMTokenizer.from_pretrained(folder)
    return {
        question: model.chat(tokenizer, question, do_sample=False, max_length=40)[0] for question in ("你好", "1 + 1")
    }


def test_langchain_chatglm_loader_and_llm(folder, answers):
    """loader.py: configuration, model and tokenizer apart, remote code; chatglm_llm.py: chat and stream_chat."""
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=True)
    model = AutoModel.from_pretrained(str(folder), config=config, torch_dtype=torch.float16, trust_remote_code=True)
    model = model.float().to("cpu").eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=True)
    response, _ = model.chat(tokenizer, "你好", history=[], max_length=10000, temperature=0.01, max_new_tokens=5)
    assert isinstance(response, str)
    history: list = [["你好", answers["你好"]]]
    history += [[]]
    seen = []
    for inum, (stream_resp, _) in enumerate(
        model.stream_chat(
            tokenizer,
            "1 + 1",
            history=history[-10:-1] if history[-10:-1] else [],
            max_length=10000,
            temperature=0.01,
            max_new_tokens=5,
        )
    ):
        if inum == 0:
            history += [["1 + 1", stream_resp]]
        history[-1] = ["1 + 1", stream_resp]
        seen.append(stream_resp)
    assert all(later.startswith(earlier) for earlier, later in zip(seen, seen[1:], strict=False))  # cumulative
    assert history[-1] == ["1 + 1", seen[-1]]


def test_langchain_chatglm_ptuning_folder(folder, tmp_path):
    """loader.py: config.json and pytorch_model.bin of `ptuning-v2/`, loaded into model.transformer.prefix_encoder."""
    prefix = torch.randn(6, 2 * 2 * 32)
    settings = {"pre_seq_len": 6, "prefix_projection": False}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    torch.save({"transformer.prefix_encoder.embedding.weight": prefix}, tmp_path / "pytorch_model.bin")
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=True)
    found = json.loads((tmp_path / "config.json").read_text())
    config.pre_seq_len, config.prefix_projection = found["pre_seq_len"], found["prefix_projection"]
    model = AutoModel.from_pretrained(str(folder), config=config, trust_remote_code=True)
    prefix_state_dict = torch.load(tmp_path / "pytorch_model.bin")
    new_prefix_state_dict = {}
    for k, v in prefix_state_dict.items():
        if k.startswith("transformer.prefix_encoder."):
            new_prefix_state_dict[k[len("transformer.prefix_encoder.") :]] = v
    model.transformer.prefix_encoder.load_state_dict(new_prefix_state_dict)
    model = model.float()
    model.transformer.prefix_encoder.float()
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=True)
    ids = torch.tensor([tokenizer.encode_prompt("你好")])
    with_prefix = model.eval()(ids).logits
    config.pre_seq_len = None
    plain = AutoModel.from_pretrained(str(folder), config=config, trust_remote_code=True).float().eval()
    assert not torch.allclose(with_prefix, plain(ids).logits, atol=0.1)


def test_wenda(folder, answers):
    """llm_glm6b.py: a revision, no network, `.quantize(8)`, the history by position as tuples or None."""
    arguments = {"local_files_only": True, "trust_remote_code": True, "revision": "v1.1.0"}
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **arguments)
    model = AutoModel.from_pretrained(str(folder), **arguments).float().eval()
    for history in (None, []):
        for response, _ in model.stream_chat(  # noqa: B007
            tokenizer, "你好", history, max_length=40, top_p=0.7, temperature=0.9, do_sample=False
        ):
            pass
        assert response == answers["你好"]
    quantised = AutoModel.from_pretrained(str(folder), **arguments).half().quantize(8).float().eval()
    history = [("你好", answers["你好"])]
    *_, (response, told) = quantised.stream_chat(tokenizer, "1 + 1", history, max_length=80, top_p=0.7, temperature=0.9)
    assert told == [*history, ("1 + 1", response)]


def test_chatgpt_academic(folder, answers):
    """bridge_chatglm.py: `query` by keyword, a first pair that holds the system prompt, (answer so far, history)."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=True)
    model = AutoModel.from_pretrained(str(folder), trust_remote_code=True).float()
    model = model.eval()
    history_feedin = [["What can I do?", "Serve me as a writing assistant."], ["你好", answers["你好"]]]
    arguments = {"max_length": 2048, "top_p": 1, "temperature": 1, "max_new_tokens": 5}
    pieces = list(model.stream_chat(tokenizer, query="1 + 1", history=history_feedin, **arguments))
    assert pieces[-1][1][:2] == [tuple(pair) for pair in history_feedin] and len(pieces[-1][1]) == 3
    assert pieces[-1][1][2] == ("1 + 1", pieces[-1][0])


def test_a_copied_folder_works_from_any_path(folder, tmp_path, answers):
    """Programs keep models in folders of their own; nothing is looked up in the place where it was saved."""
    copy = Path(shutil.copytree(folder, tmp_path / "模型" / "chatglm"))
    tokenizer = AutoTokenizer.from_pretrained(str(copy), trust_remote_code=True)
    model = AutoModel.from_pretrained(str(copy), trust_remote_code=True).float().eval()
    assert model.chat(tokenizer, "1 + 1", do_sample=False, max_length=40)[0] == answers["1 + 1"]
