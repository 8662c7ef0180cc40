"""How good a model is on a file of examples: loss and perplexity, generated answers, BLEU-4 and ROUGE; reports."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from chatglm import ChatGLMForConditionalGeneration, ChatGLMTokenizer
from ptuning.arguments import DataArguments
from ptuning.data import Collator, Counts, Example, encode_example, encode_prompt
from ptuning.metrics import mean_scores

PREDICTIONS = "generated_predictions"  # compat: the original's file of this name
SAMPLING = {"top_p": 0.7, "temperature": 0.95}  # Source: the original's trainer.predict


def rank_and_size() -> tuple[int, int]:
    """Return this process's number and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather_rows(rows: list) -> list:
    """Return the rows of all processes, which took every n-th each, in their order."""
    _, size = rank_and_size()
    if size == 1:
        return rows
    shares: list[list] = [[] for _ in range(size)]
    dist.all_gather_object(shares, rows)
    return [shares[index % size][index // size] for index in range(sum(map(len, shares)))]


@torch.no_grad()
def perplexity(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    arguments: DataArguments,
    batch_size: int,
) -> dict[str, float]:
    """Return `loss`, the mean over all answer tokens in nats, and `perplexity`, its exponential."""
    rank, size = rank_and_size()
    limits, rows, model = (arguments.max_source_length, arguments.max_target_length), [], model.eval()
    encoded = [encode_example(tokenizer, example, *limits, Counts()) for example in examples[rank::size]]
    collate = Collator(tokenizer.pad_token_id)
    for start in range(0, len(encoded), batch_size):
        batch = collate(encoded[start : start + batch_size])
        tensors = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in batch.items()}
        count = int((batch["labels"] >= 0).sum())
        rows.append((float(model(**tensors, use_cache=False).loss) * count, count))
    total = torch.tensor([sum(row[0] for row in rows), sum(row[1] for row in rows)], dtype=torch.float64)
    if size > 1:
        total = total.to(model.device if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(total)
    loss = float(total[0] / total[1])
    return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}


@torch.no_grad()
def generate_answers(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    arguments: DataArguments,
    batch_size: int,
    on_batch: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Answer the questions in batches; rows of `prompt`, `labels` (cut to the limit as answers are) and `predict`.

    Args:
        on_batch: is given the rows of each batch as soon as they are there.
    """
    limit, rows = arguments.val_max_target_length, []
    sampling = {"do_sample": True, **SAMPLING} if arguments.do_sample else {"do_sample": False}
    for start in tqdm(range(0, len(examples), batch_size), desc="answering", unit="batch", disable=None):
        batch = examples[start : start + batch_size]
        prompts = [encode_prompt(tokenizer, example, arguments.max_source_length, Counts()) for example in batch]
        longest = max(map(len, prompts))
        padded = [[tokenizer.pad_token_id] * (longest - len(ids)) + ids for ids in prompts]
        input_ids = torch.tensor(padded, device=model.device)
        output = model.generate(
            input_ids=input_ids,
            attention_mask=(input_ids != tokenizer.pad_token_id).long(),
            max_new_tokens=limit,
            num_beams=arguments.num_beams,
            **sampling,
        )
        new = []
        for example, ids in zip(batch, output[:, longest:].tolist(), strict=True):
            ids = ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids
            # compat: the original compares with the label's first tokens
            label = tokenizer.decode(tokenizer.encode_text(example.answer)[:limit])
            predicted = tokenizer.decode(ids, skip_special_tokens=True)
            row = {"prompt": example.query, "labels": label, "predict": predicted}
            new.append(row | ({"history": example.history} if example.history else {}))
        rows += new
        on_batch(new)
    return rows


def evaluate_answers(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    examples: Sequence[Example],
    arguments: DataArguments,
    batch_size: int,
    file: Path,
) -> dict[str, float]:
    """Answer the questions, write a JSON row for each answer into a file as it comes, and only then score the answers.

    With several processes each answers its share, and writes it into a file of its own until all have ended.
    """
    rank, size = rank_and_size()
    model.eval()
    share = file if size == 1 else file.with_suffix(f".{rank}.txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    with share.open("w", encoding="utf-8") as stream:

        def write(rows: list[dict[str, Any]]) -> None:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            stream.flush()

        rows = generate_answers(model, tokenizer, examples[rank::size], arguments, batch_size, write)
    if size > 1:
        rows = gather_rows(rows)
        if rank == 0:
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        share.unlink()
    return mean_scores([row["predict"] for row in rows], [row["labels"] for row in rows])


def kept_answers(
    model: ChatGLMForConditionalGeneration,
    tokenizer: ChatGLMTokenizer,
    cases: dict[str, list[Example]],
    arguments: DataArguments,
    batch_size: int,
) -> dict[str, float]:
    """Return for each skill the share, 0 to 1, of questions that are answered word for word as in the file."""
    rank, size = rank_and_size()
    model.eval()
    examples = [(skill, example) for skill, examples in cases.items() for example in examples]
    share = [example for _, example in examples[rank::size]]
    rows = gather_rows(generate_answers(model, tokenizer, share, arguments, batch_size))
    right: dict[str, list[bool]] = {}
    for (skill, _), row in zip(examples, rows, strict=True):
        right.setdefault(skill, []).append(row["predict"].strip() == row["labels"].strip())
    return {skill: sum(answers) / len(answers) for skill, answers in right.items()}


def write_results(metrics: dict[str, float], output_dir: Path) -> None:
    """Write what was measured into the files that the original's users read, by the names that they read there."""
    everything = output_dir / "all_results.json"
    combined = json.loads(everything.read_text(encoding="utf-8")) if everything.exists() else {}
    for split in ("eval", "predict"):
        part = {name: value for name, value in metrics.items() if name.startswith(f"{split}_")}
        if part:
            (output_dir / f"{split}_results.json").write_text(json.dumps(part, indent=4), encoding="utf-8")
        combined |= part
    everything.write_text(json.dumps(combined, indent=4), encoding="utf-8")


def comparison_table(before: dict[str, float], after: dict[str, float], title: str) -> str:
    """Return a Markdown table of what was measured before and after."""
    lines = [f"| {title} | before | after |", "|---|---|---|"]
    lines += [f"| {name} | {before[name]:.4g} | {after[name]:.4g} |" for name in after if name in before]
    return "\n".join(lines) + "\n"


def plot_losses(log_history: Sequence[dict[str, float]], file: Path) -> None:
    """Draw the losses that a run has logged, over its steps, into a picture."""
    names = {"training": "loss", "validation": "eval_loss"}
    plot_curves({label: loss_points(log_history, name) for label, name in names.items()}, file)


def loss_points(log_history: Sequence[dict[str, float]], name: str = "loss") -> list[tuple[float, float]]:
    """Return (step, value) for each row of a run's log that has a value of this name."""
    return [(row["step"], row[name]) for row in log_history if name in row]


def plot_curves(curves: Mapping[str, Sequence[tuple[float, float]]], file: Path) -> None:
    """Draw losses over steps into a picture: for each label its (step, loss) points, if there are any."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot(xlabel="step", ylabel="loss (nats a token)")
    for label, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
