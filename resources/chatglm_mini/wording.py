"""Wording and comparison tools that the skills share: polite openers, punctuation, held-out wordings, tolerant matching."""

import random
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

from .dialogue import in_split

_OPENERS = {
    "zh": ("请问", "你好，", "您好，请问", "我想问一下，", "想请教你，", "麻烦问一下，", "嗨，", "请教一下，"),
    "en": ("Hi, ", "Hello, ", "Excuse me, ", "Please tell me, ", "Quick question: ", "Hey, ", "I have a question: "),
}
_QUESTION_ENDS = {"zh": ("？", "？", "？", "", "?", "呀？"), "en": ("?", "?", "?", "")}
_REQUEST_ENDS = {"zh": ("。", "。", "", "", "！", "，谢谢。"), "en": (".", ".", "", "!", ", please.", ". Thanks!")}


def question(rng: random.Random, core: str, language: str) -> str:
    """Dress a question given without its final mark: sometimes an opener, one of several ends, sometimes no capital."""
    return _dress(rng, core, language, _QUESTION_ENDS)


def request(rng: random.Random, core: str, language: str) -> str:
    """Dress a request (an imperative sentence) given without its final mark."""
    return _dress(rng, core, language, _REQUEST_ENDS)


def _dress(rng: random.Random, core: str, language: str, ends: dict[str, Sequence[str]]) -> str:
    opener = rng.choice(_OPENERS[language]) if rng.random() < 0.3 else ""
    if opener.endswith("请问") and core.startswith(("请", "你好")):
        opener = ""
    if language == "en" and (opener or rng.random() < 0.25) and not core.startswith(("I ", "I'", '"')):
        core = core[0].lower() + core[1:]
    return opener + core + rng.choice(ends[language])


_DROPPED = {
    "zh": set("的是有了吗呢在个里请我最"),
    "en": {"the", "a", "an", "is", "are", "does", "do", "of", "in", "there"},
}
_SYNONYMS = {
    "zh": (("哪里", "哪儿"), ("什么", "啥"), ("怎么", "如何"), ("如何", "怎样"), ("多少", "几"), ("怎么办", "咋办"), ("一个", "个"), ("可以", "能")),
    "en": (("What is", "What's"), ("what is", "what's"), ("do not", "don't"), ("I am", "I'm"), ("How do I", "How can I"), ("Which", "What")),
}  # fmt: skip


def roughen(rng: random.Random, core: str, language: str) -> str:
    """Change a wording as people do, so that one given wording is never all there is to learn from.

    One time in three each: a word is replaced by another of the same meaning; one or two little words are left out.
    """
    if rng.random() < 1 / 3:
        usual, other = rng.choice(_SYNONYMS[language])
        core = core.replace(usual, other, 1)
    if rng.random() < 1 / 3:
        parts = core.split(" ") if language == "en" else list(core)
        for _ in range(rng.choice((1, 2))):
            places = [place for place, part in enumerate(parts) if part.lower() in _DROPPED[language]]
            if places:
                parts.pop(rng.choice(places))
        core = (" " if language == "en" else "").join(parts)
    return core


def loosen(rng: random.Random, split: str, template: str, language: str, unseen: Iterable[str]) -> str:
    """Roughen a template for training, unless the result is one of the test split's own wordings."""
    if split == "test":
        return template
    rough = roughen(rng, template, language)
    return template if plain(rough) in map(plain, unseen) else rough


def held_out(wordings: Sequence[str]) -> int:
    """Return the index of the wording that only the test split uses: another for each list, the same in every run."""
    return zlib.crc32("|".join(wordings).encode()) % len(wordings)


def draw_core(rng: random.Random, split: str, templates: Sequence[str], unseen: Sequence[str], **values: str) -> str:
    """Fill a template so that the result belongs to `split`.

    Args:
        templates: wordings both splits use; a filled one in four is held out for the test split.
        unseen: wordings that only the test split uses (about half of its cases).
        values: what replaces the `{name}` slots.
    """
    if split == "test" and unseen and rng.random() < 0.5:
        return rng.choice(unseen).format(**values)
    reserved = {plain(template.format(**values)) for template in unseen}
    cores = [template.format(**values) for template in templates]
    candidates = [core for core in cores if plain(core) not in reserved and in_split(plain(core), split, 4)]
    if not candidates:  # all wordings of this value hash to the other split
        return "" if split == "train" or not unseen else rng.choice(unseen).format(**values)
    return rng.choice(candidates)


def plain(text: str) -> str:
    """Fold width, case, spaces and punctuation away, so that only letters, digits and characters are compared."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return "".join(character for character in folded if character.isalnum())


def words(text: str) -> list[str]:
    """Split into lower-case English words and numbers and single Chinese characters."""
    folded = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return re.findall(r"[a-z]+(?:'[a-z]+)?|\d+|[^\W\da-z_]", folded)


def mentions(answer: str, phrase: str) -> bool:
    """Say whether `phrase` occurs in `answer` as whole words (English) or characters (Chinese)."""
    wanted, found = words(phrase), words(answer)
    return any(found[start : start + len(wanted)] == wanted for start in range(len(found) - len(wanted) + 1))


def mentions_all(answer: str, phrases: Iterable[str]) -> bool:
    """Say whether every phrase occurs in `answer`."""
    return all(mentions(answer, phrase) for phrase in phrases)


def overlap(answer: str, reference: str) -> float:
    """Return the share (0 to 1) of the reference's word pairs that `answer` holds too: tolerant of small changes."""
    wanted, found = words(reference), words(answer)
    if len(wanted) < 2:
        return float(mentions(answer, reference))
    pairs = set(pairwise(found))
    return sum(pair in pairs for pair in pairwise(wanted)) / (len(wanted) - 1)
