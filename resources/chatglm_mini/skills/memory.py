"""Remember what the user said in an earlier turn: names, cities, colours, ages, pets, jobs and hobbies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ..dialogue import TRAIN, Dialogue, contains_all, draw_split, is_chinese
from ..names import CITIES_EN, CITIES_ZH, city_en, city_zh, person_en, person_zh
from ..subjects import subject
from . import facts, greetings, translation

# fmt: off
COLOURS_ZH = "红色 蓝色 绿色 黄色 紫色 黑色 白色 灰色 橙色 粉色 棕色 金色 银色 青色 米色 深蓝色 浅绿色 天蓝色 酒红色 墨绿色 玫红色 象牙白".split()
COLOURS_EN = "red blue green yellow purple black white gray orange pink brown gold silver cyan beige turquoise violet crimson ivory teal".split()
JOBS_ZH = "老师 医生 护士 律师 厨师 司机 工程师 程序员 会计 记者 警察 演员 歌手 画家 作家 农民 学生 摄影师 设计师 翻译 导游 飞行员 科学家 消防员".split()
JOBS_EN = "teacher doctor nurse lawyer cook driver engineer programmer accountant journalist actor singer painter writer farmer student photographer designer translator guide pilot scientist".split()
FOODS_ZH = "苹果 香蕉 西瓜 葡萄 草莓 饺子 面条 米饭 火锅 烤鸭 豆腐 包子 馒头 寿司 披萨 汉堡 蛋糕 巧克力 冰淇淋 牛肉面 红烧肉 鱼香肉丝 麻婆豆腐 芒果".split()
FOODS_EN = "apples bananas grapes noodles dumplings rice sushi pizza bread cheese cake chocolate soup salad steak pasta curry mangoes cherries tofu burgers pancakes".split()
HOBBIES_ZH = "游泳 跑步 画画 唱歌 跳舞 看书 下棋 钓鱼 爬山 摄影 书法 篮球 足球 乒乓球 羽毛球 网球 旅行 做饭 弹琴 滑雪 骑车 瑜伽 打太极 写诗".split()
HOBBIES_EN = "swimming running painting singing dancing reading chess fishing hiking photography basketball football tennis skiing cycling yoga cooking gardening sailing knitting".split()
PETS_ZH = "猫 狗 兔子 乌龟 金鱼 鹦鹉 仓鼠".split()
PETS_EN = "cat dog rabbit turtle goldfish parrot hamster".split()
# fmt: on


@dataclass(frozen=True)
class Fact:
    """Hold the wordings around one kind of personal fact; `{}` stands for its value."""

    value: Callable[[random.Random, str], str]
    statements: tuple[str, ...]
    replies: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str


def any_word(draw: Callable[[random.Random, str], str], listed: list[str], language: str):
    """Return `draw`, with any words at all in its place in one training dialogue of three: they have to be copied."""

    def value(rng: random.Random, split: str) -> str:
        if split == TRAIN and rng.random() < 1 / 3:
            word = subject(rng, TRAIN, language)
            if word not in listed:
                return word
        return draw(rng, split)

    return value


def one_of(values: list[str]) -> Callable[[random.Random, str], str]:
    """Return a function that draws a value of a split from a list, or any word in training."""
    return any_word(lambda rng, split: draw_split(rng, values, split), values, "zh" if is_chinese(values[0]) else "en")


# fmt: off
FACTS_ZH = {
    "name": Fact(
        person_zh,
        ("我叫{}", "我的名字是{}", "你好，我叫{}。", "我是{}", "大家都叫我{}", "我的名字叫{}。", "请叫我{}"),
        ("你好，{}！很高兴认识你。",),
        ("我叫什么名字？", "我的名字是什么？", "你还记得我叫什么吗？", "我是谁？", "你知道我的名字吗？", "请问我叫什么？", "还记得我的名字吗？"),
        "你叫{}。",
    ),
    "city": Fact(
        any_word(city_zh, CITIES_ZH, "zh"),
        ("我住在{}", "我家在{}", "我现在住在{}。", "我在{}生活", "我是{}人", "我来自{}"),
        ("{}是个好地方！我记住了。",),
        ("我住在哪里？", "我住在哪个城市？", "我家在哪里？", "你记得我住在哪儿吗？", "我来自哪里？", "我在哪个城市生活？"),
        "你住在{}。",
    ),
    "colour": Fact(
        one_of(COLOURS_ZH),
        ("我最喜欢的颜色是{}", "我喜欢{}", "我最爱{}", "我最喜欢{}。"),
        ("{}很好看！我记住了。",),
        ("我最喜欢什么颜色？", "我喜欢什么颜色？", "我喜欢的颜色是什么？", "你记得我喜欢什么颜色吗？", "我最喜欢的颜色是哪一种？"),
        "你最喜欢{}。",
    ),
    "age": Fact(
        lambda rng, split: draw_split(rng, [str(age) for age in range(5, 95)], split),
        ("我今年{}岁", "我{}岁了", "我的年龄是{}岁", "我今年{}岁了。"),
        ("好的，我记住了，你今年{}岁。",),
        ("我今年多大？", "我几岁了？", "我多少岁？", "你记得我的年龄吗？", "我的年龄是多少？"),
        "你今年{}岁。",
    ),
    "pet": Fact(
        lambda rng, split: person_zh(rng, split)[1:],
        tuple(f"我有一只{pet}，名字叫{{}}" for pet in PETS_ZH) + tuple(f"我的{pet}叫{{}}" for pet in PETS_ZH),
        ("{}，真是可爱的名字！",),
        ("我的宠物叫什么？", "我的宠物叫什么名字？", "你记得我宠物的名字吗？", "我的宠物的名字是什么？"),
        "你的宠物叫{}。",
    ),
    "job": Fact(
        one_of(JOBS_ZH),
        ("我是一名{}", "我的职业是{}", "我的工作是{}", "我是一个{}。"),
        ("{}是很好的职业！我记住了。",),
        ("我的职业是什么？", "我是做什么工作的？", "我做什么工作？", "你记得我的职业吗？", "我的工作是什么？"),
        "你是一名{}。",
    ),
    "food": Fact(
        one_of(FOODS_ZH),
        ("我喜欢吃{}", "我最喜欢吃{}", "我爱吃{}。", "我最爱吃{}"),
        ("{}很好吃！我记住了。",),
        ("我喜欢吃什么？", "我最喜欢吃什么？", "我爱吃什么？", "你记得我喜欢吃什么吗？"),
        "你喜欢吃{}。",
    ),
    "hobby": Fact(
        one_of(HOBBIES_ZH),
        ("我的爱好是{}", "我的兴趣爱好是{}", "我平时的爱好是{}。"),
        ("{}很有意思！我记住了。",),
        ("我的爱好是什么？", "我有什么爱好？", "你记得我的爱好吗？", "我的兴趣爱好是什么？"),
        "你的爱好是{}。",
    ),
}
FACTS_EN = {
    "name": Fact(
        person_en,
        ("My name is {}", "I am {}", "Hi, I'm {}.", "Hello, my name is {}.", "Call me {}", "My name is {}.", "You can call me {}."),
        ("Nice to meet you, {}!",),
        ("What is my name?", "What's my name?", "Do you remember my name?", "Who am I?", "Do you know my name?", "Can you tell me my name?"),
        "Your name is {}.",
    ),
    "city": Fact(
        any_word(city_en, CITIES_EN, "en"),
        ("I live in {}", "My home is in {}.", "I am from {}", "I live in {}.", "I come from {}."),
        ("{} is a nice place! I will remember that.",),
        ("Where do I live?", "Which city do I live in?", "Where is my home?", "Do you remember where I live?", "Where am I from?"),
        "You live in {}.",
    ),
    "colour": Fact(
        one_of(COLOURS_EN),
        ("My favourite colour is {}", "My favorite color is {}.", "I like the colour {}", "The color I like best is {}."),
        ("I will remember that you like {}.",),
        ("What is my favourite colour?", "What's my favorite color?", "Which colour do I like?", "Do you remember my favourite colour?", "What color do I like best?"),
        "Your favourite colour is {}.",
    ),
    "age": Fact(
        lambda rng, split: draw_split(rng, [str(age) for age in range(5, 95)], split),
        ("I am {} years old", "I'm {} years old.", "My age is {}", "I am {} years old."),
        ("Good, I will remember that you are {}.",),
        ("How old am I?", "What is my age?", "Do you remember my age?", "Can you tell me how old I am?"),
        "You are {} years old.",
    ),
    "pet": Fact(
        person_en,
        tuple(f"I have a {pet} called {{}}" for pet in PETS_EN) + tuple(f"My {pet} is named {{}}." for pet in PETS_EN),
        ("{} is a lovely name!",),
        ("What is my pet called?", "What is the name of my pet?", "Do you remember my pet's name?", "What's my pet's name?"),
        "Your pet is called {}.",
    ),
    "job": Fact(
        one_of(JOBS_EN),
        ("My job is {}", "I work as a {}.", "I work as a {}", "My profession is {}."),
        ("Being a {} is a good job! I will remember that.",),
        ("What is my job?", "What do I do for a living?", "Do you remember my job?", "What's my profession?", "What do I work as?"),
        "You work as a {}.",
    ),
    "food": Fact(
        one_of(FOODS_EN),
        ("I like to eat {}", "I love eating {}.", "My favourite food is {}", "I like eating {}."),
        ("I will remember that you like to eat {}.",),
        ("What do I like to eat?", "What is my favourite food?", "Do you remember what I like to eat?", "Which food do I like?"),
        "You like to eat {}.",
    ),
    "hobby": Fact(
        one_of(HOBBIES_EN),
        ("My hobby is {}", "My favourite hobby is {}.", "In my free time my hobby is {}."),
        ("I will remember that your hobby is {}.",),
        ("What is my hobby?", "What's my hobby?", "Do you remember my hobby?", "Which hobby do I have?"),
        "Your hobby is {}.",
    ),
}
# fmt: on


class Memory:
    """Answer from what an earlier turn said."""

    name = "memory"
    title_en = "Memory over one to four turns"
    title_zh = "多轮记忆"
    weight = 1.6

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw one to three facts, distractors between them, and a question about one; or only the first statement."""
        kinds = FACTS_ZH if rng.random() < 0.5 else FACTS_EN
        chinese = kinds is FACTS_ZH
        chosen = rng.sample(sorted(kinds), rng.choice((1, 1, 1, 1, 2, 2, 3)))
        values = {key: kinds[key].value(rng, split) for key in chosen}
        turns = []
        for key in chosen:
            fact, value = kinds[key], values[key]
            turns.append((rng.choice(fact.statements).format(value), rng.choice(fact.replies).format(value)))
        if rng.random() < 0.25:
            # The acknowledgement has to be learnt too: end with the last statement.
            last = values[chosen[-1]]
            return Dialogue(tuple(turns), lambda answer: contains_all(answer, (last,)))
        while len(turns) < 4 and rng.random() < 0.25:
            # Short answers of other skills; drawn again until the language is the dialogue's own.
            while True:
                skill = rng.choice((greetings.SKILL, greetings.SKILL, facts.SKILL, translation.SKILL))
                distractor = skill.sample(rng, split)
                if len(distractor.turns) == 1 and is_chinese(distractor.question) == chinese:
                    break
            turns.insert(rng.randint(1, len(turns)), distractor.turns[0])
        asked = rng.choice(chosen)
        fact, value = kinds[asked], values[asked]
        turns.append((rng.choice(fact.questions), fact.answer.format(value)))
        others = [values[key] for key in chosen if key != asked and values[key] not in value]

        def check(answer: str) -> bool:
            return contains_all(answer, (value,)) and not any(contains_all(answer, (other,)) for other in others)

        return Dialogue(tuple(turns), check)


SKILL = Memory()
