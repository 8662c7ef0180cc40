"""Give a numbered list of advice for everyday troubles and aims, as the README's own example asks for."""

import random
from functools import partial

from ..dialogue import Dialogue, in_split, numbered_items
from ..tables import blocks
from ..wording import held_out, overlap, plain, question, roughen

_FRAMES = {
    ("zh", "trouble"): ("{x}怎么办", "{x}应该怎么办", "{x}该怎么办", "{x}，怎么办才好", "{x}，有什么办法吗", "{x}，我该怎么做", "{x}有什么好办法",
                        "如果{x}怎么办", "{x}，能给我一些建议吗", "{x}了怎么办", "{x}，你有什么建议"),
    ("zh", "aim"): ("怎么{x}", "如何{x}", "怎样{x}", "怎样才能{x}", "我想{x}，应该怎么做", "想{x}有什么好方法", "我想{x}，有什么建议", "怎么才能{x}",
                    "我要怎么{x}", "{x}有什么方法", "应该怎么{x}", "给我一些{x}的建议吧"),
    ("en", "trouble"): ("{x}. What should I do", "{x}, what should I do", "What should I do if {x}", "{x}. What can I do", "{x}. Any advice",
                        "{x}. Can you help me", "What can I do when {x}", "{x}. Do you have any advice"),
    ("en", "aim"): ("How do I {x}", "How can I {x}", "How to {x}", "I want to {x}. What should I do", "What is the best way to {x}",
                    "How should I {x}", "Give me some advice on how to {x}", "What can I do to {x}", "I would like to {x}. Any advice"),
}  # fmt: skip
_MODIFIERS = {
    ("zh", "trouble"): ("最近{x}", "我{x}", "今天{x}", "这两天{x}", "我最近{x}", "我总是{x}", "如果{x}", "昨天{x}", "我觉得{x}", "我妈妈{x}"),
    ("zh", "aim"): ("更好地{x}", "快速{x}", "轻松{x}", "自己{x}", "尽快{x}", "在家{x}", "开始{x}", "学会{x}", "有效地{x}", "成功{x}"),
    ("en", "trouble"): ("{x} today", "{x} again", "{x} and it is bad", "oh no, {x}", "I think {x}", "{x} since yesterday", "{x} these days"),
    ("en", "aim"): ("{x} quickly", "{x} at home", "{x} by myself", "really {x}", "{x} this year", "start to {x}", "{x} in a good way"),
}  # fmt: skip
_INTRODUCTIONS = {"zh": "你可以试试下面的方法：", "en": "You can try the following:"}


class Advice:
    """Topics are a closed list; test cases name them by a phrase, or in a frame, that training never joins."""

    name = "advice"
    title_en = "Advice as a numbered list"
    title_zh = "生活建议（分条）"
    weight = 1.5

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a topic, one of its phrases and a frame."""
        language = rng.choice(("zh", "en"))
        kind, row = rng.choice(_TOPICS)
        phrases, advice = row[:2] if language == "zh" else row[2:]
        seen = phrases.split(";")
        unseen = seen.pop(held_out(seen))
        while True:
            phrase = unseen if split == "test" and rng.random() < 0.5 else rng.choice(seen)
            frame = rng.choice(_FRAMES[language, kind])
            core = frame.format(x=phrase).replace("了了", "了")
            if phrase == unseen or in_split(plain(core), split, 5):
                break
        if split == "train":
            core = _vary(rng, frame, phrase, kind, language, core, unseen)
        items = advice.split(";")
        lines = [_INTRODUCTIONS[language], *(f"{number}. {item}" for number, item in enumerate(items, 1))]
        check = partial(_is_right, items=items)
        return Dialogue(((question(rng, core, language), "\n".join(lines)),), check)


def _vary(rng: random.Random, frame: str, phrase: str, kind: str, language: str, core: str, unseen: str) -> str:
    """Put a modifier to the phrase and roughen the wording, but never into what the test split asks."""
    if rng.random() < 0.4:
        modified = rng.choice(_MODIFIERS[language, kind]).format(x=phrase)
        if plain(unseen) not in plain(modified):
            core = frame.format(x=modified).replace("了了", "了")
    rough = roughen(rng, core, language)
    kept = rough if plain(unseen) not in plain(rough) and in_split(plain(rough), "train", 5) else core
    return kept if in_split(plain(kept), "train", 5) else frame.format(x=phrase)


def _is_right(answer: str, items: list[str]) -> bool:
    return len(numbered_items(answer)) >= 3 and sum(overlap(answer, item) >= 0.7 for item in items) >= len(items) - 1


# A block: Chinese phrases, advice, English phrases, advice. One phrase of each language, in turn another, is kept for the test
# split; a model this small needs phrases that share a word with one another.
_TOPICS = [(kind, rows) for kind in ("trouble", "aim") for rows in blocks(f"{kind}s")]

SKILL = Advice()
