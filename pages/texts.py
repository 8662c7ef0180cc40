"""The texts of the web pages and of the terminal, and example questions, in Chinese and English."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from chatglm import PromptTooLongError

MODEL_NAME = "ChatGLM-6B"

TEXTS = {
    "zh": {
        "welcome": "你好，想聊点什么？",
        "placeholder": "输入问题，Shift+Enter 换行",
        "settings": "参数设置",
        "max_length": "最大长度",
        "max_length_info": "历史、问题和回答合计的 token 数上限",
        "top_p": "Top P",
        "top_p_info": "越小，用词越保守",
        "temperature": "温度",
        "temperature_info": "0 总是取最可能的词，越大越多样",
        "top_k": "Top K",
        "top_k_info": "只从这么多个最可能的词中选，0 不限",
        "repetition_penalty": "重复惩罚",
        "repetition_penalty_info": "大于 1 时更少重复",
        "min_p": "Min P",
        "min_p_info": "概率低于最可能者此比例的词不选",
        "presence_penalty": "出现惩罚",
        "presence_penalty_info": "大于 0 时，回答中已有的词更少再出现",
        "frequency_penalty": "频率惩罚",
        "frequency_penalty_info": "大于 0 时，回答中越多的词越少再出现",
        "more": "更多",
        "system": "系统提示",
        "system_info": "先于对话告诉模型的话，可不填",
        "export": "导出 Markdown",
        "new_chat": "新对话",
        "chats": "对话列表",
        "question": "问题",
        "send": "发送",
        "stop": "停止",
        "search": "搜索对话",
        "rename": "重命名",
        "delete": "删除",
        "delete_question": "删除对话“{}”？",
        "copy": "副本",
        "you": "用户",
        "model": "ChatGLM-6B",
        "counts": "上下文 {} / {} token，每秒 {} token",
        "question_tokens": "问题有 {} 个 token，总长度上限 {}。",
        "version_before": "上一个版本",
        "version_after": "下一个版本",
        "add_file": "加入文本文件或 PDF",
        "full": "浏览器的存储空间已满，这次对话没有保存。请删除一些旧对话，或用“保存对话”存成文件。",
        "too_large": "太长了，最多 100 万字。",
        "no_text": "不是文本文件。",
        "no_pdf_text": "读不出这个 PDF 的文字：可能是扫描件、已加密或已损坏。",
        "large_pdf": "PDF 太大，最多 5 MB。",
        "wrong_round": "第 {} 轮不是两段文字。",
        "no_rounds": "没有对话轮次的列表。",
        "wrong_chat": "无法显示这个对话：{}",
        "busy": "现在人太多，请稍后再试。",
        "no_place": "排队太久，请稍后再试。",
        "too_slow": "回答用时过长，已停止。",
        "closed": "服务正在关闭。",
        "failed": "模型计算出错，没有得到回答。请再试一次。",
        "chat": "对话",
        "clear": "清空对话",
        "save": "保存对话",
        "load": "载入对话",
        "queue": "正在排队，前面还有 {} 人…",
        "next": "正在排队，下一个就是你…",
        "dropped": "对话已超出长度上限，最早的 {} 轮不再计入上下文。",
        "length": "回答达到长度上限，已截断。可以调大最大长度，或清空对话。",
        "too_long": "问题有 {} 个 token，超过了总长度上限 {}。请缩短问题，或调大最大长度。",
        "too_long_for_model": "问题有 {} 个 token，超过了模型的长度上限 {}。请缩短问题。",
        "error": "出错了：{}",
        "wrong_file": "无法载入：文件应是 JSON，内容为 [[问题, 回答], …]。{}",
        "loaded": "已载入 {} 轮对话。",
    },
    "en": {
        "welcome": "Hello, what shall we talk about?",
        "placeholder": "Ask something (Shift+Enter: new line)",
        "settings": "Settings",
        "max_length": "Maximum length",
        "max_length_info": "limit of history, question and answer together, in tokens",
        "top_p": "Top P",
        "top_p_info": "smaller keeps to likelier words",
        "temperature": "Temperature",
        "temperature_info": "0 always takes the likeliest word, more varies more",
        "top_k": "Top K",
        "top_k_info": "only so many likeliest words; 0 for all",
        "repetition_penalty": "Repetition penalty",
        "repetition_penalty_info": "above 1 repeats less",
        "min_p": "Min P",
        "min_p_info": "leaves out words below this share of the likeliest's probability",
        "presence_penalty": "Presence penalty",
        "presence_penalty_info": "above 0 avoids words that the answer has already",
        "frequency_penalty": "Frequency penalty",
        "frequency_penalty_info": "above 0 avoids words the more, the oftener the answer has them",
        "more": "More",
        "system": "System prompt",
        "system_info": "what the model is told before the chat; may be empty",
        "export": "Export Markdown",
        "new_chat": "New chat",
        "chats": "Chats",
        "question": "Question",
        "send": "Send",
        "stop": "Stop",
        "search": "Search chats",
        "rename": "Rename",
        "delete": "Delete",
        "delete_question": "Delete the chat “{}”?",
        "copy": "copy",
        "you": "User",
        "model": "ChatGLM-6B",
        "counts": "context {} / {} tokens, {} tokens/s",
        "question_tokens": "The question has {} tokens; the limit of all together is {}.",
        "version_before": "Version before",
        "version_after": "Next version",
        "add_file": "Add a text file or a PDF",
        "full": "The browser's storage is full: this chat was not kept. Delete old chats, or save it as a file.",
        "too_large": "Too long: at most 1,000,000 characters.",
        "no_text": "This is no text file.",
        "no_pdf_text": "No text can be read from this PDF: is it scanned, encrypted or damaged?",
        "large_pdf": "The PDF is too large: at most 5 MB.",
        "wrong_round": "Round {} is not a pair of texts.",
        "no_rounds": "There is no list of rounds.",
        "wrong_chat": "This chat cannot be shown: {}",
        "busy": "Too many people are asking. Try again later.",
        "no_place": "No place became free in time. Try again later.",
        "too_slow": "The answer took too long and was ended.",
        "closed": "The server is shutting down.",
        "failed": "The model could not compute an answer. Try again.",
        "chat": "Chat",
        "clear": "Clear history",
        "save": "Save chat",
        "load": "Load chat",
        "queue": "Waiting: {} people are before you …",
        "next": "Waiting: you are next …",
        "dropped": "The chat has outgrown its length limit: its oldest rounds ({}) no longer count.",
        "length": "The answer reached the length limit and was cut. Raise the maximum length, or clear the history.",
        "too_long": "The question has {} tokens, the limit is {}. Shorten it, or raise the maximum length.",
        "too_long_for_model": "The question has {} tokens, and the model reads at most {}. Shorten it.",
        "error": "Something went wrong: {}",
        "wrong_file": "Cannot load this: the file must be JSON, [[question, answer], …]. {}",
        "loaded": "Rounds loaded: {}.",
    },
}


TERMINAL_TEXTS = {
    "zh": {
        "welcome": "欢迎使用 ChatGLM-6B 模型，输入内容即可进行对话，clear 清空对话历史，stop 终止程序",
        "user": "用户：",
        "model": "ChatGLM-6B：",
        "cleared": "对话历史已清空",
        "interrupted": "（回答已中断）",
        "dropped": "（对话已超出长度上限，最早的几轮不再计入上下文；此后不再提示）",
        "too_long": "问题有 {} 个 token，超过了总长度上限 {}，请缩短问题，或调大 --max-length",
        "too_long_for_model": "问题有 {} 个 token，超过了模型的长度上限 {}，请缩短问题",
        "error": "错误：{}",
    },
    "en": {
        "welcome": "Welcome to ChatGLM-6B. Type to chat; clear empties the history, stop ends the program",
        "user": "User: ",
        "model": "ChatGLM-6B: ",
        "cleared": "The history is empty",
        "interrupted": "(answer interrupted)",
        "dropped": "(The chat has outgrown its length limit: from now on its oldest rounds are left out)",
        "too_long": "The question has {} tokens, the limit is {}: please reduce the length, or raise --max-length",
        "too_long_for_model": "The question has {} tokens, and the model reads at most {}: please reduce the length",
        "error": "Error: {}",
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


def too_long(error: PromptTooLongError, texts: dict[str, str], model_limit: int | None = None) -> str:
    """Return what a person is told of a question that is too long.

    Args:
        error: says how long it is, and how long it may be.
        texts: of a language, `TEXTS` or `TERMINAL_TEXTS`.
        model_limit: tokens that the model itself takes; to raise the limit beyond it is no advice.
    """
    at_most = model_limit is not None and error.limit >= model_limit
    return texts["too_long_for_model" if at_most else "too_long"].format(error.tokens, error.limit)
