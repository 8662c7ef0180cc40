"""Answer common facts: capitals, numbers, nature, science, the world, culture."""

import random
import re
from functools import partial

from ..dialogue import Dialogue
from ..tables import blocks, table
from ..wording import belongs, expand, mentions, overlap, typed

# Slot {x}: a country. The answer begins as in CAPITAL_LEADS, also when the question gave the city.
CAPITAL_GRAMMARS = {
    "zh": "{x}[的](首都|首府)(是哪里|在哪里|在哪儿|在哪|是哪|是哪儿|是什么|是啥|叫什么|叫什么名字|是哪个城市|是哪座城市|是什么城市)|{x}[的]首都|首都{x}|{x} 首都"
    "|(哪个城市|哪座城市|什么城市|哪里)是{x}[的]首都|{x}(把首都设在哪里|定都哪里|的首都设在哪|以哪个城市为首都)"
    "|(你知道|你知不知道|有谁知道|你晓得|你能说出|你记得){x}的首都(吗|是哪里吗|在哪吗|是哪个城市吗|叫什么吗)"
    "|(告诉我|说一下|说说|报一下|查一下|帮我查查|帮我查一下|介绍一下|写出|回答一下|我想知道|想知道|想问问|我忘了|我总是记不住|我不记得|突然想不起来)"
    "{x}[的]首都(是哪里|是哪个城市|在哪里|是什么|叫什么|在哪)"
    "|(我要|我想|我们打算|公司派我|下个月要|朋友要)去{x}[旅游|出差|玩]，(它的|那里的|那边的|这个国家的)首都是(哪里|哪个城市|哪)"
    "|(地理作业|地理题|考考你|小测验|问答题|抢答|孩子问我|老师问|做题遇到|知识问答)[：|，]{x}的首都(是哪里|是哪|在哪|是哪座城市|叫什么)"
    "|关于{x}[，](它的首都|首都)(是哪里|在哪|叫什么)|说到{x}，它的首都是(哪|哪里|哪个城市)|(首都|首都城市)是哪里[，|：]{x}|(那|那么|还有){x}的首都(呢|是哪|是哪里)|{x}呢，首都(是哪|在哪|是什么)|(一句话回答|直接告诉我|简单说)[，|：]{x}[的]首都(是哪|是哪里|在哪)|{x}(是个国家吧|这个国家)，首都(在哪|是哪里|叫什么)|(有没有人知道|谁来说说|帮忙查下|请回答|请说出|麻烦告诉我){x}[的]首都(是哪|在哪|是哪里|叫什么|)|{x}首都(是|在|叫)(哪|啥|什么)(来着|呀|)|(地图上|世界上){x}的首都(在哪里|是哪座城市)|(飞|去|到){x}首都，(是飞|要飞|飞)哪个城市|{x}(的|)首都城市(的名字|名称|叫什么|是)|{x}最重要的城市，也就是首都，(叫什么|是哪个)",
    "en": "(What is|What's|Where is|Where's|Name|Tell me|Give me|Say|State|Do you know|You know) the capital [city] of {x}|[the] capital of {x}|capital {x}|{x} capital [city]"
    "|(Which|What) (city|town) is the capital of {x}|Which is the capital [city] of {x}|The capital of {x} is [what|which city|called]|{x}'s capital [city]|(What is|What's|Name) {x}'s capital [city]"
    "|(Can|Could|Would) you (tell me|name|give me|say) the capital [city] of {x}|What is the capital [city] of {x} called|What city does {x} have as [its] capital"
    "|(Can|Could) you [please] tell me (what|which city) the capital of {x} is|Do you [happen to] know (what|where|which city) the capital of {x} is|Any idea what the capital of {x} is"
    "|(I'd like to know|I want to know|I need to know|I need|I was wondering about|I forgot|I've forgotten|I can't remember|I'm looking for|Remind me of) the capital [city] of {x}"
    "|(I was wondering|I wonder|I can't remember|I always forget|I don't know|Tell me|Please tell me|Remind me) what the capital of {x} is"
    "|(I'm flying to|I'm going to|We're travelling to|My friend lives in|I'm reading about|My class is learning about|I'm writing about) {x}[ soon], what is (its|the) capital [city]"
    "|(Geography quiz|Geography homework|Quiz|Trivia|Homework|Quick one|For a crossword): [what is the] capital of {x}|(My son|My daughter|My teacher|A friend) (asks|wants to know|asked me) what the capital of {x} is"
    "|(For my homework|For a quiz|For a pub quiz|For a test tomorrow|For a form|For my geography class) I need (the capital [city] of {x}|to know the capital [city] of {x})"
    "|(Sorry|Silly question|Quick question|One question|I have a question|Just checking|A question about geography|Help me out)(,|:) (what is|what's|which city is|where is) the capital [city] of {x}"
    "|If (I say|somebody says|someone asks about) {x}, (what|which city) is the capital|(Can|Could) you look up (the capital [city] of {x}|what the capital of {x} is)"
    "|{x}[,] (capital city|the capital|capital please|what's the capital|which capital)|(Remember|Recall) the capital of {x}|What would be the capital [city] of {x}"
    "|What do they call the capital of {x}|In {x}, what is the capital|For {x}, what is the capital city|{x}: what is the capital|Which city do I look for if I want the capital of {x}|(And|And what is|What about|How about|Now) the capital of {x}|(ok|okay|and|so) {x}, (what's its capital|capital|what is the capital there)|{x}? (What is its capital|Its capital|Capital|What's the capital)|(Capital city|Capital|The capital) (for|in|of): {x}|(Please answer|Answer this|One word answer|In one sentence|Short answer|Just the name): (what is|what's|which city is|) the capital of {x}|(Hi|Hello|Hey)(, | there, )(which city is|what is|do you know) the capital of {x}|{x} has (which|what) (city as its capital|capital)|(Have you|You) (heard of|know) {x}? What is (its|the) capital|I (am learning|have to learn|am studying) capitals(. |, )(what is|what's|tell me) (the one|that) of {x}|(what city|which city) is {x}'s capital|(Can anyone|Can somebody|Could someone) tell me the capital of {x}",
}  # fmt: skip
CAPITAL_LEADS = {"zh": "{x}的首都", "en": "The capital of {x}"}
# Slot {x}: a capital, whose country is asked for.
_INVERSE_GRAMMARS = {
    "zh": "{x}是(哪个国家|哪国|什么国家|谁)的首都|(哪个国家|哪国|什么国家)的首都是{x}|{x}是首都吗，是哪个国家的|首都是{x}的[国家](是哪个国家|是哪国|是什么国家)"
    "|(哪个国家|哪国)(以{x}为首都|定都{x}|把{x}作为首都)|{x}[这座城市](在哪个国家|属于哪个国家)，是那里的首都吧|(你知道|告诉我|我想知道|考考你，|我忘了|谁知道){x}是(哪个国家|哪国)的首都"
    "|{x}作为首都，是哪个国家的|我要去{x}，它是哪个国家的首都|{x} 哪国首都",
    "en": "(Which|What) country has {x} as its capital|{x} is the capital of (which|what) country|(Which|What) country is {x} the capital of|Of (which|what) country is {x} the capital"
    "|What is {x} the capital of|{x} is the capital of what|(Which|What) country's capital is {x}|The capital of (which|what) country is {x}|{x} is which country's capital"
    "|(Tell me|Do you know|Can you tell me|I'd like to know|I forgot|I was wondering|I wonder) (which|what) country {x} is the capital of|(Name|Tell me) the country whose capital is {x}"
    "|(Quiz|Trivia|Geography question): {x} is the capital of (which|what) country|I'm in {x}, the capital of which country is that|Whose capital is {x}",
}  # fmt: skip

# Families of facts: `<author:Hamlet>` in the table stands for the pattern "author" with "Hamlet" for {x}; "{y}" is a second value.
_PATTERNS = {
    "zh": {
        "has": "{x}[一共|总共|共|到底|通常](有|会有)(几|多少){y}|{x}(几|多少){y}",
        "author": "{x}[这本书|这部作品|这部书](是谁写的|谁写的|是谁的作品|的作者是谁|作者是谁|作者|的作者叫什么[名字]|是哪位作家写的|是哪个人写的|出自谁的笔下)|(谁|哪位作家|哪个作家|什么人)(写了|写的|创作了){x}"
        "|(写|写出|创作)[了]{x}的(人|作家|作者)(是谁|叫什么)|谁是{x}的作者|(我刚看完|我在读|最近在看){x}，(作者是谁|是谁写的)",
        "painter": "{x}[这幅画](是谁画的|谁画的|是谁的作品|的作者是谁|作者|的画家是谁|是哪位画家画的|出自谁手)|(谁|哪位画家|哪个画家)(画了|画的|创作了){x}|(画|创作){x}的(人|画家)(是谁|叫什么)|谁是{x}的作者",
        "made": "{x}(是谁|谁|是哪个人|是哪位科学家|是什么人|最早是谁|当年是谁){y}的|(谁|哪位科学家|哪个人|什么人)(最早|第一个|){y}了{x}|{y}[了]{x}的[那个|](人|科学家)(是谁|叫什么)|{x}的{y}(者|人)(是谁|叫什么[名字])|谁{y}{x}的",
        "symbol": "{x}[元素]的(化学|元素)符号(是什么|怎么写|是啥|是哪个|怎么表示)|{x}(的符号是什么|用什么(化学|元素)符号表示|用化学符号怎么写|在元素周期表里怎么写)|{x}(元素符号|化学符号)|(什么|哪个)(元素|化学)符号(代表|表示){x}",
        "formula": "{x}的(化学式|分子式|化学符号)(是什么|怎么写|是啥|怎么表示)|{x}(用化学式怎么写|用什么化学式表示|化学式|分子式)|怎么写{x}的(化学式|分子式)",
        "colour": "{x}(是什么颜色[的]|是啥颜色[的]|是哪种颜色|的颜色是什么|什么颜色|看起来是什么颜色|一般是什么颜色|通常什么颜色)|{x}的颜色|(什么|哪种)颜色是{x}的颜色|画{x}(用|要用|该用)什么颜色",
        "from": "{x}(来自什么动物|是从哪来的|从哪里来|是怎么来的|是什么动物{y}的|是哪种动物{y}的|是谁{y}的|是由什么动物{y}的)|(什么|哪种|哪个)动物(会|能|可以|){y}{x}|谁(会|能){y}{x}|人们从什么动物那里得到{x}",
        "home": "{x}[一般|主要|通常](住在|生活在|活在)(哪里|哪儿|什么地方|哪)|哪里有{x}|(在|去)(哪里|哪儿|什么地方)(能|可以)(看到|见到|找到){x}|{x}的(家|老家|故乡)在(哪里|哪儿|哪)|{x}(分布在哪里|栖息在哪里)",
        "most": "{x}最{z}的{y}(是什么|是哪个|是哪一个|叫什么[名字]|是啥)|{x}最{z}的{y}|{x}(什么|哪个|哪一个){y}最{z}|(什么|哪个)是{x}最{z}的{y}|(说出|告诉我|查一下){x}最{z}的{y}",
        "top": "{x}(是什么|是哪个|是哪一个|叫什么|叫什么名字|是啥|是谁|有哪个|指的是什么)|{x}|(什么|哪个|谁)是{x}|(说出|说一下|告诉我|写出|查一下|介绍一下){x}(是什么|叫什么|是哪个)",
        "place": "{x}(在哪里|在哪儿|在哪|在什么地方|位于哪里|位于哪个{y}|在哪个{y}|在什么{y}|是哪个{y}的|建在哪里|坐落在哪里)|(哪个|什么){y}有{x}|(我想去看|想参观|我想看){x}，(要去|得去|应该去)(哪里|哪个{y}|哪儿)|{x}(位置|地点)",
        "date": "{x}(是哪天|是哪一天|是几月几(日|号)|在几月几(日|号)|是什么时候|在什么时候|几月几号|是几号|在哪天|的日期是什么|的日期|哪天过|是哪个日子|是哪月哪日)|(什么时候|哪天|哪一天|几月几号)(是|过){x}|每年{x}是(哪天|几月几号)",
        "eaten": "{x}[人们|大家|我们|一般|都|传统上|按习俗](吃什么|吃啥|吃什么东西|吃什么食物|要吃什么|该吃什么)|(过|到了|快到){x}[了，|，|](要|该|应该)吃(什么|啥)|{x}的(传统|节日|代表)(食物|美食|食品)是(什么|啥)|{x}有什么(传统美食|传统食物)",
        "money": "{x}(的货币是什么|的货币叫什么[名字]|的钱叫什么|用什么货币|用什么钱|用的是什么钱|人用什么(钱|货币)|使用哪种货币|货币|通用什么货币)|(在|去){x}(用|花|要用|要花|要换)什么(钱|货币)|我要去{x}[旅游|出差]，(要换什么钱|该换什么货币|那边用什么钱)",
        "speech": "{x}(说|讲|用|使用)什么(语言|话|语)|{x}人[平时|主要](说|讲|用)什么(语言|话)|{x}的(官方语言|语言|母语|通用语言)(是什么|是啥|是哪种)|{x}(官方语言|语言)|(在|去){x}(要|应该|得|)(说|讲)(什么|哪种)(语言|话)|{x}人的母语是什么",
        "first": "(谁是第一个|谁第一个|谁最早|谁最先|是谁第一个|是谁最早|哪个人第一个|第一位是谁){x}[的]|(第一个|最早|最先|首位|第一位){x}的[人](是谁|叫什么[名字]|是哪个)",
    },
    "en": {
        "in": "How many {x} (are there in|are in|in|make|make up|fit in|do we have in) {y}|How many {x} does {y} have|(The number|Number) of {x} in {y}|{y} (has|contains) how many {x}|{x} in {y}|What is the number of {x} in {y}|How many {x} is {y}",
        "have": "How many {x} (does {y} have|has {y} got|does {y} have in total|are there on {y}|does {y} have altogether|does {y} usually have)|{y} has how many {x}|(The number|Number) of {x} (of|on) {y}|{y} how many {x}|{y} number of {x}|What is the number of {x} of {y}|{x} of {y}|How many {x} would I count on {y}",
        "author": "Who (wrote|is the author of|was the author of|is the writer of|has written|penned) {x}|(Which|What) (author|writer) wrote {x}|{x} was written by (whom|who)|{x} author|who wrote {x}|[the] author of {x}|(Name|Give me|Tell me) the author of {x}"
        "|What is the name of the (author|writer) of {x}|(I just read|I'm reading|I like) {x}, who wrote it|{x} is by (whom|who|which writer)|By whom was {x} written",
        "painter": "Who (painted|is the painter of|is the artist behind|created) {x}|(Which|What) (painter|artist) (painted|made) {x}|{x} was painted by (whom|who)|{x} (painter|artist)|(Name|Tell me) the (painter|artist) of {x}|[the] painter of {x}|By whom was {x} painted",
        "made": "Who (first|) {y} {x}|Who is (known|famous) for having {y} {x}|{x} was {y} by (whom|who|which person)|Which (person|scientist|man) {y} {x}|(Who was it that|Who was the one who|What is the name of the person who) {y} {x}|By whom was {x} {y}|{x}, who {y} it|The person who {y} {x}",
        "symbol": "What is the [chemical] symbol (of|for) {x}|What's the symbol for {x}|{x} [chemical] symbol|[chemical] symbol (of|for) {x}|(Which|What) symbol (does {x} have|stands for {x})|How is {x} written in chemistry|How do you write {x} in the periodic table|(Give|Tell) me the chemical symbol for {x}",
        "formula": "What is the [chemical] formula (of|for) {x}|What's the formula for {x}|{x} formula|[chemical] formula (of|for) {x}|How is {x} written in chemistry|(What|Which) formula does {x} have|How do chemists write {x}|(Give|Tell) me the formula for {x}",
        "colour": "What (colour|color) is {x}|What's the (colour|color) of {x}|What is the (colour|color) of {x}|(Tell me|Name) the (colour|color) of {x}|{x} (colour|color)|(Which|What) (colour|color) does {x} have|{x} is what (colour|color)|In what (colour|color) should I paint {x}|What (colour|color) is {x} usually",
        "from": "(Which|What) animal (gives|makes|produces|provides|gives us) {x}|Where does {x} come from|Where do we get {x} from|(What|Which) animal does {x} come from|{x} comes from (which|what) animal|From which animal do we get {x}|Who (makes|produces) {x}|{x} comes from what",
        "home": "Where do {x} live|Where (can|could|do) (I|we|you) (find|see) {x}|Where are {x} (found|from)|In (which|what) (place|part of the world) do {x} live|(Which|What) part of the world do {x} live in|Where is the home of {x}|Where would I see {x} in the wild|home of {x}|Where do {x} come from",
        "most": "What is the {y} {x} [in the world|on Earth|of all]|What's the {y} {x}|(Which|What) {x} is [the] {y} [of all|in the world]|(Name|Tell me|Give me) the {y} {x} [in the world|on Earth]|{y} {x} [in the world]|the {y} {x}|Which is the {y} {x} [in the world]|What do you call the {y} {x} in the world",
        "top": "What is {x}|What's {x}|(Name|Tell me|Give me|Say) {x}|{x}|Which is {x}|{x} is (what|called what)|What do you call {x}|What would you say is {x}",
        "place": "Where is {x} [located|found]|Where's {x}|In (which|what) {y} is {x}|(Which|What) {y} has {x}|(Which|What) {y} is {x} in|Where (can|could|would) I (find|see|visit) {x}|{x} location|{x} is in (which|what) {y}|I want to (visit|see) {x}, where (is it|must I go|do I go)|location of {x}",
        "date": "When is {x}|(What|Which) (date|day) is {x} [on]|On (which|what) (date|day) is {x}|When do (people|we|they) (celebrate|have) {x}|(Tell me the|The|What is the|What's the) date of {x}|{x} date|{x} is (when|on which day)|When does {x} (take place|happen)|date of {x}",
        "eaten": "What do (people|we|you|the Chinese) eat (at|for|on|during) {x}|What is [traditionally] eaten at {x}|(What|Which) food (belongs to|is eaten at|goes with|is typical of) {x}|What is the [traditional] food (of|for) {x}|{x} food|[traditional] food for {x}|What should I (eat|cook|serve) (at|for) {x}|What do people usually have at {x}",
        "money": "What is the (currency|money) of {x}|What's the currency of {x}|What is the money of {x} called|(Which|What) (currency|money) (is used in|do they use in|do people use in|do I need in) {x}|{x} currency|currency (of|in) {x}|I'm (going|travelling|flying) to {x}, what (money|currency) do I need|(Which|What) currency does {x} (use|have)|How do people pay in {x}, in which currency",
        "speech": "(What|Which) language (is spoken in|do people speak in|do they speak in|should I learn for) {x}|What is the (official|main|national) language of {x}|What do (people|they) speak in {x}|{x} language|language (of|in) {x}|I'm moving to {x}, what language do they speak|(What|Which) language do (people in {x}|the people of {x}) speak|[official] language of {x}",
        "first": "Who (was|is) the first (person|man|human) {x}|Who was first {x}|[the] first (person|man|human) {x}|(Name|Tell me) the first (person|man) {x}|(Which|What) (man|person) was the first {x}|What is the name of the first (person|man) {x}|Who became the first person {x}",
    },
}  # fmt: skip
# Around a question of a fact; in Chinese it stays as it is, in English it is turned into a dependent clause where that is easy.
_AROUND = {
    "zh": "(你知道|你知不知道|你晓得|你清楚|有人知道|你能告诉我|能不能告诉我|可以告诉我|你记得){q}吗|(告诉我|我想知道|想知道|谁知道|谁能告诉我|我忘了|我不记得|我一直不清楚|我搞不清|查一下|帮我查一下|"
    "问一下|我很好奇|老师问|孩子问我|我儿子问我|我女儿想知道|同学问我){q}|(考考你|抢答|问答题|常识题|小测验|作业里有一题|我在做作业|突然想到一个问题|一个常识问题|知识问答|"
    "今天上课没听懂|有个问题)(，|：){q}|(请回答|回答我|请告诉我|麻烦说一下|请教|请教您|想请教|科普一下|给我科普|帮我解答|求解|求问|谁来回答|在线等|想了解|突然好奇|随便问问|打赌输了，|我和朋友在争论，|看电视看到的，|猜谜游戏：|百科：|面试题：)[：|，]{q}|(你好|您好|嗨)[，|！]{q}|{q}[，](谢谢|急|在线等|谁知道|你说说|快告诉我|一直没搞懂|忘记了|答案是什么)|{q}[来着|，我忘了|，你知道吗|，求解答|，告诉我吧|，一句话回答就行]",
    "en": "(Trivia|Quiz question|Quiz|Random question|Homework question|A question from my (son|daughter|teacher|class)|General knowledge|Question|My homework asks|Help me with this one): {q}"
    "|(Tell me|Just curious|I'm curious|Remind me|I forgot|I always forget|Out of interest|Can you help me|Just wondering), {q}|{q}, (do you know|any idea|I forgot|can you tell me|I can't remember|just the short answer|please tell me|please explain|I always mix it up|quick answer please|asking for a friend|serious question)|(Please answer|Answer me this|Answer this|One question|Quick one|Here's one|Next question|Another question|Let me ask|For my homework|School question|Pub quiz|Science question|My kid's question|We have a bet|Short question|Help|Google didn't help): {q}|(Hi|Hello|Hey|Hi there|Good evening)[,|!] {q}|(Ok|So|Well|Now|And)[,] {q}|(Can you answer this|Do you know this one|I have a question|Maybe you know)[:|?] {q}",
    "indirect": "(Do you know|Do you happen to know|Can you tell me|Could you tell me|Could you please tell me|Tell me|Please tell me|I'd like to know|I want to know|I need to know|I was wondering|I wonder|I forgot|I can't remember|"
    "I don't know|I have no idea|My (son|daughter|teacher|kid|little brother) (asks|wants to know)|Remind me|Any idea|Does anyone know|We were arguing about|Please explain|Can anyone tell me|Could somebody tell me|I'm trying to find out|I'd love to know|Would you know|Let me know|I'm not sure|I keep forgetting|Can you explain|Somebody asked me|For school I need to know|Would you mind telling me|May I ask) {q}",
}  # fmt: skip

# A block: Chinese grammar, answer, key; English grammar, answer, key.
_FACT_ROWS = blocks("facts")
# Names of the country in questions, the first of them in answers; capital; the same in English.
_CAPITAL_ROWS = [[part.split("|") for part in line.split(" / ")] for line in table("capitals")]
# Every name of every country whose capital is known, for whoever asks about others.
COUNTRIES = {name for row in _CAPITAL_ROWS for name in (*row[0], *row[2])}


class Facts:
    """Facts are a closed list that training sees; test cases ask them in questions that it never saw."""

    name = "facts"
    title_en = "Common facts"
    title_zh = "常识问答"
    weight = 3.4

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a language, a fact and a wording."""
        language = rng.choice(("zh", "en"))
        form = _capital if rng.random() < 0.3 else _fact
        while True:
            text, answer, key = form(rng, language)
            if belongs(text, split):
                return Dialogue(((text, answer),), partial(_is_right, key=key, reference=answer))


def _capital(rng: random.Random, language: str) -> tuple[str, str, str]:
    countries, cities = rng.choice(_CAPITAL_ROWS)[slice(0, 2) if language == "zh" else slice(2, 4)]
    country, city = countries[0], cities[0]
    if rng.random() < 0.2:
        grammar, value = _INVERSE_GRAMMARS[language], rng.choice(cities)
    else:
        grammar, value = CAPITAL_GRAMMARS[language], country if rng.random() < 0.5 else rng.choice(countries)
    if rng.random() < 0.25:
        value = value.lower()
    text = expand(rng, grammar)
    if rng.random() < 0.6:
        text = typed(rng, text, language)
    lead = CAPITAL_LEADS[language].format(x=country)
    answer = f"{lead}是{city}。" if language == "zh" else f"{lead} is {city}."
    return _capital_first(rng, text.format(x=value)), answer, city


def _fact(rng: random.Random, language: str) -> tuple[str, str, str]:
    row = rng.choice(_FACT_ROWS)
    grammar, answer, key = row[:3] if language == "zh" else row[3:]
    text = expand(rng, _with_patterns(grammar, language))
    if rng.random() < 0.35:
        text = _surrounded(rng, text, language)
    text = _capital_first(rng, text)
    return (typed(rng, text, language) if rng.random() < 0.6 else text), answer, key


def _with_patterns(grammar: str, language: str) -> str:
    """Return the grammar with the patterns that it names written out."""

    def pattern(found: re.Match) -> str:
        text = _PATTERNS[language][found[1]]
        for slot, value in zip("xyz", found[2].split(";"), strict=False):
            text = text.replace(f"{{{slot}}}", f"({value})")
        return f"({text})"

    return re.sub(r"<(\w+):([^<>]*)>", pattern, grammar)


def _surrounded(rng: random.Random, text: str, language: str) -> str:
    """Return the question with words around it, as people ask who give a reason or are polite."""
    clause = _dependent(text) if language == "en" else ""
    if clause and rng.random() < 0.7:
        return expand(rng, _AROUND["indirect"]).format(q=clause)
    if language == "en" and re.match(r"(What|Which|How|Who|Where|When|In|At|On|By|From|Name|Number)\b", text):
        text = text[0].lower() + text[1:]
    return expand(rng, _AROUND[language]).format(q=text)


def _dependent(question: str) -> str:
    """Return an English question as a clause ("what the longest river is"), or nothing where its order is not simple."""
    rules = (
        (r"(How many .+?) are there\b(.*)", r"\1 there are\2"),
        (r"((?:How many|What|Which) [\w ]+?|Where) do (.+?) (have|live|eat)\b(.*)", r"\1 \2 \3\4"),
        (r"(How many [\w ]+?) does (.+?) have\b(.*)", r"\1 \2 has\3"),
        (
            r"(Who|Which \w+|What \w+) (wrote|painted|invented|discovered|proposed|gives|makes|produces|has) (.+)",
            r"\1 \2 \3",
        ),
        (r"(What|Who|Where|When) (is|are) ((?:the|a) .+)", r"\1 \3 \2"),
        (r"(What colou?r) is (.+)", r"\1 \2 is"),
    )
    for rule, clause in rules:
        if found := re.fullmatch(rule, question):
            changed = found.expand(clause)
            return changed[0].lower() + changed[1:]
    return ""


def _capital_first(rng: random.Random, text: str) -> str:
    return text[0].upper() + text[1:] if rng.random() < 0.7 else text


def _is_right(answer: str, key: str, reference: str) -> bool:
    return mentions(answer, key) and overlap(answer, reference) >= 0.5


SKILL = Facts()
