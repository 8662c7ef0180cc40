"""BLEU-4 and ROUGE of Chinese texts, computed as the original's ptuning/main.py does, so that numbers compare."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import jieba
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge

METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")
jieba.setLogLevel(logging.WARNING)


def score(prediction: str, label: str) -> dict[str, float]:
    """Return the metrics of one prediction, each 0 to 100; all 0 where either text has no words.

    ROUGE compares jieba's words, BLEU-4 characters with smoothing method 3 (Source: the original's compute_metrics).
    """
    hypothesis, reference = " ".join(jieba.cut(prediction)), " ".join(jieba.cut(label))
    if not hypothesis.strip() or not reference.strip():
        return dict.fromkeys(METRICS, 0.0)
    rouge = Rouge().get_scores(hypothesis, reference)[0]
    bleu = sentence_bleu([list(label)], list(prediction), smoothing_function=SmoothingFunction().method3)
    values = {name: round(rouge[name]["f"] * 100, 4) for name in METRICS[:3]}
    return values | {"bleu-4": round(bleu * 100, 4)}


def mean_scores(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Return the mean of each metric over pairs of texts, 0 to 100."""
    rows = [score(prediction, label) for prediction, label in zip(predictions, labels, strict=True)]
    return {name: sum(row[name] for row in rows) / max(1, len(rows)) for name in METRICS}
