"""Write an outline of an article, a speech, a report or a lesson on a topic never seen in training."""

import random
from functools import partial

from ..dialogue import Dialogue, in_split, numbered_items
from ..names import CITIES_EN, CITIES_ZH, person_en, person_zh
from ..subjects import subject
from ..wording import ask, expand, plain

# fmt: off
# Topics, with nouns `{a}` and `{b}`, a person and a city; the last alternatives are of several words, as people type.
_TOPICS = {
    "zh": (
        "({a}|{a}|{a}|{a}(与|和|跟){b}|{a}(的意义|的未来|的历史|与生活|的重要性|的好处|的利与弊|的发展|的现状|的魅力|的价值|的前景|文化|教育|入门|知识|安全|保护|的危害)|({a}对{b}的影响|{a}在{b}中的应用|{a}还是{b})"
        "|(我与|我和|我的|我爱|我眼中的|走进|论|谈|关于|认识|保护|学习|如何选择|中国的|{city}的|大学生与|如何爱上|为什么要学|现代){a}|如何(做好|提高|看待|学习|防止|发展){a}"
        "|(我的(家乡|妈妈|老师|梦想|朋友|暑假|学校|大学生活)|{name}的(一生|故事|作品))|({city}(旅游|的历史|的美食|的{a})|{city}之行|一次难忘的{a})|{a}(为什么重要|给我们带来了什么|的过去与未来|的故事|在身边|的作用|的魅力|从我做起|的选择|的优缺点|的喜与忧)|(人人都需要|没有{a}的|新时代的|小学生|年轻人为什么喜欢|我的第一次|传承|远离|珍惜|拥抱|学会){a}|{a}与(青少年|健康|我们|社会|未来|环境|{city}))"
    ),
    "en": (
        "({a}|{a}|{a}|{a} and {b}|the (future|history|importance|role|benefits|dangers|art|science|power|meaning|problem|cost) of {a}|{a} (in daily life|in schools|for beginners|at work|in {city}|in the city"
        "|for children|and our future|today|in the 21st century|around the world|for students)|(modern|good|cheap|local|healthy|old|better|teaching|protecting|learning|understanding|choosing) {a}"
        "|(why|how) (we need|people love|to learn|to teach|to save|to choose) {a}|how {a} (changed|changes) (our lives|the world|{b})|{a} (or|versus|for) {b}|the (effects|impact|influence) of {a} on {b}"
        "|(the pros and cons of|saving|women and|young people and) {a}|(my (hometown|mother|summer holiday|favourite teacher|first job|trip to {city}|dream)|the life of {name}|a (visit|trip) to {city}|{city} and its {a})|(what is|living with|living without|my love of|growing up with|the truth about|the story of|an introduction to|the joy of|ten facts about) {a}|{a} (matters|in my country|in the workplace|and mental health|and the environment|then and now|as a hobby|and its problems|at home|in history|and technology))"
    ),
}
# Kind of text: its sections with `{x}` for the topic.
_KINDS = {
    "zh": {
        "文章": ("引言：走近{x}", "背景与由来", "主体：谈谈{x}", "问题与思考", "结论与展望"),
        "演讲": ("开场：为什么谈{x}", "一个小故事", "{x}带来的启示", "我们可以怎么做", "结束语与感谢"),
        "报告": ("摘要", "{x}的现状", "存在的问题", "关于{x}的建议", "总结"),
        "课程": ("课程目标", "{x}的基础知识", "{x}的实例分析", "课堂练习", "复习与作业"),
    },
    "en": {
        "article": ("Introduction: a look at {x}", "Background", "Main part: thoughts on {x}", "Open questions", "Conclusion"),
        "speech": ("Opening: why talk about {x}", "A short story", "Lessons from {x}", "What we can do", "Closing and thanks"),
        "report": ("Summary", "Facts about {x}", "Problems found", "Advice on {x}", "Conclusion"),
        "lesson": ("Goals of the lesson", "The basics of {x}", "Examples of {x}", "Exercises", "Review and homework"),
    },
}  # fmt: skip
# What people call each kind.
_CALLED = {
    "文章": "文章|文章|作文|论文|小论文|议论文|散文|征文|毕业论文",
    "演讲": "演讲|演讲|讲话|发言|演讲稿|讲座|致辞|发言稿",
    "报告": "报告|报告|调研报告|工作报告|调查报告",
    "课程": "课程|课程|教案|教学|公开课",
    "article": "an article|an article|an essay|a blog post|a paper|a composition|a term paper|a text|a magazine article|a school essay",
    "speech": "a speech|a speech|a talk|a short talk|a presentation|an address|a five-minute talk|a short speech",
    "report": "a report|a report|a written report|a short report|a business report",
    "lesson": "a lesson|a lesson|a class|a course|a lesson plan|a lecture for my class",
}
# Without the kind, the outline is one of an article.
_ASKED = {
    "zh": (
        "(帮我|请|请帮我|给我|麻烦|能不能|能|可以|替我|)(写|列|拟|做|弄|出|给)(一个|一份|个|份|)(关于|)(“{x}”|{x}|《{x}》)(的|)(KIND)(OUT)"
        "|(帮我|请|请帮我|给我|麻烦|)(写|列|拟|做|弄)(一个|一份|个|份)(KIND)(OUT)，(主题|题目|话题|内容)(是|：|为){x}"
        "|(以|用)(“{x}”|{x})为(题|主题|题目)(写|列|拟)(一个|个|一份)(KIND)(OUT)"
        "|(我要|我想|我得|我准备|明天要|下周要|老师让我|老板让我|领导让我)(写|准备|做)(一篇|一个|个|)(关于|){x}的(KIND)，(帮我|请|麻烦你|)(列|写|拟)(一个|个|份|)(OUT)"
        "|{x}(的|)(KIND)(OUT)|{x} (KIND)(OUT)|(KIND)(OUT)：{x}|(KIND)(OUT)，{x}|(题目|主题)：{x}，(写|列|来)(一个|个|份|)(KIND)(OUT)"
        "|关于(“{x}”|{x})的(KIND)(怎么列OUT|应该怎么写OUT|怎么组织结构|怎么搭框架|分几部分写，给个OUT|，OUT怎么写)"
        "|{x}这个(题目|主题)，(KIND)(OUT)(怎么写|怎么列|给一个)|(KIND)写{x}，(先|)(给个|来个|列个)OUT|我不知道怎么写{x}的(KIND)，(给|列|写)(个|一个|份)OUT"
        "|(想|我想)(要|求)(一个|个|一份){x}(的|)(KIND)(OUT)|(KIND)题目是{x}，(请|帮我|)(列出|写出|给出)OUT|有没有{x}的(KIND)OUT|来(一个|份|个){x}的(KIND)OUT|请列出{x}(KIND)的OUT"
        "|(围绕|根据|针对|就|以)(“{x}”|{x})[这个(主题|题目|话题)|，](帮我|请|)(写|列|拟|给)(一份|一个|个)(KIND)(的|)OUT|(老师|老板|领导|学校|公司|导师)(布置|让写|要求写|要)(了|)(一篇|一个|一份|)(KIND)，(题目|主题|话题)(是|叫|：)(“{x}”|{x})，(OUT怎么写|帮我列OUT|给个OUT|请写出OUT|先列个OUT)|(题目|主题|标题|话题)(：|是|为|叫)(“{x}”|{x}|《{x}》)(，|。|\n| )(请|帮我|麻烦|)(给|写|列|拟|做|出)(一份|一个|个|)(KIND)(的|)OUT|(先别写正文，|不用写全文，|只要框架，|简单点，|在写之前，)(给|列|写)(我|)(一个|个|一份)(KIND)(的|)OUT(，|：|，题目|，主题是){x}|(KIND)(OUT)[怎么写|一份|求助|模板]，(题目|主题|关于|写的是|内容是)(：|)(“{x}”|{x})"
        "|(我|我们|明天|周五|下个月|下节课)(要|得|想|打算)(做|写|讲|准备)(一篇|一个|一场|)(KIND)，(讲|写|关于|题目|主题是|内容是)(“{x}”|{x})，(帮我|请|能不能|)(列|写|给|想)(一个|个|份|下|)OUT|(KIND)(，|：)(“{x}”|{x})，(先|)(来|给|列|写)(个|份|一个)OUT|(想|能|可以|请)(给|帮)我(一个|一份|个|)(“{x}”|{x})为(主题|题)的(KIND)(的|)OUT[吗]|(写|讲|做)(“{x}”|{x})的(KIND)(该|要|应该)(怎么|如何)(列|写)OUT|(“{x}”|{x}|《{x}》)[，](KIND)(OUT|的OUT)(来一份|求一份|帮忙写一下|怎么列|帮我想想)|(帮忙|帮我|请)(设计|构思|规划|整理)(一下|一个|一份|)(关于|)(“{x}”|{x})的(KIND)(的|)OUT"
    ),
    "en": (
        "(write|write|make|create|draft|give me|I need|can you write|please write|prepare|could you make|I'd like|show me|help me with) OUT (for|of) KIND (about|on) {x}"
        "|(I have to|I need to|I must|I'm going to|I want to|I should) (give|write|prepare|hold|do) KIND (about|on) {x}. (Outline please|Give me OUT|Write OUT|Make me OUT|Can you help me with OUT|What could OUT look like)"
        '|(help me|please|can you|could you|I need to|) (outline|structure|organise|plan) KIND (about|on) ({x}|"{x}")|(how|in what order) (should|do|would|can) I (structure|organise|outline|plan|build up) KIND (about|on) {x}'
        "|what is (a good structure|a good outline|the best structure) for KIND (about|on) {x}|(I'm|I am) (writing|preparing|working on) KIND (about|on) {x}(. Give me OUT|, please give me OUT|. I need OUT)"
        "|my (teacher|boss|professor) wants KIND (about|on) {x}(. Help me with OUT|, write OUT|. Give me OUT)|outline: {x}, KIND|outline for KIND: {x}|KIND (about|on) {x}, outline|outline for KIND (about|on) {x}"
        "|topic: {x}. (Write|Make|Give me) OUT for KIND|the topic is {x}. I need OUT for KIND|what (sections|parts|points) should KIND (about|on) {x} have|give me the (structure|main points|sections) (of|for) KIND (about|on) {x}"
        "|(suggest|propose|sketch) OUT for KIND (about|on) {x}|I don't know how to structure KIND (about|on) {x}"
        "|(topic|subject|title|theme)(: | is ){x}(. |, |\n)(please |can you |now |)(write|make|give me|create|draft|list) OUT (for|of) KIND (about it|on it|on this topic|on that)|(KIND) (about|on) {x}(: | - |, )(OUT please|please give me OUT|I need OUT|just OUT|can I get OUT)|(my (teacher|boss|professor|son|daughter)) (wants|needs|asked for|has to write) KIND (about|on) {x}(. |, )(please write OUT|can you make OUT|help with OUT|give me OUT|how could OUT look)|(I'm|I am|We are) (writing|preparing|working on|planning|stuck with) KIND (about|on) {x}(. |, )(OUT please|please give me OUT|can you suggest OUT|I need OUT|help me with OUT|could you write OUT)|(before I start|first of all|to begin with|for tomorrow|for school|for work)(, | )(I need|give me|write|please make) OUT (for|of) KIND (about|on) {x}"
        "|what (would|should|could) OUT (for|of) KIND (about|on) {x} look like|(which|what) (parts|sections|points|chapters) should KIND (about|on) {x} have(|, give me OUT)|(suggest|propose|sketch|provide|come up with|produce|generate|build) OUT (for|of) KIND (about|on|titled|with the title|called) ({x}|\"{x}\")|(could|can|would) you (please |)(suggest|sketch|provide|write|create|give me) OUT (for|of) KIND (about|on|titled|entitled) ({x}|\"{x}\")|(don't write the whole text|not the full text|no full text), (just|only) OUT (for|of) KIND (about|on) {x}|{x}(: |, | - )(OUT|write OUT|give me OUT|I need OUT) (for|of) KIND|(hi|hello), I (have to|need to|want to) (write|give|prepare) KIND (about|on) {x}, (can you help with OUT|OUT please|please send OUT)|(break down|lay out|map out) KIND (about|on) {x}( for me| in points| as OUT|)"
    ),
}
_KINDLESS = {
    "zh": (
        "(帮我|请|请帮我|给我|麻烦|能不能|)(写|列|拟|做|弄)(一个|一份|个|份)(关于|)(“{x}”|{x})的(OUT)|(写|列|来)(个|一个|份)OUT，(主题|题目|话题)(是|：){x}|{x}(的|)OUT|{x} OUT|OUT：{x}"
        "|以“{x}”为题(列|写|拟)(个|一个)OUT|关于{x}，(给我|列)(一个|个|份)OUT|我想写{x}，(给个|列个|来个)OUT|(题目|主题)：{x}，(列|写)(个|一个|)OUT|{x}，(帮我列个|帮我写个|给个)OUT"
        "|我想写写{x}，(怎么组织|结构怎么安排|怎么搭框架)|我打算写{x}，先要(个|一份)OUT|(围绕|就|根据)(“{x}”|{x})(写|列|拟)(个|一个|一份)OUT|(老师|老板|学校)给的(题目|主题)是{x}，(帮我|请|)(列|写|给)(个|一个|一份)OUT|(题目|主题|话题)(：|是|为)(“{x}”|{x})(。|，|\n| )(给|写|列|来)(个|一个|一份|)OUT|{x}，OUT(怎么写|怎么列|来一份|求一份)|(给|帮)我(列|写)(下|一下|个){x}的OUT"
    ),
    "en": (
        "(write|make|create|draft|give me|I need|can you write|please write|could you make|I'd like|show me) OUT (about|on|for|for the topic) {x}|outline: {x}|outline (on|about|for) {x}|{x} outline|{x}, outline please"
        "|I (have to|want to|need to) write (about|something about|on) {x}. (Outline please|Give me OUT|Make OUT|I need OUT)|outline this topic: {x}|outline {x}|how (should|would) I (structure|organise|outline) (a text|something) about {x}"
        "|topic: {x}. (Outline please|Make OUT|Give me OUT)|give me the (structure|outline|main points) for {x}|I'm writing about {x}. (I need|Give me) OUT|structure for {x}|(please|pls|can you|could you|help me) outline ({x}|\"{x}\"|the topic {x}|the subject \"{x}\")|(I need|give me|write|draft) OUT(. |: |, )(topic|subject|title|theme)(: | is ){x}|{x}(: | - |. )(outline|outline please|write OUT|give me OUT|make OUT|OUT)|(my (teacher|boss) gave me the topic|the topic is|my topic is|our subject is) {x}(. |, )(OUT please|can you make OUT|I need OUT|please write OUT)"
    ),
}
_OUTLINES = {"zh": "(提纲|提纲|大纲|大纲|框架|结构|写作提纲|要点|思路)", "en": "(an outline|an outline|an outline|a short outline|a structure|a simple outline|a rough outline|the outline)"}
# fmt: on


class Outline:
    """Topics of the test split hold a noun, or are a text, that training never sees."""

    name = "outline"
    title_en = "Outline on a given topic"
    title_zh = "写提纲"
    weight = 1.2

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a topic and a kind of text, which one question in five leaves out."""
        while True:
            try:
                return _outline(rng, split, rng.choice(("zh", "en")))
            except ValueError:
                continue  # no wording with this topic belongs to the split


def _outline(rng: random.Random, split: str, language: str) -> Dialogue:
    topic = _topic(rng, split, language)
    kind, sections = rng.choice(tuple(_KINDS[language].items()))
    if rng.random() < 0.2:
        kind, sections = next(iter(_KINDS[language].items()))
        grammar = _KINDLESS[language]
    else:
        grammar = _ASKED[language].replace("KIND", f"({_CALLED[kind]})")
    text = ask(rng, split, language, grammar.replace("OUT", _OUTLINES[language]), x=topic)
    title = f"《{topic}》{kind}提纲" if language == "zh" else f"Outline of the {kind}: {topic}"
    lines = [title, *(f"{number}. {section}" for number, section in enumerate(sections, 1))]
    check = partial(_is_right, topic=topic, kind=kind)
    return Dialogue(((text, "\n".join(lines).format(x=topic)),), check)


def _topic(rng: random.Random, split: str, language: str) -> str:
    """Return a topic of the split; one English topic in four is all lower case."""
    person, cities = (person_zh, CITIES_ZH) if language == "zh" else (person_en, CITIES_EN)
    while True:
        first, second = (subject(rng, split, language) for _ in range(2))
        pattern = expand(rng, _TOPICS[language])
        city = rng.choice(cities)
        topic = pattern.format(a=first, b=second, name=person(rng, split), city=city)
        if "{a}" in pattern or "{name}" in pattern or in_split(topic, split, 6):
            return topic.lower() if language == "en" and rng.random() < 0.25 else topic


def _is_right(answer: str, topic: str, kind: str) -> bool:
    return len(numbered_items(answer)) >= 4 and plain(answer).count(plain(topic)) >= 2 and plain(kind) in plain(answer)


SKILL = Outline()
