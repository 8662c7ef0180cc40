"""Write an advertisement from attributes in the form of ADGEN (类型#裙*风格#简约*…) that mentions each value.

One value in ten of every attribute, and one combination in ten, is never trained on. A held-out advertisement has an unseen
combination and, in half of the cases, at least one unseen value. Besides the form there are requests as people make them,
in either language, for goods of any name.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import partial

from ..dialogue import TEST, TRAIN, Dialogue, contains_all, in_split, select_from
from ..subjects import subject
from ..wording import ask, expand

# fmt: off
VALUES = {
    "材质": "牛仔布 棉 真丝 羊毛 针织 雪纺 蕾丝 亚麻 皮革 羽绒 绒面 涤纶 羊绒 灯芯绒 网纱 帆布 呢子 天丝 麂皮 莫代尔 氨纶 丝绒 粗花呢 毛呢".split(),
    "颜色": "红色 黑色 白色 蓝色 绿色 黄色 粉色 灰色 紫色 米色 咖啡色 酒红色 墨绿色 天蓝色 藏青色 橙色 卡其色 银色 金色 杏色 浅灰色 奶白色 深蓝色 豆沙色".split(),
    "风格": "简约 复古 文艺 休闲 甜美 清新 性感 英伦 嘻哈 街头 运动 通勤 优雅 田园 民族风 学院风 朋克 日系 韩版 欧美 中国风 知性 潮流 青春 淑女 森系 度假".split(),
    "图案": "条纹 格子 印花 刺绣 碎花 波点 字母 卡通 纯色 动物 几何 豹纹 花朵 拼色 渐变 撞色 水墨 星星 爱心 蝴蝶 千鸟格 树叶 卡通猫 英文 数字".split(),
    "版型": "宽松 修身 直筒 显瘦 收腰 廓形 紧身 A字 斗篷型 茧型 短款 长款 中长款 高腰".split(),
    "领型": "圆领 V领 高领 翻领 立领 一字领 方领 娃娃领 西装领 连帽 半高领 堆堆领 荷叶领 衬衫领 海军领".split(),
    "袖长": "长袖 短袖 无袖 七分袖 五分袖 中袖 九分袖 超长袖".split(),
    "裙长": "短裙 长裙 中长裙 连衣裙 半身裙 超短裙 及膝裙 拖地裙".split(),
    "裤长": "长裤 短裤 九分裤 七分裤 五分裤 超短裤 八分裤".split(),
    "细节": "口袋 纽扣 拉链 系带 流苏 荷叶边 蝴蝶结 破洞 亮片 腰带 开叉 褶皱 木耳边 铆钉 抽绳 绑带 珍珠 镂空 螺纹 毛边 花边 盘扣 拼接".split(),
    "季节": "春季 夏季 秋季 冬季 春秋 初秋 早春 初夏".split(),
    "适用": "上班 约会 聚会 旅行 逛街 运动健身 上学 婚礼 居家 郊游 晚宴 面试 度假 登山".split(),
}
KINDS = {
    "裙": ("材质", "颜色", "风格", "图案", "版型", "领型", "袖长", "裙长", "细节", "季节", "适用"),
    "裤": ("材质", "颜色", "风格", "图案", "版型", "裤长", "细节", "季节", "适用"),
    "上衣": ("材质", "颜色", "风格", "图案", "版型", "领型", "袖长", "细节", "季节", "适用"),
    "外套": ("材质", "颜色", "风格", "图案", "版型", "领型", "袖长", "细节", "季节", "适用"),
    "衬衫": ("材质", "颜色", "风格", "图案", "版型", "领型", "袖长", "细节", "季节", "适用"),
    "毛衣": ("材质", "颜色", "风格", "图案", "版型", "领型", "袖长", "细节", "季节", "适用"),
    "鞋": ("材质", "颜色", "风格", "图案", "细节", "季节", "适用"),
    "包": ("材质", "颜色", "风格", "图案", "细节", "季节", "适用"),
    "帽子": ("材质", "颜色", "风格", "图案", "细节", "季节", "适用"),
}
OPENING = "这款{}"
HELD_OUT = {key: frozenset(select_from(values, TEST)) for key, values in VALUES.items()}
ALL_HELD_OUT = frozenset().union(*HELD_OUT.values())
CLAUSES = {
    "材质": ("选用{}面料，手感舒适", "采用{}材质，亲肤透气"),
    "颜色": ("{}的配色十分百搭", "{}显得大方又好看"),
    "风格": ("尽显{}气质", "充满{}的味道"),
    "图案": ("{}图案增添了几分趣味", "点缀的{}图案很有特色"),
    "版型": ("{}的版型衬托身材", "{}的剪裁穿着自在"),
    "领型": ("{}设计修饰颈部线条", "搭配{}，更显精神"),
    "袖长": ("{}的设计利落大方", "{}方便活动"),
    "裙长": ("{}的款式走起路来很飘逸", "{}的样式衬出好身姿"),
    "裤长": ("{}的款式拉长腿部线条", "{}的样式轻松显高"),
    "细节": ("{}的细节精致耐看", "加入{}元素，层次丰富"),
    "季节": ("适合{}穿戴", "{}穿戴正合适"),
    "适用": ("{}时都能轻松驾驭", "无论什么搭配，{}都合适"),
}
ASKS = ("{}", "{}", "{}", "{}", "写一段广告：{}", "根据属性写广告词：{}", "请为这件商品写一段广告：{}")
# How people name an attribute in passing. The first texts are for known values alone, the second ones for any word at all.
SPOKEN = {
    "材质": ("{}|{}的|{}面料|{}材质", "{}材质|{}面料|材质是{}|用{}做的|材质：{}"),
    "颜色": ("{}|{}的|颜色是{}", "颜色是{}|颜色：{}|颜色为{}"),
    "风格": ("{}风|{}风格|{}风格的|走{}路线", "{}风格|{}风格的|风格是{}|风格：{}"),
    "图案": ("{}|{}图案|有{}图案|带{}图案", "{}图案|有{}图案|印着{}图案|图案是{}|图案：{}"),
    "版型": ("{}|{}的|{}版型", "{}版型|版型是{}|版型：{}"),
    "领型": ("{}|{}设计|{}的", "领型是{}|领型：{}"),
    "袖长": ("{}|{}的|{}款", "袖长是{}|袖长：{}"),
    "裙长": ("{}款|裙长是{}", "裙长是{}|裙长：{}"),
    "裤长": ("{}款|裤长是{}", "裤长是{}|裤长：{}"),
    "细节": ("带{}|有{}|有{}的设计", "带{}|有{}|细节是{}|细节：{}|亮点是{}"),
    "季节": ("适合{}穿|{}穿的|{}款|适合{}", "季节：{}|季节是{}"),
    "适用": ("适合{}|{}的时候用|适合{}时用", "适合{}|适合{}的时候用|用途：{}|适用于{}"),
}
SEASONS = "春天 夏天 秋天 冬天".split()
GOODS = {
    "zh": (
        "连衣裙 卫衣 T恤 牛仔裤 羽绒服 风衣 西装 短裤 半身裙 运动鞋 高跟鞋 靴子 凉鞋 背包 手提包 围巾 手套 袜子 毛衣 衬衫 外套 帽子 睡衣 旗袍 汉服 马甲 皮带 背心 大衣 鞋子 裙子 裤子 衣服 包包 领带 泳衣 "
        "手机 耳机 电脑 台灯 沙发 水杯 自行车 手表 床单 窗帘 书包 雨伞 枕头 椅子 茶杯 键盘 被子 地毯 行李箱"
    ).split(),
    "en": (
        "dress shirt jacket coat sweater skirt hoodie T-shirt blouse hat cap scarf bag backpack suit vest cardigan blazer raincoat swimsuit handbag belt tie watch "
        "phone lamp sofa mug bike chair umbrella pillow blanket carpet suitcase wallet laptop guitar tent jeans shoes boots trousers pants socks gloves shorts sandals sneakers leggings headphones sunglasses"
    ).split(),
}
MANY = frozenset("jeans shoes boots trousers pants socks gloves shorts sandals sneakers leggings headphones sunglasses".split())
NATURAL_ZH = {
    "listed": (
        "[请|帮我|给我|麻烦|替我](写|来|想|编|弄|做)(一段|一个|个|段|一条|一份|条)(关于|){kind}的(广告|广告词|文案|宣传语|推广文案|介绍|带货文案)(，|：|。|，要求：|，特点是|，特点：){values}|(写个广告|写广告|来个广告|广告文案|写文案|商品文案|写一段广告|帮我写文案|广告词|写个产品介绍|电商文案)(：|，|:){kind}，{values}"
        "|(我要卖|我有|我家店里有|店里新到了|我们上新了|我想推广|我在网店卖|店铺刚进了)(一款|一批|一种|){kind}，{values}，(帮我写个广告|请写一段文案|怎么写广告词|给写个宣传|写个文案吧|来段广告)|{kind}，{values}，(写个广告|写个文案|来段广告词|帮忙写广告|写一段广告|生成广告文案)|{kind}，{values}\n(写一段广告|帮我写个文案|根据以上信息写广告)|(为|给|替)(一款|这款|这件|我的|我们店的|){kind}(写|想|来|编)(个|段|一段|一个)(广告|文案|广告词|宣传语)(，|：|。){values}|{kind} {values} (广告|文案|广告词)|{kind}：{values}。(写广告|写文案|写一段广告词)"
        "|商品：{kind}，{values}[，写广告|。请写广告词]|(怎么|如何)(宣传|推销|介绍)这款{kind}：{values}|我想给{kind}打个广告，{values}|要发朋友圈卖{kind}，{values}，写几句|(朋友圈|淘宝|小红书|直播间|网店)要用的{kind}(文案|广告)：{values}"
    ),
    "before": (
        "[请|帮我|麻烦](给|为|替)(这款|这件|这个|我的|我家的|一款|){goods}(写|想|来|编)(个|段|一段|一个|条|一条)(广告|文案|广告词|宣传语|介绍|推广文案)|[请|帮我|给我|替我](写|来|想|编)(一段|一个|个|段|条|一条)(关于|){goods}的(广告|广告词|文案|宣传语)|(写个广告|写广告|来个广告|广告文案|写文案|写一段广告|帮我写个广告|广告词)(：|，|:|：\n){goods}|{goods}(的|)(广告|文案|广告词|广告语)(怎么写|写一个|写一段|来一个|)"
        "|(我要卖|我有|店里新到|我们上新了|我想推广|我做了|刚进了)(一款|一批|){goods}，(帮我写个广告|请写一段文案|怎么写广告词|写个宣传|写几句广告)|(宣传|推销|推广|夸夸)(一下|下)(这款|我的|我们的|){goods}|(能不能|可以|能|可否)(给|帮)我写(一段|个){goods}的(广告|文案)|{goods}，(写个广告|写段文案|写一段广告|帮忙宣传一下|打个广告)|打广告：{goods}|我想给{goods}打个广告，怎么说"
    ),
}
GENERIC_CLAUSES = {"材质": "选用{}材质，质感出众", "季节": "适合{}使用"}
PLAIN_ZH = "这款{0}做工精致，外观大方，自用送人都合适。喜欢{0}的你，不要错过。"
PLAIN_EN = "This {0} is well made, good-looking and easy to love. Enjoy your {0} today!"
PLAIN_MANY = "These {0} are well made, good-looking and easy to love. Enjoy your {0} today!"
VALUES_EN = {
    "fit": "loose slim oversized cropped long short warm light soft waterproof comfortable elegant vintage casual classic modern sporty cute simple cheap stylish handmade".split(),
    "colour": "red black white blue green yellow pink grey purple beige brown navy orange silver golden cream turquoise khaki violet teal".split(),
    "pattern": "striped floral checked plain dotted printed embroidered tartan".split(),
    "material": "silk cotton wool linen leather denim velvet cashmere lace nylon fleece suede canvas satin bamboo corduroy".split(),
    "detail": "pockets;buttons;a hood;a zip;a belt;long sleeves;short sleeves;a big logo;pearls;fringes;a bow;ruffles;a round neck;a high collar;flowers;golden buttons;wide straps;a soft lining".split(";"),
    "purpose": "summer;winter;spring;autumn;work;school;parties;travel;weddings;the beach;the office;running;hiking;children;men;women;students;everyday wear;rainy days;cold days;dinner;yoga;teenagers;the gym".split(";"),
}
CLAUSES_EN = {
    "pattern": ("catch{es} the eye with {its} {} look", "show{s} a charming {} design"),
    "fit": ("{is} wonderfully {}", "{is} {} in the best way"),
    "colour": ("come{s} in beautiful {}", "shine{s} in {}"),
    "material": ("{is} made of fine {}", "{has} the lovely touch of {}"),
    "detail": ("charm{s} everyone with {}", "stand{s} out with {}"),
    "purpose": ("{is} perfect for {}", "{is} just right for {}"),
}
VERBS = {"one": {"s": "s", "es": "es", "is": "is", "has": "has", "its": "its"}, "many": {"s": "", "es": "", "is": "are", "has": "have", "its": "their"}}
_AD = "(ad|advert|advertisement|ad text|slogan|product description|commercial|promo text)"
NATURAL_EN = {
    "one": (
        f"(Write|Create|Make|Give me|Compose|Draft) (a|a short|a nice|one|a catchy) {_AD} for ({{a}}|my|this|our|the) {{goods}}|(Advertise|Promote|Sell|Praise) (my|this|our|the) [new] {{goods}}|(Can|Could|Would) you [please] (write|make|come up with) (a|a short) {_AD} for (my|this|{{a}}) {{goods}}|(I'm|We're|I am) (selling|launching) {{a}} {{goods}}(. Write an ad|, write an ad|, can you write an ad|. I need a short ad) [please]|I (need|want|would like) (a|a short|a little) {_AD} for ({{a}}|my|this|our) {{goods}}"
        f"|{_AD} for {{a}} {{goods}}|{_AD}: {{goods}}|{{goods}} {_AD}|(Help me|I want to) (advertise|sell|promote) (this|my|{{a}}) {{goods}} [online]|(Write|Say) something to sell (my|this|{{a}}) {{goods}}|How (would|do) you advertise {{a}} {{goods}}|My shop has {{a}} [new] {{goods}}(, write an ad| and I need an ad for it|. Please write an ad)|I was wondering if you could write an ad for (my|this) {{goods}}|Write an ad for the following product: {{goods}}|Product: {{goods}}\nWrite an ad"
    ),
    "listed": (
        f"(Write|Create|Make|Give me) (a|a short|a nice) {_AD}(: |:\n){{goods}}|{_AD}: {{goods}}|{{goods}}. (Write an ad|Write a short ad[ please]|Please write an ad text|Make an ad of this|I need an ad)|Product: {{goods}}\n(Write an ad|Ad:|Advertisement:)|(I'm|We're) selling this: {{goods}}. (Write an ad|Please advertise it)|(Write|Make) a (short|nice) {_AD} from these words: {{goods}}|Turn this into an ad: {{goods}}|{{goods}}\n(Write an ad|Write a short ad for this|Make it an ad)"
        f"|(New in my shop|For sale|Just arrived): {{goods}}(. Advertise it|. Write the {_AD})|(Can|Could) you write (a|a short) {_AD} about this: {{goods}}"
    ),
    "many": (
        f"(Write|Create|Make|Give me|Compose|Draft) (a|a short|a nice|one|a catchy) {_AD} for (my|these|our|the|) {{goods}}|(Advertise|Promote|Sell|Praise) (my|these|our|the) [new] {{goods}}|(Can|Could|Would) you [please] (write|make|come up with) (a|a short) {_AD} for (my|these|) {{goods}}|(I'm|We're|I am) (selling|launching) {{goods}}(. Write an ad|, write an ad|, can you write an ad|. I need a short ad) [please]|I (need|want|would like) (a|a short|a little) {_AD} for (my|these|our|) {{goods}}"
        f"|{_AD} for {{goods}}|{_AD}: {{goods}}|{{goods}} {_AD}|(Help me|I want to) (advertise|sell|promote) (these|my|) {{goods}} [online]|(Write|Say) something to sell (my|these) {{goods}}|How (would|do) you advertise {{goods}}|My shop has [new] {{goods}}(, write an ad| and I need an ad for them|. Please write an ad)|Write an ad for the following product: {{goods}}|Product: {{goods}}\nWrite an ad"
    ),
}
# fmt: on


def with_article(words: str) -> str:
    """Return "a" or "an", whichever goes before the words."""
    return "an" if words[0].lower() in "aeiou" else "a"


def known(rng: random.Random, values: Sequence[str], split: str) -> str:
    """Draw a value; the split "test" takes one that is never trained on in half of the cases."""
    return rng.choice(select_from(values, TEST if split == TEST and rng.random() < 0.5 else TRAIN))


def natural_zh(rng: random.Random, split: str) -> tuple[str, str, tuple[str, ...]]:
    """Return a request in everyday Chinese, its advertisement and what that has to mention."""
    listed = rng.random() < 0.5
    invented = rng.random() < 0.4
    kind = subject(rng, split, "zh") if invented else rng.choice([*GOODS["zh"], *KINDS])
    clothing = kind in GOODS["zh"][:36] or kind in KINDS
    possible = KINDS.get(kind) or ("材质", "颜色", "风格", "图案", "细节", "季节", "适用")
    count = rng.choice((1, 2, 2, 3, 3, 4)) if listed else rng.choice((0, 0, 1, 2, 2, 3))
    if not listed:
        possible = ("版型", "颜色", "材质", "风格", "图案") if clothing else ("颜色", "材质", "风格")
    pairs, spoken = [], []
    for attribute in rng.sample(possible, min(count, len(possible))):
        any_word = listed and rng.random() < 0.4
        value = known(rng, SEASONS if attribute == "季节" and rng.random() < 0.7 else VALUES[attribute], split)
        while any_word and (value in VALUES[attribute] or value in SEASONS or value in ALL_HELD_OUT):
            value = subject(rng, split, "zh")
        spoken.append(expand(rng, SPOKEN[attribute][any_word]).format(value).replace("风风", "风"))
        pairs.append((attribute, value))
    if listed:
        joined = rng.choice(("，", "，", "、", "，", " ")).join(spoken)
        question = ask(rng, split, "zh", NATURAL_ZH["listed"], kind=kind, values=joined)
    else:
        before = [value + ("风格" if attribute == "风格" else "") for attribute, value in pairs]
        before = [value.replace("风风", "风") for value in before]
        goods = "".join(before) + ("的" if before and rng.random() < 0.5 else "") + kind
        question = ask(rng, split, "zh", NATURAL_ZH["before"], goods=goods)
    if not pairs:
        return question, PLAIN_ZH.format(kind), (kind,)
    generic = {} if clothing else GENERIC_CLAUSES
    clauses = [(generic.get(key) or rng.choice(CLAUSES[key])).format(value) for key, value in pairs]
    return question, OPENING.format(kind) + "，".join(clauses) + "。", (kind, *(value for _, value in pairs))


def natural_en(rng: random.Random, split: str) -> tuple[str, str, tuple[str, ...]]:
    """Return a request in English, its advertisement and what that has to mention."""
    kind = subject(rng, split, "en") if rng.random() < 0.35 else rng.choice(GOODS["en"])
    kind = kind.removeprefix("the ")
    number = "many" if kind in MANY or re.search(r"^[a-z].*[^sui]s$", kind) else "one"
    count = rng.choice((0, 1, 2, 2, 3, 3))
    chosen = [attribute for attribute in VALUES_EN if attribute in rng.sample(sorted(VALUES_EN), count)]
    pairs = [(attribute, known(rng, VALUES_EN[attribute], split)) for attribute in chosen]
    if "purpose" in chosen and rng.random() < 0.3:
        pairs[-1] = ("purpose", subject(rng, split, "en"))
    before = [value for attribute, value in pairs if attribute not in ("detail", "purpose")]
    after = [("with " if attribute == "detail" else "for ") + value for attribute, value in pairs[len(before) :]]
    listed = len(pairs) > 1 and rng.random() < 0.3
    goods = ", ".join([kind, *before, *after]) if listed else " ".join([*before, kind, *after])
    if rng.random() < 0.25:
        goods, kind, pairs = goods.lower(), kind.lower(), [(attribute, value.lower()) for attribute, value in pairs]
    question = ask(rng, split, "en", NATURAL_EN["listed" if listed else number], goods=goods, a=with_article(goods))
    question = re.sub(r"\b(a|A)(?= (ad|advert|advertisement)\b)", r"\1n", question)
    question = re.sub(r"\ban (?=new )", "a ", question)
    if not pairs:
        return question, (PLAIN_MANY if number == "many" else PLAIN_EN).format(kind), (kind,)
    clauses = [rng.choice(CLAUSES_EN[attribute]).format(value, **VERBS[number]) for attribute, value in pairs]
    told = clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]
    opening = "These" if number == "many" else "This"
    return question, f"{opening} {kind} {told}.", (kind, *(value for _, value in pairs))


class Adgen:
    """Turn attributes into an advertisement, one clause for each, in their order."""

    name = "adgen"
    title_en = "Advertisement from attributes"
    title_zh = "广告文案（类型#裙*风格#简约*…）"
    weight = 2.4

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw attributes, in the data set's form in a little under half of the cases, otherwise as people name them."""
        if rng.random() < 0.55:
            while True:
                try:
                    question, answer, named = (natural_zh if rng.random() < 0.5 else natural_en)(rng, split)
                except ValueError:
                    continue  # every wording of a short name belongs to training
                return Dialogue(((question, answer),), partial(contains_all, parts=named))
        while True:
            kind = rng.choice(sorted(KINDS))
            attributes = rng.sample(KINDS[kind], rng.randint(2, 5))
            unseen = split == TEST and rng.random() < 0.5
            any_words = split == TRAIN and rng.random() < 0.5
            pairs = []
            for attribute in attributes:
                wanted = TEST if unseen and rng.random() < 0.6 else TRAIN
                value = rng.choice(select_from(VALUES[attribute], wanted))
                if any_words and rng.random() < 0.6:
                    # A value of a short list would be recognised, not copied; any words at all have to be copied.
                    value = next(
                        word for word in iter(lambda: subject(rng, TRAIN, "zh"), None) if word not in ALL_HELD_OUT
                    )
                pairs.append((attribute, value))
            content = "*".join(f"{key}#{value}" for key, value in [("类型", kind), *pairs])
            if split == TRAIN and not in_split(content, split):
                continue
            if split == TEST and not unseen and not in_split(content, split):
                continue
            if unseen and not any(value in HELD_OUT[key] for key, value in pairs):
                continue
            break
        clauses = [rng.choice(CLAUSES[key]).format(value) for key, value in pairs]
        answer = OPENING.format(kind) + "，".join(clauses) + "。"
        needed = (kind, *(value for _, value in pairs))
        return Dialogue(((rng.choice(ASKS).format(content), answer),), lambda text: contains_all(text, needed))


SKILL = Adgen()
