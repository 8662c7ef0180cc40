"""ChatGLM-6B for lm-eval (EleutherAI's evaluation harness): a prefix language model, which its own classes do not know.

A context is read as a prompt, bidirectionally, up to [gMASK] <sop>; what follows is scored or generated causally.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm import tqdm
from transformers import StoppingCriteria, StoppingCriteriaList

from chatglm import ChatGLMForConditionalGeneration, ChatGLMTokenizer, build_prompt
from chatglm.dialogue import read_messages
from ptuning.data import Collator

GENERATED_TOKENS = 256  # compat: lm-eval's own default, where a task has none


class StopStrings(StoppingCriteria):
    """End the rows of a batch in whose answer a text has appeared."""

    def __init__(self, tokenizer: ChatGLMTokenizer, start: int, texts: Sequence[str]) -> None:
        self.tokenizer, self.start, self.texts = tokenizer, start, texts

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **keywords: Any) -> torch.Tensor:
        """Return for each row whether it has ended, bool [b]."""
        answers = [self.tokenizer.decode(row, skip_special_tokens=True) for row in input_ids[:, self.start :].tolist()]
        return torch.tensor([cut(text, self.texts) != text for text in answers], device=input_ids.device)


def cut(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first of the stop texts in it."""
    return text[: min((text.find(stop) for stop in stops if stop and stop in text), default=len(text))]


class PrefixLanguageModel(LM):
    """A loaded model, float or quantised, with or without an adapter, as lm-eval asks models.

    Args:
        model, tokenizer: as `load_model_and_tokenizer` returns them.
        batch_size: rows that are computed together.

    Attributes:
        shortened: contexts that were cut, at their beginning, to what the model reads.
    """

    def __init__(
        self, model: ChatGLMForConditionalGeneration, tokenizer: ChatGLMTokenizer, batch_size: int = 8
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.batch_size, self.shortened = model.eval(), tokenizer, batch_size, 0
        self.limit = model.config.max_sequence_length

    @property
    def tokenizer_name(self) -> str:
        """Return what lm-eval's caches are named by."""
        return f"{type(self.tokenizer).__name__}-{self.tokenizer.name_or_path}".replace("/", "_")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the prompt's format, for lm-eval's records."""
        return self.tokenizer.chat_template or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the prompt of a dialogue, as `chat` has it."""
        question, history, answer = read_messages(chat_history)
        return build_prompt(question, history) + (answer or "")

    def encode_context(self, context: str, answer_tokens: int) -> list[int]:
        """Encode a context with [gMASK] <sop> behind it; its beginning goes if it leaves no room for the answer."""
        ids = self.tokenizer.encode_prompt(context)
        room = max(2, self.limit - answer_tokens)
        self.shortened += len(ids) > room
        return ids[-room:]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return for (context, continuation) pairs the continuation's log-likelihood, and whether it is the greedy one.

        A continuation begins behind <sop>, as an answer does: without the space that other models' prompts need.
        """
        rows = []
        for context, continuation in (request.args for request in requests):
            ids = self.tokenizer.encode_text(continuation.removeprefix(" "))
            rows.append((self.encode_context(context, len(ids)), ids))
        return self.score(rows, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of texts behind an empty context, in pieces of what the model reads."""
        totals, size = [], self.limit - 2
        for (text,) in (request.args for request in requests):
            ids, start = self.tokenizer.encode_text(text), self.tokenizer.encode_prompt("")
            rows = [(start, ids[place : place + size]) for place in range(0, len(ids), size)]
            totals.append(sum(value for value, _ in self.score(rows, disable_tqdm)))
        return totals

    def batches(self, lengths: Sequence[int], name: str, quiet: bool) -> Iterator[list[int]]:
        """Yield the numbers of rows that are computed together, the longest first, and show the progress."""
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        with tqdm(total=len(order), desc=name, disable=quiet or None) as bar:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                yield batch
                bar.update(len(batch))

    @torch.no_grad()
    def score(self, rows: list[tuple[list[int], list[int]]], quiet: bool = False) -> list[tuple[float, bool]]:
        """Return log-likelihood and greediness of the second ids of each pair behind the first."""
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        collate = Collator(self.tokenizer.pad_token_id)
        for batch in self.batches([len(context) + len(ids) for context, ids in rows], "scoring", quiet):
            features = [{"input_ids": rows[index][0] + rows[index][1], "labels": rows[index][1]} for index in batch]
            for feature in features:
                feature["labels"] = [-100] * (len(feature["input_ids"]) - len(feature["labels"])) + feature["labels"]
            inputs = collate(features)
            keep = inputs.pop("logits_to_keep")
            labels = inputs.pop("labels").to(self.model.device)[:, -keep:][:, 1:]
            inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
            logits = self.model(**inputs, logits_to_keep=keep, use_cache=False).logits[:, :-1].float()
            chosen = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
            counted = labels >= 0
            greedy = ((logits.argmax(-1) == labels) | ~counted).all(1).tolist()
            for index, value, is_greedy in zip(batch, (chosen * counted).sum(1).tolist(), greedy, strict=True):
                scores[index] = (value, is_greedy)
        return scores

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the answers to (context, settings) pairs, up to the first of the settings' `until` texts."""
        answers = [""] * len(requests)
        for index in self.groups(requests):
            settings = dict(requests[index[0]].args[1])
            until = settings.pop("until", None) or []
            until = [until] if isinstance(until, str) else list(until)
            limit = int(settings.pop("max_gen_toks", GENERATED_TOKENS))
            settings = {"do_sample": False} if not settings.get("do_sample") else settings
            prompts = {number: self.encode_context(requests[number].args[0], limit) for number in index}
            for batch in self.batches([len(prompts[number]) for number in index], "answering", disable_tqdm):
                numbers = [index[place] for place in batch]
                for number, answer in zip(numbers, self.answer(numbers, prompts, limit, until, settings), strict=True):
                    answers[number] = answer
        return answers

    @staticmethod
    def groups(requests: list[Instance]) -> list[list[int]]:
        """Return the numbers of requests by equal settings."""
        found: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            found.setdefault(repr(request.args[1]), []).append(number)
        return list(found.values())

    @torch.no_grad()
    def answer(
        self, numbers: list[int], prompts: dict[int, list[int]], limit: int, until: list[str], settings: dict[str, Any]
    ) -> list[str]:
        """Generate the answers of a batch."""
        longest, pad = max(len(prompts[number]) for number in numbers), self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(prompts[n])) + prompts[n] for n in numbers]).to(self.model.device)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=(ids != pad).long(),
            max_new_tokens=limit,
            stopping_criteria=StoppingCriteriaList([StopStrings(self.tokenizer, longest, until)]),
            **settings,
        )
        answers = []
        for row in output[:, longest:].tolist():
            row = row[: row.index(self.tokenizer.eos_token_id)] if self.tokenizer.eos_token_id in row else row
            answers.append(cut(self.tokenizer.decode(row, skip_special_tokens=True), until))
        return answers
