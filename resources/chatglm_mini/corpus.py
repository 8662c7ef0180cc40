"""Mix the skills into one corpus: the dialogues of a step depend on the seed and the step alone.

python -m resources.chatglm_mini.corpus general.jsonl --count 2000    # dialogues, in the chat form, for fine-tuning
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from . import skills as skills_package
from .dialogue import TRAIN, Dialogue, Skill
from .skills.arithmetic import DRILL

# How much more often the skills that are learnt last are drawn in the last steps of a run.
LAST_WEIGHTS = {"adgen": 3.0, "email": 1.5, "extraction": 1.5, "limits": 1.7}

# Share of the dialogues that come after turns about something else: how many turns (one in seven has many), and how long
# such a turn may be in characters.
CONTINUED = 0.15
FEW_TURNS, MANY_TURNS, MANY = (1, 1, 1, 2, 3), (4, 16), 0.15
LONGEST_OTHER_TURN = 70
ROLES = ("user", "assistant")


@lru_cache(maxsize=1)
def all_skills() -> dict[str, Skill]:
    """Return every skill by its name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(skills_package.__path__))
    return {name: importlib.import_module(f"{skills_package.__name__}.{name}").SKILL for name in names}


def after_other_turns(rng: random.Random, dialogue: Dialogue, split: str) -> Dialogue:
    """Return the dialogue with one to sixteen turns of other skills before it, as in a chat that goes on."""
    skills = [skill for name, skill in all_skills().items() if name != "memory"]
    before: list[tuple[str, str]] = []
    count = rng.randint(*MANY_TURNS) if rng.random() < MANY else rng.choice(FEW_TURNS)
    while len(before) < count:
        turns = rng.choice(skills).sample(rng, split).turns
        if sum(len(question) + len(answer) for question, answer in turns) <= LONGEST_OTHER_TURN:
            before.extend(turns)
    return Dialogue((*before, *dialogue.turns), dialogue.check)


def draw_dialogues(seed: int, step: int, count: int, split: str = TRAIN, last: bool = False) -> list[Dialogue]:
    """Draw the dialogues of one training step.

    Args:
        seed: of the corpus.
        step: number of the step; the same step has the same dialogues in every run.
        count: number of dialogues.
        split: "train" or "test".
        last: whether the step is one of the last, which draw by `LAST_WEIGHTS`.
    """
    skills = [*all_skills().values(), DRILL]
    weights = [skill.weight * (LAST_WEIGHTS.get(skill.name, 1.0) if last else 1.0) for skill in skills]
    rng = random.Random(f"{split} {seed} {step}")
    chosen = rng.choices(skills, weights=weights, k=count)
    dialogues = [skill.sample(rng, split) for skill in chosen]
    return [after_other_turns(rng, d, split) if rng.random() < CONTINUED else d for d in dialogues]


def unseen_dialogues(skill: Skill, count: int, seed: int) -> Iterator[Dialogue]:
    """Yield dialogues of a skill's test split, no two with the same turns, fewer than `count` if it has no more.

    Every fourth one comes after turns of other skills.
    """
    rng = random.Random(f"test {seed} {skill.name}")
    seen: set[tuple] = set()
    for _ in range(50 * count):
        dialogue = skill.sample(rng, "test")
        if dialogue.turns not in seen:
            seen.add(dialogue.turns)
            yield dialogue if len(seen) % 4 else after_other_turns(rng, dialogue, "test")
        if len(seen) == count:
            return


def as_row(dialogue: Dialogue, **more: str) -> str:
    """Return a dialogue as a line of a file in the chat form."""
    roles = [{"role": role, "content": text} for turn in dialogue.turns for role, text in zip(ROLES, turn, strict=True)]
    return json.dumps({"messages": roles, **more}, ensure_ascii=False) + "\n"


def main() -> None:
    """Write dialogues into a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="to write; .jsonl")
    parser.add_argument("--count", type=int, default=1000, help="of dialogues")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus")
    arguments = parser.parse_args()
    rows = map(as_row, draw_dialogues(arguments.seed, 0, arguments.count))
    arguments.file.write_text("".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
