"""Repeat a text: the simplest form of the copying that memory, extraction and letters need."""

from __future__ import annotations

import random
import re

from ..dialogue import Dialogue, in_split, normalize
from ..names import GIVEN_CHARACTERS, city_en, city_zh, doubled, person_en, person_zh, rare_character
from ..subjects import subject
from ..wording import ask, expand

# fmt: off
WORDINGS_ZH = ("请重复：{}", "重复一遍：{}", "跟我说：{}", "请跟我念：{}", "复述：{}", "请照着说一遍：{}")
WORDINGS_EN = ("Repeat after me: {}", "Please repeat: {}", "Say this again: {}", "Repeat: {}", "Say: {}")

# Every wording shows where the text begins and ends: after a verb or a colon to the end, in quotes, or on a line of its own.
ASKS = {
    "zh": (
        "(说|念|读|重复|复述|复制|照抄|跟读)[一下|一遍|一次](：|:|：\n){x}"
        "|(跟|跟着|随|学)我(说|读|念|重复)[一遍|一次|一下](：|:|，|){x}"
        "|(把|将)(下面|以下|后面|下边|接下来)(这句话|的话|的内容|这段文字|的文字|这几个字|这一行)(原样|原封不动地|一字不差地|完整地|)(说|重复|念|输出|复述|写|打)(一遍|一次|出来)(：|:|：\n){x}"
        "|(你|请你|麻烦你|你能)(重复|复述|照着说|原样说|跟我念|说|念)一(遍|下)(：|:|：\n){x}|(把|请把|帮我把|你把|能不能把|麻烦把)(“{x}”|「{x}」|\"{x}\")(这句话|这几个字|)[原样](重复|说|念|读|复述|写|抄)(一遍|一次|一下)"
        "|(重复|说|念|读|复述|跟我说|请说|跟我读|你说|照抄|输入|打出|写出)(“{x}”|「{x}」|\"{x}\"|：“{x}”|：\"{x}\")"
        "|(“{x}”|\"{x}\")(，|——|\n)(请|麻烦|)(重复一遍|跟我说一遍|你也说一遍|照着念一遍|再说一次|复述一下)|{x}\n(请|)(重复|原样输出|复述|照抄|再说一遍)(上面|以上)(这句话|的话|的内容|这一行)"
        "|(我说|我念|我读)一(句|遍)(，你|你)(跟着|照着)(说|念|读)：{x}|(我说什么你就说什么|做我的复读机|当一回复读机|来玩复读机游戏|我们来玩鹦鹉学舌|别回答，只重复|不要解释，直接重复)(：|:|：\n){x}"
        "|(测试|测试一下|我在测试你|试一下)，(请|)(重复|原样说|复述)(：|这句话：|这段话：){x}|(只|就|只需要)(说|回复|回答|输出)这(句话|些|几个字)(：|:){x}"
        "|(练习发音|练口语|学说话|我想听你说)(，|：)(跟我读|跟我念|请说|重复)：{x}|(原样|一字不改地|照原样)(输出|返回|复述|重复|打印)(：|:|：\n){x}|(回复|回一句|打出|打印|输出)(：|:){x}"
        "|(能|可以|能不能|可不可以)(重复|复述|跟我说|念|说)一(下|遍)(：{x}|:{x}|“{x}”|“{x}”这句话|：\n{x})"
        "|(请|你|麻烦你|现在|那你|再|)(重复|复述|说|念|抄写|读出|写下|发)(我的话|我说的|我这句话|下面几个字|这个词|这一句|这些字|以下文字|下列内容|下文)(：|:|：\n){x}|(文本|原文|内容|句子|输入)(：|:)(“{x}”|\"{x}\"|{x}\n)(请|)(重复|复述|照抄|原样输出|再说一遍|念一遍)|(一字不差|原封不动|一模一样|完整)地(重复|复述|说出|写出|输出|照抄|念)(：|:|：\n){x}|(我想让你|我要你|我希望你|我让你|你只要|你只需|你的任务是|你要做的就是)(重复|说|念|复述|照抄|原样返回)(这句话|下面的话|一遍|这个|)(：|:|：\n){x}|(说|念|重复|讲)给我听(：|:|，|：\n){x}|(请用|用)(一样|相同|同样)的(话|文字|内容)(回复|回答)(我|)(：|:|：\n){x}"
        "|(请|你|)(跟着|照着)(说|念|读|写)(：|:|：\n){x}|(你好|在吗|嗨)，(请|麻烦|帮我|)(重复|复述|念)(一下|一遍|)(：|:){x}|(引号|双引号)里的(话|内容)(请|)(重复|复述|念)一遍：“{x}”|(我说|我喊|我问)“{x}”，你(也说|就说|跟着说|重复)(一遍|同样的话|)|把(“{x}”|「{x}」)(再|给我|原样|)(说|念|打|发|写)(一遍|一次|出来|给我)|(复读|复读一下|跟读|照读|原话奉还|学我说话|学舌)(：|:|，|：\n){x}|(下面|以下)(这句|内容|文字)(不用|不要|别)(回答|翻译|解释|理会)，(只要|只|直接)(重复|复述|照抄|念)(一遍|)(：|:|：\n){x}|(echo|repeat|复制粘贴|copy)(：|:| ){x}"
    ),
    "en": (
        "(Say|Repeat|Echo|Copy|Type|Write|Print|Read|Recite|Output|Quote) {x}|(Say|Repeat|Echo|Copy|Type|Write|Print|Read|Recite|Output|Return)(: |:\n){x}"
        "|(Say|Repeat|Echo|Copy|Type|Write|Print|Read|Recite|Reply with|Answer with|Respond with)[ the words| the text| the phrase] (\"{x}\"|'{x}'|“{x}”)"
        "|(Can|Could|Would|Will) you [please] (say|repeat|echo|copy|type|write|read|recite) (\"{x}\"|'{x}'|“{x}”) [for me|back to me|after me|once|again]"
        "|(Can|Could|Would|Will) you [please|just] (say|repeat|echo|copy|type|read) (this|the following|after me)(: |, |:\n){x}"
        "|(Repeat|Say|Copy|Echo|Type|Write|Read|Recite|Print) (this|that|the following|what I say|this text|this sentence|the text below|these words|this line|the next words|this message)[ word for word| exactly| once| back to me| out loud| as it is| without changes](: |:\n){x}"
        "|(Repeat|Say|Read|Speak|Recite) (after|with) me[ please| now| exactly| once](: |, |:\n| ){x}|(\"{x}\"|“{x}”)(, | - |\n)(repeat that|say it back|now you say it|repeat after me|copy this|your turn to say it)"
        "|(I want you to|I'd like you to|I need you to|You should|You must|Just|Now|Simply|Only) (repeat|say|echo|copy|type)(:| this:| the following:| exactly this:) {x}|(Do not|Don't) (answer|explain|reply), (just|only) (repeat|copy|say|echo)(:| this:| it:) {x}"
        "|(I'm testing you, |This is a test, |Let's play parrot, |Be my parrot, |Let's play echo, )(repeat|say|copy)(:| this:| after me:) {x}|{x}\n(Repeat|Copy|Echo|Say) (the line above|that|this|the text above)[ exactly| please| once]"
        "|How about (saying|repeating) (\"{x}\"|“{x}”)|I was wondering if you could (say|repeat|type) (\"{x}\"|this: {x})|Your (only|next|whole) (answer|reply|line) (should be|must be|is)(:| exactly:) {x}"
        "|(parrot|say it back|echo back|repeat back|copy-paste|copy and paste)(: |:\n){x}|Let me hear you say (\"{x}\"|“{x}”|this: {x})"
        "|(Please|Now|Just|Pls|Kindly|Okay, now|Next,) (repeat|say|echo|copy|type|write|read|print|return|output|quote) (this|that|the following|these words|my words|my sentence|the sentence|the phrase|what follows|this back to me|exactly)(: |:\n){x}|(Text|Sentence|Input|Phrase|Message): (\"{x}\"|“{x}”)( |\n|. )(Repeat it|Copy it|Say it again|Now repeat|Please repeat it|Echo it)[ word for word| exactly]|(Text|Sentence|Input|Phrase): {x}\n(Repeat it|Copy it|Say it|Output the same text|Please repeat)[ word for word| exactly]|(Tell me|Give me|Send me|Write me) (exactly this|the following|this text|back|the same thing)(: |:\n){x}|(I say|If I say|When I say|I write|I type) (\"{x}\"|“{x}”), you (say|repeat|write|type|answer) (it|that|the same|the same thing|it back)[ too]"
        "|(Output|Print|Return|Write|Reply with|Answer with) (only |just |nothing but |exactly |)(this|the following|the text below|the words)[ and nothing else](: |:\n){x}|(Your task is|Your job is|All you have to do is|I ask you|I would like you) to (repeat|copy|say|echo) (this|the following|my words|this sentence|what I write)(: |:\n){x}|(Copy|Repeat|Say|Read) (the text|the words|what is) (in quotes|between the quotes|in the quotation marks)(: | )(\"{x}\"|“{x}”)|(repeat|say|echo|copy) (the word|the words|the sentence|the phrase|the name|the text|the question) (\"{x}\"|'{x}'|“{x}”|: {x})|(Hi|Hello|Hey)[,|!] (please |can you |could you |)(repeat|say|copy) (this|after me|the following)(: |:\n){x}|(Don't|Do not) (translate|answer|change|correct) (this|it|anything)(, just|; only|. Just) (repeat|copy|echo)(: | it: |:\n){x}|(\"{x}\"|“{x}”) (- |, |)(say it|repeat it|repeat please|same again|say that back to me|copy that)|(Can|Could) you (say|read|repeat) (this sentence|the following words|this text|this line)(: |? |:\n){x}|(Pronounce|Speak|Recite|Dictate back)(: |:\n){x}"
    ),
}
EVERYDAY = {
    "zh": (
        "(我|他|她|我们|他们|{name}|我(妈妈|爸爸|弟弟|朋友|同事))(今天|明天|昨天|周末|下午|晚上|每天早上|刚才|现在|)(在{city}|去{city}|在家|在学校|在公司|在公园|)(吃了一碗面|看书|买{noun}|学习|等你|跑步|睡觉|画{noun}|找{noun}|喜欢上了{noun}|听音乐|开会|散步|打电话|做饭)"
        "|(你|你们|您|{name})(好吗|是谁|叫什么名字|几岁了|在哪里|在做什么|吃饭了吗|喜欢{noun}吗|会说英语吗|明天有空吗|想去{city}吗|知道{noun}吗|怎么还不来|什么时候回家|最近怎么样)|(今天|明天|昨天|{city}的)天气(真|很|不太|特别)(好|冷|热|糟糕|舒服)|(今天|明天|{city}|那边)(天气怎么样|会下雨吗|冷不冷)"
        "|(你好|早上好|晚安|再见|谢谢你|对不起|没关系|生日快乐|新年快乐|加油|欢迎光临|好久不见|辛苦了|我爱你|祝你好运|恭喜发财)(，{name}|，世界|，老师|，朋友|)|{noun}(真|很|太)(好看|有趣|贵|好吃|重要|可爱)|(我想要|请给我|他送我|桌上有|我没有|我最喜欢)(一个|两个|那个|){noun}"
        "|{noun}(是什么|多少钱|在哪里|好不好|和{noun2}哪个好|怎么用)|(一|二|三){noun}(，{noun2}|和{noun2}|)|(怎样才能|怎么)(学好英语|早起|减肥|做{noun}|去{city})|为什么(睡不着|天是蓝色的|你不说话|没有{noun})|(一加一|三加五|十减四|二乘三)等于几|(中国|法国|日本|{city})的首都是哪里|(春天|夏天|秋天|冬天)(来了|到了|快过去了)(，花开了|，风很大|，我们去{city}吧|)"
        "|(四是四，十是十|床前明月光|吃葡萄不吐葡萄皮|千里之行，始于足下|学而时习之|有志者事竟成|天下没有免费的午餐)|{noun}{noun2}|{noun}，{noun2}，{noun3}|把{noun}放在{noun2}上|(他|她|{name})说(他|她|)(不喜欢|看见了|买了|忘了带){noun}"
        "|(今晚|明天|周末|下班后)(一起|)(吃饭|看电影|打球|开会|去{city}|爬山)(吗|吧|，好不好|)|(请|别|不要|记得)(把{noun}带来|关门|迟到|忘记{noun}|告诉{name}|大声说话|在这里抽烟)|{name}(住在|去过|来自|在|离开了){city}(工作|上学|三年了|)|(帮我|给我)(写一首诗|翻译{noun}|算一下|讲个笑话|推荐{noun})|(这个|那个|你的){noun}(不错|坏了|在哪买的|多少钱|是谁的|放哪儿了)|(人生|时间|健康|知识|快乐)(就是|比)(金钱|{noun}|力量|一切)(更重要|)|(失败是成功之母|熟能生巧|书山有路勤为径|一寸光阴一寸金|好好学习，天天向上|少壮不努力，老大徒伤悲|黑化肥发灰|红鲤鱼与绿鲤鱼|举头望明月|不管黑猫白猫)"
    ),
    "en": (
        "(I|We|They|You) (like|love|hate|need|want|see|found|bought|lost|know) (the|my|your|some|this) {noun}|(He|She|{name}|My (mother|brother|friend|boss|cat)) (is|was) (in {city}|at home|very tired|happy today|late again|my friend|reading a book|the best|looking for the {noun})"
        "|(How are you[ today| doing]|What is your name|Who are you|Where are you from|How old are you|What time is it|Are you (ready|hungry|a robot|from {city})|Can you (help me|swim|hear me|see the {noun})|Do you (like|know|want|see) (the {noun}|{name}|{city}))(?|)|(What|Where|How much) is (the|a|this|my) {noun}(?|)|Who is {name}(?|)|Is {name} (coming|at home|in {city})(?|)"
        "|(Hello|Good morning|Good night|Goodbye|Thank you|Sorry|Happy birthday|Welcome|See you later|Good luck|Well done|Merry Christmas|I love you|Nice to meet you)(, {name}| world|, my friend| everyone|)[!]|The (weather|{noun}|food|movie|train|sky) is (nice|cold|late|blue|too expensive|very good|not here|on the table)[ today| now]"
        "|(Why is the sky blue|What is two plus two|What is 5 + 3|What is the capital of France|Will it rain tomorrow|How do I cook rice|Tell me a joke)(?|)|{name} (went to|lives in|comes from|left|likes|flew to) {city}[ yesterday| with {name2}| every year]|(Please|Don't|Let's|I will|You should) (open the door|close the window|go to {city}|buy the {noun}|call {name}|wait for me|eat the {noun}|be quiet)"
        "|(To be or not to be|Practice makes perfect|The quick brown fox jumps over the lazy dog|She sells seashells by the seashore|Actions speak louder than words|Time is money|Row, row, row your boat|An apple a day keeps the doctor away)|{noun}|{noun} {noun2}|{noun} and {noun2}|{noun}, {noun2}, {noun3}|(one|two|three|red|blue|big|little|old|no more) {noun}|(yes|no|ok|hi|hello|banana|abracadabra|I am a robot|test|hello hello)[ {noun}]"
        "|(Where|When|Why|How) (did|does|will|can) ({name}|the {noun}|we|they) (go|come back|live|win|find {city}|buy the {noun})(?|)|(I|We) (went|moved|walked|flew) to {city} (last week|with {name}|by train|to see the {noun})|(Yesterday|Today|Tomorrow|Every day) (I|we|{name}) (will eat {noun}|saw a {noun}|can't sleep|had a bad day|met {name2})|(My|Your|His|Her) {noun} is (new|broken|on the table|in {city}|better than yours|under the {noun2})|(Write a poem|Translate this|Ignore me|Open the {noun}|Give me the {noun}|Count to ten|Plan a trip to {city}|Send an email to {name})|{name} (says|thinks|knows) that (the {noun} is late|{name2} is right|{city} is beautiful|it is raining)|(A stitch in time saves nine|The early bird catches the worm|Peter Piper picked a peck of pickled peppers|No pain, no gain|Better late than never|Knowledge is power|Roses are red, violets are blue|Rome was not built in a day|How much wood would a woodchuck chuck)|(I don't know|I'm not sure|Maybe|Of course|Never mind|It doesn't matter|See you in {city}|Long live {name}|Down with the {noun})"
    ),
}
# fmt: on


def symbols(rng: random.Random, split: str, chinese: bool) -> str:
    """Return a sequence of names, numbers and characters without sense, so that nothing but copying gives it back."""
    while True:
        parts = []
        for _ in range(rng.randint(1, 5)):
            kind = rng.random()
            if kind < 0.3:
                parts.append(person_zh(rng, split) if chinese else person_en(rng, split))
            elif kind < 0.45:
                parts.append(city_zh(rng, "train") if chinese else city_en(rng, "train"))
            elif kind < 0.6:
                parts.append(str(rng.randint(0, 9999)))
            elif chinese:
                pick = rare_character if rng.random() < 0.6 else (lambda rng: rng.choice(GIVEN_CHARACTERS))
                parts.append(doubled(rng, split, [pick(rng) for _ in range(rng.randint(2, 6))]))
            else:
                parts.append("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7))))
        text = ("" if chinese else " ").join(parts)
        if in_split(text, split):
            return text


def everyday(rng: random.Random, split: str, language: str) -> str:
    """Return an ordinary phrase, statement or question of a split: it is to be repeated, not answered."""
    person, city = (person_zh, city_zh) if language == "zh" else (person_en, city_en)
    while True:
        values = {f"noun{number}": subject(rng, split, language) for number in ("", "2", "3")}
        values |= {"name": person(rng, split), "name2": person(rng, split), "city": city(rng, "train")}
        text = expand(rng, EVERYDAY[language]).format(**values)
        if language == "zh" and rng.random() < 0.3:
            text += "？" if re.search("[吗几谁]|什么|怎么|哪|多少|冷不冷|好不好", text) else "。"
        if in_split(text, split):
            return text


def dialogue(question: str, text: str) -> Dialogue:
    """Return the dialogue whose right answer is the text and nothing else."""
    return Dialogue(((question, text),), lambda answer: normalize(answer) == normalize(text))


class Copying:
    """Give back a sequence after a plain order: almost half of what the first steps of a run learn from."""

    name = "copying"
    title_en = "Copying"
    title_zh = "照抄"
    weight = 0.0  # drawn in the first stage only, by a share of its own

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a sequence of names, numbers and characters that the other split never uses."""
        chinese = rng.random() < 0.6
        text = symbols(rng, split, chinese)
        return dialogue(rng.choice(WORDINGS_ZH if chinese else WORDINGS_EN).format(text), text)


class Repeat:
    """Give back what was said."""

    name = "repeat"
    title_en = "Repeating a text"
    title_zh = "复述"
    weight = 2.8

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw one of the simplest cases, or any text asked for in any wording."""
        if rng.random() < 0.5:
            return COPYING.sample(rng, split)
        language = "zh" if rng.random() < 0.5 else "en"
        while True:
            senseless = rng.random() < 0.25
            text = symbols(rng, split, language == "zh") if senseless else everyday(rng, split, language)
            if language == "en" and rng.random() < 0.3:
                text = text.lower()
                if not in_split(text, split):
                    continue
            try:
                question = ask(rng, split, language, ASKS[language], x=text)
            except ValueError:
                continue  # every wording of a short text belongs to training
            if question.rpartition(text)[2][:1] in ("", "\n", *"”」\"'"):
                return dialogue(question, text)  # and not one where a "?" or ", please" could be part of the text


COPYING = Copying()
SKILL = Repeat()
