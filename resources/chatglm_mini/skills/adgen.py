"""Write an advertisement from attributes in the form of ADGEN (类型#裙*风格#简约*…) that mentions each value.

One value in ten of every attribute, and one combination in ten, is never trained on. A held-out advertisement has an unseen
combination and, in half of the cases, at least one unseen value.
"""

from __future__ import annotations

import random

from ..dialogue import TEST, TRAIN, Dialogue, contains_all, in_split, select_from
from ..subjects import subject

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
# fmt: on


class Adgen:
    """Turn attributes into an advertisement, one clause for each, in their order."""

    name = "adgen"
    title_en = "Advertisement from attributes"
    title_zh = "广告文案（类型#裙*风格#简约*…）"
    weight = 1.9

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw two to five attributes of a kind of clothing."""
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
