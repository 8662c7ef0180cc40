"""Count the passes that drafts save on known texts, and time what that is worth at ChatGLM-6B's shape.

    python -m tests.benchmarks.drafts [--tokenizer FOLDER] [--adgen FOLDER]
    python -m tests.benchmarks.drafts --num-layers 14
    python -m tests.benchmarks.drafts --answers 1000

The first needs no model: it replays answers whose text is known through the drafts and counts passes and tokens read,
at step costs that are assumed. `--num-layers` measures the costs of 1 to 8 tokens a pass on an INT4 model of the 6B
widths with random weights, interleaved, as medians of ratios, and then generates some of the answers whole, drafted
and plain in turn, its sampling forced to the known text. Stop other programs first. `--answers` compares as many
answers of the embedded checkpoint at INT4 and INT8, greedy and sampled, with and without drafts.

The texts are the repository's documents and modules and, where `--adgen` has `dev.json`, AdvertiseGen's. What a model
would answer is not known here: an edit, a quotation and a second version stand for it, made by rule.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from chatglm import EMBEDDED_CHECKPOINT, ChatGLMCache, ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm.drafts import ROW_COST, Drafts
from chatglm.generation_chatglm import decode
from chatglm.sampler import Sampler
from chatglm.sampling import Sampling
from tests.benchmarks.quantized_decode import build_model, random_prompt
from tests.conftest import ROOT

MOST = 8  # tokens in a pass
NOTES = "Answer the question from these notes. If they do not say, say that they do not.\n\n{}\n\nQuestion: {}"


@dataclass
class Pair:
    """A question and its answer, after rounds before it."""

    question: str
    answer: str
    history: Sequence[tuple[str, str]] = ()

    def encode(self, tokenizer: ChatGLMTokenizer) -> tuple[list[int], list[int]]:
        """Return the ids of the prompt and of the answer with its end."""
        prompt, _ = tokenizer.encode_chat(self.question, self.history)
        return prompt, [*tokenizer.encode_text(self.answer), tokenizer.eos_token_id]


def paragraphs() -> list[str]:
    """Return the English documents' paragraphs of some length."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    parts = [part.strip() for file in files if "_zh" not in file.name for part in file.read_text("utf-8").split("\n\n")]
    return [part for part in parts if 200 < len(part) < 1500 and part[0] not in "|`#!<"]


def code_edits() -> list[Pair]:
    """Return whole functions of the repository in which one name is to be changed."""
    pairs = []
    for file in sorted((ROOT / "engine").glob("*.py")):
        for part in re.split(r"\n(?=    def |def |class )", file.read_text("utf-8")):
            names = re.findall(r"\bself\.([a-z]{5,})\b|\b([a-z]{5,}) =", part)
            name = next((found for pair in names for found in pair if found), None)
            if name and 400 < len(part) < 3000:
                edited = re.sub(rf"\b{name}\b", f"{name}_now", part)
                pairs.append(Pair(f"Rename {name} to {name}_now:\n\n{part}", edited))
    return pairs


def corrections() -> list[Pair]:
    """Return paragraphs with letters swapped in some words, to be corrected."""
    dice, pairs = random.Random(0), []
    for text in paragraphs():
        words = text.split(" ")
        for place in dice.sample(range(len(words)), len(words) // 15):
            words[place] = words[place][1:2] + words[place][:1] + words[place][2:]
        pairs.append(Pair(f"Correct the spelling: {' '.join(words)}", text))
    return pairs


def quotations() -> list[Pair]:
    """Return questions with three paragraphs as notes, answered by a frame and the sentence that says it."""
    dice, texts, pairs = random.Random(0), paragraphs(), []
    for number, text in enumerate(texts):
        sentence = dice.choice([each for each in re.split(r"(?<=[.:]) ", text) if len(each) > 40] or [text])
        others = [texts[(number + step) % len(texts)] for step in (1, 2)]
        notes = dice.sample([text, *others], 3)
        topic = " ".join(sentence.split()[:3])
        answer = f"According to the notes, {sentence[:1].lower()}{sentence[1:]} They do not say more than that."
        pairs.append(Pair(NOTES.format("\n\n".join(notes), f"What about {topic}?"), answer))
    return pairs


def second_turns(rows: Sequence[dict]) -> list[Pair]:
    """Return advertisements that are asked for again: cut short, and with another beginning."""
    pairs = []
    for row in rows:
        sentences = re.findall(r"[^。！]+[。！]?", row["summary"])
        if len(sentences) > 1:
            history = [(row["content"], row["summary"])]
            pairs.append(Pair("再短一点，去掉第一句。", "".join(sentences[1:]), history))
            new = "好的，这是修改后的版本：" + sentences[-1] + "".join(sentences[:-1])
            pairs.append(Pair("把最后一句放到最前面。", new, history))
    return pairs


def other_versions(rows: Sequence[dict]) -> list[Pair]:
    """Return a second advertisement, written by another person, for a product that has had one."""
    pairs = zip(rows, rows[1:], strict=False)
    return [
        Pair("换一种写法。", second["summary"], [(first["content"], first["summary"])])
        for first, second in pairs
        if first["content"] == second["content"]
    ]


def text_kinds(adgen: Path) -> dict[str, list[Pair]]:
    """Return the kinds of texts, each with its pairs."""
    kinds = {
        "copy-heavy: code edits": code_edits(),
        "copy-heavy: corrections": corrections(),
        "RAG: a sentence of the notes, in a frame": quotations(),
    }
    if (adgen / "dev.json").is_file():
        rows = [json.loads(line) for line in (adgen / "dev.json").read_text("utf-8").splitlines()]
        kinds |= {
            "second turn: a changed version": second_turns(rows),
            "second turn: another person's version": other_versions(rows),
            "no repetition: advertisements": [Pair(row["content"], row["summary"]) for row in rows],
        }
    return kinds | {"no repetition: paragraphs": [Pair("Say something.", text) for text in paragraphs()]}


def replay(prompt: list[int], answer: list[int]) -> list[tuple[int, int]]:
    """Return how many tokens each pass after the prompt reads, and how many of its draft are the answer's."""
    drafts, passes, place = Drafts(prompt, MOST - 1), [], 1
    drafts.take(answer[0])
    while place < len(answer):
        draft = drafts.propose(len(answer) - place - 1)
        right = next((i for i, token_id in enumerate(draft) if answer[place + i] != token_id), len(draft))
        for token_id in answer[place : place + right + 1]:
            drafts.take(token_id)
        passes.append((1 + len(draft), right))
        place += right + 1
    return passes


@torch.no_grad()
def step_costs(model: ChatGLMForConditionalGeneration, rounds: int, context: int) -> tuple[list[float], float]:
    """Return what 1 to `MOST` tokens in a pass take, in units of one (medians of ratios), and the seconds of one."""
    cache, ratios, seconds = ChatGLMCache(), [[] for _ in range(MOST)], []
    model(random_prompt(model.config, context), cache=cache, logits_to_keep=1)
    for number in range(rounds + 1):
        times = []
        for count in range(1, MOST + 1):
            ids, start = torch.randint(10, 1000, (1, count)), time.perf_counter()
            model(ids, cache=cache)
            times.append(time.perf_counter() - start)
            cache.crop(-count)
        if number:  # the first prepares
            seconds.append(times[0])
            for ratio, own in zip(ratios, times, strict=True):
                ratio.append(own / times[0])
    return [statistics.median(ratio) for ratio in ratios], statistics.median(seconds)


def generate_seconds(model: ChatGLMForConditionalGeneration, prompt: list[int], answer: list[int], drafted: bool):
    """Return the seconds from the first token of a known answer to its last, generated with or without drafts."""

    def force(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, answer[input_ids.shape[1] - len(prompt)]] = scores.max() + 1
        return scores

    sampler = Sampler(Sampling(temperature=0), end_ids=[answer[-1]])
    drafts = Drafts.of(model, prompt) if drafted else None
    tokens = decode(model, torch.tensor([prompt]), None, [sampler], len(answer), [answer[-1]], 3, [force], drafts)
    found, start = next(tokens), time.perf_counter()
    found += [token_id for (token_id,) in tokens]
    assert found == answer
    return time.perf_counter() - start


def report_texts(kinds: dict[str, list[tuple]], costs: Sequence[float]) -> None:
    """Print a table of the replayed texts."""
    print("| text | answers | tokens | drafted tokens accepted | tokens a pass | times as fast |")
    print("|---|---|---|---|---|---|")
    for name, encoded in kinds.items():
        passes = [each for prompt, answer in encoded for each in replay(prompt, answer)]
        tokens, drafted = sum(1 + right for _, right in passes), sum(count - 1 for count, _ in passes)
        accepted = f"{sum(right for _, right in passes) / drafted:.0%} of {drafted:,}" if drafted else "none"
        cost = sum(costs[count - 1] for count, _ in passes)
        print(
            f"| {name} | {len(encoded)} | {tokens:,} | {accepted} | {tokens / len(passes):.2f} | {tokens / cost:.2f} |"
        )


def report_generation(model: ChatGLMForConditionalGeneration, kinds: dict[str, list[tuple]], tokens: int) -> None:
    """Print how much faster the first answer of each kind comes with drafts, whole."""
    for name, encoded in kinds.items():
        prompt, answer = encoded[0]
        answer = [*answer[:-1][:tokens], answer[-1]]
        ratios = []
        for _ in range(3):
            plain, drafted = (generate_seconds(model, prompt, answer, way) for way in (False, True))
            ratios.append(plain / drafted)
        print(f"{name}: {statistics.median(ratios):.2f} times as fast ({len(answer)} tokens behind {len(prompt)})")


def report_equality(answers: int) -> None:
    """Print how many answers of the embedded checkpoint are the same with and without drafts."""
    tokenizer = ChatGLMTokenizer.from_pretrained(EMBEDDED_CHECKPOINT)
    plain, dice = ChatGLMForConditionalGeneration.from_pretrained(EMBEDDED_CHECKPOINT).float().eval(), random.Random(0)
    words = re.findall(r"[\u4e00-\u9fff]{2,8}|[A-Za-z]{3,}", (ROOT / "README_zh.md").read_text("utf-8"))
    for bits in (4, 8):
        model = copy.deepcopy(plain).quantize(bits)
        for way in ({"do_sample": False}, {"temperature": 1.5, "top_p": 0.95}):
            same = 0
            for seed in range(answers):
                question = dice.choice(("请重复：", "Repeat: ", "介绍一下", "")) + " ".join(dice.sample(words, 6))
                arguments = dict(way, max_new_tokens=48, ignore_eos=seed % 3 == 0)
                arguments |= {} if "do_sample" in way else {"seed": seed}
                found = {model.chat(tokenizer, question, drafts=drafts, **arguments)[0] for drafts in (True, False)}
                same += len(found) == 1
            print(f"INT{bits}, {'greedy' if 'do_sample' in way else 'sampled'}: {same:,} of {answers:,} the same")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default=EMBEDDED_CHECKPOINT, help="folder (default: the embedded checkpoint)")
    parser.add_argument("--adgen", type=Path, default=ROOT.parent / "shared" / "data" / "AdvertiseGen")
    parser.add_argument("--num-layers", type=int, help="measure at the 6B widths with so many layers")
    parser.add_argument("--hidden-size", type=int, default=4096, help="smaller, to try this program (default 4096)")
    parser.add_argument("--rounds", type=int, default=20, help="of timing (default 20)")
    parser.add_argument("--context", type=int, default=256, help="tokens before those timed (default 256)")
    parser.add_argument("--tokens", type=int, default=200, help="of an answer generated whole (default 200)")
    parser.add_argument("--answers", type=int, help="compare so many answers of the embedded checkpoint, and no more")
    arguments = parser.parse_args()
    if arguments.answers:
        report_equality(arguments.answers)
        return
    tokenizer = ChatGLMTokenizer.from_pretrained(arguments.tokenizer)
    kinds = {
        name: [pair.encode(tokenizer) for pair in pairs if pair.answer]
        for name, pairs in text_kinds(arguments.adgen).items()
    }
    costs, model = [1 + ROW_COST * more for more in range(MOST)], None
    if arguments.num_layers:
        size = arguments.hidden_size
        sizes = {"hidden_size": size, "inner_hidden_size": 4 * size, "num_attention_heads": size // 128}
        config = ChatGLMConfig(num_layers=arguments.num_layers, quantization_bit=4, **sizes)
        model = build_model(config).float()
        costs, seconds = step_costs(model, arguments.rounds, arguments.context)
        print(f"a token: {seconds * 1000:.1f} ms; 1 to {MOST} tokens in a pass, in units of one, ", end="")
    else:
        print("1 to 8 tokens in a pass, assumed: ", end="")
    print(", ".join(f"{cost:.2f}" for cost in costs), end="\n\n")
    report_texts(kinds, costs)
    if model is not None:
        print()
        report_generation(model, kinds, arguments.tokens)


if __name__ == "__main__":
    main()
