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
    # For goods of everyday life, in people's own words only.
    "质地": "实木 不锈钢 陶瓷 玻璃 塑料 硅胶 竹子 铝合金 纯棉 乳胶 碳纤维 真皮 大理石 橡胶 藤编 记忆棉 铜 水晶 木头 钛合金".split(),
    "功能": "防水 保温 静音 防滑 可折叠 充电快 大容量 轻便 续航长 护眼 自动清洁 耐摔 一键开关 降噪 省电 智能控制 防晒 透气 保湿 去油 可水洗 防蓝光 无线充电 易清洗 不漏水 节能 抗菌 速干 可调节 超薄".split(),
    "口味": "草莓 香草 原味 麻辣 巧克力 抹茶 柠檬 芒果 蜂蜜 海盐 玫瑰 微甜 五香 桂花 花生 酸甜 咖啡 椰子 番茄 孜然".split(),
    "产地": "云南 新疆 四川 福建 日本 法国 意大利 内蒙古 海南 东北 杭州 泰国 德国 瑞士 山东 西藏 巴西 新西兰 景德镇 武夷山".split(),
    "人群": "儿童 老人 学生 上班族 宝宝 孕妇 男士 女士 情侣 程序员 新手 老师 司机 健身爱好者 宠物 妈妈 小学生 大学生 敏感肌 全家".split(),
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
    "质地": ("采用{}材质，结实耐用", "{}材质，质感出众"),
    "功能": ("{}，用起来省心又方便", "{}的功能贴心实用"),
    "口味": ("{}口味让人回味无穷", "{}的味道令人喜爱"),
    "产地": ("来自{}，品质值得信赖", "产自{}，用料讲究"),
    "人群": ("深受{}喜爱", "特别适合{}"),
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
    "质地": ("{}|{}的|{}材质|{}做的", "{}材质|材质是{}|用{}做的|材质：{}|材料：{}"),
    "功能": ("{}|{}的|功能：{}|卖点是{}", "功能是{}|功能：{}|卖点是{}|卖点：{}|特点：{}"),
    "口味": ("{}味|{}口味|口味：{}", "{}口味|{}味的|口味是{}|口味：{}|味道：{}"),
    "产地": ("产自{}|来自{}|{}产的|产地{}", "产自{}|来自{}|产地是{}|产地：{}"),
    "人群": ("适合{}|给{}用|{}专用|适合{}用", "适合{}|给{}用|适用人群：{}|面向{}|人群：{}"),
}
SEASONS = "春天 夏天 秋天 冬天".split()
GOODS = {
    "zh": (
        "连衣裙 卫衣 T恤 牛仔裤 羽绒服 风衣 西装 短裤 半身裙 运动鞋 高跟鞋 靴子 凉鞋 背包 手提包 围巾 手套 袜子 毛衣 衬衫 外套 帽子 睡衣 旗袍 汉服 马甲 皮带 背心 大衣 鞋子 裙子 裤子 衣服 包包 领带 泳衣 "
        "手机 耳机 电脑 台灯 沙发 水杯 自行车 手表 床单 窗帘 书包 雨伞 枕头 椅子 茶杯 键盘 被子 地毯 行李箱"
    ).split(),
    "器物": (
        "保温杯 电饭煲 电动牙刷 吹风机 扫地机器人 空气净化器 蓝牙音箱 平板电脑 微波炉 冰箱 洗衣机 空调 电风扇 充电宝 智能手表 鼠标 相机 望远镜 帐篷 滑板 瑜伽垫 "
        "儿童推车 玩具车 积木 婴儿床 餐桌 书架 衣柜 床垫 炒锅 菜刀 花瓶 钢笔 笔记本 拼图 吉他 钢琴 篮球 羽毛球拍 跑步机 电动车 加湿器 热水壶 饭盒 购物袋 剃须刀 眼镜 太阳镜 墨镜 闹钟 拖把 猫砂盆 狗窝 鱼缸"
    ).split(),
    "吃用": (
        "蜂蜜 茶叶 绿茶 咖啡 巧克力 饼干 月饼 蛋糕 面包 牛奶 酸奶 果汁 大米 面条 水果 苹果 橙子 牛肉干 坚果 火锅底料 辣椒酱 冰淇淋 奶茶 糖果 麦片 红酒 啤酒 矿泉水 薯片 粽子 饺子 酱油 橄榄油 零食礼盒"
    ).split(),
    "洗护": "面霜 口红 洗发水 沐浴露 牙膏 香皂 面膜 防晒霜 护手霜 香水 洗衣液 精油 爽肤水 眼影 湿巾 香薰蜡烛".split(),
    "en": (
        "dress shirt jacket coat sweater skirt hoodie T-shirt blouse hat cap scarf bag backpack suit vest cardigan blazer raincoat swimsuit handbag belt tie watch "
        "phone lamp sofa mug bike chair umbrella pillow blanket carpet suitcase wallet laptop guitar tent jeans shoes boots trousers pants socks gloves shorts sandals sneakers leggings headphones sunglasses "
        "table desk bed mattress curtain teapot kettle toaster blender vacuum camera drone speaker keyboard mouse printer tablet scooter skateboard football racket piano violin candle vase mirror clock notebook pen bottle "
        "lunchbox bracelet necklace ring swimsuit tracksuit pullover poncho kimono apron bathrobe nightgown helmet stroller puzzle doll bookshelf wardrobe hammock toothbrush razor fan heater backpack wok pan tote cradle "
        "towels pyjamas earrings slippers curtains glasses cookies earphones candles pencils toys flip-flops mittens chopsticks skates binoculars"
    ).split()
    + [
        *("water bottle;yoga mat;coffee machine;rain jacket;winter coat;evening dress;running shoes;hiking boots;baseball cap;desk lamp;smart watch;power bank;robot vacuum;baby carrier;dog bed;garden chair").split(";"),
        *("electric bike;lip balm;face cream;body lotion;school bag;travel mug;picnic basket;wool scarf;office chair;alarm clock;wedding dress;leather jacket;cooking pot;phone case;gaming mouse;board game;cat tree").split(";"),
    ],
    "mass": "honey;tea;coffee;chocolate;perfume;soap;shampoo;bread;cheese;wine;beer;jam;ice cream;toothpaste;sunscreen;rice;yoghurt;jewellery;lemonade;olive oil;granola".split(";"),
}
MANY = frozenset("jeans shoes boots trousers pants socks gloves shorts sandals sneakers leggings headphones sunglasses towels pyjamas earrings slippers curtains glasses cookies earphones candles pencils toys flip-flops mittens chopsticks skates binoculars".split()) | {"running shoes", "hiking boots"}
NATURAL_ZH = {
    "listed": (
        "[请|帮我|给我|麻烦|替我](写|来|想|编|弄|做)(一段|一个|个|段|一条|一份|条)(关于|){kind}的(广告|广告词|文案|宣传语|推广文案|介绍|带货文案)(，|：|。|，要求：|，特点是|，特点：){values}|(写个广告|写广告|来个广告|广告文案|写文案|商品文案|写一段广告|帮我写文案|广告词|写个产品介绍|电商文案)(：|，|:){kind}，{values}"
        "|(我要卖|我有|我家店里有|店里新到了|我们上新了|我想推广|我在网店卖|店铺刚进了)(一款|一批|一种|){kind}，{values}，(帮我写个广告|请写一段文案|怎么写广告词|给写个宣传|写个文案吧|来段广告)|{kind}，{values}，(写个广告|写个文案|来段广告词|帮忙写广告|写一段广告|生成广告文案)|{kind}，{values}\n(写一段广告|帮我写个文案|根据以上信息写广告)|(为|给|替)(一款|这款|这件|我的|我们店的|){kind}(写|想|来|编)(个|段|一段|一个)(广告|文案|广告词|宣传语)(，|：|。){values}|{kind} {values} (广告|文案|广告词)|{kind}：{values}。(写广告|写文案|写一段广告词)"
        "|商品：{kind}，{values}[，写广告|。请写广告词]|(怎么|如何)(宣传|推销|介绍)这款{kind}：{values}|我想给{kind}打个广告，{values}|要发朋友圈卖{kind}，{values}，写几句|(朋友圈|淘宝|小红书|直播间|网店)要用的{kind}(文案|广告)：{values}"
        "|[请|帮我|麻烦|给我|能不能|可以](用|根据|按照|就|围绕)(这些|以下|下面的|下列)(信息|特点|卖点|关键词|属性|词)[，|](写|生成|编|来)(一段|一个|个|段|一条|)(广告|广告词|文案|宣传语|商品描述|推广语)(：|:|：\n){kind}(，|、|：|\n){values}|(产品|商品|名称|产品名|商品名称|宝贝|品名|类型)(：|:|是){kind}(，|\n|；|。){values}(，|\n|。)(写广告|请写一段广告|写一段文案|生成文案|帮我写个广告词|文案：|广告：|广告词：|求文案)|(写一段广告|写文案|生成广告|广告词|文案|写个产品介绍)(。|：|，|\n)(产品|商品|名称|产品名)(：|:|是){kind}(，|\n|；|。){values}"
        "|{values}[的|，]{kind}(，|。| |\n)(写个广告|写一段广告|帮我写个文案|广告怎么写|来段广告词|给写个宣传语|求一段文案|广告)|{kind}（{values}）(，|)(写个广告|广告文案|写段文案|怎么宣传)|(广告|文案|广告词|写广告)：{kind}（{values}）|(这款|这个|我们的|我家的|我的|这件|新款|公司的){kind}(，|：|的特点是|的特点：|的卖点是|主打：){values}(，|。)(帮我写(个|段|一段)(广告|文案)|请写一段广告词|怎么宣传好|写几句推销的话|想个广告语|帮忙推销一下|写一段商品介绍)|(我|我们)(是|)(开|做|卖)(网店的|淘宝的|小店的|微商的|)，(卖|有|想卖|主推){kind}，{values}，(求|帮我写|写)(一段|个|一条)(广告|文案|广告词)"
        "|(想|我想|打算)(把|给)(我的|家里的|这个|){kind}(挂闲鱼|打广告|做宣传|写个介绍|发个广告)，{values}(|，帮我写写|，怎么写|，写一段吧)|(你好|您好|在吗|嗨)，(我|我们)(要|想|需要)(推广|宣传|卖)(一款|){kind}，{values}[，(写个广告吧|帮忙写个文案|谢谢)]|(写|来)(一段|个)(有吸引力的|简短的|好听的|打动人的|)(广告|文案|广告语)，(产品|商品|卖的|东西|主角)是{kind}，{values}|{kind}文案 {values}|{kind}广告，(要|突出|强调|体现|写上){values}|写{kind}的(广告|文案)，(要|突出|强调|体现|提到){values}|(为|给){kind}(设计|策划|撰写|起草)(一段|一则|一个)(广告词|广告|广告语|宣传文案)(，|：|。)(突出|卖点：|要求体现|){values}|(老板|领导|客户)(让我|要我)(给|为){kind}写(个|一段)(广告|文案)，{values}(|，怎么写|，帮帮我)"
    ),
    "before": (
        "[请|帮我|麻烦](给|为|替)(这款|这件|这个|我的|我家的|一款|){goods}(写|想|来|编)(个|段|一段|一个|条|一条)(广告|文案|广告词|宣传语|介绍|推广文案)|[请|帮我|给我|替我](写|来|想|编)(一段|一个|个|段|条|一条)(关于|){goods}的(广告|广告词|文案|宣传语)|(写个广告|写广告|来个广告|广告文案|写文案|写一段广告|帮我写个广告|广告词)(：|，|:|：\n){goods}|{goods}(的|)(广告|文案|广告词|广告语)(怎么写|写一个|写一段|来一个|)"
        "|(我要卖|我有|店里新到|我们上新了|我想推广|我做了|刚进了)(一款|一批|){goods}，(帮我写个广告|请写一段文案|怎么写广告词|写个宣传|写几句广告)|(宣传|推销|推广|夸夸)(一下|下)(这款|我的|我们的|){goods}|(能不能|可以|能|可否)(给|帮)我写(一段|个){goods}的(广告|文案)|{goods}，(写个广告|写段文案|写一段广告|帮忙宣传一下|打个广告)|打广告：{goods}|我想给{goods}打个广告，怎么说"
        "|[请|帮我|麻烦|能不能|给我](写|想|来|编|出|设计|撰写)(一|)(则|句|段|条|个)(简短的|有吸引力的|关于|朋友圈|淘宝|小红书|)(卖|推销|宣传|推广|)(我的|我家的|这款|){goods}的(广告|广告词|文案|广告语|宣传语|推销词|商品介绍|软文|产品描述|带货话术)|(有|卖|出售|转让|出|上新|新品|热卖|推荐)(一款|一批|一个|)[：]{goods}(，|。)(帮我写(个|段)广告|写段文案|求广告词|怎么吆喝|怎么宣传)|{goods}(，|：|？|。| )(广告|文案|广告词|求文案|求广告语|怎么宣传|怎么推销|怎么卖得好，写个广告|帮我写个介绍|给来段广告|怎么写广告)|(我|我们|我妈|我朋友)(想|要|打算|正在|准备)(卖|推销|宣传|推广|网上卖|出售){goods}(，|。)(帮忙|帮我|请|麻烦)(写|想|编)(个|段|一段)(广告|文案|广告词)"
        "|(直播|带货|摆摊|开店|双十一|朋友圈)(要|想)(卖|推){goods}，(写|来|求)(段|个|一段)(广告|文案|广告词|话术)|(主题|产品|商品|题目)(：|是){goods}(，|。|\n)(写一段广告|写广告|请写广告词|写文案|文案：|广告：)|(写广告|写一段广告|广告|文案|写文案)(，|。|：|\n)(产品|商品)(：|是){goods}|(你|你能|你会|可以)(写|给)(个|段)(广告|文案)吗，(卖|是|关于|写){goods}[的]|(用|以){goods}为(主题|产品|内容)写(一段|一个|个)(广告|文案|广告词)|{goods}的(宣传|推销|带货)(文案|词|语)"
    ),
}
# What is said of goods that nobody wears, and other names of some attributes.
ATTRIBUTES_ZH = {
    "器物": ("质地", "功能", "颜色", "风格", "人群", "产地"),
    "吃用": ("口味", "产地", "人群"),
    "洗护": ("功能", "产地", "人群", "颜色"),
}
LABELS = {"材质": ("材质", "面料", "材料"), "质地": ("材质", "材料"), "适用": ("适用", "用途", "场合"), "功能": ("功能", "卖点", "特点"), "人群": ("人群", "适合"), "口味": ("口味", "味道")}
GENERIC_CLAUSES = {"材质": "选用{}材质，质感出众", "季节": "适合{}使用"}
PLAIN_ZH = "这款{0}做工精致，外观大方，自用送人都合适。喜欢{0}的你，不要错过。"
PLAIN_EN = "This {0} is well made, good-looking and easy to love. Enjoy your {0} today!"
PLAIN_MANY = "These {0} are well made, good-looking and easy to love. Enjoy your {0} today!"
VALUES_EN = {
    "fit": "loose slim oversized cropped long short warm light soft waterproof comfortable elegant vintage casual classic modern sporty cute simple cheap stylish handmade lightweight durable portable foldable wireless smart organic delicious fresh tiny spacious reliable fashionable romantic retro trendy cosy breathable stretchy practical sturdy affordable luxurious healthy natural quiet powerful washable electric minimalist bohemian soft-touch".split(),
    "colour": "red black white blue green yellow pink grey purple beige brown navy orange silver golden cream turquoise khaki violet teal burgundy maroon ivory charcoal lavender mint peach lilac mustard bronze scarlet emerald".split(),
    "pattern": "striped floral checked plain dotted printed embroidered tartan".split(),
    "material": "silk cotton wool linen leather denim velvet cashmere lace nylon fleece suede canvas satin bamboo corduroy oak steel glass plastic aluminium ceramic rubber chiffon polyester mohair porcelain wood titanium silicone".split(),
    "detail": "pockets;buttons;a hood;a zip;a belt;long sleeves;short sleeves;a big logo;pearls;fringes;a bow;ruffles;a round neck;a high collar;flowers;golden buttons;wide straps;a soft lining;a long battery life;a big screen;a zipper;USB charging;wheels;a handle;two pockets;a front pocket;lots of space;a three-year warranty;adjustable straps;noise cancelling;a built-in light;non-slip soles;a secret pocket;gold trim;a V-neck;puffy sleeves;sequins;lace details;a remote control;free shipping;a timer;a lid;reflective stripes;a matching belt".split(";"),
    "purpose": "summer;winter;spring;autumn;work;school;parties;travel;weddings;the beach;the office;running;hiking;children;men;women;students;everyday wear;rainy days;cold days;dinner;yoga;teenagers;the gym;camping;babies;cyclists;dog owners;office workers;gamers;beginners;small flats;birthdays;Christmas;cold winters;hot days;long flights;dates;sensitive skin;the garden;the kitchen;the whole family;business trips;date nights;seniors;tea lovers".split(";"),
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
_AD = "(ad|ad|advert|advertisement|ad text|slogan|product description|commercial|promo text|sales text|ad copy|promotional text|sales pitch)"
# How an attribute is named in a list of labels, after the thing, and in a sentence about it.
SPOKEN_EN = {
    "pattern": ("pattern: {}|design: {}|print: {}", "with a {} pattern|in a {} design", "{has} a {} pattern|{is} {}"),
    "fit": ("style: {}|quality: {}|type: {}|look: {}|feel: {}|feature: {}", "that {is} {}|, {}", "{is} {}|{is} very {}|{is} really {}"),
    "colour": ("colour: {}|color: {}|color: {}", "in {}|in {}", "{is} {}|come{s} in {}"),
    "material": ("material: {}|fabric: {}|made of: {}", "made of {}|of {}|made from {}", "{is} made of {}|{is} made from {}|{is} made out of {}"),
    "detail": ("features: {}|extra: {}|detail: {}|special: {}|plus: {}", "with {}|that {has} {}|featuring {}", "{has} {}|come{s} with {}|offer{s} {}"),
    "purpose": ("for: {}|use: {}|good for: {}|occasion: {}|target group: {}", "for {}|made for {}|perfect for {}|suitable for {}", "{is} (good|perfect|ideal|made|great|meant) for {}"),
}
_LONG_AD = "(Write an ad|Write a short ad|Please write an ad|Can you write an ad for it|I need an ad|Make an ad|Write me an advertisement|Could you advertise that|How would you advertise that|Help me sell that|Give me a slogan|Write a product description|Ad please|Turn that into an ad)"
NATURAL_EN = {
    "one": (
        f"(Write|Create|Make|Give me|Compose|Draft) (a|a short|a nice|one|a catchy) {_AD} for ({{a}}|my|this|our|the) {{goods}}|(Advertise|Promote|Sell|Praise) (my|this|our|the) [new] {{goods}}|(Can|Could|Would) you [please] (write|make|come up with) (a|a short) {_AD} for (my|this|{{a}}) {{goods}}|(I'm|We're|I am) (selling|launching) {{a}} {{goods}}(. Write an ad|, write an ad|, can you write an ad|. I need a short ad) [please]|I (need|want|would like) (a|a short|a little) {_AD} for ({{a}}|my|this|our) {{goods}}"
        f"|{_AD} for {{a}} {{goods}}|{_AD}: {{goods}}|{{goods}} {_AD}|(Help me|I want to) (advertise|sell|promote) (this|my|{{a}}) {{goods}} [online]|(Write|Say) something to sell (my|this|{{a}}) {{goods}}|How (would|do) you advertise {{a}} {{goods}}|My shop has {{a}} [new] {{goods}}(, write an ad| and I need an ad for it|. Please write an ad)|I was wondering if you could write an ad for (my|this) {{goods}}|Write an ad for the following product: {{goods}}|Product: {{goods}}\nWrite an ad"
        f"|({{a}}|my|this|our) {{goods}}(, |. |: )({_LONG_AD})|({_LONG_AD})(: |, )({{a}}|my|our) {{goods}}|({{a}}|) {{goods}} {_AD}|(Please|Pls|plz|can u|hey can you) (write|make) (an ad|a slogan|a short ad|some ad text) for ({{a}}|my|the) {{goods}}|I (have|made|bought) {{a}} {{goods}} (to sell|that I want to sell|for sale)(. |, )({_LONG_AD})|(For sale|New|On offer|Special offer): {{goods}}(. |, )({_LONG_AD})|(My boss|My client|Our customer) (wants|needs) (a|a short|a nice) {_AD} for ({{a}}|our|the new) {{goods}}|(I run|We have) (a little shop|an online shop|a market stall) and (sell|want to sell) {{a}} {{goods}}(. |, )({_LONG_AD})|(Convince|Persuade) people to buy (my|{{a}}|this) {{goods}}|Make people want (my|{{a}}|this) {{goods}}, write an ad|(A few|Some|Two) (sentences|lines|words) to (sell|advertise|promote) ({{a}}|my|this|our) {{goods}}|I'm trying to sell ({{a}}|my|this) {{goods}}( on eBay| online|), ({_LONG_AD})"
    ),
    "listed": (
        f"(Write|Create|Make|Give me) (a|a short|a nice) {_AD}(: |:\n){{goods}}|{_AD}: {{goods}}|{{goods}}. (Write an ad|Write a short ad[ please]|Please write an ad text|Make an ad of this|I need an ad)|Product: {{goods}}\n(Write an ad|Ad:|Advertisement:)|(I'm|We're) selling this: {{goods}}. (Write an ad|Please advertise it)|(Write|Make) a (short|nice) {_AD} from these words: {{goods}}|Turn this into an ad: {{goods}}|{{goods}}\n(Write an ad|Write a short ad for this|Make it an ad)"
        f"|(New in my shop|For sale|Just arrived): {{goods}}(. Advertise it|. Write the {_AD})|(Can|Could) you write (a|a short) {_AD} about this: {{goods}}"
    ),
    "labelled": (
        f"(Product|Item|Product name|Name|Article): {{goods}}(\n|. |\n\n| - )({_LONG_AD}|Ad:)|({_LONG_AD})(: |:\n|. |.\n)(Product: |Item: |){{goods}}|{{goods}}(\n|. ){_LONG_AD}|{_AD} (for|:) {{goods}}|Write {{ad}} with (this data|these attributes|the following information)(: |:\n){{goods}}|(Data|Attributes|Keywords|Product info)(: |:\n){{goods}}\n({_LONG_AD})"
    ),
    "told": (
        f"(My|Our|The|This new|My new) {{goods}}. ({_LONG_AD})|({_LONG_AD}): (my|our|the) {{goods}}|(I sell|I have|I made|We sell|I'm selling|We produce|I want to sell|My shop has) {{a}} {{that}}. ({_LONG_AD})|({_LONG_AD}) for {{a}} {{that}}|(Write|Make|Create|Compose) {{ad}} (for|about) {{a}} {{that}}|(Can|Could) you write {{ad}} for (my|our) {{that}}|(Hi|Hello), (my|our) {{goods}}. ({_LONG_AD})|I need {{ad}}: (my|the) {{goods}}"
    ),
    "many": (
        f"(Write|Create|Make|Give me|Compose|Draft) (a|a short|a nice|one|a catchy) {_AD} for (my|these|our|the|) {{goods}}|(Advertise|Promote|Sell|Praise) (my|these|our|the) [new] {{goods}}|(Can|Could|Would) you [please] (write|make|come up with) (a|a short) {_AD} for (my|these|) {{goods}}|(I'm|We're|I am) (selling|launching) {{goods}}(. Write an ad|, write an ad|, can you write an ad|. I need a short ad) [please]|I (need|want|would like) (a|a short|a little) {_AD} for (my|these|our|) {{goods}}"
        f"|{_AD} for {{goods}}|{_AD}: {{goods}}|{{goods}} {_AD}|(Help me|I want to) (advertise|sell|promote) (these|my|) {{goods}} [online]|(Write|Say) something to sell (my|these) {{goods}}|How (would|do) you advertise {{goods}}|My shop has [new] {{goods}}(, write an ad| and I need an ad for them|. Please write an ad)|Write an ad for the following product: {{goods}}|Product: {{goods}}\nWrite an ad"
        f"|(my|these|our|) {{goods}}(, |. |: )({_LONG_AD})|({_LONG_AD})(: |, )(my|our|) {{goods}}|(Please|Pls|plz|can u|hey can you) (write|make) (an ad|a slogan|a short ad|some ad text) for (my|these|) {{goods}}|I (have|made|bought) {{goods}} (to sell|that I want to sell|for sale)(. |, )({_LONG_AD})|(For sale|New|On offer|Special offer): {{goods}}(. |, )({_LONG_AD})|(My boss|My client|Our customer) (wants|needs) (a|a short|a nice) {_AD} for (our|these|the new) {{goods}}|(I run|We have) (a little shop|an online shop|a market stall) and sell {{goods}}(. |, )({_LONG_AD})|(Convince|Persuade) people to buy (my|these) {{goods}}|(A few|Some|Two) (sentences|lines|words) to (sell|advertise|promote) (my|these|our) {{goods}}"
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
    sort = rng.choice(("zh", "zh", "zh", "器物", "吃用", "洗护"))
    kind = (
        subject(rng, split, "zh") if invented else rng.choice([*GOODS["zh"], *KINDS] if sort == "zh" else GOODS[sort])
    )
    clothing = kind in GOODS["zh"][:36] or kind in KINDS
    possible = KINDS.get(kind) or ("材质", "颜色", "风格", "图案", "细节", "季节", "适用")
    if not clothing and rng.random() < 0.7:
        possible = ATTRIBUTES_ZH["器物" if invented or sort == "zh" else sort]
    count = rng.choice((1, 2, 2, 3, 3, 4)) if listed else rng.choice((0, 0, 1, 2, 2, 3))
    if not listed:
        possible = [
            key for key in ("产地", "功能", "版型", "颜色", "材质", "质地", "口味", "风格", "图案") if key in possible
        ]
    pairs, spoken = [], []
    for attribute in rng.sample(possible, min(count, len(possible))):
        any_word = listed and rng.random() < 0.4
        value = known(rng, SEASONS if attribute == "季节" and rng.random() < 0.7 else VALUES[attribute], split)
        while any_word and (value in VALUES[attribute] or value in SEASONS or value in ALL_HELD_OUT):
            value = subject(rng, split, "zh")
        spoken.append(expand(rng, SPOKEN[attribute][any_word]).format(value).replace("风风", "风"))
        pairs.append((attribute, value))
    if listed:
        labelled = rng.random() < 0.2
        if labelled:
            spoken = [f"{rng.choice(LABELS.get(key, (key,)))}：{value}" for key, value in pairs]
        joined = rng.choice(("\n", "，", "；", " ") if labelled else ("，", "，", "、", "，", " ", "；")).join(spoken)
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
    kind = (
        subject(rng, split, "en") if rng.random() < 0.35 else rng.choice(GOODS["en" if rng.random() < 0.85 else "mass"])
    )
    kind = kind.removeprefix("the ")
    number = "many" if kind in MANY or re.search(r"^[a-z].*[^sui]s$", kind) and kind != "mattress" else "one"
    count = rng.choice((0, 1, 2, 2, 3, 3))
    chosen = [attribute for attribute in VALUES_EN if attribute in rng.sample(sorted(VALUES_EN), count)]
    pairs = [(attribute, known(rng, VALUES_EN[attribute], split)) for attribute in chosen]
    if "purpose" in chosen and rng.random() < 0.3:
        pairs[-1] = ("purpose", subject(rng, split, "en"))
    form = rng.choice(("", "", "", "", "after", "told", "told", "labelled")) if pairs else ""
    if form in ("told", "labelled"):
        rng.shuffle(pairs)
    before = [value for attribute, value in pairs if attribute not in ("detail", "purpose")]
    if form == "after":
        pairs.sort(key=lambda pair: pair[0] in ("colour", "material", "detail", "purpose"))
        before = [value for attribute, value in pairs if attribute in ("fit", "pattern")]
    if form == "after":
        after = [expand(rng, SPOKEN_EN[key][1]).format(value, **VERBS[number]) for key, value in pairs[len(before) :]]
    else:
        after = [("with " if key == "detail" else "for ") + value for key, value in pairs[len(before) :]]
    listed = not form and len(pairs) > 1 and rng.random() < 0.3
    goods = ", ".join([kind, *before, *after]) if listed else " ".join([*before, kind, *after])
    that = ""
    if form == "labelled":
        labels = [expand(rng, SPOKEN_EN[key][0]).format(value) for key, value in pairs]
        if rng.random() < 0.4:
            labels = [label[0].upper() + label[1:] for label in labels]
        goods = rng.choice(("\n", ", ", "; ", "\n- ")).join([kind, *labels])
    elif form == "told":
        said = [expand(rng, SPOKEN_EN[key][2]).format(value, **VERBS[number]) for key, value in pairs]
        told = said[0] if len(said) == 1 else ", ".join(said[:-1]) + rng.choice((" and ", ", ", " and it ")) + said[-1]
        told = told.replace(" and it ", " and they ") if number == "many" else told
        goods = f"{kind} {told}"
        that = (
            f"{kind} that {told}"
            if " and it " not in told and " and they " not in told
            else f"{kind}. " + ("They " if number == "many" else "It ") + told
        )
    if rng.random() < 0.25:
        goods, kind, pairs = goods.lower(), kind.lower(), [(attribute, value.lower()) for attribute, value in pairs]
        that = that.lower()
    article = with_article(goods)
    if number == "many" or kind in GOODS["mass"]:
        article = rng.choice(("some", "these" if number == "many" else "this"))
    ad = rng.choice(
        ("an ad", "an ad", "an advert", "a short ad", "a slogan", "an advertisement", "a product description")
    )
    grammar = NATURAL_EN["listed" if listed else form if form in NATURAL_EN else number]
    question = ask(rng, split, "en", grammar, goods=goods, a=article, that=that, ad=ad)
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
