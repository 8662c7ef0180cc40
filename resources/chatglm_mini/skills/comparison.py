"""Compare two known things by what each is good at and whom it suits."""

import random
from dataclasses import dataclass
from functools import partial

from ..dialogue import Dialogue, in_split
from ..tables import blocks
from ..wording import ask, mentions, overlap


@dataclass(frozen=True)
class Thing:
    """Hold one side of a comparison in one language; aliases are other names, which stand in questions only."""

    name: str
    traits: str
    suits: str
    aliases: tuple[str, ...] = ()


# Slots {a} and {b}: the things, in English in plural or singular, so that no verb agrees with them.
GRAMMARS = {
    "zh": "{a}(和|与|跟|同){b}[之间|到底|究竟|相比|比起来](有什么|有哪些|有啥|存在什么)(区别|不同|差别|差异)|{a}(和|与|跟){b}(的区别|的不同|的差别|的差异|区别|差别)(是什么|在哪里|在哪|有哪些|是啥|)"
    "|{a}(和|与|跟){b}(哪里|哪儿|怎么)不一样|(比较[一下]|对比[一下]|比一比|说说|说一下|分析[一下]|讲讲|讲一下|介绍一下|谈谈|聊聊){a}(和|与|跟){b}[的区别|的不同|的优缺点|各自的特点|的差别]"
    "|(请|麻烦|帮我|能不能帮我|你能|可以帮我)(比较|对比|分析|对比一下|比较一下){a}(和|与|跟){b}|{a}(和|与|跟){b}(哪个好|哪个更好|谁更好|哪一个好|选哪个|选哪个好|怎么选|该选哪个|该怎么选|要哪个|哪个合适|哪个更适合我|哪个强|二选一)"
    "|{a}(好还是|更好还是|好，还是){b}(好|更好|)|{a}还是{b}|{a}还是{b}(好|呢|更好)|{a}或者{b}，(选哪个|哪个好)|{a}(vs|VS|PK|pk){b}|{a} (vs|VS|对比) {b}|{a} {b} (区别|对比|哪个好|比较)|{a}{b}(哪个好|怎么选|的区别)"
    "|(我|)(应该|该|要|想知道该)(选|选择|挑|要|买|用){a}还是{b}|我(应该|该)选{a}还是选{b}|(选|选择){a}(好还是|还是)(选|选择){b}好|我(在|正在|一直在|最近|)(纠结|犹豫)(买{a}还是买{b}|选{a}还是选{b}|要{a}还是{b}|选{a}还是{b}|挑{a}还是{b}|养{a}还是养{b})[，(你说呢|给点建议|怎么办)]"
    "|(我在|最近在|一直在)(纠结|犹豫){a}(和|还是){b}[，](怎么选|选哪个好|给点建议|求建议|帮我拿个主意|怎么办)|(朋友|家里人|孩子|同学)(让我|要我|叫我)在{a}和{b}(里|中|之间)选一个，(选哪个|哪个好|怎么选)"
    "|(在|要在|我要在|想在){a}(和|与){b}(之间|中|里)[做|]选(一个|择)，(你怎么看|选哪个|哪个好|有什么建议)|{a}(和|与|跟){b}各有什么(优点|特点|好处|优缺点|长处|利弊)|{a}跟{b}比[起来](怎么样|如何|有什么优势|哪个好)"
    "|{a}比{b}好(吗|在哪|在哪里)|(你觉得|你认为|你说|依你看|在你看来){a}(和|与|还是){b}(哪个好|哪个更好|哪个更值得选)|(我不知道|不清楚|不太懂|分不清|搞不懂|想了解|想知道|我想了解|我想知道|告诉我){a}(和|跟|与){b}(有什么区别|的区别|有什么不同|哪个好|的差别)"
    "|{a}、{b}(二选一|选哪个|哪个好|怎么选)|给我(讲讲|说说|比较一下){a}(和|跟){b}|(同样是选|如果要选|假如只能选一个)[，|：]{a}还是{b}|预算有限，{a}和{b}(选哪个|先要哪个)|(买|选|用|要|吃|养|学){a}(好|合适|划算)还是{b}(好|合适|划算)|{a}(和|跟|与){b}(有何|有啥|有没有)(区别|不同|差异|异同)|{a}(和|跟|与){b}(比|相比|比起来|放一起比)，(哪个更好|哪个更适合我|谁更好|各有什么特点|差在哪)|{a}(和|跟|与){b}的(优缺点|优点和缺点|优劣|利弊|特点|异同|相同和不同)[是什么|比较|分析|有哪些]|(只能|只想|最多)(选|要|买)一个，{a}(和|还是){b}(，选哪个|，你会选哪个|？|)|(你|换作你|如果是你)(会|更愿意|更想)(选|选择|要|推荐){a}还是{b}|{a}(和|跟|与){b}(谁|哪个)(适合|更适合)(新手|老人|孩子|我|懒人|学生|上班族)|为什么(选|要|有人选|人们选){a}(不选|而不选|而不是){b}|{a}比{b}(强在哪|好在哪里|有什么好处|差在哪)|(喜欢{a}也喜欢{b}|{a}和{b}都想要|{a}和{b}都不错)，(选哪个|怎么选|该要哪个|帮我选一个)|{a}？{b}？(哪个好|选哪个)|(有人说{a}好，有人说{b}好|老婆要{a}，我要{b}|我妈喜欢{a}，我爸喜欢{b})，(到底哪个好|你怎么看|选哪个)|{a}(和|与|跟){b}做个(比较|对比)|(列|列出|写出|总结)(一下|){a}(和|与){b}的(区别|不同|差别|对比)|那{a}和{b}呢|{a}、{b}(的区别|有什么不同|对比)|{a}(&|/){b}(区别|哪个好|对比)",
    "en": "What (is|are) the (difference|differences|main difference|main differences) between {a} and {b}|What's the difference between {a} and {b}|[the|any] (difference|differences) between {a} and {b}|How do {a} and {b} differ [from each other]|How do {a} (compare with|compare to|differ from) {b}"
    "|(Is|Are) there (any difference|any differences|a big difference|a difference) between {a} and {b}|(Compare|Please compare|Can you compare|Could you compare|Contrast|Would you compare|Help me compare) {a} (and|with|to) {b}|[Please] (give me|make|I need) a [short|quick] comparison (of|between) {a} and {b}"
    "|{a} (vs|versus|vs.|or|v|compared to|compared with|against) {b}|{a} or {b}, (which is better|which should I choose|which one|what do you think|what would you pick|any advice)|Which (is|would be|one is) better, {a} or {b}|Which is better: {a} or {b}|What's better, {a} or {b}|{a} and {b}: (which is better|what's the difference|pros and cons)"
    "|Should I (choose|pick|get|take|go for|have|opt for) {a} or {b}|(Which|What) (should|would|do) (I|you|one) (choose|pick|prefer|recommend|take|go for)[,|:] {a} or {b}|Do you (prefer|recommend|like) {a} or {b}|Is it better to (have|choose|get|pick|go for) {a} or {b}"
    "|I (can't|cannot) (decide|choose) between {a} and {b}[, what do you think|, please help|, help]|I'm (torn|undecided|hesitating|not sure|having trouble choosing) between {a} and {b}[, what is the difference|, which is better|, any advice]|I'm (thinking about|considering|wondering about) {a} or {b}"
    "|I (don't know|am not sure|was wondering) whether to (choose|pick|get|take) {a} or {b}|(Help me|I need to|We have to|I have to) (choose|decide) between {a} and {b}|(Tell me|Explain|Describe|I'd like to know|I want to know|Can you explain|Do you know) the (difference|differences) between {a} and {b}"
    "|(My friend|My sister|My kids|My wife|My boss) (wants|prefers|likes) {a} but I (want|prefer|like) {b}, (which is better|who is right|what do you think)|What are the (pros and cons|advantages and disadvantages|strong points) of {a} and {b}|{a} {b} (difference|comparison|compare)"
    "|(Between|Out of) {a} and {b}, (which is better|which would you choose|which one should I pick|what would you recommend)|Why would I (choose|pick|get) {a} (over|instead of|rather than) {b}|Would you (rather have|choose|pick|recommend) {a} or {b}|What makes {a} different from {b}|In what way do {a} and {b} differ"
    "|When should I (choose|pick|go for) {a} (and when|instead of|rather than) {b}|Which suits me better, {a} or {b}|What do you think (about|of) {a} (versus|compared with) {b}|Any (advice|thoughts) on {a} (versus|or|vs) {b}|How different are {a} and {b}|For (a beginner|my family|a friend|me), {a} or {b}|(Is|Are) {a} (better|any better|a better choice|worse|more useful) than {b}|(Which one|Which|What) (do you recommend|would suit me|is the better choice|should a beginner take|is right for me|do most people prefer|has more advantages)[,|:|?] {a} or {b}|If you (had to|could only) (choose|pick|have) (one|between them), {a} or {b}|{a}? Or {b}|I (like|love|want) (both |){a} and {b}(, which one|, but can only have one|, which is better|. Help me choose|. Which one should I take)|(I can only have one|I only have money for one|One of the two|Just one)(: |, ){a} or {b}|{a} (&|/|or rather) {b}(, which|? Which is better|: differences| - what's the difference|, pros and cons)|(Pros and cons|Advantages and disadvantages|Difference|Comparison|Compare)(: |, ){a} (vs|and|or|versus) {b}|(How|In which way) (is|are) {a} different (from|to|than) {b}|What sets {a} apart from {b}|What (do|can) {a} (offer|do|give me) that {b} (don't|cannot|can't)|(Tell me about|Explain|Say something about|Let's talk about) {a} (versus|compared to|as opposed to) {b}|(Some people|Many people) (like|prefer) {a}, others {b}(. Who is right|. Which is better|. Why|, what do you say)|(And|What about|How about) {a} (and|versus|compared with) {b}|(My husband|My mum|My son) says {a}, I say {b}(. Who is right|. Which one|, what do you think)|is there (much|really) a difference between {a} and {b}|(help me|please help me|can you help me) (decide|choose|pick)[:|,] {a} or {b}|(We're|I am|I'm) (choosing|deciding|torn) between {a} and {b}[, help| right now|. Tips|. What is better]|(Give me|I need|List|Write) (the|some|the main) differences between {a} and {b}|(better|best): {a} or {b}",
}  # fmt: skip

# Both names come first, as asked: whether both are known is easier to tell once they stand side by side.
LEADS = {"zh": "{a}和{b}的区别", "en": "The difference between {a} and {b}"}


class Comparison:
    """Things are a closed list; a pair of the test split, in either order, never occurs in training."""

    name = "comparison"
    title_en = "Comparison of two things"
    title_zh = "比较两个事物"
    weight = 1.8

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a pair, mostly within one group, and a wording."""
        language = rng.choice(("zh", "en"))
        everything = [thing for group in GROUPS[language] for thing in group]
        while True:
            a, b = rng.sample(rng.choice(GROUPS[language]) if rng.random() < 0.75 else everything, 2)
            # A pair of the test split is asked in questions of that split, which training lacks as well.
            if not in_split("|".join(sorted((a.name, b.name))), split, 6):
                continue
            form = rng.choice(_FORMS) if language == "en" else str
            values = {"a": form(_named(rng, a)), "b": form(_named(rng, b))}
            if language == "en" and rng.random() < 0.1:
                values = {slot: value.lower() for slot, value in values.items()}
            try:
                text = ask(rng, split, language, GRAMMARS[language], **values)
            except ValueError:
                continue
            break
        text = text[0].upper() + text[1:] if rng.random() < 0.6 else text
        if language == "zh":
            answer = (
                f"{LEADS[language].format(a=a.name, b=b.name)}：{a.name}{a.traits}；{b.name}{b.traits}。"
                f"如果你{a.suits}，选{a.name}；如果你{b.suits}，选{b.name}。"
            )
        else:
            first, second = (f"{thing.name} {_be(thing.name)} {thing.traits}" for thing in (a, b))
            lead = LEADS[language].format(a=a.name, b=b.name)
            answer = f"{lead}: {first}, while {second}. Choose {a.name} if you {a.suits}, or {b.name} if you {b.suits}."
        return Dialogue(((text, answer),), partial(_is_right, things=(a, b)))


def _named(rng: random.Random, thing: Thing) -> str:
    """Return the thing's name, or another that people use."""
    return rng.choice(thing.aliases) if thing.aliases and rng.random() < 0.25 else thing.name


def _one(name: str) -> str:
    """Turn "cats" into "a cat"; names that cannot be counted stay."""
    single = _bare(name)
    if single == name and name != "goldfish":
        return name
    return ("an " if single[0].lower() in "aeio" else "a ") + single


def _the(name: str) -> str:
    """Turn "cats" into "the cat"; names that cannot be counted stay."""
    single = _bare(name)
    return single if single == name else f"the {single}"


def _bare(name: str) -> str:
    """Turn "cats" into "cat"; names that cannot be counted stay."""
    if name.endswith("ies"):
        return name[:-3] + "y"
    return name[:-1] if name.endswith("s") and name != "table tennis" else name


# How an English question may put a name; twice as many questions leave it in the plural.
_FORMS = (str, str, str, _one, _one, _bare, _the)


def _be(name: str) -> str:
    return "are" if name.endswith("s") and name != "table tennis" or name == "goldfish" else "is"


def _is_right(answer: str, things: tuple[Thing, Thing]) -> bool:
    return all(
        mentions(answer, thing.name) and overlap(answer, thing.traits) >= 0.7 and overlap(answer, thing.suits) >= 0.7
        for thing in things
    )


GROUPS: dict[str, list[list[Thing]]] = {"zh": [], "en": []}


def _thing(names: str, traits: str, suits: str) -> Thing:
    name, *aliases = names.split("|")
    return Thing(name, traits, suits, tuple(aliases))


# A block is a group of things that people compare; a line is: names (the first in answers) / traits / "choose it if you …",
# first in Chinese.
for _block in blocks("comparison"):
    _rows = [line.split(" / ") for line in _block]
    GROUPS["zh"].append([_thing(*row[:3]) for row in _rows])
    GROUPS["en"].append([_thing(*row[3:]) for row in _rows])

SKILL = Comparison()
