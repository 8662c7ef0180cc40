"""Translate everyday words and phrases both ways between Chinese and English."""

import random
import unicodedata
from functools import partial

from ..dialogue import Dialogue
from ..tables import table
from ..wording import draw_core, loosen, mentions, question, request, words

# (Chinese, English): both unique, so that both directions have one right answer.
ENTRIES = [tuple(line.split(" = ")) for line in table("translation")]

# (language of the question, target language): wordings of both splits, wordings of the test split only.
WORDINGS = {
    ("zh", "en"): (
        (
            "{x}用英语怎么说", "“{x}”用英语怎么说", "{x}的英文是什么", "“{x}”的英文是什么", "{x}英语怎么说", "英语里{x}怎么说",
            "把“{x}”翻译成英文", "把{x}翻译成英语", "翻译成英文：{x}", "请翻译成英语：{x}", "{x}翻译成英文是什么", "“{x}”用英文怎么讲",
            "怎么用英语说“{x}”", "请把“{x}”译成英文", "中译英：{x}", "{x}的英语单词是什么",
            "英语怎么说{x}", "英文里怎么说“{x}”", "怎么说“{x}”，用英语", "{x}译成英语", "把“{x}”译为英文", "{x}的英语怎么写", "“{x}”英文怎么写",
        ),
        ("“{x}”的英语怎么说", "请把{x}翻译成英文", "用英语怎么说“{x}”", "把“{x}”译成英语", "英文怎么说{x}"),
    ),
    ("zh", "zh"): (
        (
            "{x}是什么意思", "“{x}”是什么意思", "{x}的中文是什么", "“{x}”用中文怎么说", "{x}用中文怎么说", "英语{x}是什么意思",
            "把“{x}”翻译成中文", "把{x}翻译成汉语", "翻译成中文：{x}", "请翻译成汉语：{x}", "{x}翻译成中文是什么", "{x}的中文意思是什么",
            "请把“{x}”译成中文", "英译中：{x}", "{x}这个词怎么翻译", "“{x}”的汉语怎么说",
            "“{x}”的中文是什么意思", "“{x}”的意思是什么", "英文{x}的意思是什么", "把“{x}”译为中文", "{x}译成汉语", "“{x}”中文怎么说", "英语“{x}”的中文意思",
        ),
        ("请把{x}翻译成中文", "英文“{x}”是什么意思", "“{x}”的中文意思是什么", "把“{x}”译成汉语", "{x}的汉语意思是什么"),
    ),
    ("en", "en"): (
        (
            "How do you say {x} in English", 'How do you say "{x}" in English', "What is {x} in English", "Translate {x} into English",
            'Translate "{x}" into English', "What does {x} mean", 'What does "{x}" mean in English', "What is the English word for {x}",
            "How do I say {x} in English", "Translate into English: {x}", "{x} in English", "What is the English for {x}",
            "Translate to English: {x}", "What's the meaning of {x}",
            "What would {x} be in English", 'Say "{x}" in English', "Translate the word {x} into English", "What does {x} mean in English",
        ),
        ('What is "{x}" in English', "How would you say {x} in English", "Translate the Chinese {x} into English",
         "What does the Chinese {x} mean in English"),
    ),
    ("en", "zh"): (
        (
            "How do you say {x} in Chinese", 'How do you say "{x}" in Chinese', "What is {x} in Chinese", "Translate {x} into Chinese",
            'Translate "{x}" into Chinese', "What is the Chinese word for {x}", 'What is the Chinese for "{x}"',
            "How do I say {x} in Chinese", "Translate into Chinese: {x}", "{x} in Chinese", "What is {x} called in Chinese",
            "Translate to Chinese: {x}", "How is {x} said in Mandarin",
            "What would {x} be in Chinese", 'Say "{x}" in Chinese', "Translate the English {x} into Chinese", "What's {x} in Chinese",
            "What's the Chinese for {x}",
        ),
        ('What is "{x}" in Chinese', "How would you say {x} in Chinese", "Translate the word {x} into Chinese",
         "What's the Chinese word for {x}"),
    ),
}  # fmt: skip
LEADS = {"zh": "“{x}”翻译成{target}", "en": '"{x}" in {target}'}
_ANSWERS = {"zh": LEADS["zh"] + "是：{y}", "en": LEADS["en"] + " is: {y}"}
TARGETS = {("zh", "en"): "英文", ("zh", "zh"): "中文", ("en", "en"): "English", ("en", "zh"): "Chinese"}


class Translation:
    """Entries are a closed list that training sees; test cases are entries in wordings that it never saw them in."""

    name = "translation"
    title_en = "Translation of everyday words and phrases"
    title_zh = "日常词语翻译"
    weight = 4.8

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw one entry, a direction and a wording."""
        asked, target = rng.choice(tuple(WORDINGS))
        chinese, english = rng.choice(ENTRIES)
        source, wanted = (chinese, english) if target == "en" else (english, chinese)
        seen, unseen = WORDINGS[asked, target]
        core = ""
        while not core:
            loose = [loosen(rng, split, template, asked, unseen) for template in seen]
            core = draw_core(rng, split, loose, unseen, x=source.rstrip("？?"))
        answer = _ANSWERS[asked].format(x=source.rstrip("？?"), target=TARGETS[asked, target], y=wanted)
        if core[-1] in '”"' or "：" in core or ":" in core:
            text = core
        elif core.startswith(("把", "请", "Translate")):
            text = request(rng, core, asked)
        else:
            text = question(rng, core, asked)
        return Dialogue(((text, answer),), partial(_is_right, wanted=wanted))


def _is_right(answer: str, wanted: str) -> bool:
    *introduction, translation = unicodedata.normalize("NFKC", answer).rsplit(":", 1)
    return words(translation) == words(wanted) if introduction else mentions(translation, wanted)


SKILL = Translation()
