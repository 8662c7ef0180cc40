"""Draw names of people, cities and places, in Chinese and English, from either split."""

from __future__ import annotations

import random
from collections.abc import Callable

from .dialogue import in_split

SURNAMES = list(
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段"
) + ["欧阳", "司马", "诸葛", "上官"]
GIVEN_CHARACTERS = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉萍红鹏飞雪梅兰竹菊春夏秋冬东南西北晨曦阳光辉志远文武斌宇航浩然子涵梓轩雨欣怡思佳琪悦婷婕倩雅琳瑶璐颖慧"
    "建国庆云凤龙虎海波涌泉山峰林森木松柏柳青翠蓝天宏伟业成功胜利胤家豪俊凯瑞祥安宁康健福禄寿喜乐美善真诚信义仁德"
)
ENGLISH_NAMES = (
    "Alice Bob Carol David Emma Frank Grace Henry Irene Jack Karen Leo Mary Nick Olivia Peter Queenie Rose Sam Tina Ursula Victor "
    "Wendy Xavier Yvonne Zoe Adam Bella Chris Daisy Eric Fiona George Helen Ian Julia Kevin Laura Mike Nancy Oscar Paula Quentin "
    "Rachel Steve Tom Uma Vera William Amy Brian Cindy Daniel Ella Felix Gina Harry Ivy James Kate Luke Mia Noah Oliver Penny "
    "Robert Sarah Tony Violet Walter Anna Ben Clara Dylan Eva Fred Gloria Hugo Isabel John Kelly Linda Martin Nora Owen Philip "
    "Ruby Simon Tracy Vincent Alan Betty Charles Diana Edward Flora Gary Hannah Jason Lily Max Nina Paul Ray Susan Ted Lucy Mark"
).split()
ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl dr gr kr sh st th tr".split()
MIDDLES = "a e i o u ai ea ia o a e i".split()
CODAS = "n l r s m t ck nd rt ll na la ra lia no ro ven ton den ley by".split()

CITIES_ZH = (
    "北京 上海 广州 深圳 杭州 南京 苏州 成都 重庆 武汉 西安 天津 长沙 郑州 青岛 大连 厦门 昆明 哈尔滨 沈阳 济南 合肥 福州 南昌 贵阳 南宁 海口 "
    "兰州 西宁 银川 拉萨 太原 石家庄 长春 宁波 无锡 桂林 丽江 大理 三亚 洛阳 开封 扬州 烟台 威海 珠海 佛山 东莞 泉州 温州 香港 澳门 台北 "
    "东京 大阪 首尔 曼谷 新加坡 伦敦 巴黎 柏林 罗马 马德里 纽约 波士顿 芝加哥 悉尼 多伦多 莫斯科 开罗 孟买"
).split()
CITIES_EN = (
    "Beijing Shanghai Guangzhou Shenzhen Hangzhou Nanjing Suzhou Chengdu Chongqing Wuhan Tianjin Changsha Qingdao Dalian Xiamen "
    "Kunming Harbin Tokyo Osaka Kyoto Seoul Bangkok Singapore London Paris Berlin Rome Madrid Lisbon Vienna Prague Dublin Oslo "
    "Boston Chicago Seattle Denver Houston Dallas Miami Sydney Melbourne Toronto Vancouver Montreal Moscow Cairo Nairobi Mumbai "
    "Delhi Athens Zurich Geneva Milan Venice Lyon Munich Hamburg Warsaw Budapest Helsinki Stockholm Copenhagen Amsterdam Brussels"
).split()


def draw(rng: random.Random, make: Callable[[], str], split: str) -> str:
    """Call `make` until it gives a value of the split."""
    while True:
        value = make()
        if in_split(value, split):
            return value


def rare_character(rng: random.Random) -> str:
    """Return one of the 3,755 commonest Chinese characters, so that names with any of them can be repeated."""
    while True:
        try:
            return bytes((rng.randint(0xB0, 0xD7), rng.randint(0xA1, 0xFE))).decode("gb2312")
        except UnicodeDecodeError:
            continue  # five cells at the end of the table are empty


def doubled(rng: random.Random, split: str, characters: list[str]) -> str:
    """Join characters, some of which are said twice, as in 妹妹 and 丽丽: one in 25, about as often as people do.

    Training has one in six; with fewer, copying never learns where such a pair ends.
    """
    share = 1 / 6 if split == "train" else 1 / 25
    return "".join(character * (2 if rng.random() < share else 1) for character in characters)


def person_zh(rng: random.Random, split: str) -> str:
    """Return a Chinese full name of two to four characters."""

    def given() -> str:
        return rare_character(rng) if rng.random() < 0.15 else rng.choice(GIVEN_CHARACTERS)

    def full() -> str:
        first = given()
        second = first if rng.random() < 0.08 else given() if rng.random() < 0.6 else ""
        return rng.choice(SURNAMES) + first + second

    return draw(rng, full, split)


def person_en(rng: random.Random, split: str) -> str:
    """Return an English given name: a common one or an invented one."""

    def invented() -> str:
        name = rng.choice(ONSETS) + rng.choice(MIDDLES) + rng.choice(CODAS)
        return (name if len(name) > 3 else rng.choice("aeo") + name).capitalize()

    return draw(rng, lambda: rng.choice(ENGLISH_NAMES) if rng.random() < 0.5 else invented(), split)


def city_zh(rng: random.Random, split: str) -> str:
    """Return the Chinese name of a city."""
    return draw(rng, lambda: rng.choice(CITIES_ZH), split)


def city_en(rng: random.Random, split: str) -> str:
    """Return the English name of a city."""
    return draw(rng, lambda: rng.choice(CITIES_EN), split)
