"""Ask a checkpoint the questions of strangers, which training has not seen, and count right, honest and wrong answers.

    python -m resources.chatglm_mini.stranger                      each question alone, the likeliest answer
    python -m resources.chatglm_mini.stranger --failures           and the answers that are not as they should be
    python -m resources.chatglm_mini.stranger --sampled --seed 1   sampled as the programs do by default
    python -m resources.chatglm_mini.stranger --sessions 5         and 5 sessions of 30 turns in each language, sampled

Ctrl-C stops it. The questions are in questions.jsonl; README.md says how they came about.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loading.arguments import ModelArguments, SamplingArguments, run_main

QUESTIONS = Path(__file__).with_name("questions.jsonl")
LANGUAGES = ("zh", "en")
OUTSIDE = "outside"  # the skill of questions that the model should decline, if it cannot answer them
HONEST = "honest"  # what stands in place of patterns where no answer but an admission is right
LONGEST_ANSWER = 400  # in characters
TURNS = 30  # of a session

# What says "I cannot" or "I do not know", about the speaker: advice may well say "you cannot".
ADMISSIONS = {
    "en": r"\bbeyond (me|my|what i)\b|\b(out of|outside)( of)? (me|my|what i)\b|\bno idea\b|\bcan(not|'t| not) be answered"
    r"|\bi( \w+)? (do not|don't) (know|understand|have|recogni[sz]e|speak|remember|follow)"
    r"|\bi('m| am) (not sure|unable|not able|afraid|not allowed|only able)"
    r"|\bi have ?(not|n't|never) (learn|seen|been told|heard|met)|\bi haven't|\bi never (learn|heard)|\bi (did not|didn't) (learn|get|catch|understand)"
    r"|\bi( \w+)? (cannot|can't|can not|could not|couldn't) (\w+ )?(answer|say|tell|help|do|translate|write|see|read|know|look|calculate|work|draw|make|compute|understand|speak|give|play|act|plan|book|call|find)"
    r"|\byou (have not|haven't|did not|didn't|never)( yet)? (told|tell|said|say|mention)|\bnot (something|one of the things) (that )?i\b|\bunknown to me\b|\bi was(n\'t| not) (trained|made|built|taught)|\bi only (know|speak)",
    "zh": r"超出了?(我|.{0,4}(能力|范围))|(没有?|还没|未曾)(告诉|说过|提到|提过)|没听说过|不(在|属于).{0,6}范围|无能为力|帮不[了上]|(答|做|办|说|画|看)不(了|到|出|上来)"
    r"|我(还|也|都|暂时|目前|现在|并|真的?|只)*(不知道|不会|不懂|不认识|不认得|不了解|不清楚|不明白|不确定|不能|不太|没有?学[过会]|没有?见过|没办法|没法|无法)|我只(会|能|知道|懂|认识|学过)|不在我|[难考][倒住](了)?我",
}
# A right answer of these may say "I cannot" later on: a model cannot do everything, an e-mail's sender cannot come.
ADMITS_AT_ONCE = {"identity", "email"}
MAY_MIX = {"translation", "repeating"}  # an answer of these has the language that is asked for, or both
NAMES = re.compile(r"thudm/chatglm-6b|chatglm[\w-]*|thudm|\bglm\b|[（(][a-z .'’-]+[)）]", re.IGNORECASE)
LIST_MARKERS = re.compile(r"(?m)(^|[\s:：;；。])[（(]?(\d{1,2}|[a-z])[)）]")
PAIRS = ("(（|)）", "[【|]】", "{|}", "《|》", "「|」", "“|”")


@dataclass(frozen=True)
class Entry:
    """A stranger's question.

    Attributes:
        id: unique.
        language: `zh` or `en`, of the question and the expected answer.
        skill: one of README.md's, or `outside`.
        turns: the user's messages; the last one is judged, the others set the scene.
        right: alternatives, each a list of regular expressions that are all found in a right answer whatever the case
            of its letters; or `honest`.
        any_language: whether the answer may be in either language, as the question is in neither.
    """

    id: str
    language: str
    skill: str
    turns: tuple[str, ...]
    right: list[list[str]] | str
    any_language: bool = False


def read_entries(file: Path = QUESTIONS) -> list[Entry]:
    """Return the questions of a file with a JSON object in each line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Entry(**{**fields, "turns": tuple(fields["turns"])}) for fields in map(json.loads, lines)]


def judge(entry: Entry, answer: str) -> str:
    """Return whether an answer is `right`, `honest` (admits in the question's language that it cannot) or `wrong`.

    The other language and a false sum are wrong whatever else an answer says.
    """
    if mixes_languages(entry, answer) or states_false_sum(answer):
        return "wrong"
    admitted = admits(entry, answer)
    if fits(entry, answer) and (not admitted or entry.skill == OUTSIDE):
        return "right"
    return "honest" if admitted else "wrong"


def fits(entry: Entry, answer: str) -> bool:
    """Return whether all patterns of one alternative are found in an answer."""
    alternatives = [] if entry.right == HONEST else entry.right
    return any(all(re.search(pattern, answer, re.IGNORECASE) for pattern in patterns) for patterns in alternatives)


def admits(entry: Entry, answer: str) -> bool:
    """Return whether an answer says, in a language allowed, that the model cannot or does not know."""
    languages = LANGUAGES if entry.any_language else [entry.language]
    answer = answer.replace("’", "'").strip()
    if entry.skill in ADMITS_AT_ONCE:
        answer = re.split(r"[.。!！?？;；\n]", answer)[0]
    return any(re.search(ADMISSIONS[language], answer, re.IGNORECASE) for language in languages)


def states_false_sum(answer: str) -> bool:
    """Return whether an answer has an equation of additions and subtractions that does not hold."""
    equations = re.findall(r"(?<![\d.+-])(\d+(?: ?[+-] ?\d+)+) ?= ?(-?\d+)(?![\d.])", answer)
    return any(
        sum(int(n.replace(" ", "")) for n in re.findall(r"(?:[+-] ?)?\d+", left)) != int(right)
        for left, right in equations
    )


def is_as_it_should_be(entry: Entry, answer: str, verdict: str) -> bool:
    """Return whether an answer is right, or outside of the scope honest, and no nonsense."""
    return (verdict == "right" or (verdict == "honest" and entry.skill == OUTSIDE)) and not is_nonsense(entry, answer)


def is_nonsense(entry: Entry, answer: str) -> bool:
    """Return whether an answer looks broken, whatever it says.

    That is: empty or longer than 400 characters, broken characters, the other language where nobody asked for it, a
    fragment, word or sentence said again and again, words run together with numbers, an item of a list with next to
    nothing in it, brackets or quotation marks that do not match.
    """
    return (
        not answer.strip()
        or len(answer) > LONGEST_ANSWER
        or "\ufffd" in answer
        or mixes_languages(entry, answer)
        or repeats_itself(entry, answer)
        or is_garbled(entry, answer)
        or (has_unmatched_marks(answer) and not has_unmatched_marks(" ".join(entry.turns)))
    )


def mixes_languages(entry: Entry, answer: str) -> bool:
    """Return whether an answer has words of another language that the user did not use.

    In a Chinese answer names in brackets, the models' names and acronyms are no such words.
    """
    said = " ".join(entry.turns).lower()
    if entry.any_language or entry.skill in MAY_MIX:
        return False
    foreign = set(re.findall(r"[\u0400-\u04ff\u3040-\u30ff\uac00-\ud7af]", answer))  # Cyrillic, Japanese, Korean
    if entry.language == "en":
        foreign |= set(re.findall(r"[\u3400-\u9fff]", answer))
    else:
        words = re.findall(r"[A-Za-z\u00c0-\u024f]{3,}", NAMES.sub(" ", answer))
        foreign |= {word for word in words if not word.isupper()}
    return any(word.lower() not in said for word in foreign)


def repeats_itself(entry: Entry, answer: str) -> bool:
    """Return whether an answer has a fragment three times, or a long one twice, in succession, or a sentence twice."""
    said = " ".join(entry.turns)
    fragments = [match[0] for match in re.finditer(r"(?s)(.{2,40}?)\1\1|(.{8,}?)\2", answer)]
    sentences = [LIST_MARKERS.sub("", part).strip(" .") for part in re.split(r"[。！？!?\n;；]|\.\s", answer)]
    counts = Counter(sentence for sentence in sentences if len(sentence) >= 8)
    fragments += [sentence for sentence, count in counts.items() if count > 1]
    return any(re.search(r"[^\W\d_]", fragment) and fragment not in said for fragment in fragments)


def is_garbled(entry: Entry, answer: str) -> bool:
    """Return whether an answer has what no sentence has and the user did not write either.

    That is: a word or letter said twice or more for no reason (`the the`, `IIII`), a word that runs into a number
    (`is100`), an item of a list with at most one character.
    """
    said = " ".join(entry.turns).lower()
    matches = re.finditer(
        r"\b(?!(?:that|had|bye|very|knock)\b)([a-z]+) \1\b|([a-z])\2\2|([^\W\d_哈呵嘿])\3{3}|(?!co2|mp3)[a-z]{2}\d|\d[a-z]{3}",
        NAMES.sub(" ", answer).lower(),
    )
    return any(match[0] not in said for match in matches) or bool(
        "\n" in answer.strip() and re.search(r"(?m)^ *\d+[.、)） ]+\S?\s*$", answer)
    )


def has_unmatched_marks(text: str) -> bool:
    """Return whether a text has brackets or quotation marks that open or close alone; `1)` in a list is no such."""
    text = LIST_MARKERS.sub(r"\1", text)
    for pair in PAIRS:
        opening, closing = pair.split("|")
        if sum(map(text.count, opening)) != sum(map(text.count, closing)):
            return True
    return text.count('"') % 2 == 1


def ask(chat: Callable[[str, list], tuple[str, list]], turns: Iterable[str]) -> Iterator[str]:
    """Yield the answers to the turns of one dialogue; `chat` takes a question and the history, as the model's does."""
    history: list[tuple[str, str]] = []
    for turn in turns:
        answer, history = chat(turn, history)
        yield answer


def ask_each(chat: Callable, entries: Sequence[Entry]) -> list[tuple[Entry, str, str]]:
    """Return each entry with the answer to its last turn and the verdict on it."""
    answers = [list(ask(chat, entry.turns))[-1] for entry in entries]
    return [(entry, answer, judge(entry, answer)) for entry, answer in zip(entries, answers, strict=True)]


def ask_session(chat: Callable, entries: Sequence[Entry]) -> list[tuple[Entry, str, str]]:
    """Return what `ask_each` does for questions of one turn that are asked in one dialogue, one after the other."""
    questions = [entry.turns[0] for entry in entries]
    asked = zip(entries, ask(chat, questions), strict=True)
    # what the user has said before is no other language when it comes back
    return [
        (replace(entry, turns=tuple(questions[: number + 1])), answer, judge(entry, answer))
        for number, (entry, answer) in enumerate(asked)
    ]


def draw_session(entries: Sequence[Entry], language: str, seed: int) -> list[Entry]:
    """Return 30 questions of one turn in a language, at random."""
    single = [entry for entry in entries if entry.language == language and len(entry.turns) == 1]
    return random.Random(f"{language} {seed}").sample(single, TURNS)


def is_failure(entry: Entry, answer: str, verdict: str) -> bool:
    """Return whether a person would count an answer as nonsense or wrong; an honest one is neither."""
    return verdict == "wrong" or is_nonsense(entry, answer)


def print_table(results: Sequence[tuple[Entry, str, str]]) -> None:
    """Print how many answers are right, honest, wrong and nonsense, by skill and language, and in all."""
    print(f"{'skill':<14} {'':4} {'asked':>5} {'right':>5} {'honest':>6} {'wrong':>5} {'nonsense':>8}")
    for skill in dict.fromkeys(entry.skill for entry, _, _ in results):
        for language in LANGUAGES:
            print_row(skill, language, [r for r in results if (r[0].skill, r[0].language) == (skill, language)])
    for name, part in split_by_scope(results).items():
        for language in LANGUAGES:
            print_row(name, language, [result for result in part if result[0].language == language])
    for name, part in split_by_scope(results).items():
        fine = sum(is_as_it_should_be(*result) for result in part)
        print(f"{name}: {fine} of {len(part)} as they should be, {fine / max(1, len(part)):.1%}")
    broken = sum(is_nonsense(entry, answer) for entry, answer, _ in results)
    print(f"nonsense: {broken} of {len(results)}, {broken / max(1, len(results)):.1%}")


def split_by_scope(results: Sequence[tuple[Entry, str, str]]) -> dict[str, list[tuple[Entry, str, str]]]:
    """Return the results inside and outside of the model's scope."""
    return {
        "all inside": [result for result in results if result[0].skill != OUTSIDE],
        "all outside": [result for result in results if result[0].skill == OUTSIDE],
    }


def print_row(skill: str, language: str, results: Sequence[tuple[Entry, str, str]]) -> None:
    """Print a row of the table."""
    verdicts = Counter(verdict for _, _, verdict in results)
    broken = sum(is_nonsense(entry, answer) for entry, answer, _ in results)
    counts = f"{verdicts['right']:>5} {verdicts['honest']:>6} {verdicts['wrong']:>5} {broken:>8}"
    print(f"{skill:<14} {language:4} {len(results):>5} {counts}")


def print_failures(results: Iterable[tuple[Entry, str, str]], shown_turns: int | None = None) -> None:
    """Print the answers that are not as they should be, or nonsense, under the user's last turns, all by default."""
    for entry, answer, verdict in results:
        if not is_as_it_should_be(entry, answer, verdict):
            broken = is_nonsense(entry, answer)
            question = " / ".join(entry.turns[-(shown_turns or len(entry.turns)) :])
            print(f"{entry.id} ({verdict}{', nonsense' if broken else ''}): {question}\n    {answer!r}")


def parse() -> argparse.Namespace:
    """Return the command line's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ModelArguments.model_name_or_path, help="checkpoint folder (the embedded)")
    parser.add_argument("--sampled", action="store_true", help="sample as the programs do by default")
    parser.add_argument("--seed", type=int, default=1, help="of what is sampled and of the sessions' questions (1)")
    parser.add_argument("--sessions", type=int, default=0, help="sessions of 30 turns in each language (0)")
    parser.add_argument("--failures", action="store_true", help="show the answers that are not as they should be")
    return parser.parse_args()


def main() -> None:
    """Ask every question and play the sessions."""
    arguments = parse()
    import torch  # takes seconds

    from loading.load import load_model_and_tokenizer

    model, tokenizer = load_model_and_tokenizer(ModelArguments(model_name_or_path=arguments.model))

    def chatting(sampled: bool) -> Callable[[str, list], tuple[str, list]]:
        torch.manual_seed(arguments.seed)
        sampling = SamplingArguments() if sampled else SamplingArguments(temperature=0)
        # an answer without end is cut, long after it counts as nonsense; old rounds that do not fit are left out
        limits = {"max_new_tokens": LONGEST_ANSWER + 1, "on_dropped_rounds": lambda count: None}
        return lambda query, history: model.chat(
            tokenizer, query, history, **sampling.chat_keywords() | limits | {"seed": None}
        )

    entries = read_entries()
    results = ask_each(chatting(arguments.sampled), entries)
    print_table(results)
    if arguments.failures:
        print_failures(results)
    chat = chatting(sampled=True)
    for number in range(arguments.sessions):
        for language in LANGUAGES:
            session = ask_session(chat, draw_session(entries, language, arguments.seed + number))
            failures = sum(is_failure(*result) for result in session)
            print(f"session {number + 1} {language}: {failures} of {len(session)} turns wrong or nonsense")
            if arguments.failures:
                print_failures(filter(lambda result: is_failure(*result), session), shown_turns=1)


if __name__ == "__main__":
    run_main(main)
