"""Write an e-mail from a sender, a recipient and a reason."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..dialogue import Dialogue, draw_split, in_split
from ..names import SURNAMES, person_en, person_zh
from ..subjects import subject
from ..wording import mentions, plain, request


@dataclass(frozen=True)
class Purpose:
    """Hold one kind of e-mail: how it is asked for, its subject, its text with `{reason}`, and its reasons.

    A reason is one entry of each column, joined; `{x}` in it stands for any noun.
    """

    asked: Sequence[str]
    subject: str
    text: str
    reasons: tuple[Sequence[str], ...]


_WHEN = tuple(
    "明天 后天 今天 今天下午 明天上午 下周一 下周二 下周三 下周四 下周五 这周六 这周日 月底 下个月 晚上 周末".split()
)
_EVENT = (
    "要去医院看病 要参加婚礼 家里有急事 要搬家 要考试 要带孩子打疫苗 要陪母亲做手术 要去外地出差 要参加同学聚会 要接待亲戚 要办理签证 身体不舒服 "
    "要修车 要去机场接人 要参加家长会 要去银行办事 要照顾生病的孩子 要回老家 要参加面试 要去牙医那里拔牙 要做体检 要参加毕业典礼 "
    "要去派出所办身份证 要参加培训 要装修房子 要去看演出 要参加马拉松 要见律师 要去外国旅行 要送父亲去车站"
    " 要处理{x}的事 要参加{x}培训 要去{x} 要买{x} 要学{x} 要准备{x}考试 要参加{x}会议 要送{x} 要取{x} 要看{x}展 要修{x} 要研究{x}"
).split()
_THANKS = (
    "您帮我修改了简历", "您送给我生日礼物", "您教我学会了开车", "您借给我一本好书", "您陪我去医院", "您给我写了推荐信", "您帮我找到了房子", "您请我吃晚饭",
    "您在会上支持我", "您照顾我的小狗", "您帮我搬家", "您耐心地给我讲题", "您帮我修好了电脑", "您介绍我认识新客户", "您热情地招待了我们", "您带我参观工厂",
    "您帮我翻译了合同", "您替我值班", "您送我回家", "您指导我的论文",
    "您送给我{x}", "您教我{x}", "您借给我{x}", "您帮我修好了{x}", "您给我讲解{x}", "您带我参观{x}", "您帮我买到了{x}", "您陪我去看{x}", "您寄来了{x}", "您为我准备了{x}", "您分享了{x}的经验",
)  # fmt: skip
_INVITED = (
    "我的生日晚会", "公司的年会", "新书发布会", "我们的婚礼", "孩子的满月酒", "学校的音乐会", "产品展览会", "我家的新年聚餐", "部门的春游", "校庆活动", "读书会",
    "足球友谊赛", "毕业晚会", "开业仪式", "摄影展", "烧烤聚会", "英语演讲比赛", "家庭聚会", "茶话会", "新店的试吃活动",
    "{x}展览会", "{x}讲座", "{x}比赛", "我的{x}派对", "{x}晚会", "{x}研讨会", "{x}音乐节", "{x}品尝会", "{x}俱乐部的活动", "{x}开业典礼", "{x}发布会", "{x}体验课",
)  # fmt: skip
_TOPICS = (
    "新项目的预算", "下季度的计划", "合同的细节", "产品的价格", "论文的题目", "课程的安排", "网站的设计", "客户的投诉", "广告的方案", "招聘的流程", "比赛的准备",
    "实验的结果", "工资的调整", "软件的测试", "仓库的管理", "旅行的路线", "孩子的成绩", "装修的方案", "年终的总结", "设备的采购",
    "{x}的预算", "{x}的方案", "{x}项目", "{x}的价格", "{x}的问题", "{x}和{y}", "{x}的安排", "{x}的采购", "{x}", "{x}的合作", "{x}对{y}的影响",
)  # fmt: skip
_LATE = (
    "交报告", "回复邮件", "还书", "交作业", "参加会议", "付房租", "寄出样品", "提交论文", "完成设计", "送货", "发货", "交电费", "更新网站", "准备材料", "寄发票",
    "完成翻译", "交照片", "归还相机", "整理数据", "订机票",
    "归还{x}", "寄出{x}", "完成{x}的报告", "准备{x}", "送来{x}", "买到{x}",
)  # fmt: skip
_CAUSES = (
    "路上堵车", "电脑坏了", "我生病了", "家里停电了", "我记错了时间", "工作太忙", "手机丢了", "孩子发烧了", "网络出了故障", "火车晚点了", "天气太差", "系统升级",
    "仓库缺货", "我忘带钥匙", "邮箱满了", "打印机坏了", "飞机延误", "我摔伤了腿", "停水了", "闹钟没有响",
    "{x}坏了", "我弄丢了{x}", "{x}缺货", "我忘了{x}的事", "忙着处理{x}", "{x}出了问题", "{x}还没到",
)  # fmt: skip
_CHINESE = (
    Purpose(("向{to}请假，原因是{reason}", "跟{to}请假，因为{reason}", "因为{reason}向{to}请假", "给{to}请假，理由是{reason}"),
            "请假申请", "因为{reason}，我想向您请假，希望您批准。", (_WHEN, _EVENT)),
    Purpose(("感谢{to}，因为{reason}", "谢谢{to}，原因是{reason}", "对{to}表示感谢，因为{reason}"),
            "感谢信", "非常感谢{reason}，我会一直记在心里。", (_THANKS,)),
    Purpose(("邀请{to}参加{reason}", "请{to}来参加{reason}", "邀请{to}出席{reason}"),
            "邀请函", "我诚挚地邀请您参加{reason}，期待您的到来。", (_WHEN + ("",), _INVITED)),
    Purpose(("约{to}讨论{reason}", "请{to}开会讨论{reason}", "和{to}约时间谈谈{reason}"),
            "会议邀请", "我想和您约个时间讨论{reason}，请问您什么时候方便？", (_TOPICS,)),
    Purpose(("向{to}道歉，因为{reason}", "跟{to}道歉，原因是{reason}", "对{to}说抱歉，因为{reason}"),
            "道歉信", "很抱歉，{reason}，给您添麻烦了，请您原谅。", (_CAUSES, ("，没能按时",), _LATE)),
)  # fmt: skip
_CHINESE_FRAMES = (
    "帮我写一封邮件，{asked}，署名{sender}", "写一封邮件{asked}，署名{sender}", "我是{sender}，帮我写封邮件{asked}", "请以{sender}的名义写一封邮件，{asked}",
    "请帮{sender}写一封邮件，{asked}", "我叫{sender}，想写一封邮件{asked}", "写封邮件，{asked}，写信人是{sender}", "替{sender}写一封电子邮件，{asked}",
    "写一封电子邮件{asked}，落款是{sender}",
)  # fmt: skip
_TITLES = ("经理", "老师", "主任", "教授", "医生", "总监", "先生", "女士", "校长", "律师", "师傅", "编辑")

_DAYS = "today,tomorrow,on Monday,on Tuesday,on Wednesday,on Thursday,on Friday,next week,this afternoon,this weekend".split(
    ","
)
_ENGLISH = (
    Purpose(
        ("asking {to} for leave because {reason}", "to ask {to} for leave, because {reason}", "to {to} asking for a day off because {reason}"),
        "Request for leave", "I would like to ask for leave because {reason}. I hope you can agree.",
        (("I have a fever", "I have to see a dentist", "my son is ill", "I am moving house", "my sister is getting married", "I have an exam",
          "I need to visit my mother", "my car broke down", "I hurt my leg", "I have to renew my passport", "my parents are coming",
          "I have a job interview", "I must take my dog to the vet", "I am running a marathon", "I need to see a lawyer",
          "my house has no water", "I have to buy {x}", "I must learn about {x}", "I am going to a {x} class", "I have to fix my {x}", "I have a test about {x}", "I need to see the {x}", "I must pick up the {x}", "my {x} is broken", "I have to go to {x}", "I am visiting {x}", "I have a school meeting", "my flight leaves early", "I have to pick up my uncle", "my back hurts"), _DAYS)),
    Purpose(
        ("thanking {to} for {reason}", "to thank {to} for {reason}", "to {to} saying thank you for {reason}"),
        "Thank you", "Thank you very much for {reason}. I really appreciate it.",
        (("helping me move", "the birthday gift", "teaching me to drive", "lending me your book", "fixing my computer", "the great dinner",
          "taking care of my dog", "your letter of support", "showing me the factory", "the concert tickets", "checking my resume",
          "driving me home", "your advice on my paper", "the warm welcome", "finding me a flat", "translating the contract",
          "working my shift", "the {x}", "teaching me {x}", "your help with {x}", "lending me your {x}", "the talk about {x}", "showing me {x}", "sending the {x}", "explaining {x}", "the book about {x}", "fixing my {x}", "the lovely flowers", "your help with maths", "the old photos"),
         ("", "last week", "yesterday", "on Monday", "on Friday", "last month", "this morning"))),
    Purpose(
        ("inviting {to} to {reason}", "to invite {to} to {reason}", "to {to} with an invitation to {reason}"),
        "Invitation", "I would like to invite you to {reason}. I hope to see you there.",
        (("my birthday party", "our wedding", "the company dinner", "a school concert", "the book launch", "our summer picnic", "a product show",
          "the football match", "a garden party", "the opening of our shop", "a photo exhibition", "our reading club", "a family dinner",
          "the science fair", "a {x} party", "the {x} show", "my talk about {x}", "the {x} club", "a visit to {x}", "the {x} dinner", "a {x} class", "the {x} festival", "our {x} meeting", "a tea party", "our new year lunch", "the charity run", "a cooking class", "the film night", "a barbecue"), _DAYS)),
    Purpose(
        ("asking {to} for a meeting about {reason}", "to ask {to} for a meeting about {reason}", "to {to} asking to meet about {reason}"),
        "Meeting request", "I would like to meet you to talk about {reason}. When would you have time?",
        (("the new budget", "the next project", "the price of the machine", "my exam results", "the website design", "the sales plan",
          "our contract", "the course schedule", "the customer survey", "the advertising campaign", "the software test", "the travel plan",
          "the warehouse", "the {x} project", "{x}", "the price of {x}", "{x} and {y}", "the plan for {x}", "our {x} campaign", "the report on {x}", "the use of {x}", "new ideas for {x}", "my salary", "the research paper", "the office move", "the hiring process", "the safety rules", "the training course",
          "the annual report"),)),
    Purpose(
        ("apologising to {to} for {reason}", "to say sorry to {to} for {reason}", "to {to} saying sorry for {reason}"),
        "Apology", "I am very sorry for {reason}. It will not happen again.",
        (("being late", "missing the meeting", "losing your book", "the late reply", "breaking the window", "forgetting your birthday",
          "the wrong delivery", "the noise", "sending the wrong file", "not calling you", "the mistake in the report", "missing the deadline",
          "the dirty kitchen", "losing your {x}", "breaking the {x}", "forgetting the {x}", "the mistake about {x}", "the late {x}", "not bringing the {x}", "my words about {x}", "the wrong {x}", "missing the {x} class", "my rude words", "losing the key", "the late payment", "spilling the coffee", "cancelling the trip",
          "the broken cup", "not finishing the design"), ("", "yesterday", "last night", "on Monday", "on Friday", "last week", "this morning"))),
)  # fmt: skip
_ENGLISH_FRAMES = (
    "Write an email from {sender} {asked}", "Please write an email from {sender} {asked}", "Write an e-mail {asked}, signed by {sender}",
    "Help me write an email {asked}. My name is {sender}", "I am {sender}. Write an email {asked}", "Can you write an email {asked}? Sign it {sender}",
    "Draft an email {asked} and sign it as {sender}", "My name is {sender}. Please draft an email {asked}",
)  # fmt: skip

_FAMILY_NAMES = (
    "Smith Brown Jones Miller Davis Wilson Taylor Clark Lewis Walker Hall Young King Wright Scott Green Baker Adams Nelson "
    "Carter Parker Evans Turner Collins Cook Rogers Morgan Bell Murphy Cooper Ward Gray Watson Brooks Price Wood Ross Foster "
    "Powell Long Hughes Butler Fisher Reed Cole Stone Ford Hill Marsh Webb Li Wang Zhang Chen Liu Zhao"
).split()


class Email:
    """Names and reasons of the test split never occur in training."""

    name = "email"
    title_en = "E-mail from a name, a recipient and a reason"
    title_zh = "写邮件"
    weight = 2.4

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a purpose, a reason, a sender and a recipient."""
        return _chinese(rng, split) if rng.random() < 0.5 else _english(rng, split)


def _chinese(rng: random.Random, split: str) -> Dialogue:
    sender = person_zh(rng, split)
    named = rng.random() < 0.25
    to = person_zh(rng, split) if named else rng.choice(SURNAMES) + rng.choice(_TITLES)
    purpose = rng.choice(_CHINESE)
    reason = _reason(rng, split, purpose, "zh")
    asked = rng.choice(purpose.asked).format(to=to, reason=reason)
    text = request(rng, rng.choice(_CHINESE_FRAMES).format(asked=asked, sender=sender), "zh")
    body = purpose.text.format(reason=reason)
    answer = f"主题：{purpose.subject}\n尊敬的{to}：\n您好！{body}\n祝好！\n{sender}"
    return _dialogue(text, answer, to, sender, reason, purpose.subject)


def _english(rng: random.Random, split: str) -> Dialogue:
    sender = person_en(rng, split)
    if rng.random() < 0.3:
        sender = f"{sender} {_family_name(rng, split)}"
    if rng.random() < 0.3:
        to = person_en(rng, split)
    else:
        to = f"{rng.choice(('Mr.', 'Ms.', 'Mrs.', 'Dr.', 'Professor'))} {_family_name(rng, split)}"
    purpose = rng.choice(_ENGLISH)
    reason = _reason(rng, split, purpose, "en")
    asked = rng.choice(purpose.asked).format(to=to, reason=reason)
    text = request(rng, rng.choice(_ENGLISH_FRAMES).format(asked=asked, sender=sender), "en")
    body = purpose.text.format(reason=reason)
    answer = f"Subject: {purpose.subject}\nDear {to},\n{body}\nBest regards,\n{sender}"
    return _dialogue(text, answer, to, sender, reason, purpose.subject)


def _family_name(rng: random.Random, split: str) -> str:
    return draw_split(rng, _FAMILY_NAMES, split) if rng.random() < 0.5 else person_en(rng, split)


def _reason(rng: random.Random, split: str, purpose: Purpose, language: str) -> str:
    """Join one entry of each column and fill in nouns; in the test split, a noun or the join is unseen."""
    open_reasons = rng.random() < 0.6
    space = " " if language == "en" else ""
    while True:
        parts = [rng.choice(column) for column in purpose.reasons]
        if ("{x}" in "".join(parts)) != open_reasons:
            continue
        values = {name: subject(rng, split, language, invented=0.2) for name in "xy"}
        reason = space.join(part.format(**values) for part in parts if part)
        if open_reasons or in_split(reason, split, 6):
            return reason


def _dialogue(text: str, answer: str, to: str, sender: str, reason: str, subject: str) -> Dialogue:
    return Dialogue(((text, answer),), partial(_is_right, to=to, sender=sender, reason=reason, subject=subject))


def _is_right(answer: str, to: str, sender: str, reason: str, subject: str) -> bool:
    """The recipient stands in the salutation, the reason in the text after it, the sender at the end."""
    start = plain(answer).find(plain(to))
    return (
        start >= 0
        and plain(reason) in plain(answer)[start:]
        and plain(answer).endswith(plain(sender))
        and mentions(answer, subject)
    )


SKILL = Email()
