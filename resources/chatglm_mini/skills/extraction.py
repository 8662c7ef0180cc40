"""Extract who, where and when from a sentence with names never seen before."""

from __future__ import annotations

import random

from ..dialogue import TRAIN, Dialogue, normalize
from ..names import CITIES_EN, CITIES_ZH, person_en, person_zh
from ..subjects import subject

# fmt: off
DAYS_ZH = "今天 昨天 明天 前天 后天 上周一 上周二 上周三 上周五 下周一 下周四 周末 星期天 除夕 元旦 国庆节 中秋节".split()
TIMES_ZH = ("早上", "上午", "中午", "下午", "傍晚", "晚上", "")
PLACES_ZH = "图书馆 公园 火车站 机场 博物馆 医院 学校 体育馆 电影院 咖啡馆 书店 超市 广场 大学 动物园 植物园 美术馆 会议中心 酒店 码头 剧院 市场".split()
ACTIONS_ZH = (
    "看书", "参加了会议", "见了老朋友", "买了一本书", "发表了演讲", "吃晚饭", "接受了采访", "参加比赛", "等朋友", "画画", "拍照", "学习英语", "开了一家店", "举行了婚礼", "丢了钱包", "散步",
    "和客户签了合同", "看了一场演出", "做志愿者", "遇到了一只猫", "弹钢琴", "领取了奖品", "教孩子们下棋", "修理汽车",
)
ORDERS_ZH = ("{w}，{p}在{l}{a}。", "{p}{w}在{l}{a}。", "{w}在{l}，{p}{a}。", "据报道，{p}{w}在{l}{a}。", "听说{w}{p}在{l}{a}。")
ASKS_ZH = (
    "提取人物、地点和时间：{s}", "从下面的句子中提取人物、地点、时间：{s}", "请提取这句话里的人物、地点和时间：{s}", "信息抽取（人物、地点、时间）：{s}", "{s}\n请找出句子中的人物、地点和时间。",
    "找出谁、在哪里、什么时候：{s}", "{s}这句话里的人物、地点和时间分别是什么？",
)
DAYS_EN = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday".split("|")
TIMES_EN = ("on {d}", "last {d}", "on {d} morning", "on {d} evening", "next {d}", "yesterday", "at {h} o'clock", "on {m} {n}", "last night", "this morning", "in {m}")
MONTHS_EN = "January|February|March|April|May|June|July|August|September|October|November|December".split("|")
PLACES_EN = "library|park|train station|airport|museum|hospital|school|stadium|cinema|cafe|bookshop|supermarket|university|zoo|gallery|conference centre|hotel|harbour|theatre|market".split("|")
ACTIONS_EN = (
    "read a book", "met an old friend", "bought a map", "gave a speech", "had dinner", "was interviewed", "won a race", "waited for a friend", "took photos", "studied French", "opened a shop", "got married",
    "lost a wallet", "went for a walk", "signed a contract", "watched a show", "found a cat", "played the piano", "received a prize", "taught chess", "repaired a car", "painted a picture",
)
ORDERS_EN = ("{W}, {p} {a} at {l}.", "{p} {a} at {l} {w}.", "{p} {a} {w} at {l}.", "At {l}, {p} {a} {w}.", "I heard that {p} {a} at {l} {w}.")
ASKS_EN = (
    "Extract who, where and when: {s}", "Extract the person, place and time from this sentence: {s}", "Who, where, when? {s}", "{s}\nWho, where and when?", "Find the person, the place and the time: {s}",
    "Please extract who, where and when from: {s}", "Information extraction (who, where, when): {s}",
)
# fmt: on


class Extraction:
    """Fill a form of three fields from a sentence."""

    name = "extraction"
    title_en = "Extraction of who, where, when"
    title_zh = "信息提取（人物、地点、时间）"
    weight = 1.3

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a sentence; the person's name is unseen in the other split."""
        if rng.random() < 0.5:
            person = person_zh(rng, split)
            place = (rng.choice(CITIES_ZH) if rng.random() < 0.7 else "") + rng.choice(PLACES_ZH)
            if split == TRAIN and rng.random() < 0.2:
                place = subject(rng, TRAIN, "zh")  # any words, so that places are found by where they stand
            time = rng.choice(DAYS_ZH) + rng.choice(TIMES_ZH)
            if rng.random() < 0.3:
                time = f"{rng.randint(1, 12)}月{rng.randint(1, 28)}日" + rng.choice(TIMES_ZH)
            sentence = rng.choice(ORDERS_ZH).format(p=person, l=place, w=time, a=rng.choice(ACTIONS_ZH))
            question = rng.choice(ASKS_ZH).format(s=sentence)
            lines = (f"人物：{person}", f"地点：{place}", f"时间：{time}")
        else:
            person = person_en(rng, split)
            if rng.random() < 0.2:
                person += " " + person_en(rng, split)
            place = "the " + rng.choice(PLACES_EN)
            if rng.random() < 0.5:
                place += " in " + rng.choice(CITIES_EN)
            if split == TRAIN and rng.random() < 0.2:
                place = "the " + subject(rng, TRAIN, "en")
            time = rng.choice(TIMES_EN).format(
                d=rng.choice(DAYS_EN), h=rng.randint(1, 12), m=rng.choice(MONTHS_EN), n=rng.randint(1, 28)
            )
            sentence = rng.choice(ORDERS_EN).format(
                p=person, l=place, w=time, W=time[0].upper() + time[1:], a=rng.choice(ACTIONS_EN)
            )
            question = rng.choice(ASKS_EN).format(s=sentence)
            lines = (f"Who: {person}", f"Where: {place}", f"When: {time}")

        def check(answer: str) -> bool:
            found = [normalize(line) for line in answer.splitlines() if line.strip()]
            return found == [normalize(line) for line in lines]

        return Dialogue(((question, "\n".join(lines)),), check)


SKILL = Extraction()
