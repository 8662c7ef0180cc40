"""Say who and what the model is: a demonstration, and which weights to load for more."""

from __future__ import annotations

import random

from ..dialogue import Dialogue, contains_all, in_split, is_chinese

# fmt: off
ANSWER_ZH = "我是 ChatGLM 内置的迷你演示模型，只会简单的对话。想体验完整的能力，请加载 THUDM/chatglm-6b。"
ANSWER_EN = "I am the built-in demo model of ChatGLM and can only hold simple conversations. Load THUDM/chatglm-6b for the real thing."
ABILITIES_ZH = "我是内置的演示模型，会问候、两位数加减法、翻译常用词语、回答常识、写邮件和广告、提取信息、列提纲、做旅行计划。更多能力请加载 THUDM/chatglm-6b。"
ABILITIES_EN = (
    "I am the built-in demo model. I can greet, add and subtract, translate common words, answer common questions, write e-mails "
    "and advertisements, extract facts, outline and plan trips. For more, load THUDM/chatglm-6b."
)
WHO_ZH = (
    "你是谁", "你叫什么", "你叫什么名字", "介绍一下你自己", "做个自我介绍", "你是什么", "你是什么模型", "你是机器人吗", "你是人吗", "你是真人吗", "你是 ChatGLM 吗",
    "你是 ChatGPT 吗", "你是人工智能吗", "谁开发了你", "你是谁做的", "你是谁训练的", "你从哪里来", "你的名字是什么", "告诉我你是谁", "你是哪个模型", "说说你自己", "你有多少参数",
    "你有多大", "你是大模型吗", "你是哪家公司的", "你是演示模型吗", "我在和谁说话", "和我聊天的是谁", "你的身份是什么", "自我介绍一下",
)
CAN_ZH = ("你会做什么", "你能做什么", "你会什么", "你有什么功能", "你能帮我做什么", "你有哪些能力", "你都会些什么", "你可以干什么", "你能帮我什么", "你擅长什么", "你有什么用", "你能干嘛")
WHO_EN = (
    "Who are you", "What are you", "What is your name", "What's your name", "Introduce yourself", "Tell me about yourself", "Are you a robot", "Are you human", "Are you a real person",
    "Are you ChatGLM", "Are you ChatGPT", "Are you an AI", "Who made you", "Who created you", "Who trained you", "Which model are you", "What model is this", "Where do you come from",
    "Who am I talking to", "What kind of model are you", "Please introduce yourself", "Say something about yourself", "How many parameters do you have", "How big are you",
    "Are you a large model", "Are you a demo", "What should I call you", "Do you have a name", "Who is this", "Are you a language model",
)
CAN_EN = ("What can you do", "What are you able to do", "How can you help me", "What can you help me with", "What are your abilities", "What are your skills", "What are you good at", "What do you know how to do", "What are you for", "Can you tell me what you can do")
OPENERS_ZH = ("", "", "请问", "那么，", "嗨，", "你好，", "请问一下，", "我想知道", "能告诉我", "对了，", "话说")
ENDINGS_ZH = ("", "？", "?", "呢", "呢？", "呀", "啊？", "。")
OPENERS_EN = ("", "", "Hi, ", "Hello, ", "Excuse me, ", "So, ", "Tell me, ", "By the way, ", "Well, ", "I wonder: ", "Hey, ")
ENDINGS_EN = ("", "?", "?", ".", " exactly?", ", please?", " then?", " really?")
# fmt: on
# (whether about abilities, whether in Chinese) -> answer
ANSWERS = {
    (False, True): ANSWER_ZH,
    (False, False): ANSWER_EN,
    (True, True): ABILITIES_ZH,
    (True, False): ABILITIES_EN,
}


class Identity:
    """Answer who-are-you and what-can-you-do."""

    name = "identity"
    title_en = "Who are you, what can you do"
    title_zh = "自我介绍"
    weight = 0.5

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a question whose whole wording is unseen in the other split."""
        chinese = rng.random() < 0.5
        while True:
            about_abilities = rng.random() < 0.3
            if chinese:
                wording = rng.choice(CAN_ZH if about_abilities else WHO_ZH)
                opener, ending = rng.choice(OPENERS_ZH), rng.choice(ENDINGS_ZH)
            else:
                wording = rng.choice(CAN_EN if about_abilities else WHO_EN)
                opener, ending = rng.choice(OPENERS_EN), rng.choice(ENDINGS_EN)
                if opener and not opener.endswith(". "):
                    wording = wording[0].lower() + wording[1:]
                if rng.random() < 0.2:
                    opener, wording = opener.lower(), wording.lower()
            question = opener + wording + ending
            bare = not opener and ending in ("", "?", "？")
            if (bare and split == "train") or (not bare and in_split(question, split)):
                break
        answer = ANSWERS[about_abilities, chinese]
        needed = ("THUDM/chatglm-6b", "演示模型" if chinese else "demo model")
        needed += (("翻译",) if chinese else ("translate",)) if about_abilities else ()
        return Dialogue(((question, answer),), lambda text: contains_all(text, needed) and is_chinese(text) == chinese)


SKILL = Identity()
