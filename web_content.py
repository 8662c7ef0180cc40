"""What the two web pages share: their texts, their example questions, a chat as Markdown, a chat as a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from chatglm import ChatGLMTokenizer, InvalidLogitsError, PromptTooLongError
from engine import EngineError, Request, chat_request
from loading.arguments import SamplingArguments

MODEL_NAME = "ChatGLM-6B"
HISTORY_ROUNDS = 200  # a page keeps so many, the newest
SLIDER_LENGTH = 4096  # tokens, the original's; models that are trained for fewer end the slider there
ANSWER_ERRORS = (EngineError, PromptTooLongError, InvalidLogitsError)

TEXTS = {
    "zh": {
        "subtitle": "开源双语对话语言模型",
        "welcome": "你好，想聊点什么？",
        "placeholder": "输入问题，Shift+Enter 换行",
        "settings": "参数设置",
        "max_length": "最大长度",
        "max_length_info": "历史、问题和回答合计的 token 数上限",
        "top_p": "Top P",
        "top_p_info": "越小，用词越保守",
        "temperature": "温度",
        "temperature_info": "0 总是取最可能的词，越大越多样",
        "chat": "对话",
        "clear": "清空对话",
        "save": "保存对话",
        "load": "载入对话",
        "queue": "正在排队，前面还有 {} 人…",
        "next": "正在排队，下一个就是你…",
        "dropped": "对话已超出长度上限，最早的 {} 轮不再计入上下文。",
        "length": "回答达到长度上限，已截断。可以调大最大长度，或清空对话。",
        "too_long": "问题有 {} 个 token，超过了总长度上限 {}。请缩短问题，或调大最大长度。",
        "error": "出错了：{}",
        "wrong_file": "无法载入：文件应是 JSON，内容为 [[问题, 回答], …]。{}",
        "loaded": "已载入 {} 轮对话。",
    },
    "en": {
        "subtitle": "an open bilingual dialogue language model",
        "welcome": "Hello, what shall we talk about?",
        "placeholder": "Ask something (Shift+Enter: new line)",
        "settings": "Settings",
        "max_length": "Maximum length",
        "max_length_info": "limit of history, question and answer together, in tokens",
        "top_p": "Top P",
        "top_p_info": "smaller keeps to likelier words",
        "temperature": "Temperature",
        "temperature_info": "0 always takes the likeliest word, more varies more",
        "chat": "Chat",
        "clear": "Clear history",
        "save": "Save chat",
        "load": "Load chat",
        "queue": "Waiting: {} people are before you …",
        "next": "Waiting: you are next …",
        "dropped": "The chat has outgrown its length limit: its oldest rounds ({}) no longer count.",
        "length": "The answer reached the length limit and was cut. Raise the maximum length, or clear the history.",
        "too_long": "The question has {} tokens, the limit is {}. Shorten it, or raise the maximum length.",
        "error": "Something went wrong: {}",
        "wrong_file": "Cannot load this: the file must be JSON, [[question, answer], …]. {}",
        "loaded": "Rounds loaded: {}.",
    },
}


class Example(NamedTuple):
    """A question to begin with, and a title for its button."""

    title: str
    question: str


EXAMPLES = {
    "zh": {
        "self-introduction": Example("自我介绍", "介绍一下你自己"),
        "outline": Example("写提纲", "帮我写一个关于春节的演讲提纲"),
        "advertisement": Example("写广告", "类型#裙*材质#棉*颜色#白色*风格#简约"),
        "e-mail": Example("写邮件", "帮我写一封邮件，向王老师请假，原因是明天要去医院看病，署名李明"),
        "information-extraction": Example("提取信息", "提取人物、地点和时间：昨天下午，王小明在图书馆看书。"),
        "role-play": Example("角色扮演", "请你扮演一位医生"),
        "comparison": Example("比较", "比较一下猫和狗"),
        "travel-guide": Example("旅行计划", "帮我做一个北京三天的旅行计划"),
    },
    "en": {
        "self-introduction": Example("Introduce yourself", "Please introduce yourself"),
        "outline": Example("Outline", "Write an outline for a speech about music"),
        "advertisement": Example("Advertisement", "类型#裙*材质#棉*颜色#白色*风格#简约"),
        "e-mail": Example(
            "E-mail", "Write an email from Anna Brown asking Mr. Smith for leave because I have a fever today"
        ),
        "information-extraction": Example(
            "Extract facts", "Extract who, where and when: On Monday morning, Peter Hill read a book in the library."
        ),
        "role-play": Example("Role play", "Pretend to be a doctor"),
        "comparison": Example("Compare", "Compare cats and dogs"),
        "travel-guide": Example("Travel guide", "Plan a trip to Beijing for three days"),
    },
}

# ---------------------------------------------------------------------------------------------------------------------
# Questions
# ---------------------------------------------------------------------------------------------------------------------


class Slider(NamedTuple):
    """What a slider can be set to, and where it stands at first."""

    least: float
    most: float
    value: float
    step: float


def sliders(sampling: SamplingArguments, limit: int) -> dict[str, Slider]:
    """Return the sliders of a page: the original's, within what the model allows.

    Args:
        sampling: where they stand at first.
        limit: tokens that the model was trained for.
    """
    most = min(SLIDER_LENGTH, limit)
    return {
        "max_length": Slider(2, most, min(sampling.max_length, most), 1),
        "top_p": Slider(0.01, 1.0, sampling.top_p, 0.01),
        "temperature": Slider(0.0, max(1.0, sampling.temperature), sampling.temperature, 0.01),
    }


def make_request(
    tokenizer: ChatGLMTokenizer, query: str, history: Sequence[Sequence[str]], sampling: SamplingArguments
) -> tuple[Request, int]:
    """Return the engine's request for a question, and how many of the oldest rounds do not fit into it.

    Raises:
        PromptTooLongError: the question is too long.
    """
    return chat_request(tokenizer, query, history, seed=sampling.seed, **sampling.chat_keywords())


def describe(error: Exception, texts: dict[str, str]) -> str:
    """Return what a person is told of an error."""
    if isinstance(error, PromptTooLongError):
        return texts["too_long"].format(error.tokens, error.limit)
    return texts["error"].format(error)


# ---------------------------------------------------------------------------------------------------------------------
# Markdown
# ---------------------------------------------------------------------------------------------------------------------

CODE_BLOCK = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,})[^\n]*(?:\n.*?(?:^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)|\Z)", re.M | re.S
)
CODE_SPAN_OR_FORMULA = re.compile(
    r"(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=ticks)(?!`)"
    r"|\$\$(?P<block>.+?)\$\$|\\\[(?P<block2>.+?)\\\]"
    r"|\\\((?P<inline>.+?)\\\)"
    # as in Pandoc, so that amounts of money stay text
    r"|(?<![\\$\w])\$(?![\s$])(?P<inline2>[^$\n]*[^$\s\\])\$(?![\d$])",
    re.S,
)
LITERAL = re.compile(r"[!-/:-@\[-`{-~]|^[ \t]", re.M)  # whatever has a meaning in Markdown
NUMBERED = re.compile(r"&#(\d+);")


class Dialect(NamedTuple):
    """How a page's Markdown is written.

    Attributes:
        active: what must become text: what begins a tag, an image, a character's number, and the page's own marks.
        in_formula: what must become text in a formula; None: nothing.
        inline_formula, block_formula: templates of formulas.
        line_break: the end of a line that is not joined with the next one.
    """

    active: re.Pattern
    in_formula: re.Pattern | None
    inline_formula: str
    block_formula: str
    line_break: str


HTML_OR_IMAGE = r"<(?=[A-Za-z/!?])|!(?=\[)|&(?=#)"
# Gradio puts formulas into the page as HTML, which older versions do not escape.
GRADIO = Dialect(re.compile(HTML_OR_IMAGE), re.compile(r"[<&]"), r"\({}\)", "$${}$$", "\n")
STREAMLIT = Dialect(re.compile(HTML_OR_IMAGE + r"|\$|:(?=[A-Za-z][\w/+-]*[:\[])"), None, "${}$", "$${}$$", "  \n")


def numbered(found: re.Match) -> str:
    """Return a character as HTML's number for it, which Markdown takes for text."""
    return f"&#{ord(found[0])};"


def answer_markdown(text: str, dialect: Dialect) -> str:
    """Return an answer as Markdown with its code and formulas, but with HTML tags and pictures as text.

    Pictures, because looking at one would ask another computer for it.
    """
    return convert_prose(text, lambda prose: answer_prose(prose, dialect))


def question_markdown(text: str, dialect: Dialect) -> str:
    """Return a question as Markdown that shows it as it was typed, with code blocks."""
    return convert_prose(text, lambda prose: LITERAL.sub(numbered, prose).replace("\n", dialect.line_break))


def typed_text(markdown: str) -> str:
    """Return the text that `question_markdown` was given, if its dialect ends lines by a bare newline."""
    return NUMBERED.sub(lambda found: chr(int(found[1])), markdown)


def convert_prose(text: str, convert: Callable[[str], str]) -> str:
    """Return a text with what is outside of its code blocks converted."""
    parts, end = [], 0
    for block in CODE_BLOCK.finditer(text):
        parts += [convert(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, convert(text[end:])])


def answer_prose(text: str, dialect: Dialect) -> str:
    """Return an answer's part without code blocks as `answer_markdown` does."""

    def plain(part: str) -> str:
        return re.sub(r"(?<!\n)\n(?!\n)", lambda _: dialect.line_break, dialect.active.sub(numbered, part))

    parts, end = [], 0
    for found in CODE_SPAN_OR_FORMULA.finditer(text):
        block, inline = found["block"] or found["block2"], found["inline"] or found["inline2"]
        if block or inline:
            formula = dialect.in_formula.sub(numbered, block or inline) if dialect.in_formula else block or inline
            kept = (dialect.block_formula if block else dialect.inline_formula).format(formula)
        else:
            kept = found[0]
        parts += [plain(text[end : found.start()]), kept]
        end = found.end()
    return "".join([*parts, plain(text[end:])])


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def read_history(data: bytes) -> list[list[str]]:
    """Return the rounds in a file: `[[question, answer], …]`, or an object with that as its `history`, as API replies.

    Raises:
        ValueError: the file is not that.
    """
    content = json.loads(data.decode("utf-8-sig"))
    if isinstance(content, dict):
        content = content.get("history")
    return check_history(content)


def check_history(content: object) -> list[list[str]]:
    """Return the newest rounds of something that came from outside.

    Raises:
        ValueError: it is not a list of pairs of texts.
    """
    if not isinstance(content, list):
        raise ValueError(f"there is no list of rounds but {type(content).__name__}")
    for number, pair in enumerate(content, 1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise ValueError(f"round {number} is not a pair of texts")
    return content[-HISTORY_ROUNDS:]
