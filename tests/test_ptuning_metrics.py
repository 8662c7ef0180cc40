"""Tests of ptuning/metrics.py against the original's formula, written out, and against cases by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("rouge_chinese", reason="fine-tuning's packages are not installed (ptuning/requirements.txt)")

import jieba  # noqa: E402
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # noqa: E402
from rouge_chinese import Rouge  # noqa: E402

from ptuning.metrics import METRICS, mean_scores, score  # noqa: E402

PAIRS = [
    ("这款连衣裙采用针织面料，简约大方。", "简约的针织连衣裙，采用柔软的面料，大方得体。"),
    ("白色的上衣", "白色的上衣"),
    ("好", "牛仔外套很百搭"),
]


def test_score_is_the_originals():
    expected = {name: [] for name in METRICS}
    for prediction, label in PAIRS:
        result = Rouge().get_scores(" ".join(jieba.cut(prediction)), " ".join(jieba.cut(label)))[0]
        for name, value in result.items():
            expected[name].append(round(value["f"] * 100, 4))
        bleu = sentence_bleu([list(label)], list(prediction), smoothing_function=SmoothingFunction().method3)
        expected["bleu-4"].append(round(bleu * 100, 4))
    means = mean_scores(*zip(*PAIRS, strict=True))
    assert means == pytest.approx({name: sum(values) / len(values) for name, values in expected.items()})


def test_score_of_equal_texts_is_100():
    assert score("白色的上衣", "白色的上衣") == pytest.approx(dict.fromkeys(METRICS, 100.0))


@pytest.mark.parametrize("texts", [("", "上衣"), (" \n", "上衣"), ("上衣", ""), ("。", "上衣"), ("a", "")])
def test_score_of_nothing_is_0(texts):
    assert score(*texts) == dict.fromkeys(METRICS, 0.0)


def test_mean_scores_counts_empty_predictions():
    means = mean_scores(["", "白色的上衣"], ["白色的上衣"] * 2)
    assert means == pytest.approx(dict.fromkeys(METRICS, 50.0))
