"""Tests of ptuning/benchmark_model.py and evaluate_benchmarks.py, with lm-eval if it is there, on small tasks."""

from __future__ import annotations

import json

import pytest
import torch
from replay import write_small_checkpoint

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval")

from lm_eval.api.instance import Instance  # noqa: E402

from chatglm import ChatGLMTokenizer  # noqa: E402
from loading.checkpoint import LoadError  # noqa: E402
from ptuning.benchmark_model import PrefixLanguageModel, cut  # noqa: E402
from ptuning.evaluate_benchmarks import BenchmarkArguments, measure, mmcu_tasks  # noqa: E402


@pytest.fixture(scope="module", params=[None, 4], ids=["float", "INT4"])
def measured(request, tmp_path_factory):
    """Return a small model with random weights for lm-eval, in batches of 3."""
    folder = tmp_path_factory.mktemp("small")
    model = write_small_checkpoint(folder).float().eval()
    if request.param:
        model.quantize(request.param)
    return PrefixLanguageModel(model, ChatGLMTokenizer.from_pretrained(folder), batch_size=3)


def requests(kind, pairs):
    return [Instance(kind, {}, pair, number) for number, pair in enumerate(pairs)]


PAIRS = [("你好", " 好的"), ("白色的上衣", "牛仔"), ("你好", "我很高兴"), ("今天天气很好", " 再见"), ("你", "好")]


def test_loglikelihood_is_that_of_forward(measured):
    """Each pair alone, by the model's own loss, against batches of several lengths."""
    found = measured.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    for (context, continuation), (value, _) in zip(PAIRS, found, strict=True):
        prompt = measured.tokenizer.encode_prompt(context)
        answer = measured.tokenizer.encode_text(continuation.strip())
        ids = torch.tensor([prompt + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        with torch.no_grad():
            loss = measured.model(ids, labels=labels, use_cache=False).loss
        assert value == pytest.approx(-float(loss) * len(answer), rel=1e-4)


def test_loglikelihood_knows_the_greedy_continuation(measured):
    prompt = torch.tensor([measured.tokenizer.encode_prompt("你好")])
    with torch.no_grad():
        first = int(measured.model(prompt).logits[0, -1].argmax())
    others = [(measured.tokenizer.encode_prompt("你好"), [token]) for token in (first, (first + 1) % 20)]
    assert [is_greedy for _, is_greedy in measured.score(others, quiet=True)] == [True, False]


def test_rolling_adds_up_pieces(measured, monkeypatch):
    monkeypatch.setattr(measured, "limit", 6)
    text = "白色的上衣今天天气很好"
    ids, start = measured.tokenizer.encode_text(text), measured.tokenizer.encode_prompt("")
    pieces = [measured.score([(start, ids[place : place + 4])], True)[0][0] for place in range(0, len(ids), 4)]
    (total,) = measured.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]), disable_tqdm=True)
    assert len(pieces) > 1 and total == pytest.approx(sum(pieces), rel=1e-5)


def test_answers_are_those_of_chat_up_to_the_stop_text(measured):
    contexts = [context for context, _ in PAIRS]
    whole = [measured.model.chat(measured.tokenizer, c, do_sample=False, max_new_tokens=6)[0] for c in contexts]
    settings = {"until": ["\n\n\n"], "max_gen_toks": 6, "do_sample": False, "temperature": 0.0}
    found = measured.generate_until(requests("generate_until", [(c, settings) for c in contexts]), disable_tqdm=True)
    assert [measured.model.process_response(text.strip()) for text in found] == whole
    stop = next(text for text in found if len(text) > 2)[1]
    found_cut = measured.generate_until(
        requests("generate_until", [(c, {**settings, "until": [stop]}) for c in contexts]), disable_tqdm=True
    )
    assert found_cut == [cut(text, [stop]) for text in found]


def test_long_contexts_lose_their_beginning(measured, monkeypatch):
    monkeypatch.setattr(measured, "limit", 12)
    before = measured.shortened
    ids = measured.encode_context("好" * 50 + "再见", 4)
    assert len(ids) == 8 and measured.shortened == before + 1
    assert ids[-4:] == measured.tokenizer.encode_prompt("再见")[-4:]


def test_tasks_of_every_form_give_a_table(measured, tmp_path):
    """Multiple choice, generation and perplexity from task files; MMCU from tables."""
    rows = [
        {"question": "你好", "A": "好", "B": "再见", "answer": "B"},
        {"question": "上衣", "A": "白", "B": "牛", "answer": "A"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
    }
    choice = {
        "task": "mine_choice",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nA. {{A}}\nB. {{B}}\n答案：",
        "doc_to_choice": ["A", "B"],
        "doc_to_target": "{{['A', 'B'].index(answer)}}",
        "metric_list": [{"metric": "acc"}],
    }
    answer = {
        "task": "mine_answer",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3},
        "metric_list": [{"metric": "exact_match"}],
    }
    text = {
        "task": "mine_text",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}],
    }
    for task in (choice, answer, text):
        (tmp_path / f"{task['task']}.yaml").write_text(json.dumps(common | task, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "法律.csv").write_text("题目,A,B,C,D,正确答案\n你好,白,牛,好,是,ＡB\n", encoding="utf-8")
    arguments = BenchmarkArguments("mine_choice,mine_answer,mine_text", str(tmp_path), str(tmp_path), batch_size=2)
    results = measure(measured.model, measured.tokenizer, arguments)["results"]
    expected = []
    for row in rows:
        context = f"{row['question']}\nA. {row['A']}\nB. {row['B']}\n答案："
        scores = measured.loglikelihood(requests("loglikelihood", [(context, "A"), (context, "B")]), disable_tqdm=True)
        expected.append((scores[1] > scores[0]) == (row["answer"] == "B"))
    assert results["mine_choice"]["acc,none"] == sum(expected) / 2
    assert results["mine_answer"]["exact_match,none"] == 0 and results["mine_text"]["word_perplexity,none"] > 1
    assert results["mmcu_法律"]["exact_match,letters"] in (0, 1)


def test_mmcu_asks_as_its_own_test_does(tmp_path):
    (tmp_path / "test").mkdir()
    with pytest.raises(LoadError, match="no .xlsx or .csv file"):
        mmcu_tasks(tmp_path)
    (tmp_path / "test" / "心理.csv").write_text("题目,A,B,C,D,正确答案\n什么？,一,二,三,四,Ｂ D\n", encoding="utf-8")
    (row,) = mmcu_tasks(tmp_path)[0]["custom_dataset"]()["test"]
    assert row["answer"] == "BD"
    assert row["text"].endswith("序号。\n什么？\nA. 一\nB. 二\nC. 三\nD. 四\n正确答案的序号是：")
