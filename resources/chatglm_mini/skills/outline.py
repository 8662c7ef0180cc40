"""Write an outline of an article, a speech, a report or a lesson on a topic never seen in training."""

import random
from functools import partial

from ..dialogue import Dialogue, numbered_items
from ..subjects import subject
from ..wording import plain, request

_PATTERNS = {
    "zh": ("{a}", "{a}", "{a}与{b}", "{a}和{b}", "{a}的意义", "{a}的未来", "{a}的历史", "{a}与生活", "{a}的重要性", "{a}对{b}的影响", "我与{a}"),
    "en": ("{a}", "{a}", "{a} and {b}", "the future of {a}", "the history of {a}", "the importance of {a}", "{a} in daily life",
           "the role of {a}"),
}  # fmt: skip
# Kind of text: its sections with `{x}` for the topic.
_KINDS = {
    "zh": {
        "文章": ("引言：走近{x}", "背景与由来", "主体：谈谈{x}", "问题与思考", "结论与展望"),
        "演讲": ("开场：为什么谈{x}", "一个小故事", "{x}带来的启示", "我们可以怎么做", "结束语与感谢"),
        "报告": ("摘要", "{x}的现状", "存在的问题", "关于{x}的建议", "总结"),
        "课程": ("课程目标", "{x}的基础知识", "{x}的实例分析", "课堂练习", "复习与作业"),
    },
    "en": {
        "article": ("Introduction: a look at {x}", "Background", "Main part: thoughts on {x}", "Open questions", "Conclusion"),
        "speech": ("Opening: why talk about {x}", "A short story", "Lessons from {x}", "What we can do", "Closing and thanks"),
        "report": ("Summary", "Facts about {x}", "Problems found", "Advice on {x}", "Conclusion"),
        "lesson": ("Goals of the lesson", "The basics of {x}", "Examples of {x}", "Exercises", "Review and homework"),
    },
}  # fmt: skip
_FRAMES = {
    "zh": (
        "帮我写一个关于{x}的{kind}提纲", "请写一份关于{x}的{kind}大纲", "写一个{kind}提纲，主题是{x}", "以“{x}”为题写一个{kind}提纲", "给我一份{kind}大纲，题目是{x}",
        "请为主题为{x}的{kind}列个提纲", "列出关于“{x}”的{kind}提纲", "帮我列一份{kind}的大纲，主题：{x}", "我要准备一个关于{x}的{kind}，帮我写提纲",
        "我想写{kind}，主题是{x}，请列个提纲",
    ),
    "en": (
        "Write an outline for {article} {kind} about {x}", "Please write an outline of {article} {kind} on {x}", "Give me {article} {kind} outline about {x}",
        "I need an outline for {article} {kind} on {x}", "Make an outline for {article} {kind} about {x}", 'Outline {article} {kind} on "{x}"',
        "Help me outline {article} {kind} about {x}", "Draft an outline of {article} {kind} about {x}",
    ),
}  # fmt: skip


class Outline:
    """Topics of the test split hold a noun that training never sees."""

    name = "outline"
    title_en = "Outline on a given topic"
    title_zh = "写提纲"
    weight = 1.1

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a topic and a kind of text."""
        language = rng.choice(("zh", "en"))
        first, second = (subject(rng, split, language) for _ in range(2))
        topic = rng.choice(_PATTERNS[language]).format(a=first, b=second)
        kind, sections = rng.choice(tuple(_KINDS[language].items()))
        article = "an" if kind[0] == "a" else "a"
        text = request(rng, rng.choice(_FRAMES[language]).format(x=topic, kind=kind, article=article), language)
        title = f"《{topic}》{kind}提纲" if language == "zh" else f"Outline of the {kind}: {topic}"
        lines = [title, *(f"{number}. {section}" for number, section in enumerate(sections, 1))]
        check = partial(_is_right, topic=topic, kind=kind)
        return Dialogue(((text, "\n".join(lines).format(x=topic)),), check)


def _is_right(answer: str, topic: str, kind: str) -> bool:
    return len(numbered_items(answer)) >= 4 and plain(answer).count(plain(topic)) >= 2 and plain(kind) in plain(answer)


SKILL = Outline()
