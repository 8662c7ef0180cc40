"""Tests of ptuning/train_preferences.py, with trl if it is there, on a small checkpoint."""

from __future__ import annotations

import json

import pytest
import torch

for package in ("datasets", "peft", "trl"):
    pytest.importorskip(package, reason="training on preferences needs pip install trl")

from loading.arguments import ModelArguments as LoadArguments  # noqa: E402
from loading.checkpoint import LoadError  # noqa: E402
from loading.load import load_model_and_tokenizer  # noqa: E402
from ptuning import train_preferences as preferences  # noqa: E402
from ptuning.arguments import DataArguments, parse_training_arguments  # noqa: E402
from ptuning.data import DataError  # noqa: E402
from ptuning.trainer import checkpoints  # noqa: E402

PAIRS = [("你好", "白色的上衣", "再见"), ("今天天气很好", "好", "牛仔再见"), ("你", "我很高兴", "好的")]
FLAGS = (
    "--device cpu --disable_tqdm true --max_steps 4 --logging_steps 1 --save_steps 2 --learning_rate 0.02 --beta 0.5"
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    names = ("prompt", *preferences.ANSWERS)
    file.write_text("\n".join(json.dumps(dict(zip(names, pair, strict=True))) for pair in PAIRS), "utf-8")
    return file


def run(base, rows, folder, *more):
    words = [*FLAGS.split(), "--model", base, "--train_file", rows, "--output_dir", folder, *more]
    words = [str(word) for word in words]
    preferences.run(*parse_training_arguments("", words, preferences.PreferenceArguments))


def log_likelihood(model, tokenizer, question, answer):
    """Return an answer's, its end included, by the model's own loss."""
    prompt, ids = tokenizer.encode_prompt(question), [*tokenizer.encode_text(answer), tokenizer.eos_token_id]
    labels = torch.tensor([[-100] * len(prompt) + ids])
    with torch.no_grad():
        return -float(model(torch.tensor([prompt + ids]), labels=labels, use_cache=False).loss) * len(ids)


def margins(model, tokenizer):
    return [log_likelihood(model, tokenizer, q, a) - log_likelihood(model, tokenizer, q, b) for q, a, b in PAIRS]


@pytest.mark.parametrize("bits", [None, 4])
def test_preferred_answers_become_likelier_and_runs_resume(base, rows, tmp_path, bits):
    """The loss of each step is DPO's formula for the margins that forward gives, before and after the step."""
    more = ("--lora_rank", 2, "--per_device_train_batch_size", 3, "--quantization_bit", bits)[: 6 if bits else 4]
    run(base, rows, tmp_path / "out", *more)
    load = {"device": "cpu", "dtype": "float32", "quantization_bit": bits}
    plain, tokenizer = load_model_and_tokenizer(LoadArguments(str(base), **load))
    tuned, _ = load_model_and_tokenizer(LoadArguments(str(base), **load, ptuning_checkpoint=str(tmp_path / "out")))
    gained = torch.tensor(margins(tuned, tokenizer)) - torch.tensor(margins(plain, tokenizer))
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < losses[0]
    assert float(-torch.nn.functional.logsigmoid(0.5 * gained).mean()) < losses[-1] and (gained > 0).all()
    assert [folder.name for folder in checkpoints(tmp_path / "out")] == ["checkpoint-2", "checkpoint-4"]
    if bits is None:
        for file in (tmp_path / "out" / "checkpoint-4").iterdir():
            file.unlink()
        (tmp_path / "out" / "checkpoint-4").rmdir()
        run(base, rows, tmp_path / "out", *more)
        history = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        assert [row["loss"] for row in history if "loss" in row] == pytest.approx(losses, abs=1e-4)


def test_pairs_may_be_texts_or_messages():
    say = [{"role": "assistant", "content": text} for text in ("好", "坏")]
    ask = [{"role": role, "content": text} for role, text in (("user", "一"), ("assistant", "二"), ("user", "三"))]
    files = DataArguments()
    whole = {"chosen": [*ask, say[0]], "rejected": [*ask, say[1]]}
    apart = {"prompt": ask, "chosen": say[:1], "rejected": say[1:]}
    pair = preferences.pair_of_row("x", whole, files)
    assert pair == preferences.pair_of_row("x", apart, files)
    assert [example.answer for example in pair] == ["好", "坏"] and pair[0].history == (("一", "二"),)
    texts = preferences.pair_of_row("x", {"prompt": "三", "chosen": "好", "rejected": "坏"}, files)
    assert [(example.query, example.answer) for example in texts] == [("三", "好"), ("三", "坏")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "no column 'rejected'"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": 3}, "expected text, got int"),
        (
            {
                "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                "rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
            },
            "the same question",
        ),
    ],
)
def test_wrong_pairs_are_named(row, message):
    with pytest.raises(DataError, match=f"x, line 1.*{message}"):
        preferences.pair_of_row("x, line 1", row, DataArguments())


def test_a_new_prefix_is_refused(base, rows, tmp_path):
    with pytest.raises(LoadError, match="--lora_rank"):
        run(base, rows, tmp_path / "out", "--pre_seq_len", 2)
