"""Test of examples/knowledge_base.py against a real server, with a stand-in for the embedding model."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import pytest
from conftest import ROOT
from serving import serving, write_lively_checkpoint

pytest.importorskip("fastapi", reason="the server's packages are not installed")
pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")

from chatglm import ChatGLMTokenizer  # noqa: E402
from engine import Engine  # noqa: E402
from server import app as api  # noqa: E402

NOTES = "Apples are red.\n\nThe river Nile is long.\n\nWhales sing."


class WordCounts:
    """Count a few words, as an embedding would tell texts apart."""

    words = ("apples", "river", "nile", "whales", "sing", "long")

    def __init__(self, folder: str) -> None:
        pass

    def encode(self, texts: list[str], normalize_embeddings: bool) -> np.ndarray:
        return np.array([[text.lower().count(word) + 0.01 for word in self.words] for text in texts])


@pytest.fixture
def example(monkeypatch):
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = WordCounts
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    spec = importlib.util.spec_from_file_location("knowledge_base", ROOT / "examples" / "knowledge_base.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_nearest_notes_reach_the_model(example, tmp_path, monkeypatch, capsys):
    """The question, with the one note that says something about it, is what the server is asked."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.md").write_text(NOTES, encoding="utf-8")
    (tmp_path / "notes" / "other.pdf").write_bytes(b"%PDF")
    model = write_lively_checkpoint(tmp_path / "small")
    tokenizer = ChatGLMTokenizer.from_pretrained(tmp_path / "small")
    question = "How long is the Nile?"
    prompt = example.PROMPT.format(notes="The river Nile is long.", question=question)
    expected = model.chat(tokenizer, prompt, temperature=0, max_new_tokens=300)[0]
    engine = Engine(model, tokenizer)
    with serving(api.build_app(engine)) as address:
        arguments = ["--documents", str(tmp_path / "notes"), "--base-url", f"{address}/v1", "--embeddings", "any"]
        monkeypatch.setattr(sys, "argv", ["knowledge_base.py", question, "--paragraphs", "1", *arguments])
        example.main()
    engine.close()
    assert capsys.readouterr().out == f"{expected}\n\n[notes.md] The river Nile is long.\n"
