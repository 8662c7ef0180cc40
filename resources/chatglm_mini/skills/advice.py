"""Give a numbered list of advice for everyday troubles and aims, as the README's own example asks for."""

import random
import re
from collections.abc import Iterator
from functools import partial

from ..dialogue import Dialogue, numbered_items
from ..tables import blocks
from ..wording import ask, overlap, plain

# {x}: a phrase of the topic, with a capital; {y}: the same as it stands within a sentence.
# fmt: off
_FRAMES = {
    ("zh", "trouble"): (
        "{x}怎么办", "{x}(怎么办|咋办|咋整|怎么破|怎么办好|该怎么办|应该怎么办|可怎么办|要怎么办)", "{x}，(怎么办|怎么办才好|我该怎么办|该咋办|如何是好|我应该怎么办)", "{x}",
        "{x}，有(什么|啥|没有)(办法|好办法|方法|好方法|建议|招)[吗]", "{x}有(什么|啥)(办法|好办法|方法|建议)", "{x}，我(该|应该|可以)(怎么做|做些什么|做点什么|怎么处理)", "{x}(该怎么处理|怎么解决|如何解决|怎么应对|该如何处理|要怎么处理)",
        "{x}，(能|可以|能不能)给我(一些|点|几条)建议[吗]", "{x}，(帮帮我|救救我|求助|求建议|给点建议|给个建议|你说怎么办|帮我想想办法|给我出个主意|求支招)", "(如果|要是|万一){x}(怎么办|该怎么办|，怎么办|应该怎么办|的话怎么办)",
        "{x}，(烦死了|好难受|好烦|急死了|真让人头疼|我快崩溃了|好几天了|真不知道怎么办|我不知道该怎么办)[，怎么办|，有办法吗]", "(遇到|碰到){y}(怎么办|的情况怎么办|应该怎么办|，该怎么处理)", "{x}(的解决办法|怎么回事怎么办|的处理方法|的应对方法|，求解)",
        "(唉|哎|糟糕|完了|天哪|怎么办啊|救命)，{x}[，怎么办|，我该怎么办|，有什么办法]", "(我跟你说|跟你说个事|有个烦恼|我有个问题|最近有件事)，{x}，(怎么办|你有什么建议|我该怎么办)", "{x}，你(有什么建议|有什么好办法|觉得我该怎么办|能帮帮我吗|说我该怎么做)",
        "(请|)给(一些|点|几条)关于{y}的建议", "怎么(解决|应对|处理){y}[的问题]",
        "{x}(怎么回事|怎么搞|咋弄|怎么弄|该咋整|怎么缓解|怎么改善|怎么调整|怎么补救|怎么处理好)[啊|呀]", "{x}(，怎么办啊|，怎么办呀|，我怎么办|，要怎么做|，求帮助|，求解|，在线等|，急|，请指教|，请教一下|，有招吗|，咋办好)", "(请问|想问一下|咨询一下|请教一下|问一下)[，]{y}(怎么办|该怎么办|有什么办法|应该怎么处理|怎么解决)[比较好|呢]",
        "(你说|你知道|有谁知道|谁能告诉我|能告诉我)[，]{y}(怎么办|该怎么办|有什么办法|怎么处理)", "(情况是这样的|事情是这样|说来话长|不好意思打扰了|你好，我想咨询一下|老师您好)[，|：]{y}，(怎么办|我该怎么做|有没有什么建议|您看怎么办)", "{x}，很(困扰|苦恼|烦恼|头疼|着急|难受)，(怎么办|求建议|帮帮我|有办法吗)", "(有什么|有没有)(办法|方法|妙招|偏方|建议)(对付|应对|解决|改善|缓解){y}", "关于{y}，(你有什么建议|给点建议|说几条建议|有什么好办法|该怎么做)", "(我妈|我爸|我朋友|我同事|我同学|我老公|我老婆)问，{y}怎么办",
    ),
    ("zh", "aim"): (
        "(怎么|如何|怎样|咋|怎么才能|怎样才能|如何才能|怎么样才能){x}", "(怎么|如何|怎样){x}", "{x}(有什么|有啥|有哪些|有没有)(方法|好方法|建议|技巧|诀窍|窍门|好办法)", "{x}的(方法|技巧|秘诀|建议|好办法|诀窍)[是什么|有哪些]", "{x}(方法|技巧|建议|攻略|怎么做|该怎么做|要怎么做)",
        "[我](想|想要|要|打算|准备|希望|决定){x}，(应该怎么做|怎么办|该怎么做|有什么建议|怎么开始|有什么好方法|给点建议|帮帮我|可以怎么做|能给我一些建议吗|从哪里开始)", "[我]想{x}", "(我要|我该|我应该|我可以|应该|该|要)怎么{x}", "(给我|给|来|求|说说|提供)(一些|几条)(关于|){x}的(建议|方法|技巧)",
        "(教我|教教我|告诉我|教我一下)(怎么|如何|怎样){x}", "(做什么|怎么做)(才能|可以|能){x}", "{x}(从哪里开始|从何做起|要注意什么|应该注意什么|要怎么开始|应该怎么开始)", "{x}，(有什么建议|有什么好方法|怎么做|求方法|求建议|求支招|给点建议)", "(有没有|有什么)(办法|方法|好方法)(能|可以|){x}[吗]",
        "(医生|朋友|老师|爸妈|家里人)(让我|建议我|叫我){x}，(怎么做|有什么方法|我该怎么做|应该怎么开始|该从哪儿开始)", "(今年的目标是|新年计划是|我的目标是|我一直想){x}，(怎么做|有什么建议|给点建议|怎么实现)", "{x}(的最好方法是什么|最有效的方法是什么|有什么诀窍)", "(不知道|我不知道|想知道|想了解)(怎么|如何){x}[，帮帮我|，求助]",
        "(请问|想问一下|咨询一下|请教一下|问一下|你知道|谁知道)[，](怎么|如何|怎样)(才能|可以|){x}[呢|呀]", "(要|想)(怎么|怎样)(做|)(才能|才可以){x}", "(列|列出|给出|提供|说|写)(三条|四条|几条|几个|一些)[关于]{x}(的建议|的方法|的办法|的小技巧|的小贴士)", "{x}(要怎么弄|咋弄|怎么搞|咋整|怎么入手|怎么坚持|有哪些小妙招|有哪些好习惯|小技巧|秘诀|指南|经验分享)",
        "(我是新手|我基础差|我没经验|我年纪大了|我时间不多|我试过很多次都失败了|我坚持不下来)，(怎么|如何|怎样才能){x}", "(怎么|如何)(才能|){x}", "(我|俺|咱)(该|应该|得|要)(怎么|如何|怎样)(做才能|才能|去|){x}[呢|啊]", "(目标|计划|愿望)(：|是|就是){x}[，给建议|，求方法|，怎么做]",
    ),
    ("en", "trouble"): (
        "{x}", "{x}(. What|, what) (should I do|can I do|do I do|can I do about it|should I do now|would you do|do you suggest|do you recommend|could help|helps)", "{x}(. Any|, any) (advice|tips|ideas|suggestions|idea what to do|help)", "{x}(. Can|, can) you (help me|help|give me some advice|give me advice|tell me what to do|help me out)",
        "What (should|can|do|could) I do (if|when|about it when) {y}", "What (should|can) I do, {y}", "What (helps|to do|is the best thing to do|do you do|should one do) (if|when) {y}", "{x}( and I don't know what to do| and I need help| and I need advice|, help|, help me| and I'm desperate|, what to do)",
        "(Help|Oh no|Ugh|Help me|Please help|Sigh|Oh dear|Damn)(, |! ){y}[. What should I do|. What can I do|. Any advice]", "(Can|Could) you (help me|give me some advice|give me some tips|advise me)(, |? ){y}", "{x}(. Do you have|, do you have|. Have you got|. Got) (any advice|any tips|some advice|any ideas)",
        "(I need|I could use|Please give me|Give me|I'd like) (some help|some advice|advice|some tips)(, |. |: ){y}", "{x}(. How|, how) (do I deal with it|can I deal with this|do I fix it|can I fix this|do I handle that|can I solve this|do I get better|can I change that)", "(My problem is that|The problem is that|I have a problem:|Here is my problem:|I wanted to ask for advice:) {y}",
        "(How do I|How can I|How to|How should I|What's the best way to) (deal with it|cope|help myself) (when|if) {y}", "{x}(. I don't know what to do|. Please advise|. I'm at a loss|. It's driving me crazy, any tips|. What now|. Please help)", "If {y}, what (should|can|do) I do", "(Hi|Hello|Hey|Good morning|Excuse me)(, |! |. ){y}[, what should I do|. Any advice|, any tips|, can you help]", "{x}( what do|, wat to do| what to do|, ideas|, solutions|, remedy|, halp| any tip|, suggestions please|, how to fix| how to stop this|, need advice| need help)", "(Advice|Tips|Help|Question|Problem|Ideas)(: | needed: | please: | wanted: ){y}", "(It happens that|It is like this:|My situation:|So basically|You see,|The issue:|I must admit|I have to say) {y}(. What would you advise|. What do you think I should do|. Please advise|, what to do|. Could you kindly help|. How to solve it)",
        "(What would you (do|advise|recommend|suggest)|What do you (advise|recommend|suggest)|What is good|What would help) (if|when) {y}", "(My friend says: |A colleague told me: |My mum says: |My son says: ){y}(. What should I tell them|. Any advice|. What can we do)", "{x}(. It has been like this for weeks|. I tried everything|. Nothing helps|. It's really bad|. I'm worried)(. What can I do|. Any advice|, help|. What should I do)", "(Is there|Is there any|Do you know) (a cure|something I can do|anything I can do|a trick|a solution|help)( if| when|, because) {y}",
        "(Lately|These days|For a while now|The thing is,|Honestly,) {y}(. What should I do|. Any advice|, what can I do|. What helps)",
    ),
    ("en", "aim"): (
        "(How do I|How can I|How to|How should I|How could I|How do you|How does one|How would you|How might I) {y}", "(How do I|How can I|How to) {y}", "I (want|would like|need|'d like|am trying|have decided|hope|plan|am planning|really want|wanna) to {y}(. What should I do|. Any advice|. How do I start|, what should I do|, any tips|. What do you suggest|. Can you help me|. Where do I start|, how do I do that|. What can I do)",
        "I (want|would like|need|have) to {y}", "(What is|What's) the (best|easiest|right|most effective|quickest) way to {y}", "(Give me|I need|Do you have|Got|Please give me|Can you give me|Could you give me|I'd like|Share|Any) (some |any |a few |)(advice|tips|suggestions|ideas) (on how to|to help me|for someone who wants to) {y}",
        "(What can I do|What should I do|What do I have to do|What helps|What does it take|What must I do) to {y}", "(Tell me|Teach me|Show me|Explain|Can you tell me|Could you tell me|I'd like to know|I want to know|Do you know|I was wondering|I don't know|I have no idea|Can you explain) how to {y}", "(Tips|Advice|Ideas|Best ways|Best way|Ways|How-to|Steps|Good ways) to {y}", "(Tips|Advice) on how to {y}",
        "(Can|Could|Would) you (help me|help me to|advise me how to|teach me to|show me how to) {y}", "Is there (a way|any way|a good way|an easy way) to {y}", "(My doctor|My friend|My teacher|My mum|My boss) (says|told me|thinks) I should {y}(. How do I start|. How|, how do I do that|. Any advice|. Where do I begin)", "(My goal|My plan|My dream|My New Year's resolution) is to {y}(. Any advice|. How do I start|, what should I do|. Any tips|. What do you recommend)",
        "(I'm trying|I've been trying|I tried) to {y} (but it's hard|but I can't|and nothing works|but it's not easy)[. What can I do|. Any tips|, any advice]", "What (would you do|do people do|do experts recommend|do you recommend|do you suggest) to {y}", "{x}, how", "Help me {y}", "Where (do|should) I (start|begin) if I want to {y}",
        "(I wanna|I gotta|I'd love to|I wish to|I must|I have to|Gonna|Trying to|Want to|Need to|Wanna) {y}(, tips|, any tips|, how|, help|, what do I do| any ideas|, please advise|. Advice|. Tips please)", "(pls|please|plz|kindly) (tell me|advise me|explain|help me|teach me|guide me) how to {y}[ sir| fast]", "How (to|do u|can we|could one|does a person|can a person|can somebody) {y}", "{x}(: how|: tips|? How|, best way|: where to start|: any advice| - tips| - how)",
        "(Hi|Hello|Hey|Excuse me)(, |! )(how do I|how can I|how to|I want to|I would like to|any tips to|can you help me) {y}", "(Give|List|Name|Tell me|Write|Share) (three|four|a few|some|several) (ways|tips|steps|ideas|tricks|methods) to {y}", "(I never manage|I don't manage|I find it hard|It's hard for me|I struggle) to {y}(. What can I do|. Any tips|, help|. How do others do it|, advice please)", "(What are|Are there) (some|any|the best|good|simple) (ways|tips|tricks|habits|methods|strategies) to {y}", "(As a beginner|As a busy person|At my age|With little time), how (can|do|should) I {y}",
    ),
}
# fmt: on
_INTRODUCTIONS = {"zh": "你可以试试下面的方法：", "en": "You can try the following:"}
# A mood alone, without a word of what is wanted, is small talk.
_MOOD = re.compile(
    "(我|最近|今天|现在|这几天|这两天)*(好|很|真|太|特别|非常|有点|又|心里|感到|觉得)*"
    "(生气|焦虑|失恋|分手|无聊|压力(很|好|特别|太)?大|难过|伤心|孤单|孤独|寂寞|紧张|累|困|不开心|郁闷|没考好|失业|想家)了?"
    "|(hi|hello|hey|um|so|ok)?(iam|im|ifeel|ive|i)(so|really|very|too|just|always|abit|pretty|quite|also)*"
    "(bored|busy|stressed|sad|lonely|angry|mad|nervous|anxious|tired|sleepy|homesick|overwhelmed|down|unhappy|depressed"
    "|nothappy|failedmyexam|lostmyjob|havenofriends|havenothingtodo|dontknowwhattodo|missmyfamily|missmymom)(today|now)?"
    "|lifeis(so|too|very|really)?boring|thereisnothingtodo"
)
_WHO = "(我|最近|今天|我最近|我今天|这两天|我这几天|我|我现在)"


def _grammar(language: str, kind: str, phrases: str) -> str:
    """Join every frame with every phrase of a topic; a Chinese trouble gets someone or some time that it is about."""
    inner = phrases.split(";")
    if language == "en":
        # A part that may be missing takes the space before it along, as a comma may follow.
        inner = [re.sub(r" \[([^\[\]]*)\](?!\w)", r"[ (\1)]", phrase) for phrase in inner]
    capital = "|".join(phrase[0].upper() + phrase[1:] if phrase[0].isalpha() else phrase for phrase in inner)
    if (language, kind) == ("zh", "trouble"):
        timed = re.compile(
            r"[(\[]*(我|孩子|明天|下周|快|马上|最近|今天|刚|这次|晚上|早上|夜里|半夜|父母|老公|男朋友|家里|朋友|身份证)"
        )
        capital = "|".join(phrase if timed.match(phrase) else f"[{_WHO}]{phrase}" for phrase in inner)
    frames = "|".join(_FRAMES[language, kind])
    return frames.replace("{x}", f"({capital})").replace("{y}", f"({'|'.join(inner)})")


def _topics() -> Iterator[dict[str, tuple[str, list[str]]]]:
    """Yield each topic as language -> (grammar of its questions, items of advice).

    A block has Chinese phrases, Chinese advice, English phrases and English advice; then, for some, Chinese and English
    phrases of the other kind: how the aim is named behind a trouble, or the trouble that leads to an aim.
    """
    for kind, other in (("trouble", "aim"), ("aim", "trouble")):
        for zh, zh_advice, en, en_advice, *more in blocks(f"{kind}s"):
            topic = {}
            for place, (language, phrases, advice) in enumerate((("zh", zh, zh_advice), ("en", en, en_advice))):
                grammar = f"({_grammar(language, kind, phrases)})"
                if more:
                    # Two of three questions are of the block's own kind.
                    grammar = f"({grammar}|{grammar}|({_grammar(language, other, more[place])}))"
                topic[language] = (grammar, advice.split(";"))
            yield topic


_TOPICS = list(_topics())


class Advice:
    """Topics are a closed list; test cases ask about them in questions that training never holds."""

    name = "advice"
    title_en = "Advice as a numbered list"
    title_zh = "生活建议（分条）"
    weight = 1.8

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a topic and a question about it."""
        language = rng.choice(("zh", "en"))
        grammar, items = rng.choice(_TOPICS)[language]
        while True:
            text = ask(rng, split, language, grammar)
            if not _MOOD.fullmatch(plain(text)):
                break
        lines = [_INTRODUCTIONS[language], *(f"{number}. {item}" for number, item in enumerate(items, 1))]
        return Dialogue(((text, "\n".join(lines)),), partial(_is_right, items=items))


def _is_right(answer: str, items: list[str]) -> bool:
    return len(numbered_items(answer)) >= 3 and sum(overlap(answer, item) >= 0.7 for item in items) >= len(items) - 1


SKILL = Advice()
