"""Say who and what the model is: a demonstration, what it can and cannot do, and which weights to load for more."""

import random

from ..dialogue import TRAIN, Dialogue
from ..wording import ask
from .greetings import AROUND, answered, around, read_kinds

KINDS = read_kinds("identity")
_AROUND = {
    language: {name: around(AROUND[language, "asked"], kind.grammar) for name, kind in kinds.items()}
    for language, kinds in KINDS.items()
}
# "who" and "abilities" are asked most: their answers say what to load.
_SHARES = {"who": 10, "abilities": 5}
# What the model is taken for in the kind "chatgpt".
BRANDS = (
    "ChatGPT GPT GPT-4 GPT-5 Claude Gemini Siri Alexa Bard Copilot Llama DeepSeek Qwen Kimi Grok Mistral Cortana Bing "
    "OpenAI Baichuan ChatGPT ChatGPT ChatGPT"
).split()
BRANDS_ZH = (*BRANDS, "文心一言", "通义千问", "豆包", "小爱同学", "讯飞星火", "小度", "天猫精灵", "元宝", "混元")


class Identity:
    """Answer who-are-you and what-can-you-do."""

    name = "identity"
    title_en = "Who are you, what can you do"
    title_zh = "自我介绍"
    weight = 1.0

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a question whose whole wording is unseen in the other split."""
        language, brands = ("zh", BRANDS_ZH) if rng.random() < 0.5 else ("en", BRANDS)
        kinds = KINDS[language]
        while True:
            name = rng.choices(list(kinds), [_SHARES.get(name, 1) for name in kinds])[0]
            # People type names of programs in lower case; the answer then has the name as it was typed.
            brand = rng.choice(brands)
            brand = brand.lower() if split == TRAIN and rng.random() < 0.25 else brand
            grammar = _AROUND[language][name] if rng.random() < 0.15 else kinds[name].grammar
            try:
                question = ask(rng, split, language, grammar, x=brand)
            except ValueError:  # short wordings have no question of the split "test"
                continue
            return answered(question, kinds[name], brand)


SKILL = Identity()
