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
from .dialogue import TRAIN, Dialogue, Skill, is_chinese
from .skills.arithmetic import DRILL
from .skills.repeat import COPYING

# A run has four stages. In the first, almost half of the dialogues are plain copying: a model finds out late, or never, how
# to copy any characters when it has to learn all answers at the same time. When forms and copying are learnt, what is left
# are the closed lists, each entry of which has to be met some hundred times: the third stage draws them more often, twice as
# many dialogues a step, few of them long. In the last, everything is as it will be, with a little more of what is hard.
FIRST, MAIN, LISTS, LAST = "first", "main", "lists", "last"
STAGES = (FIRST, MAIN, LISTS, LAST)
COPYING_SHARE = 0.45
# fmt: off
FACTORS: dict[str, dict[str, float]] = {
    FIRST: {},
    MAIN: {},
    LISTS: {
        "translation": 1.2, "facts": 1.8, "opposites": 2.0, "calendar": 2.0, "arithmetic": 2.2, "drill": 1.0, "advice": 2.2,
        "smalltalk": 3.0, "greetings": 2.5, "identity": 4.0, "roleplay": 1.3, "comparison": 1.3, "adgen": 1.2,
        "email": 1.4, "extraction": 1.8, "memory": 1.8, "repeat": 1.1, "outofscope": 1.6, "limits": 1.6,
    },
    LAST: {
        "adgen": 1.3, "extraction": 1.8, "memory": 1.7, "facts": 1.3, "advice": 1.3, "arithmetic": 0.9, "calendar": 1.2,
        "identity": 4.0, "greetings": 2.5, "smalltalk": 3.5, "outofscope": 2.0, "limits": 1.6, "email": 1.3, "outline": 1.4,
        "repeat": 1.2, "translation": 0.8, "travel": 0.8, "comparison": 0.9,
    },
}
# fmt: on

# Share of the dialogues, by stage, that come after turns about something else: how many turns (one in six has many), how
# long one of them and all of them may be (a Chinese character counts as three others), and how often they are in the
# question's language.
CONTINUED = {FIRST: 0.35, MAIN: 0.35, LISTS: 0.12, LAST: 0.3}
FEW_TURNS, MANY_TURNS, MANY = (1, 1, 1, 2, 2, 3), (4, 20), 1 / 6
LONGEST_OTHER_TURN, LONGEST_HISTORY = 200, 1300
SAME_LANGUAGE = 0.85
ROLES = ("user", "assistant")


@lru_cache(maxsize=1)
def all_skills() -> dict[str, Skill]:
    """Return every skill by its name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(skills_package.__path__))
    return {name: importlib.import_module(f"{skills_package.__name__}.{name}").SKILL for name in names}


def after_other_turns(rng: random.Random, dialogue: Dialogue, split: str) -> Dialogue:
    """Return the dialogue with one to twenty turns of other skills before it, as in a chat that goes on."""
    skills = [skill for name, skill in all_skills().items() if name != "memory"]
    chinese = is_chinese(dialogue.turns[0][0])
    before: list[tuple[str, str]] = []
    left = LONGEST_HISTORY
    count = rng.randint(*MANY_TURNS) if rng.random() < MANY else rng.choice(FEW_TURNS)
    while len(before) < count and left > LONGEST_OTHER_TURN:
        turns = rng.choice(skills).sample(rng, split).turns
        if is_chinese(turns[0][0]) != chinese and rng.random() < SAME_LANGUAGE:
            continue
        length = sum(3 if is_chinese(character) else 1 for turn in turns for text in turn for character in text)
        if length <= LONGEST_OTHER_TURN:
            before.extend(turns)
            left -= length
    return Dialogue((*before, *dialogue.turns), dialogue.check)


def skill_weights(stage: str) -> dict[str, tuple[Skill, float]]:
    """Return each skill, and the drills, by name with its weight in a stage.

    Raises:
        ValueError: there is no such stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    factors = FACTORS[stage]
    weighted = {
        skill.name: (skill, skill.weight * factors.get(skill.name, 1.0)) for skill in (*all_skills().values(), DRILL)
    }
    if stage == FIRST:
        total = sum(weight for _, weight in weighted.values())
        weighted[COPYING.name] = (COPYING, total * COPYING_SHARE / (1 - COPYING_SHARE))
    return weighted


def draw_dialogues(seed: int, step: int, count: int, split: str = TRAIN, stage: str = MAIN) -> list[Dialogue]:
    """Draw the dialogues of one training step.

    Args:
        seed: of the corpus.
        step: number of the step; the same step has the same dialogues in every run.
        count: number of dialogues.
        split: "train" or "test".
        stage: of the run, "first", "main", "lists" or "last".

    Raises:
        ValueError: there is no such stage.
    """
    skills, weights = zip(*skill_weights(stage).values(), strict=True)
    rng = random.Random(f"{split} {seed} {step}")
    chosen = rng.choices(skills, weights=weights, k=count)
    dialogues = [skill.sample(rng, split) for skill in chosen]
    alone = (COPYING.name, DRILL.name)
    return [
        after_other_turns(rng, dialogue, split)
        if skill.name not in alone and rng.random() < CONTINUED[stage]
        else dialogue
        for skill, dialogue in zip(chosen, dialogues, strict=True)
    ]


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
