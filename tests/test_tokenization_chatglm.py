"""Tests of chatglm/tokenization_chatglm.py against the original's ids and against SentencePiece itself."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from transformers import AutoTokenizer, DataCollatorWithPadding

import chatglm.tokenization_chatglm as tokenization
from chatglm.configuration_chatglm import ChatGLMConfig
from chatglm.tokenization_chatglm import ChatGLMTokenizer, IncrementalDecoder, PromptTooLongError, build_prompt

ROOT = Path(__file__).resolve().parent.parent
CONTROL_TOKENS = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
FORMATTING_TOKENS = ["<n>", "<|tab|>"] + [f"<|blank_{k}|>" for k in range(2, 81)]
SENTENCES = [
    "今天天气很好，我们去公园散步。",
    "晚上睡不着应该怎么办？可以听音乐、看书或者喝牛奶。",
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
    "def add(a, b): return a + b  # 1 + 2 = 3",
    "[Round 0] 问：你好 答：你好，有什么可以帮助你的吗？",
    "Hello, world! 0123456789 <tag> {json: [1, 2]} a|b",
]
TEXTS = [
    "你好",
    "Hello, world!",
    "  two leading, three trailing   ",
    "def f(x):\n\treturn x    # four\r\n\n\n",
    "emoji 👋🎉 👨‍👩‍👧‍👦 🇨🇳 and rare 𠮷 字",
    "",
    " ",
    "\n",
    "a" * 300,
    " " * 200 + "x",
    "混合 mixed テキスト 한국어 العربية",
    "ends in a space ",
    "▁ literal word start",
]


def write_vocabulary(folder: Path, control_symbols: list[str], user_defined_symbols: list[str]) -> Path:
    """Train a small SentencePiece model with the real one's settings and return its path."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(SENTENCES * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "ice_text"),
        vocab_size=256 + len(control_symbols) + len(user_defined_symbols) + 160,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        character_coverage=0.9999,
        pad_id=3,
        control_symbols=control_symbols,
        user_defined_symbols=user_defined_symbols,
        minloglevel=2,
    )
    return folder / "ice_text.model"


def write_folder(folder: Path, vocabulary: Path, **settings) -> Path:
    """Write a checkpoint's tokenizer files as the original's repository has them and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(vocabulary, folder / "ice_text.model")
    config = {
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "end_token": "</s>",
        "gmask_token": "[gMASK]",
        "mask_token": "[MASK]",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "remove_space": False,
        "do_lower_case": False,
        "tokenizer_class": "ChatGLMTokenizer",
        "num_image_tokens": 0,
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
    } | settings
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "chatglm"}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary"), CONTROL_TOKENS, FORMATTING_TOKENS)


@pytest.fixture(scope="session")
def small(vocabulary, tmp_path_factory) -> ChatGLMTokenizer:
    return ChatGLMTokenizer.from_pretrained(write_folder(tmp_path_factory.mktemp("small"), vocabulary))


@pytest.fixture(scope="session")
def original(reference) -> ChatGLMTokenizer:
    return ChatGLMTokenizer.from_pretrained(reference / "tiny-chatglm")


@pytest.fixture(scope="session")
def golden(reference) -> dict:
    return json.loads((reference / "golden" / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def embedded() -> ChatGLMTokenizer:
    if not (ROOT / "chatglm" / "ice_text.model").is_file():
        pytest.skip("chatglm/ holds no embedded checkpoint")
    return ChatGLMTokenizer.from_pretrained(ROOT / "chatglm")


@pytest.fixture(params=["small", "embedded", "original"])
def tokenizer(request) -> ChatGLMTokenizer:
    """Tests that take it run with three vocabularies: a small one, the embedded one, and the real one where it is."""
    return request.getfixturevalue(request.param)


def sentencepiece_decode(tokenizer: ChatGLMTokenizer, ids: list[int]) -> str:
    """Decode as the original did: SentencePiece, then formatting tokens into white space."""
    text = tokenizer.sentencepiece.decode([i for i in ids if i != tokenizer.pad_token_id])
    text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
    for k in range(2, 81):
        text = text.replace(f"<|blank_{k}|>", " " * k)
    return text


def control_ids(tokenizer: ChatGLMTokenizer) -> set[int]:
    spellings = CONTROL_TOKENS + ["<pad>", "<unk>", "<s>", "</s>"]
    return {tokenizer.convert_tokens_to_ids(spelling) for spelling in spellings}


# The original's numbers


def test_encode_gives_the_originals_ids_and_tokens(original, golden):
    assert len(golden["encode"]) > 20
    for example in golden["encode"]:
        text = example["text"]
        assert original(text)["input_ids"] == example["input_ids"], text
        assert original.encode(text) == example["input_ids"], text
        assert original.encode(text, add_special_tokens=False) == example["ids_no_special"], text
        assert original.tokenize(text) == example["tokens"], text


def test_decode_gives_the_originals_text(original, golden):
    for example in golden["encode"]:
        assert original.decode(example["ids_no_special"]) == example["decoded"]
        assert original.decode(example["input_ids"], skip_special_tokens=True) == example["decoded"]
        assert original.convert_tokens_to_string(example["tokens"]) == example["decoded"]


def test_pairs_special_ids_and_vocabulary_size_are_the_originals(original, golden):
    for example in golden["pairs"]:
        assert original(example["a"], example["b"])["input_ids"] == example["input_ids"]
    for name, value in golden["special"].items():
        assert getattr(original, name) == value, name
    assert len(original) == len(original.get_vocab()) == golden["special"]["vocab_size"]


@pytest.mark.parametrize("return_tensors", [None, "np", "pt"])
def test_padded_batch_is_the_originals(original, golden, return_tensors):
    batch = golden["batch"]
    encoded = original(batch["texts"], padding=True, return_tensors=return_tensors)
    assert np.asarray(encoded["input_ids"]).tolist() == batch["input_ids"]
    assert np.asarray(encoded["position_ids"]).tolist() == batch["position_ids"]
    blocked = np.asarray(encoded["attention_mask"])
    assert blocked.dtype == np.bool_
    assert blocked.astype(int).tolist() == batch["attention_mask_true_means_blocked"]


def test_build_prompt_and_encode_chat_are_the_originals(original, reference):
    examples = json.loads((reference / "golden" / "generation.json").read_text(encoding="utf-8"))
    chats = [example for example in examples if "prompt" in example]
    assert {len(example["history"]) for example in chats} >= {0, 1, 2}
    for example in chats:
        assert build_prompt(example["query"], example["history"]) == example["prompt"]
        assert original.encode_chat(example["query"], example["history"], 2048) == (example["prompt_ids"], 0)
        assert original.encode_prompt(example["prompt"]) == example["prompt_ids"]


# Vocabulary layouts


def test_first_release_layout_shifts_text_ids(original, golden, reference, tmp_path):
    folder = write_folder(tmp_path, reference / "tiny-chatglm" / "ice_text.model", num_image_tokens=20000)
    first = ChatGLMTokenizer.from_pretrained(folder)
    assert (first.mask_token_id, first.gmask_token_id, first.bos_token_id, first.eos_token_id, first.pad_token_id) == (
        150000,
        150001,
        150004,
        150005,
        20003,
    )
    assert first.vocab_size == len(first) == 150344
    for example in golden["encode"]:
        shifted = [token_id + 20000 for token_id in example["input_ids"]]
        assert first(example["text"])["input_ids"] == shifted
        assert first.decode(shifted) == example["decoded"]
    assert first.encode_text("你好") == [20005, 94874]


def test_first_release_layout_needs_no_num_image_tokens_in_its_config(vocabulary, small, tmp_path):
    folder = write_folder(tmp_path, vocabulary, num_image_tokens=None, end_token=None, eos_token="</s>")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eop_token": "<eop>"}))
    first = ChatGLMTokenizer.from_pretrained(folder)
    assert first.num_image_tokens == 20000
    assert (first.eos_token, first.end_token) == ("<eop>", "</s>")
    assert first.encode("你好") == [token_id + 20000 for token_id in small.encode("你好")]
    first.save_pretrained(tmp_path / "saved")
    again = ChatGLMTokenizer.from_pretrained(tmp_path / "saved")
    assert (again.num_image_tokens, again.eos_token, again.end_token) == (20000, "<eop>", "</s>")


def test_image_tokens_have_names_and_no_text(vocabulary, tmp_path):
    first = ChatGLMTokenizer.from_pretrained(write_folder(tmp_path, vocabulary, num_image_tokens=7))
    assert first.convert_ids_to_tokens([0, 6]) == ["<image_0>", "<image_6>"]
    assert first.convert_tokens_to_ids(["<image_0>", "<image_6>"]) == [0, 6]
    assert first.convert_tokens_to_ids("<image_7>") == first.unk_token_id
    assert first.decode([3] + first.encode("你好") + [6]) == "你好"


def test_get_vocab_agrees_with_ids(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(tokenizer.vocab_size))
    for token in ["<n>", "<sop>", "▁", "<0xF0>"]:
        assert vocabulary[token] == tokenizer.convert_tokens_to_ids(token)
        assert tokenizer.convert_ids_to_tokens(vocabulary[token]) == token


def test_negative_num_image_tokens_is_refused(vocabulary):
    with pytest.raises(ValueError, match="num_image_tokens must be at least 0, got -1"):
        ChatGLMTokenizer(str(vocabulary), num_image_tokens=-1)


# Text that people type


@pytest.mark.parametrize(
    "text",
    [
        "[gMASK]<sop><eop>[MASK] <pad>",
        "<sop>",
        "what is <eop>?",
        "a [MASK] b [gMASK] c",
        "<s></s><unk><pad>[sMASK]<ENC>",
        "vector<n> v;",
        "<|tab|><|blank_3|><n><n>",
        "<<n>> <|blank_80|> <|blank_81|>",
        "你好<sop>\n<eop>\t<n>  [gMASK]",
    ],
)
def test_encode_text_keeps_control_spellings_as_text(tokenizer, text):
    ids = tokenizer.encode_text(text)
    assert not control_ids(tokenizer) & set(ids)
    assert tokenizer.decode(ids) == text
    prompt = tokenizer.encode_prompt(text)
    assert prompt == ids + [tokenizer.gmask_token_id, tokenizer.bos_token_id]


def test_encode_text_never_gives_control_ids(tokenizer):
    parts = (
        CONTROL_TOKENS + FORMATTING_TOKENS[:4] + ["<pad>", "<unk>", "</s>", " ", "  ", "\n", "\t", "你", "a", "<", ">"]
    )
    generator = random.Random(0)
    for _ in range(300):
        text = "a" + "".join(generator.choices(parts, k=12)) + "b"
        ids = tokenizer.encode_text(text)
        assert not control_ids(tokenizer) & set(ids), text
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS + SENTENCES)
def test_encode_text_equals_plain_encoding_of_ordinary_text(tokenizer, text):
    assert tokenizer.encode_text(text) == tokenizer.encode(text, add_special_tokens=False)


def test_full_width_spellings_are_no_control_tokens(tokenizer):
    # The vocabulary turns full-width letters into ASCII ones; that happens inside SentencePiece, which then has
    # formatting tokens to offer but no control tokens.
    ids = tokenizer.encode_text("＜sop＞［gMASK］＜eop＞[\u200bMASK]")
    assert not control_ids(tokenizer) & set(ids)


def test_plain_call_strips_white_space_around_control_tokens(original):
    # transformers 4.27.1, under which the reference was made, stripped both sides of such a token.
    assert original.encode("a \n [MASK]\n\t b", add_special_tokens=False) == (
        original.encode("a", add_special_tokens=False)
        + [original.mask_token_id]
        + original.encode("b", add_special_tokens=False)
    )


@pytest.mark.parametrize("text", ["a\x00b", "tab\tthen null\x00"])
def test_null_characters_are_kept(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_surrogates_do_not_stop_encoding(tokenizer):
    assert tokenizer.encode_text("\ud83d\udc4b") == tokenizer.encode_text("👋")  # a pair, as some JSON writers leave it
    assert "a" in tokenizer.decode(tokenizer.encode_text("a\ud800b"))  # a single one, as from a broken terminal
    assert "b" in tokenizer.decode(tokenizer("a\ud800b")["input_ids"])


def test_lower_case_and_space_removal(vocabulary, tmp_path):
    folder = write_folder(tmp_path, vocabulary, do_lower_case=True, remove_space=True)
    tokenizer = ChatGLMTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer.encode("  The \n FOX  ", add_special_tokens=False)) == "the fox"
    assert tokenizer.decode(tokenizer.encode_text("  The \n FOX  ")) == "the fox"


# Prompts


def test_build_prompt_without_history_is_the_query():
    assert (
        build_prompt("你好")
        == build_prompt("你好", [])
        == build_prompt("你好", None)
        == build_prompt("你好", ())
        == "你好"
    )


def test_build_prompt_takes_tuples_lists_and_none():
    expected = "[Round 0]\n问：a\n答：\n[Round 1]\n问：\n答：b\n[Round 2]\n问：c\n答："
    assert build_prompt("c", [("a", None), [None, "b"]]) == expected


@pytest.mark.parametrize(
    ("query", "history", "message"),
    [
        (3, None, r"query must be a string, got int: 3"),
        (None, None, r"query must be a string, got NoneType"),
        ("a", "b", r"history must be a list of \(question, answer\).*got str"),
        ("a", 5, r"history must be a list of \(question, answer\).*got int"),
        ("a", [("b", "c"), "de"], r"history\[1\] must be \(question, answer\).*got str: 'de'"),
        ("a", [("b", "c", "d")], r"history\[0\] must be \(question, answer\).*got tuple"),
        ("a", [{"role": "user", "content": "b"}], r"history\[0\] must be \(question, answer\).*got dict"),
        ("a", [("b", 4)], r"history\[0\] must be \(question, answer\).*'b', 4"),
    ],
)
def test_wrong_query_or_history_is_named(small, query, history, message):
    with pytest.raises(ValueError, match=message):
        build_prompt(query, history)
    with pytest.raises(ValueError, match=message):
        small.encode_chat(query, history, 100)


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_encode_chat_without_limit_keeps_every_round(tokenizer, rounds):
    history = [(f"question {number}", f"回答{number}") for number in range(rounds)]
    ids, dropped = tokenizer.encode_chat("最后的问题", history)
    assert dropped == 0
    assert ids == tokenizer.encode_prompt(build_prompt("最后的问题", history))


def test_encode_chat_drops_the_fewest_oldest_rounds(tokenizer):
    generator = random.Random(1)
    seen = set()
    for _ in range(60):
        history = [
            ("".join(generator.choices("你好 ab\n<n>12", k=generator.randrange(12))), "答 " * generator.randrange(20))
            for _ in range(generator.randrange(1, 15))
        ]
        query = "今天天气" * generator.randrange(1, 4)
        max_length = generator.randrange(40, 500)
        reserve = generator.choice([None, 1, 20, 600])
        kept = max_length - (max(1, max_length // 8) if reserve is None else reserve)
        prompts = [tokenizer.encode_prompt(build_prompt(query, history[drop:])) for drop in range(len(history) + 1)]
        expected = next((drop for drop, ids in enumerate(prompts) if len(ids) <= kept), len(history))
        assert tokenizer.encode_chat(query, history, max_length, reserve) == (prompts[expected], expected)
        seen.add("all" if expected == len(history) else "none" if expected == 0 else "some")
    assert seen == {"all", "none", "some"}


def test_encode_chat_never_cuts_the_newest_question(tokenizer):
    query = "今天天气很好，我们去公园散步。" * 5
    bare = tokenizer.encode_prompt(query)
    for max_length in range(len(bare) + 1, len(bare) + 80, 7):
        ids, dropped = tokenizer.encode_chat(query, [("question", "answer")] * 3, max_length)
        assert query.replace("，", ",") in tokenizer.decode(ids)
        assert len(ids) < max_length
        assert dropped == 3 or len(ids) > len(bare)


def test_question_longer_than_the_limit_is_refused(tokenizer):
    tokens = len(tokenizer.encode_prompt("你好" * 100))
    with pytest.raises(PromptTooLongError, match="reduce the length") as caught:
        tokenizer.encode_chat("你好" * 100, [("a", "b")], tokens)
    assert (caught.value.tokens, caught.value.limit) == (tokens, tokens)
    assert str(tokens) in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    ids, dropped = tokenizer.encode_chat("你好" * 100, [("a", "b")], tokens + 1)
    assert (len(ids), dropped) == (tokens, 1)


@pytest.mark.parametrize(
    ("max_length", "reserve", "name"), [(0, None, "max_length"), (9, 0, "reserve"), (9, -1, "reserve")]
)
def test_encode_chat_refuses_limits_below_one(small, max_length, reserve, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got"):
        small.encode_chat("a", None, max_length, reserve)


class CountingProcessor:
    """Hands calls on to a SentencePiece processor and refuses to encode more than `limit` characters in all."""

    def __init__(self, processor, limit: float):
        self.processor = processor
        self.limit = limit

    def encode(self, text, **kwargs):
        self.limit -= len(text)
        assert self.limit >= 0, "more was encoded than the test allows"
        return self.processor.encode(text, **kwargs)

    def __getattr__(self, name):
        return getattr(self.processor, name)


def test_long_history_costs_no_more_than_a_prompt(tokenizer, monkeypatch):
    history = [(f"question number {number} 今天天气", "好的。" * 10) for number in range(20000)]
    monkeypatch.setattr(tokenizer, "sentencepiece", CountingProcessor(tokenizer.sentencepiece, 5 * 4 * 2048))
    ids, dropped = tokenizer.encode_chat("你好", history, 2048)
    assert 1700 < len(ids) <= 1792
    assert dropped > 19900


def test_long_paste_is_read_once_and_refused(tokenizer, monkeypatch):
    paste = "今天天气很好, we walk in the park.\n" * 3000
    monkeypatch.setattr(tokenizer, "sentencepiece", CountingProcessor(tokenizer.sentencepiece, 2 * len(paste)))
    with pytest.raises(PromptTooLongError, match="reduce the length") as caught:
        tokenizer.encode_chat(paste, [("a", "b")] * 100, 2048)
    assert caught.value.tokens > 30000


def test_long_paste_in_history_is_dropped(tokenizer, monkeypatch):
    paste = "今天天气很好, we walk in the park.\n" * 3000
    monkeypatch.setattr(tokenizer, "sentencepiece", CountingProcessor(tokenizer.sentencepiece, 5 * len(paste)))
    ids, dropped = tokenizer.encode_chat("你好", [("a", "b"), (paste, paste), ("c", "d")], 2048)
    assert dropped == 2
    assert ids == tokenizer.encode_prompt(build_prompt("你好", [("c", "d")]))


# Padding and masks


def expected_mask(ids: list[int], tokenizer: ChatGLMTokenizer) -> list[list[bool]]:
    """Say in words who may not look at whom: pads nobody, prompt tokens at the answer, answer tokens at later ones."""
    start = next((index for index, token_id in enumerate(ids) if token_id != tokenizer.pad_token_id), len(ids))
    context = ids.index(tokenizer.bos_token_id) if tokenizer.bos_token_id in ids else len(ids)

    def blocked(row: int, column: int) -> bool:
        if row < start or column < start:
            return True
        return column >= context and column > row

    return [[blocked(row, column) for column in range(len(ids))] for row in range(len(ids))]


@pytest.mark.parametrize("text", ["你好", ("你好", "hello there"), ""])
@pytest.mark.parametrize("pads", [0, 3])
def test_mask_and_positions_follow_the_prefix_language_model(small, text, pads):
    ids = small(*text)["input_ids"] if isinstance(text, tuple) else small(text)["input_ids"]
    encoded = small.pad({"input_ids": ids}, padding="max_length", max_length=len(ids) + pads)
    padded = encoded["input_ids"]
    assert padded == [small.pad_token_id] * pads + ids
    assert encoded["attention_mask"].dtype == np.bool_
    assert encoded["attention_mask"].tolist() == [expected_mask(padded, small)]
    gmask, context = ids.index(small.gmask_token_id), ids.index(small.bos_token_id)
    first = [0] * pads + list(range(context)) + [gmask] * (len(ids) - context)
    second = [0] * (pads + context) + list(range(1, len(ids) - context + 1))
    assert encoded["position_ids"].tolist() == [first, second]


def test_positions_stop_at_mask_token_where_there_is_no_gmask(small):
    ids = small.encode_text("你好") + [small.mask_token_id] + small.encode_text("你好") + [small.bos_token_id, 7, 7]
    positions = small.pad({"input_ids": ids})["position_ids"]
    mask = ids.index(small.mask_token_id)
    assert positions[0].tolist() == list(range(len(ids) - 3)) + [mask] * 3
    assert positions[1].tolist() == [0] * (len(ids) - 3) + [1, 2, 3]


def test_ids_without_sop_are_all_prompt(small):
    ids = small.encode_text("你好 hello")
    encoded = small.pad({"input_ids": ids})
    assert not encoded["attention_mask"].any()
    assert encoded["position_ids"].tolist() == [list(range(len(ids))), [0] * len(ids)]


@pytest.mark.parametrize("return_tensors", ["np", "pt"])
def test_single_text_as_tensors_has_a_batch_dimension(small, return_tensors):
    encoded = small("你好", return_tensors=return_tensors)
    s = len(small.encode("你好"))
    assert {key: tuple(value.shape) for key, value in encoded.items()} == {
        "input_ids": (1, s),
        "attention_mask": (1, 1, s, s),
        "position_ids": (1, 2, s),
    }


def test_pad_takes_examples_as_collators_give_them(small):
    texts = ["你好", "The quick brown fox"]
    whole = small(texts, padding=True, return_tensors="pt")
    collated = DataCollatorWithPadding(small)([dict(small(text)) for text in texts])
    assert set(collated) == set(whole)
    for key, value in whole.items():
        assert torch.equal(collated[key], value), key
    tensors = small.pad([{"input_ids": torch.tensor(small.encode(text))} for text in texts])
    assert torch.equal(tensors["input_ids"], whole["input_ids"])
    assert torch.equal(tensors["attention_mask"], whole["attention_mask"])


def test_pad_to_multiple_and_unpadded_batch(small):
    texts = ["你好", "The quick brown fox"]
    encoded = small(texts, padding=True, pad_to_multiple_of=16, return_tensors="np")
    assert encoded["input_ids"].shape[1] % 16 == 0
    assert (encoded["input_ids"][:, 0] == small.pad_token_id).all()
    ragged = small(texts)
    assert [len(ids) for ids in ragged["input_ids"]] == [mask.shape[-1] for mask in ragged["attention_mask"]]
    assert len(ragged["input_ids"][0]) != len(ragged["input_ids"][1])


def test_padded_ids_give_the_same_mask_again(small):
    padded = small(["你好", "The quick brown fox"], padding=True, return_tensors="np")
    again = small.pad({"input_ids": padded["input_ids"].tolist()}, return_tensors="np")
    for key, value in padded.items():
        assert np.array_equal(again[key], value), key


def test_long_text_gets_an_ordinary_mask(small, monkeypatch):
    monkeypatch.setattr(tokenization, "LONGEST_FULL_MASK", 8)
    encoded = small(["你好", "The quick brown fox jumps"], padding=True)
    pads = encoded["input_ids"][0].count(small.pad_token_id)
    s = len(encoded["input_ids"][0])
    assert s > 8 and pads > 0
    assert encoded["attention_mask"][0].tolist() == [0] * pads + [1] * (s - pads)


def test_encode_and_chat_compute_no_mask(small, monkeypatch):
    def refuse(self, ids):
        raise AssertionError("a mask was computed")

    monkeypatch.setattr(ChatGLMTokenizer, "_attention_mask", refuse)
    small.encode("你好")
    small.encode_chat("你好", [("a", "b")], 100)
    assert set(small("你好", return_attention_mask=False)) == {"input_ids"}
    with pytest.raises(AssertionError, match="a mask was computed"):
        small("你好")


def test_special_tokens_mask_marks_what_was_added(small):
    for arguments in [("你好",), ("你好", "hello")]:
        encoded = small(*arguments, return_special_tokens_mask=True)
        added = {small.gmask_token_id, small.bos_token_id, small.eos_token_id}
        expected = [int(token_id in added) for token_id in encoded["input_ids"]]
        assert encoded["special_tokens_mask"] == expected
        assert small.get_special_tokens_mask(encoded["input_ids"], already_has_special_tokens=True) == expected


# Decoding


def test_decode_is_sentencepieces_for_random_ids(tokenizer):
    generator = random.Random(2)
    byte_ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in range(256)]
    low_ids = list(range(12))
    for _ in range(400):
        ids = [
            generator.choice(
                [generator.randrange(tokenizer.vocab_size), generator.choice(byte_ids), generator.choice(low_ids)]
            )
            for _ in range(generator.randrange(1, 20))
        ]
        text = tokenizer.decode(ids)
        assert text == sentencepiece_decode(tokenizer, ids), ids
        assert tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(ids)) == text


def test_incremental_pieces_add_up_to_the_whole_text(tokenizer):
    generator = random.Random(3)
    byte_ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in range(128, 256)]
    for _ in range(300):
        ids = generator.choices(range(-2, tokenizer.vocab_size + 50), k=15) + generator.choices(byte_ids, k=15)
        generator.shuffle(ids)
        decoder = IncrementalDecoder(tokenizer)
        text = "".join([decoder.put(token_id) for token_id in ids]) + decoder.end()
        assert text == tokenizer.decode(ids)


@pytest.mark.parametrize("text", TEXTS + SENTENCES)
def test_a_stream_shows_whole_characters_only(tokenizer, text):
    ids = tokenizer.encode_text(text)
    whole = tokenizer.decode(ids)
    decoder = IncrementalDecoder(tokenizer)
    shown = ""
    for token_id in ids:
        shown += decoder.put(token_id)
        assert whole.startswith(shown)  # nothing is taken back
        assert "\ufffd" not in shown
    assert shown == whole  # nothing is left for the end: every character was shown with its last byte
    assert decoder.end() == ""


def test_a_character_is_shown_with_its_last_byte(tokenizer):
    pieces = []
    decoder = IncrementalDecoder(tokenizer)
    for byte in "é👋𠮷".encode():
        pieces.append(decoder.put(tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>")))
    assert pieces == ["", "é", "", "", "", "👋", "", "", "", "𠮷"]


@pytest.mark.parametrize(
    ("data", "pieces", "rest"),
    [
        (b"\xf0\x9f\x91", ["", "", ""], "\ufffd" * 3),  # cut off at the length limit
        (b"\xf0\x9fA", ["", "", "\ufffd\ufffdA"], ""),  # can no longer become a character
        (b"\x80A", ["\ufffd", "A"], ""),  # cannot start one
        (b"\xe0\x80\x80", ["", "\ufffd" * 2, "\ufffd"], ""),  # an overlong form
        (b"\xed\xa0\x80", ["", "\ufffd" * 2, "\ufffd"], ""),  # a surrogate
        (b"\xc3\xc3\xa9", ["", "\ufffd", "é"], ""),
    ],
)
def test_invalid_bytes_become_replacement_characters_as_soon_as_they_are_certain(tokenizer, data, pieces, rest):
    ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in data]
    decoder = IncrementalDecoder(tokenizer)
    assert [decoder.put(token_id) for token_id in ids] == pieces
    assert decoder.end() == rest
    assert sentencepiece_decode(tokenizer, ids) == "".join(pieces) + rest


def test_padding_between_the_bytes_of_a_character_is_ignored(tokenizer):
    data = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "👋".encode()]
    assert tokenizer.decode(data[:2] + [tokenizer.pad_token_id] + data[2:]) == "👋"


def test_incremental_decoder_keeps_at_most_an_unfinished_character(tokenizer):
    decoder = IncrementalDecoder(tokenizer)
    for token_id in tokenizer.encode_text("emoji 👋🎉 and rare 𠮷 字 " * 50):
        decoder.put(token_id)
        assert len(decoder._bytes) <= 3


def test_end_of_an_unfinished_character_belongs_to_the_text(tokenizer):
    decoder = IncrementalDecoder(tokenizer)
    decoder.put(tokenizer.convert_tokens_to_ids("<0xF0>"))
    assert decoder.put(tokenizer.bos_token_id) == "\ufffd"
    assert decoder.put(tokenizer.convert_tokens_to_ids("▁")) == " "


def test_decode_ignores_rows_beyond_the_vocabulary_and_ignored_labels(tokenizer):
    ids = tokenizer.encode_text("你好")
    beyond = tokenizer.vocab_size + 40
    assert tokenizer.decode([beyond] + ids + [-100, beyond]) == "你好"
    assert tokenizer.convert_ids_to_tokens([beyond]) == [""]


def test_decode_takes_ids_lists_arrays_tensors_and_batches(tokenizer):
    ids = tokenizer.encode("你好 hello")
    for form in (ids, tuple(ids), np.array(ids), torch.tensor(ids)):
        assert tokenizer.decode(form) == "你好 hello"
    batch = tokenizer(["你好 hello", "hello"], padding=True, return_tensors="pt")["input_ids"]
    assert tokenizer.batch_decode(batch) == ["你好 hello", "hello"]
    assert tokenizer.decode(tokenizer.convert_tokens_to_ids("<n>")) == "\n"
    assert tokenizer.decode([]) == ""


def test_decode_leaves_out_unknown_tokens_when_special_tokens_are_skipped(tokenizer):
    ids = tokenizer.encode_text("你好") + [tokenizer.unk_token_id, tokenizer.eos_token_id]
    assert tokenizer.decode(ids) == "你好 ⁇ "
    assert tokenizer.decode(ids, skip_special_tokens=True) == "你好"


def test_decode_leaves_spaces_before_punctuation_as_generated(tokenizer):
    text = "ls . && echo a , b ? c"
    assert tokenizer.decode(tokenizer.encode_text(text)) == text
    assert tokenizer.decode(tokenizer.encode_text(text), clean_up_tokenization_spaces=True) == "ls. && echo a, b? c"


def test_added_tokens_decode_as_their_text(vocabulary, tmp_path):
    tokenizer = ChatGLMTokenizer.from_pretrained(write_folder(tmp_path, vocabulary))
    tokenizer.add_tokens(["<call>"])
    ids = tokenizer.encode("你好<call>hello", add_special_tokens=False)
    assert tokenizer.vocab_size in ids
    assert tokenizer.decode(ids) == "你好<call> hello"
    assert tokenizer.vocab_size not in tokenizer.encode_text("你好<call>hello")


# Saving, loading, copies


def test_save_pretrained_keeps_everything(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    saved = (tmp_path / "ice_text.model").read_bytes()
    assert saved == Path(tokenizer.vocab_file).read_bytes()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["auto_map"]["AutoTokenizer"] == ["tokenization_chatglm.ChatGLMTokenizer", None]
    assert config["num_image_tokens"] == 0
    assert (tmp_path / "tokenization_chatglm.py").is_file()
    again = ChatGLMTokenizer.from_pretrained(tmp_path)
    for text in TEXTS + ["[MASK] \n [gMASK] <sop>"]:
        assert again.encode(text) == tokenizer.encode(text)
        assert again.encode_text(text) == tokenizer.encode_text(text)
    assert again.gmask_token_id == tokenizer.gmask_token_id
    assert again.special_tokens_map == tokenizer.special_tokens_map


@pytest.mark.parametrize("special_tokens_stripped", [False, True])
def test_configs_of_other_library_versions_load(vocabulary, small, tmp_path, special_tokens_stripped):
    token = {"lstrip": special_tokens_stripped, "rstrip": False, "single_word": False, "normalized": False}
    added = {
        str(small.convert_tokens_to_ids(content)): token | {"content": content, "special": True}
        for content in ["<unk>", "<pad>", "[MASK]", "<sop>", "<eop>"]
    }
    folder = write_folder(
        tmp_path,
        vocabulary,
        added_tokens_decoder=added,
        bos_token=token | {"content": "<sop>", "__type": "AddedToken", "special": True},
        model_max_length=1000000000000000019884624838656,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[],
        backend="custom",
        is_local=True,
    )
    tokenizer = ChatGLMTokenizer.from_pretrained(folder)
    for text in ["你好 \n [MASK] \n hello", "[gMASK]<sop>", "hello"]:
        assert tokenizer.encode(text) == small.encode(text)
    assert tokenizer.bos_token == "<sop>"


def test_auto_tokenizer_uses_the_imported_package(vocabulary, tmp_path):
    import chatglm

    folder = write_folder(tmp_path, vocabulary)  # no .py file in it
    assert not list(folder.glob("*.py"))
    ChatGLMConfig().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer) is chatglm.ChatGLMTokenizer


def test_saved_folder_is_remote_code_from_any_path_offline_in_a_c_locale(small, tmp_path):
    folder = tmp_path / "a folder.v1.1" / "模型 copy"
    small.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "chatglm"}', encoding="utf-8")
    program = (
        "import json, sys\n"
        "from transformers import AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "assert not any(name.split('.')[0] == 'chatglm' for name in sys.modules), 'the package was imported'\n"
        "ids = tokenizer('\\u4f60\\u597d <sop>')['input_ids']\n"
        "print(json.dumps([type(tokenizer).__module__, ids, tokenizer.decode(ids)]))\n"
    )
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": "",
    }
    run = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    module, ids, text = json.loads(run.stdout.splitlines()[-1])
    assert module.startswith("transformers_modules")
    assert ids == small("你好 <sop>")["input_ids"]
    assert text == small.decode(ids)


def test_pickle_and_deepcopy(tokenizer):
    for twin in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        for text in TEXTS:
            assert twin.encode(text) == tokenizer.encode(text)
            assert twin.decode(twin.encode_text(text)) == tokenizer.decode(tokenizer.encode_text(text))


def test_threads_share_a_tokenizer(tokenizer):
    texts = [f"{text} {number}" for number in range(40) for text in TEXTS]
    expected = [(tokenizer.encode(text), tokenizer.encode_text(text)) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda text: (tokenizer.encode(text), tokenizer.encode_text(text)), texts))
    assert got == expected


# Wrong files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "vocabulary file .*ice_text.model is missing: download"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:5e97\nsize 2706249\n",
            "is a Git LFS pointer: run `git lfs pull`",
        ),
        (b"this is no model", r"\(16 bytes\) is not a SentencePiece model"),
        (b"", r"\(0 bytes\) is not a SentencePiece model"),
    ],
)
def test_wrong_vocabulary_file_is_named_in_one_line(vocabulary, tmp_path, content, message):
    folder = write_folder(tmp_path / "checkpoint", vocabulary)
    path = folder / "ice_text.model"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    for load in (lambda: ChatGLMTokenizer.from_pretrained(folder), lambda: ChatGLMTokenizer(str(path))):
        with pytest.raises(ValueError, match=message) as caught:
            load()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_truncated_vocabulary_file_is_refused(tokenizer, tmp_path):
    data = tokenizer.sentencepiece.serialized_model_proto()
    (tmp_path / "ice_text.model").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="is not a SentencePiece model|is not ChatGLM's"):
        ChatGLMTokenizer(str(tmp_path / "ice_text.model"))


def test_vocabulary_of_another_model_is_refused(tmp_path):
    other = write_vocabulary(tmp_path, ["[MASK]"], ["<n>", "<sop>"])
    with pytest.raises(
        ValueError, match=r"is not ChatGLM's: it lacks the special tokens <sop>, <eop>, \[gMASK\], .* more"
    ):
        ChatGLMTokenizer(str(other))


# Dialogues


def as_messages(query: str, history: list[tuple[str, str]]) -> list[dict]:
    messages = []
    for question, answer in history:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": query}]


CONTROL = "<sop> [gMASK]</s><eop> <n><|tab|> <pad>"
DIALOGUES = [
    ("你好", []),
    ("and now?\n", [("你好", "hello  there\t!")]),
    (CONTROL, [(f"question {number} {CONTROL}", f"answer {number} {CONTROL}") for number in range(5)]),
]


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize(("query", "history"), DIALOGUES)
def test_apply_chat_template_gives_the_ids_of_encode_chat(tokenizer, query, history, add_generation_prompt):
    messages, expected = as_messages(query, history), tokenizer.encode_chat(query, history)[0]
    arguments = {"add_generation_prompt": add_generation_prompt}
    encoded = tokenizer.apply_chat_template(messages, **arguments)
    assert encoded["input_ids"] == expected
    assert encoded["attention_mask"] == [1] * len(expected)
    assert tokenizer.apply_chat_template(messages, return_dict=False, **arguments) == expected
    assert tokenizer.apply_chat_template(messages, tokenize=False, **arguments) == build_prompt(query, history)
    tensors = tokenizer.apply_chat_template(messages, return_tensors="pt", **arguments)
    assert tensors["input_ids"].tolist() == [expected]
    assert expected.count(tokenizer.bos_token_id) == 1


def test_apply_chat_template_pads_a_batch_on_the_left(tokenizer):
    dialogues = [as_messages(*dialogue) for dialogue in DIALOGUES]
    encoded = tokenizer.apply_chat_template(dialogues, padding=True, return_tensors="np")
    longest = encoded["input_ids"].shape[1]
    for row, mask, (query, history) in zip(encoded["input_ids"], encoded["attention_mask"], DIALOGUES, strict=True):
        ids, _ = tokenizer.encode_chat(query, history)
        assert row.tolist() == [tokenizer.pad_token_id] * (longest - len(ids)) + ids
        assert mask.tolist() == [0] * (longest - len(ids)) + [1] * len(ids)
    ragged = tokenizer.apply_chat_template(dialogues, return_dict=False)
    assert ragged == [tokenizer.encode_chat(query, history)[0] for query, history in DIALOGUES]


def test_apply_chat_template_ends_with_the_answer_to_learn(small):
    messages = [*as_messages("问", []), {"role": "assistant", "content": "答<eop>"}]
    expected = small.encode_prompt("问") + small.encode_text("答<eop>")
    assert small.apply_chat_template(messages, continue_final_message=True, return_dict=False) == expected
    assert small.apply_chat_template(messages, return_dict=False) == [*expected, small.eos_token_id]
    assert small.apply_chat_template(messages, tokenize=False) == "问答<eop>"


def test_apply_chat_template_truncates_by_rounds(small):
    query, history = DIALOGUES[2]
    whole, _ = small.encode_chat(query, history)
    messages = as_messages(query, history)
    for rounds in range(5):
        expected, _ = small.encode_chat(query, history[5 - rounds :])
        cut = small.apply_chat_template(messages, truncation=True, max_length=len(expected), return_dict=False)
        assert cut == expected
    assert small.apply_chat_template(messages, max_length=5, return_dict=False) == whole
    with pytest.raises(PromptTooLongError):
        small.apply_chat_template(messages, truncation=True, max_length=5)


def test_apply_chat_template_refuses_tools_and_takes_other_templates(small):
    messages = as_messages("你好", [])
    for name in ("tools", "documents", "return_assistant_tokens_mask"):
        with pytest.raises(ValueError, match=f"has no {name}"):
            small.apply_chat_template(messages, **{name: [{}]})
    other = "{{ messages[0].content }}!"
    assert small.apply_chat_template(messages, chat_template=other, tokenize=False) == "你好!"
    ids = small.apply_chat_template(messages, chat_template=other, return_dict=False)
    assert ids == small.encode("你好!", add_special_tokens=False)


def test_chat_template_is_saved_and_loaded(small, tmp_path):
    small.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == small.chat_template
    loaded = ChatGLMTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == small.chat_template
    assert loaded.apply_chat_template(as_messages(*DIALOGUES[1])) == small.apply_chat_template(
        as_messages(*DIALOGUES[1])
    )


# Padding on the right, the original's names, pipelines


@pytest.mark.parametrize("how", ["attribute", "argument"])
def test_padding_on_the_right_is_refused(tokenizer, monkeypatch, how):
    argument = {"padding_side": "right"} if how == "argument" else {}
    if how == "attribute":
        monkeypatch.setattr(tokenizer, "padding_side", "right")
    for call in (
        lambda: tokenizer(["a", "a b c"], padding=True, **argument),
        lambda: tokenizer("a", padding="max_length", max_length=40, **argument),
        lambda: tokenizer.pad({"input_ids": [[5], [5, 6]]}, **argument),
    ):
        with pytest.raises(ValueError, match="padding_side must be left, got right"):
            call()
    assert tokenizer(["a", "a"], padding=True, **argument)["input_ids"] == [tokenizer.encode("a")] * 2


def test_get_command_gives_ids_of_control_tokens(tokenizer):
    for token in ("[gMASK]", "[MASK]", "<sop>", "<eop>", "<pad>"):
        assert tokenizer.get_command(token) == tokenizer.convert_tokens_to_ids(token)
    assert tokenizer.get_command("<sop>") == tokenizer.bos_token_id
    with pytest.raises(ValueError, match="got '<no such token>'"):
        tokenizer.get_command("<no such token>")


def test_sp_tokenizer_offers_the_originals_methods(tokenizer):
    inner, text = tokenizer.sp_tokenizer, "你好, world\n  a\tb"
    ids = inner.encode(text)
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert inner.decode(ids) == tokenizer.decode(ids)
    assert [inner[token] for token in inner.tokenize(text)] == ids
    assert [inner[index] for index in ids] == inner.tokenize(text)
    assert (len(inner), inner.num_image_tokens) == (tokenizer.vocab_size, tokenizer.num_image_tokens)


def test_tokenizer_that_a_pipeline_loads_gives_ids_only(small, tmp_path):
    small.save_pretrained(tmp_path)
    loaded = ChatGLMTokenizer.from_pretrained(tmp_path, _from_pipeline="text-generation")
    assert set(loaded("a")) == {"input_ids"}
    assert set(ChatGLMTokenizer.from_pretrained(tmp_path)("a")) == {"input_ids", "attention_mask", "position_ids"}
