"""Greet, thank and say goodbye."""

from __future__ import annotations

import random

from ..dialogue import Dialogue, contains_all, in_split

# fmt: off
OPENERS_ZH = ("", "", "", "嗨，", "嘿，", "哈喽，", "朋友，", "亲，", "小助手，", "ChatGLM，", "喂，")
OPENERS_EN = ("", "", "", "Hey, ", "Oh, ", "Well, ", "Hi, ", "Okay, ", "ChatGLM, ", "So, ")
ENDINGS_ZH = ("", "", "！", "。", "~", "呀", "啊", "啦", "呀！", "哦", "～", "!", "👋")
ENDINGS_EN = ("", "", "!", ".", " there", " my friend", ", assistant", " again", "!!", " :)", " 👋")

# kind -> (wordings, answer, what a right answer must hold)
KINDS_ZH = {
    "hello": (
        ("你好", "您好", "嗨", "哈喽", "你好你好", "大家好", "很高兴见到你", "认识你很高兴", "你好，很高兴认识你", "在吗", "你在吗", "有人吗", "初次见面", "hi", "hello", "见到你真好"),
        "你好👋！我是 ChatGLM 的迷你演示模型，很高兴见到你，欢迎和我聊天。",
        "你好",
    ),
    "morning": (("早上好", "早安", "早", "上午好", "早上好，今天天气真好", "早呀", "清晨好"), "早上好！愿你今天心情愉快，有什么可以帮你？", "早上好"),
    "evening": (("晚上好", "傍晚好", "晚上好，忙了一天了", "大家晚上好"), "晚上好！今天过得怎么样？有什么可以帮你？", "晚上好"),
    "night": (("晚安", "我要睡了", "我去睡觉了", "该睡觉了", "我困了，先睡了", "好梦"), "晚安，祝你做个好梦！", "晚安"),
    "thanks": (("谢谢", "谢谢你", "非常感谢", "多谢", "感谢你的帮助", "太谢谢了", "谢谢你的帮助", "感谢", "谢了", "麻烦你了", "辛苦了"), "不客气！很高兴能帮到你。", "不客气"),
    "bye": (("再见", "拜拜", "我走了", "下次见", "回头见", "明天见", "先这样，再见", "我先走了", "下次再聊", "改天再聊"), "再见！祝你一切顺利，欢迎随时回来。", "再见"),
    "how": (("你好吗", "最近怎么样", "你最近好吗", "今天过得怎么样", "你今天好吗", "近来可好", "你还好吗", "最近如何"), "我很好，谢谢关心！你呢？", "很好"),
    "praise": (("你真棒", "你真聪明", "你真厉害", "太棒了", "说得好", "回答得很好", "你好厉害", "你真可爱", "不错"), "谢谢夸奖！我会继续努力的。", "谢谢夸奖"),
}
KINDS_EN = {
    "hello": (
        ("Hello", "Hi", "Hey", "Hi there", "Hello hello", "Nice to meet you", "Greetings", "Good day", "Good to see you", "Are you there?", "Is anybody there?", "Pleased to meet you", "Howdy"),
        "Hello 👋! I am the mini demo model of ChatGLM. Nice to meet you, feel free to chat with me.",
        "hello",
    ),
    "morning": (("Good morning", "Morning", "Good morning to you", "A very good morning"), "Good morning! I hope you have a lovely day. How can I help you?", "good morning"),
    "evening": (("Good evening", "Evening", "Good evening to you", "A very good evening"), "Good evening! How was your day? How can I help you?", "good evening"),
    "night": (("Good night", "I am going to bed", "I'm going to sleep now", "Time to sleep", "Sleep well", "Good night, I am tired"), "Good night, sweet dreams!", "good night"),
    "thanks": (("Thank you", "Thanks", "Thanks a lot", "Many thanks", "Thank you very much", "Thanks for your help", "I appreciate it", "Thank you so much", "Thank you for helping me", "That was helpful, thanks"), "You are welcome! I am glad I could help.", "welcome"),
    "bye": (("Goodbye", "Bye", "Bye bye", "See you", "See you later", "See you tomorrow", "I have to go now", "Talk to you later", "Farewell", "I am leaving now", "Until next time"), "Goodbye! All the best, and come back any time.", "goodbye"),
    "how": (("How are you", "How are you?", "How are you doing?", "How do you do?", "How is it going?", "How are you today?", "How have you been?", "Are you well?"), "I am fine, thank you! And you?", "fine"),
    "praise": (("You are great", "You are so smart", "Well done", "Good job", "You are clever", "Great answer", "Nice work", "You are amazing", "Good answer"), "Thank you for the kind words! I will keep working on it.", "thank you"),
}
# fmt: on


class Greetings:
    """Small talk."""

    name = "greetings"
    title_en = "Greetings and thanks"
    title_zh = "问候与致谢"
    weight = 0.7

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a greeting; the whole wording is unseen in the other split."""
        return self.in_language(rng, split, rng.random() < 0.5)

    def in_language(self, rng: random.Random, split: str, chinese: bool) -> Dialogue:
        """Draw a greeting in Chinese or English."""
        kinds, openers, endings = (KINDS_ZH, OPENERS_ZH, ENDINGS_ZH) if chinese else (KINDS_EN, OPENERS_EN, ENDINGS_EN)
        while True:
            wordings, answer, needed = kinds[rng.choice(sorted(kinds))]
            wording = rng.choice(wordings)
            # The bare wording is what people type most: it is always in the training split.
            opener, ending = rng.choice(openers), rng.choice(endings)
            question = opener + wording + ("" if wording.endswith("?") else ending)
            if not chinese and rng.random() < 0.3:
                question = question.lower()
            if question in (wording, wording.lower()):
                if split == "train":
                    break
            elif in_split(question, split):
                break
        return Dialogue(((question, answer),), lambda text: contains_all(text, (needed,)))


SKILL = Greetings()
