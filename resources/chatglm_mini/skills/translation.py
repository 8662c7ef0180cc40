"""Translate everyday words and phrases both ways between Chinese and English."""

import random
import re
import unicodedata
from functools import partial

from ..dialogue import Dialogue, is_chinese
from ..tables import table
from ..wording import ask, mentions, words

# (Chinese, English): both unique, so that both directions have one right answer.
ENTRIES = [tuple(line.split(" = ")) for line in table("translation")]

# fmt: off
_TO_ENGLISH_ZH = (
    "{x}用英语(怎么|咋|该怎么|应该怎么|怎样)(说|讲|表达|写)", "{x}英语(怎么说|怎么讲|怎么写|是什么|是啥|叫什么|咋说|怎么拼)",
    "{x}的英语[单词|说法|翻译|表达](是什么|是啥|怎么写|怎么说|)", "英语(里|中|里面)[，]{x}(怎么说|叫什么|是什么|怎么讲|怎么表达|是哪个词)",
    "英语(怎么说|怎么讲|咋说|怎么写){x}", "(怎么|如何|怎样|咋)用英语(说|表达|讲|写){x}",
    "(|请|帮我|麻烦|请你|能不能|可以|你能|请帮我|能帮我)把{x}(翻译|译|翻|转)(成|为)英语", "[请|帮我]将{x}(翻译成|译为|译成)英语",
    "[请|帮我]把{x}(用英语说出来|换成英语|变成英语|用英语说一遍)", "[请][帮我](翻译|译)成英语(：|:|，| ){x}", "用英语(说|说一下|讲|写|翻译|表达)[：]{x}",
    "{x}(翻译成英语|译成英语|翻成英语|变成英语|换成英语)[是什么|怎么说|是啥|怎么写|是哪个词]", "{x}(翻译|翻译成|译成|翻成|转|[的]英语翻译|翻英语)[ ]英语",
    "[请][帮我][把](下面的话|这个|以下内容|这句)(翻译|译)成英语(：|:|，){x}", "(中译英|中翻英|汉译英|中文翻译英语)(：|:| ){x}",
    "(翻译|翻译一下|帮我翻译|请翻译|帮我翻译一下|翻译下|帮忙翻译|求翻译)(：|:| |){x}", "(翻译|翻译一下|帮我翻译|请翻译|求翻译)(：|:| |){x}",
    "{x}(怎么翻译|怎么翻|翻译一下|的翻译|翻译|咋翻译|英语|的英语|英语单词|英语翻译|，翻译一下)", "{x}(英语|的英语|[ ]英语|英语呢)",
    "我想(对|跟|和)[一个|我的](外国|美国|英国)(朋友|同学|同事|客户|老师)说{x}，(用英语怎么说|英语怎么说|怎么说|应该怎么说|该怎么说)",
    "(外国人|老外|英国人|美国人)[一般|平时|都](怎么说{x}|是怎么说{x}的|用什么词说{x})", "(跟|和|对)(老外|外国人|外国朋友)说{x}(该怎么说|应该怎么说|怎么讲|用英语怎么说)",
    "(我想知道|想知道|告诉我|你知道|谁知道|我忘了|我不知道|教教我|教我|我想学)[一下]{x}(用英语怎么说|的英语是什么|英语怎么说|英语怎么写)",
    "(我在学英语|我正在学英语|孩子问我|老师问我|作业里有一题|考试要考|我要写英语作文|我要去英国旅游|我要去美国出差)，{x}(用英语怎么说|的英语是什么|英语怎么说|用英语怎么写)",
    "英语[单词|翻译](：|:| ){x}", "在英语(里|中)，{x}(怎么说|是什么|叫什么|用什么词)", "{x}(怎么|如何|咋|可以怎么)用英语(说|表达|写|讲)",
    "(给我|给个|来个|求|告诉我|写出|写一下|说出|我要){x}的英语[翻译|单词|说法]", "(如果|要是)(我要|我想|想)用英语说{x}，(怎么说|该怎么说|应该怎么说|要怎么说)",
    "哪个英语单词(是|表示){x}的意思", "表示{x}的英语(是什么|怎么说|单词是哪个)", "(那|还有|那么|然后){x}(用英语呢|的英语呢|英语怎么说|用英语怎么说|翻译成英语呢)", "{x}(这个词|这句话|这两个字|这几个字|这句)(英语|用英语|翻译成英语|的英语)(怎么说|是什么|怎么写|咋说|)",
    "英语里(和|跟|与){x}(对应|意思一样)的(词|说法)是(什么|哪个)", "(翻成|译成|转成|换成|改成)英语(：|:|，|:\n){x}", "{x}(，|。|\n)(翻译成英语|译成英语|用英语说|英语怎么说|请翻译成英语|帮我翻译成英语|英语谢谢)", "(英语老师|外教|孩子|儿子|同事)问[我]{x}(英语怎么说|用英语怎么说|的英语)[，我忘了]", "(要|我要|想)(发邮件|写卡片|发短信|留言)(给|跟)(老外|外国客户|外国朋友)，{x}(用英语怎么写|英语怎么写)", "{x}(这话|)老外(怎么说|听得懂的说法是什么)", "(写成|写出)英语(：|:){x}", "(拜托|麻烦)(翻译|译)(一下|)(：|，){x}(，成英语|，要英语的|，英语)",
)
_TO_CHINESE_ZH = (
    "{x}(是什么意思|是啥意思|什么意思|啥意思|意思|的意思|的意思是什么|代表什么意思|是什么意思来着)", "{x}(是什么意思|是啥意思|什么意思|啥意思|意思是什么)",
    "{x}的中文[意思|翻译|说法](是什么|是啥|怎么写|怎么说|叫什么|)", "{x}用中文(怎么|咋|该怎么|应该怎么)(说|讲|表达|写|翻译)",
    "{x}中文(怎么说|怎么讲|是什么|是啥|叫什么|咋说|什么意思|意思)", "(英语|英文|英语里|英文里|英语中)[的]{x}(是什么意思|什么意思|是啥意思|怎么翻译|的中文是什么|用中文怎么说)",
    "中文(里|中|里面)[，]{x}(怎么说|叫什么|是什么|怎么讲|怎么表达)", "中文(怎么说|怎么讲|咋说|怎么写){x}", "(怎么|如何|怎样|咋)用中文(说|表达|讲|解释){x}",
    "(|请|帮我|麻烦|请你|能不能|可以|你能|请帮我|能帮我)把{x}(翻译|译|翻|转)(成|为)中文", "[请|帮我]将{x}(翻译成|译为|译成)中文",
    "[请|帮我]把{x}(用中文说出来|换成中文|变成中文|用中文说一遍)", "[请][帮我](翻译|译)成中文(：|:|，| ){x}", "用中文(说|说一下|讲|写|翻译|解释)[：]{x}",
    "{x}(翻译成中文|译成中文|翻成中文|变成中文|换成中文)[是什么|怎么说|是啥|怎么写|是什么意思]", "{x}(翻译|翻译成|译成|翻成|转)[ ]中文",
    "[请][帮我][把](下面的话|这个|以下内容|这句)(翻译|译)成中文(：|:|，){x}", "(英译中|英翻中|英译汉|英文翻译中文|英语翻译成中文)(：|:| ){x}",
    "(翻译|翻译一下|帮我翻译|请翻译|帮我翻译一下|翻译下|帮忙翻译|求翻译)(：|:| |){x}", "(翻译|翻译一下|帮我翻译|请翻译|求翻译)(：|:| |){x}",
    "{x}(怎么翻译|怎么翻|翻译一下|的翻译|翻译|咋翻译|中文|的中文|中文意思|中文翻译|，翻译一下)", "{x}(中文|的中文|[ ]中文)",
    "(我想知道|想知道|告诉我|你知道|谁知道|我忘了|我不知道|我不懂|教教我|看不懂)[，]{x}(是什么意思|的中文是什么|中文怎么说|啥意思|是啥意思)",
    "(我在学英语|我正在学英语|孩子问我|老师问我|作业里有一题|考试考了|我在看美剧|我在读一本英文书)，{x}(是什么意思|的中文是什么|怎么翻译|是啥意思|用中文怎么说)",
    "(外国朋友|老外|同事|老板|外教|客户)(跟我说|对我说|发来|给我发了|说了|说){x}，(是什么意思|什么意思|啥意思|这是什么意思|中文是什么)",
    "(看到|听到|遇到|衣服上写着|路牌上写着|书里有|歌词里有){x}，(是什么意思|什么意思|啥意思|这是什么意思|怎么翻译)",
    "(给我|给个|来个|求|告诉我|写出|写一下|说出|我要|解释一下|解释){x}的(中文|中文意思|中文翻译|意思)", "中文[翻译|意思](：|:| ){x}",
    "{x}(这个英文|这个英语)(是什么意思|什么意思|怎么翻译|中文怎么说|啥意思)", "(什么是|啥叫|什么叫){x}，用中文(说|讲|怎么说)", "{x}在中文里(是什么意思|怎么说|叫什么|是什么)", "(那|还有|那么|然后){x}(是什么意思|呢，什么意思|用中文呢|的中文呢|中文怎么说)", "{x}(这个词|这个单词|这句话|这个短语|这句)(是什么意思|什么意思|啥意思|怎么翻译|中文是什么|翻译成中文|的中文)",
    "中文里(和|跟|与){x}(对应|意思一样)的(词|说法)是(什么|哪个)", "(翻成|译成|转成|换成|改成)中文(：|:|，|:\n){x}", "{x}(，|。|\n)(翻译成中文|译成中文|用中文说|中文怎么说|请翻译成中文|中文谢谢|什么意思)", "(英语老师|外教|孩子|儿子)问[我]{x}(中文是什么|是什么意思|怎么翻译)", "(单词|生词|词汇|短语)(：|:| ){x}(，中文意思|，什么意思|的意思|，翻译)", "{x} (啥意思啊|求翻译|中文意思是啥|怎么理解|是啥)", "(收到|看到|有人发|屏幕上显示)(一句|一个|了|){x}，(看不懂|不懂|求翻译|帮忙翻译一下)", "(写成|写出)中文(：|:){x}",
)
_TO_ENGLISH_EN = (
    "(How do (you|I|we)|How would (you|I|one)|How (can|could|should) I|How to|How does one) say {x} in English", "(What is|What's) {x} in English",
    "What does {x} (mean|mean in English|mean exactly|stand for in English|translate to)", "What does {x} mean [in English]", "What is meant by {x}",
    "(What is|What's|Tell me|Explain|I need|Do you know|Can you tell me|I'd like to know) the meaning of {x} [in English]", "{x} (meaning|meaning in English|English meaning|translation|English translation|to English|into English|in English|English|means)",
    "{x} (in English|means what|mean|English|meaning)", "(Meaning|English|Translation|English translation) of {x}", "(What is|What's) the English [word|translation|term|equivalent] (for|of) {x}",
    "(Translate|Please translate|Can you translate|Could you translate|Could you please translate|Would you translate|I need you to translate|Help me translate|I want to translate|I'd like you to translate) {x} (to|into) English",
    "(Translate|Please translate) [this|the following|the Chinese phrase] (to|into) English: {x}", "(Translate|Translation|Please translate|Can you translate|Translate this|Translate for me)(:| -|) {x}",
    "(Translate|Please translate|Can you translate|Could you translate|Help me translate) {x} [for me]", "Translate the Chinese {x} [into English]", "(Chinese to English|Chinese-English|From Chinese to English|zh to en)(:| -|) {x}",
    "My Chinese (friend|boss|neighbour|teacher|colleague|girlfriend|boyfriend|roommate|mother-in-law) (said|wrote|texted me|sent me|keeps saying|says) {x}. What does (it|that|this) mean",
    "(Someone|A friend|A Chinese customer|My friend) (said|wrote|texted me|sent me|told me) {x}, (what does it mean|what does that mean|what is that in English|what's that in English)",
    "(I saw|I came across|There was|There is|It says|I read) {x} on a (sign|menu|shirt|poster|website|box)[.] (What does it mean|What does that mean|What is that in English)",
    "(Can|Could|Would) you (tell me|explain) what {x} means [in English]", "(I want to know|I'd like to know|I don't know|I was wondering|Tell me|Do you know|I wonder|Any idea) what {x} means [in English]",
    "I'm learning Chinese(. What does {x} mean|. What is {x} in English|, what's the English for {x}| and don't know what {x} means)", "(What is|What's|What would be) {x} (in English|called in English|translated into English)",
    "In English, (what is {x}|what's {x}|what does {x} mean|how do you say {x})", "(Say|Give me|Write|Put|Express) {x} in English", "How (is|would) {x} (translated into English|translate into English|said in English)",
    "What does the Chinese (word|phrase|expression|text|) {x} mean [in English]", "(The Chinese|This Chinese) says {x}, (what does it mean|what is it in English)", "What do (Chinese people|the Chinese|they|people) mean (by|when they say) {x}",
    "What would {x} (be|mean) in English", "I (forgot|don't remember|can't remember|need to know) what {x} means", "How would an English speaker say {x}", "{x} - what does (it|that|this) mean", "(And|What about|How about|Ok, and|So) {x} in English", "(And|So|Now) what does {x} mean", "{x}(. |, |: |\n)(translate to English|in English please|English please|translate into English please|what does it mean|what's that in English|please translate|meaning please)",
    "(Is there|What's|Do you have) an English (word|expression|equivalent|translation) for {x}", "(Hi|Hello|Hey)[,|!] (what does {x} mean|what is {x} in English|can you translate {x})", "(My phone|The app|The menu|This label|A sign|The box|The text) (shows|says) {x}(, what is that|. What does it mean|, meaning|. English please)", "(Can't read|I can't read|I don't understand|Don't get) {x}(, what does it mean|. Translate please|, please translate|. Can you help)", "(English version|English meaning|English word|In English)(: | of | for ){x}", "(Turn|Put|Change|Convert|Bring) {x} into English", "(The Chinese word|This word|The phrase) {x}(, what does it mean|: meaning| in English| translated to English)",
)
_TO_CHINESE_EN = (
    "(How do (you|I|we|people|they)|How would (you|I|one)|How (can|could|should) I|How to|How does one) say {x} in Chinese", "(How do you|How do I|How to|How would you) say {x} in Chinese",
    "(What is|What's|What would be) {x} in Chinese", "(What is|What's) {x} (in Chinese|translated into Chinese|called in Chinese)", "(What is|What's|Tell me|Give me|Do you know) the Chinese [word|term|translation|equivalent|expression|phrase|characters] for {x}",
    "(Translate|Please translate|Can you translate|Could you translate|Could you please translate|Would you translate|I need you to translate|Help me translate|I want to translate|I'd like you to translate) {x} (to|into) Chinese",
    "(Translate|Please translate) [this|the following|the English phrase] (to|into) Chinese: {x}", "(Translate|Translation|Please translate|Can you translate|Translate this|Translate for me)(:| -|) {x}",
    "(Translate|Please translate|Can you translate|Could you translate|Help me translate) {x} [for me]", "(English to Chinese|English-Chinese|From English to Chinese|en to zh)(:| -|) {x}",
    "{x} (in Chinese|to Chinese|into Chinese|Chinese|Chinese translation|Chinese word|in Chinese characters)", "{x} (in Chinese|in Chinese|Chinese)", "(Chinese|Chinese word|Chinese translation|The Chinese) (for|of) {x}",
    "How (would|does|might) a Chinese (person|speaker|friend|native|guy|colleague) say {x}", "How do (Chinese people|the Chinese|people in China|locals in China|Mandarin speakers|Chinese speakers) say {x}", "What do (Chinese people|people in China|the Chinese) say for {x}",
    "I (want|would like|need|'d like|have) to (say|write|text) {x} to my Chinese (friend|colleague|neighbour|teacher|girlfriend|boyfriend|boss|grandma|client|roommate)[. How do I say it|, how do I say that|. What should I write|. What should I say|, can you translate]",
    "I want to tell my Chinese (friend|colleague|girlfriend|boyfriend|teacher|neighbour) {x}[. How do I say it|, how do I say that|. What do I say]",
    "(Tell me|Teach me|I'd like to know|I want to know|I need to know|Do you know|I was wondering|Show me|I wonder|I have no idea|I'd love to learn|Can you tell me|Could you tell me|Can you teach me|Any idea) how to say {x} in Chinese",
    "(I'm (travelling to|going to|visiting|moving to) (China|Beijing|Shanghai|Taiwan)[ next week| soon| next month| in May]|I'm learning Chinese|I'm in China right now|I have a Chinese guest)(. How|, how) (do I|do you|can I|should I) say {x} [in Chinese]",
    "If I (want|wanted) to say {x} in Chinese, (what do I say|what should I say|what would I say|how would I do it)", "(What is|What's) the (best|right|correct|proper|usual) way (to say|of saying) {x} in Chinese",
    "(Say|Give me|Write|Put|Express|Show me|Spell) {x} in Chinese", "In Chinese, (what is|what's|how do you say|how would you say|how do I say) {x}", "How (is|would you write|do you write|do I write) {x} in Chinese",
    "How (is|would) {x} (said in Chinese|written in Chinese|translated into Chinese|translate into Chinese|be said in Chinese)", "I (need|want|'d like|am looking for) the Chinese (for|word for|translation of|translation for) {x}",
    "I (forgot|don't know|can't remember|never learned) (how to say {x} in Chinese|the Chinese for {x}|the Chinese word for {x})[, can you help|, what is it]", "{x}(, how do I say that in Chinese|, how do you say that in Chinese| - Chinese please|: how do I say it in Chinese)",
    "What would {x} be in Chinese", "(What|Which) (Chinese word means {x}|word do the Chinese use for {x}|word means {x} in Chinese)", "What (do you call|do they call|do you say for) {x} in Chinese", "Translate the (English word|English phrase|English|phrase|words|word) {x} into Chinese", "(And|What about|How about|Ok, and|So) {x} in Chinese", "(And|So|Now) how do (you|I) say {x} in Chinese", "{x}(. |, |: |\n)(translate to Chinese|in Chinese please|translate into Chinese please|what's that in Chinese|how do you say it in Chinese|Chinese translation please)",
    "(What is|What's|Is there|Do you know) (the|a) word for {x} in Chinese", "(Hi|Hello|Hey)[,|!] (how do I say {x} in Chinese|what is {x} in Chinese|can you translate {x} into Chinese)", "(My daughter|My son|My teacher|My boss|A friend) (asks|wants to know|asked me) (what {x} is in Chinese|how to say {x} in Chinese)", "(I want to|I need to|I have to|How can I) (write|say|express|put) {x} in Chinese[ on a card| in an exam| for my homework| on a sign]", "(Chinese version|Chinese meaning|Chinese word|In Chinese)(: | of | for ){x}", "(Turn|Put|Change|Convert|Bring) {x} into Chinese", "(The English word|This word|The phrase) {x}(, how is it in Chinese|: Chinese please| in Chinese| translated to Chinese)", "(For my Chinese class|For a trip to China|For a letter)[,] (I need {x} in Chinese|how do I say {x} in Chinese|what is {x} in Chinese)", "(what do you|what would you|what do they) say in Chinese for {x}",
)
_MARKS = {
    "zh": "({x}|{x}|{x}|“{x}”|“{x}”|\"{x}\"|'{x}'|‘{x}’|「{x}」|『{x}』)", "en": "({x}|{x}|{x}|\"{x}\"|\"{x}\"|'{x}'|“{x}”|‘{x}’)",
}
_SYNONYMS = (
    ("英语", "(英语|英文|英语)"), ("中文", "(中文|中文|汉语)"), (r"\b(in|into|to|In) Chinese\b(?! char)", r"\1 (Chinese|Chinese|Chinese|Mandarin)"),
)
# fmt: on


def _grammar(alternatives: tuple[str, ...], asked: str, target: str) -> str:
    """Join alternatives; what is translated may stand in quotation marks or, in Chinese, between spaces."""
    marked = _MARKS[asked]
    if (asked, target) == ("zh", "zh"):
        marked = marked.replace("({x}", "({x}| {x} | {x} ", 1)
    grammar = f"({'|'.join(alternatives)})"
    for pattern, replacement in _SYNONYMS:
        grammar = re.sub(pattern, replacement, grammar)
    return grammar.replace("{x}", marked)


# (language of the question, target language): grammar whose slot {x} is what is translated, without a question mark.
GRAMMARS = {
    (asked, target): _grammar(alternatives, asked, target)
    for asked, target, alternatives in (
        ("zh", "en", _TO_ENGLISH_ZH),
        ("zh", "zh", _TO_CHINESE_ZH),
        ("en", "en", _TO_ENGLISH_EN),
        ("en", "zh", _TO_CHINESE_EN),
    )
}
LEADS = {"zh": "“{x}”翻译成{target}", "en": '"{x}" in {target}'}
_ANSWERS = {"zh": LEADS["zh"] + "是：{y}", "en": LEADS["en"] + " is: {y}"}
TARGETS = {("zh", "en"): "英文", ("zh", "zh"): "中文", ("en", "en"): "English", ("en", "zh"): "Chinese"}


class Translation:
    """Entries are a closed list that training sees; test cases are entries in wordings that it never saw them in."""

    name = "translation"
    title_en = "Translation of everyday words and phrases"
    title_zh = "日常词语翻译"
    weight = 4.6

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw one entry, a direction and a wording."""
        asked, target = rng.choice(tuple(GRAMMARS))
        chinese, english = rng.choice(ENTRIES)
        source, wanted = (chinese, english) if target == "en" else (english, chinese)
        value = _as_typed(rng, source.rstrip("？?"))
        # People copy the mark of a question along; the answer leaves it out.
        shown = value + source[len(value) :] if rng.random() < 0.3 else value
        while True:
            try:
                text = ask(rng, split, asked, GRAMMARS[asked, target], x=shown)
                break
            except ValueError:
                continue
        answer = _ANSWERS[asked].format(x=value, target=TARGETS[asked, target], y=wanted)
        return Dialogue(((text, answer),), partial(_is_right, wanted=wanted))


def _as_typed(rng: random.Random, source: str) -> str:
    """Return an English word or phrase as written, in lower case or with a capital; Chinese stays."""
    if is_chinese(source):
        return source
    return rng.choice((source, source, source, source.lower(), source.lower(), source[0].upper() + source[1:]))


def _is_right(answer: str, wanted: str) -> bool:
    *introduction, translation = unicodedata.normalize("NFKC", answer).rsplit(":", 1)
    return words(translation) == words(wanted) if introduction else mentions(translation, wanted)


SKILL = Translation()
