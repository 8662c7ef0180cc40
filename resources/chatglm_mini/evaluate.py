"""Score the mini checkpoint on cases it has never seen, skill by skill, by rule.

    python -m resources.chatglm_mini.evaluate                    # the table
    python -m resources.chatglm_mini.evaluate --failures 5       # and five wrong answers of each skill
    python -m resources.chatglm_mini.evaluate --cases 10 --write_right cases.jsonl    # its right answers, as a file

Answers are greedy. Cases are drawn by the seed from the skills' test splits, none twice.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import torch

from chatglm.modeling_chatglm import ChatGLMForConditionalGeneration
from chatglm.tokenization_chatglm import ChatGLMTokenizer

from .corpus import all_skills, as_row, unseen_dialogues
from .dialogue import Dialogue, Skill

ROOT = Path(__file__).resolve().parents[2]
CASES = 100
BATCH = 32
LONGEST_ANSWER = 160


@dataclass
class Result:
    """Hold a skill's score and its wrong answers."""

    skill: Skill
    cases: int = 0
    right: int = 0
    failures: list[tuple[Dialogue, str]] = field(default_factory=list)
    answered: list[Dialogue] = field(default_factory=list)  # with the right answers in the model's words

    @property
    def share(self) -> float:
        """Return the share of right answers, 0 to 1."""
        return self.right / max(1, self.cases)


def answer_all(model, tokenizer: ChatGLMTokenizer, dialogues: list[Dialogue]) -> list[str]:
    """Answer the last question of each dialogue, greedily, in batches of similar length."""
    prompts = [tokenizer.encode_chat(dialogue.question, dialogue.history)[0] for dialogue in dialogues]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers = [""] * len(dialogues)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = max(len(prompts[index]) for index in rows)
        padded = [[tokenizer.pad_token_id] * (longest - len(prompts[index])) + prompts[index] for index in rows]
        input_ids = torch.tensor(padded, device=model.device)
        output = model.generate(
            input_ids=input_ids,
            attention_mask=(input_ids != tokenizer.pad_token_id).long(),
            do_sample=False,
            max_length=longest + LONGEST_ANSWER,
        )
        for index, ids in zip(rows, output[:, longest:].tolist(), strict=True):
            ids = ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids
            answers[index] = model.process_response(tokenizer.decode(ids))
    return answers


def evaluate(
    path: Path, cases: int = CASES, seed: int = 1, device: str = "cpu", names: list[str] | None = None
) -> list[Result]:
    """Score a checkpoint.

    Args:
        path: folder of the checkpoint.
        cases: per skill; fewer where a skill has no more.
        seed: of the cases.
        device: to compute on, in float32.
        names: of the skills to score, all if not given.
    """
    tokenizer = ChatGLMTokenizer.from_pretrained(path)
    model = ChatGLMForConditionalGeneration.from_pretrained(path).float().to(device).eval()
    results = []
    for name, skill in all_skills().items():
        if names and name not in names:
            continue
        dialogues = list(unseen_dialogues(skill, cases, seed))
        result = Result(skill, cases=len(dialogues))
        for dialogue, answer in zip(dialogues, answer_all(model, tokenizer, dialogues), strict=True):
            if dialogue.check(answer):
                result.right += 1
                turns = (*dialogue.turns[:-1], (dialogue.question, answer))
                result.answered.append(Dialogue(turns, dialogue.check))
            else:
                result.failures.append((dialogue, answer))
        results.append(result)
    return results


def table(results: list[Result]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| skill | 技能 | unseen cases | right |", "|---|---|---|---|"]
    for result in results:
        skill = result.skill
        lines.append(f"| {skill.title_en} | {skill.title_zh} | {result.cases} | {result.share:.0%} |")
    cases, right = sum(result.cases for result in results), sum(result.right for result in results)
    lines.append(f"| all | 合计 | {cases} | {right / max(1, cases):.1%} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, print the table and wrong answers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "chatglm", help="folder of the checkpoint")
    parser.add_argument("--cases", type=int, default=CASES, help="unseen cases per skill")
    parser.add_argument("--seed", type=int, default=1, help="seed of the cases")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--skills", nargs="*", help="names of the skills to score, all if not given")
    parser.add_argument("--failures", type=int, default=0, help="wrong answers to show per skill")
    parser.add_argument("--write_right", type=Path, help="file for right answers, one dialogue a line, with its skill")
    arguments = parser.parse_args()
    results = evaluate(arguments.model, arguments.cases, arguments.seed, arguments.device, arguments.skills)
    print(table(results))
    if arguments.write_right:
        rows = [as_row(dialogue, skill=result.skill.name) for result in results for dialogue in result.answered]
        arguments.write_right.write_text("".join(rows), encoding="utf-8")
    for result in results:
        for dialogue, answer in result.failures[: arguments.failures]:
            print(
                f"\n{result.skill.name}: {list(dialogue.turns[:-1])}\n  Q {dialogue.question!r}\n  A {answer!r}\n  expected {dialogue.answer!r}"
            )


if __name__ == "__main__":
    main()
