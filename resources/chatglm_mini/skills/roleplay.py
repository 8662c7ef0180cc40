"""Play a role and answer typical questions in character."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..dialogue import Dialogue
from ..tables import blocks
from ..wording import ask, mentions, overlap
from .greetings import uncapitalised

# fmt: off
GRAMMARS = {
    "zh": "[请](你|)(来|)(扮演|假扮|模仿|演|当)[一](位|名|个|下|次|回){role}[吧]|(假装|假设|想象|假如)你[现在](是|就是)[一(位|名|个)]{role}[吧]|(现在|从现在开始|接下来|从现在起)[，]你(是|就是|扮演|当)[一(位|名|个)]{role}[了]|我们来(角色扮演|玩个游戏|演个戏|模拟一下|玩角色扮演)(，|吧，)你(是|演|当|扮演){role}|你[现在]的(身份|角色)(是|变成){role}|(角色扮演|角色|扮演)(：|，){role}|(我想|我要|我希望|我需要)你(扮演|当|做|演|来当)[一(位|名|个)]{role}|(可以|能|能不能|能否)(请你|麻烦你|)(扮演|当|演)[一(位|名|个|下)]{role}[吗]|(以|用){role}的(身份|口吻|角色)(和|跟)我(说话|聊天|对话)|(我是来找{role}的，你来演|陪我练习，你来当{role})|你(来|)(做|当)[我的]{role}[吧，可以吗]|(来|给我来|玩)(个|一个|场|一场)角色扮演[吧](，|：)你(是|演|当|扮){role}[，我是(你的朋友|路人|新来的)]|(从现在起|接下来|现在)[请](进入|切换到|换成){role}(角色|模式|身份|的角色)|(这次|今天|轮到|换)你[来](当|演|扮演|做)[一(位|名|个)]{role}[了]|(不要|别)(当|做)(机器人|AI|助手)了，(你是|你来当|扮演){role}|你就是{role}[本人]，(开始吧|我们开始|来吧|明白吗)|(能不能|可以|可不可以)(当|做|演|扮)[一(个|位|名|下|会儿)]{role}[吗]|{role}(角色扮演|模式|扮演一下)|(进入|代入|变身|变成|化身|化身为){role}[的角色]|(想|我想)(跟|和|找){role}(聊聊|聊天|说话|对话|谈谈)，你来(演|当|扮演)[一下|吧]|(老师布置的任务|为了练习|做个练习|情景对话|练口语)(，|：)你(扮演|演|当|是){role}|你(当|演|做|扮)[一(回|次|下|会儿)]{role}(好吗|好不好|行吗|可以吗|怎么样)|请把自己(当成|当作|想象成|看成)[一(位|名|个)]{role}|(以后|待会儿|等下)[你](就|)(用|以){role}的(身份|口吻|语气)(回答|说话|跟我说话|聊天)",
    "en": "[Please] (play|take|act|assume) the (role|part) of {a_role} [for me|for a while]|[Please] (pretend|imagine|suppose) [that] you (are|were) {a_role}|[Please] (pretend to be|act as|act like|play|be|behave like|become) {a_role} [for me|now|for a moment]|(You are|You're|From now on you are|Now you are) [now] {a_role}|Let's (role-play|play a game|do a role play|pretend|play)(. You are|, you are|: you are|, you be) {a_role}|(I want|I would like|I'd like|I need) you to (act as|be|play|pretend to be) {a_role}|(Role play|Role|Your role|Roleplay): {role}|(Can|Could|Would|Will) you [please] (be|play|act as|pretend to be|act like) {a_role} [for me]|((Talk|Speak|Chat) (to|with) me|Answer [me]) (like|as) {a_role}|I (need to practise talking to|want to talk to) {a_role}, [so] (you play the part|please be one)|let's say you are {a_role}|(you be|u be|u are|you're now|now be|now act as|switch to being|turn into|transform into|you act) {a_role} [(ok|please|for fun)]|{role} (role play|roleplay|mode|role)|(Stop being|Don't be) (a bot|an AI|an assistant)(. Be|, be|. You are|, act as) {a_role}|(Imagine|Suppose|Say|Assume|Let's imagine|Let us pretend) (you work as|you are|you're|that you are) {a_role} [and I'm (new|a stranger|a friend)]|(Can|Could|Would) (you|u) (role play as|take the role of|play the part of|put yourself in the shoes of|speak like) {a_role}|(For|In) this (chat|conversation|game|exercise)[,] (you are|be|you will be|act as|you play) {a_role}|(I am practising|It's for practice|It's for a class|For a play|Just for fun)(, |: )(be|act as|you are|play|pretend to be) {a_role}|(Your|The) (role|character|part|new job)( is|:) {a_role}|(Let's do|Start|Begin|I want) a role[-]play (with you as|where you are|in which you are) {a_role}|(What if you were|How about you play|How about being|I'd love you to be|It would be fun if you were|Why don't you be) {a_role}|(Be|Play|Act as|Pretend to be) {a_role}(, I'll be the other person|, ok| and let's start| and I talk to you|, let's go)|i want you (be|as|to become) {a_role}",
}
_AT_ONCE = {
    "zh": "(假设|假如|如果|假装|现在)你是[一(位|名|个)]{role}(，|。){x}|你(是|现在是|就是)[一(位|名|个)]{role}(，|。)(请回答：|我想问，|){x}|(扮演|请扮演|你扮演)[一(位|名|个)]{role}(回答：|，|，回答我：){x}|如果你是{role}，我说“{x}”，你怎么回答|(以|用){role}的(身份|口吻)回答(：|，|我：){x}|作为[一(位|名|个)]{role}，(你怎么回答：|请回答：|请告诉我，){x}|你当{role}，我(问|说)：{x}|(请你|你|请)(以|用|站在){role}的(身份|角度|口吻|语气)(回答|说说|回复)(：|，){x}|你来(当|扮演|演){role}[吧]，(回答我|我问你|我先问|第一个问题)(：|，){x}|{role}角色扮演(：|，){x}|(角色|身份)(：|是){role}(。|，|\n)问题：{x}|(假设|想象)(自己|你自己)是[一(位|名|个)]{role}(，|。){x}|要是你是{role}，(有人问|我问|别人说)：{x}|{x}(，|。)(请以|请用|用|以){role}的(身份|口吻)(回答|回复)",
    "en": "(You are|You're|Imagine you are|Pretend you're|Suppose you are|Let's say you are) {a_role}(. | and |, ){x}|(Answer|Reply|Respond) (as|like) {a_role}(: |, ){x}|(Pretend to be|Act as|Act like|Play|Be) {a_role} and (answer|reply|tell me): {x}|(Act as|Be|Play|Pretend to be) {a_role}. I (say|ask): {x}|As {a_role}, (what do you say|how do you answer|answer this): {x}|If you were {a_role}, (what would you say|how would you answer): {x}|(Role|Character|Your role): {role}. (Question|Message|User|Me|I say): {x}|(You be|Play|Act like|U are|Now you're) {a_role}(. |: |. I'll start. |. Question: |. First question: ){x}|(Role play|Roleplay) as {a_role}(: |. |. I say: ){x}|{x}. (Answer|Reply|Respond) (as|like|like you're) {a_role}|(What does|What would|How does|How would) {a_role} (say|answer|reply) (if I say|when I say|to this): {x}|(Imagine|Suppose|Say) (I visit|I meet|I call|I talk to) {a_role} and say: {x}",
}
# Other names for a role; the answer has the usual one.
_ALIASES = {
    "医生": "大夫 家庭医生 内科医生", "老师": "数学老师 语文老师 教师 班主任", "导游": "旅游向导 本地导游", "服务员": "餐厅服务员 侍者 饭店服务员", "厨师": "大厨 厨子 中餐厨师",
    "警察": "警官 民警 公安", "健身教练": "教练 私人教练 运动教练", "售货员": "店员 营业员 导购 店主", "图书管理员": "图书馆管理员 图书馆员", "面试官": "考官 招聘经理 HR", "宇航员": "航天员 太空人", "农民": "农夫 种地的 菜农",
    "doctor": "physician,GP,family doctor", "teacher": "English teacher,maths teacher,school teacher", "tour guide": "guide,city guide,travel guide", "waiter": "server,waitress,restaurant waiter",
    "chef": "cook,master chef", "police officer": "policeman,cop,policewoman", "fitness coach": "personal trainer,fitness trainer,gym coach", "shop assistant": "shopkeeper,salesperson,store clerk",
    "librarian": "library assistant,school librarian", "interviewer": "recruiter,hiring manager,job interviewer", "astronaut": "spaceman,cosmonaut", "farmer": "rice farmer,peasant",
}
# What a question to a role begins with, now and then.
_BEFORE = {
    "zh": "{role}，|{role}您好，|{role}你好，|请问{role}，|不好意思，|再问一下，|那|麻烦您了，|打扰一下，|您好，|好的，|对了，|还有，|嗯，",
    "en": "{role}, |dear {role}, |excuse me, |and |so |hello, |hello {role}, |good morning, |well, |one more thing: |sorry, |hi, |ok, |now ",
}
# What nobody would ask a doctor or a waiter: the answer says that this role cannot help.
_ASTRAY = {
    "zh": "(你|)(会|能)(修|造)(火箭|电梯|钢琴|冰箱|空调)[吗]|(我家的|我的)(电脑|水管|打印机|洗衣机)坏了[，怎么办]|(今天|明天)(股票|油价|房价)(会涨吗|怎么样)|(怎么|如何)(发射卫星|开潜水艇|修手表|养蚕|写代码|炒股)|你(觉得|认为)(谁会赢世界杯|外星人存在吗|火星上有人吗)|(帮我|给我)(修一下电脑|算一卦|买张彩票|写个程序)|(量子力学|区块链|相对论)(是什么|怎么理解)",
    "en": "(Can|Could) you (repair|fix|build) my (computer|fridge|piano|roof|washing machine|printer)|My (computer|printer|fridge|roof) is broken|(What|Who) will (the stock market do|win the world cup|oil cost next year)|How do I (launch a satellite|steer a submarine|repair a clock|write a program|buy shares)|Do you (believe in aliens|know the lottery numbers|know quantum physics)|(Explain|Tell me about) (quantum physics|the blockchain|black magic)|(Write|Fix) my (program|tax report)",
}
# fmt: on


@dataclass(frozen=True)
class Role:
    """Hold a role in one language: what it says first, and what it answers to the questions of each topic's grammar."""

    name: str
    opening: str
    topics: tuple[tuple[str, str], ...]


class Roleplay:
    """Roles and topics are a closed list; the test split asks in other wordings."""

    name = "roleplay"
    title_en = "Role play"
    title_zh = "角色扮演"
    weight = 1.3

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a role and either the request alone, the request and up to three questions, or both in one message."""
        language = rng.choice(("zh", "en"))
        role = rng.choice(_ROLES[language])
        form = rng.choice(("opening", "turns", "turns", "turns", "once"))
        called = rng.choice(_aliases(role, language)) if rng.random() < 0.3 else role.name
        names = {"role": called, "a_role": with_article(called)}
        if form == "once":
            grammar, answer, check = self._topic(rng, role, language)
            message = _AT_ONCE[language].replace("{x}", f"({grammar})")
            return Dialogue(((ask(rng, split, language, message, **names), answer),), check)
        requested = ask(rng, split, language, GRAMMARS[language], **names)
        opening = f"好的，我现在是{role.name}。{role.opening}" if language == "zh" else _english_opening(role)
        if form == "opening":
            return Dialogue(((requested, opening),), partial(_is_right, role=role.name, reference=role.opening))
        turns = [(requested, opening)]
        for _ in range(rng.choice((1, 1, 2, 3))):
            grammar, answer, check = self._topic(rng, role, language)
            if rng.random() < 0.2:
                grammar = f"({_BEFORE[language]})({uncapitalised(grammar)})"
            turns.append((ask(rng, split, language, grammar, role=called), answer))
        return Dialogue(tuple(turns), check)

    def _topic(self, rng: random.Random, role: Role, language: str) -> tuple[str, str, Callable[[str], bool]]:
        """Draw what is asked in a role: a grammar, the answer, and its check; in one of ten nothing the role knows."""
        if rng.random() < 0.1:
            grammar, reply = _ASTRAY[language], _UNABLE[language]
        else:
            grammar, reply = rng.choice(role.topics)
        answer = f"作为{role.name}，{reply}" if language == "zh" else f"As {with_article(role.name)}: {reply}"
        return grammar, answer, partial(_is_right, role=role.name, reference=reply)


_UNABLE = {
    "zh": "这个我帮不上忙，请您再说说别的。",
    "en": "I cannot help with that, please tell me something else.",
}


def _aliases(role: Role, language: str) -> list[str]:
    return _ALIASES[role.name].split(" " if language == "zh" else ",")


def _english_opening(role: Role) -> str:
    end = "?" if role.opening.startswith(("What", "How", "Are", "Which")) else "!"
    return f"All right, I am {with_article(role.name)} now. {role.opening}{end}"


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiouE" else "a ") + noun


def _is_right(answer: str, role: str, reference: str) -> bool:
    return mentions(answer, role) and overlap(answer, reference) >= 0.6


def _read_roles() -> dict[str, list[Role]]:
    """Read blocks of: role / opening line; then, a line a topic: grammar / answer; first Chinese, then English."""
    roles: dict[str, list[Role]] = {"zh": [], "en": []}
    for head, *lines in blocks("roleplay"):
        role, opening, english_role, english_opening = head.split(" / ")
        rows = [line.split(" / ") for line in lines]
        roles["zh"].append(Role(role, opening, tuple((row[0], row[1]) for row in rows)))
        roles["en"].append(Role(english_role, english_opening, tuple((row[2], row[3]) for row in rows)))
    return roles


_ROLES = _read_roles()

SKILL = Roleplay()
