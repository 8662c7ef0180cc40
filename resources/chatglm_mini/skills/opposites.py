"""Name the opposite of an everyday word, in English or in Chinese."""

import random
import unicodedata
from functools import partial

from ..dialogue import Dialogue
from ..tables import blocks
from ..wording import ask, mentions, words

_PAIRS = {
    language: [tuple(line.split(" = ")) for line in lines]
    for language, lines in zip(("en", "zh"), blocks("opposites"), strict=True)
}

# fmt: off
_FORMS = {
    "zh": (
        "{x}的(反义词|反义字|反意词|相反词|对立词)(是什么|是啥|是哪个|是哪个词|叫什么|是)", "{x}的反义词(是什么|是啥|)", "{x}(反义词|反义词是什么|反义词是啥|，反义词|的反义词)",
        "(反义词|找反义词|写反义词|求反义词)(：|:| ){x}", "(跟|和|与){x}(意思相反|相反|意思正好相反|对立|正好相反)的(词|词语|字)[是什么|是哪个|有什么|是啥]",
        "(什么|哪个)(词|字)(和|跟|与){x}(意思相反|相反|的意思相反|互为反义词)", "(和|跟){x}相反的(是什么|是啥|词怎么说|该怎么说)",
        "(写出|告诉我|给出|说出|写一下|帮我找|帮我写|找出|给我|给个|说说|我要|想知道|查一下|教教我){x}的反义词", "(找|写|想|说)(一个|个)(和|跟|与){x}(意思相反|相反)的(词|词语|字)",
        "(孩子作业要写|作业里要写|老师让我们写|语文作业问|题目问|小学语文题：){x}的反义词，(是什么|该写什么|写什么|怎么写|帮帮我)",
        "{x}(反过来|倒过来|反着)(怎么说|是什么|说是什么|叫什么)", "{x}的(反面|对立面)(是什么|是啥)", "(你知道|谁知道|我想知道|我忘了|想问){x}的反义词[是什么|是啥]",
        "{x}(和|跟)(什么词|哪个词|哪个字|谁)(是反义词|是一对反义词|意思相反|互为反义词)", "{x}用反义词(怎么说|是什么)", "(不用|不说){x}，用它的反义词(怎么说|该怎么说|是什么)",
        "我们来(对反义词|玩反义词游戏|做反义词练习)，(我说{x}|{x})[，你说什么|，你说]", "把{x}(换成|改成|变成)(反义词|它的反义词|意思相反的词)", "{x}的反义词(有什么|怎么写|怎么说)", "(那|那么|还有){x}的反义词(呢|是什么|)", "{x}[，](它的|)(反义词|对立面|相反的词)(呢|是哪个|是啥|叫什么)", "(请|请你|麻烦)(写出|给出|说出|回答|列出){x}的(反义词|相反词|反义)", "(什么词|哪个词|什么字)是{x}的(反义词|反意词|反面)", "(反义词练习|词语游戏|猜词|语文题|填空)(：|，)(和|跟|){x}(相反的词|意思相反|的反义词)(是什么|是|)", "{x}——(反义词|？它的反义词)", "(小明|孩子|学生|老师)问{x}的反义词(是什么|怎么写|)", "(一个|有没有|有什么)(词|词语|字)(和|跟|与){x}(意思相反|正好相反)[的|，是什么]", "{x}的(反义|相反|反义词)(是什么词|是哪个词|怎么说|，快)",
    ),
    "en": (
        "(What is|What's) the (opposite|antonym|reverse|contrary|exact opposite) of {x}", "(What is|What's) the opposite of [the word] {x}", "(The opposite|Opposite|The antonym|Antonym|Antonyms|Opposites) of {x}",
        "{x} (opposite|antonym|opposite word|opposite meaning)", "(Opposite|Antonym|Antonyms|Opposites)(:| -|) {x}", "(What is|What's|Find|Give me|I need|Do you know|Is there|Suggest) an (antonym|opposite) (for|of) {x}",
        "(Which|What) word (means|is|has) the opposite (of|meaning of) {x}", "(Which|What) word is (the opposite of|opposite in meaning to|an antonym of|contrary to) {x}", "(What is|What's) (another word|a word|the word) for not {x}",
        "(Tell me|Give me|Name|Say|Write|Find|Write down|Please give) (the opposite of|the antonym of|a word that means the opposite of) {x}",
        "I (need|want|am looking for|'m looking for) (the opposite of|a word meaning the opposite of|a word that is the opposite of|an antonym of) {x}",
        "(Can you tell me|Could you tell me|Do you know|Would you know) (the opposite of {x}|the antonym of {x}|what the opposite of {x} is)", "(Do you know|Tell me|I'd like to know|I was wondering|I forgot|I wonder) what the opposite of {x} is",
        "(My (son|daughter|kid|child)'s homework|My homework|My teacher|The worksheet|A crossword) (asks for|wants) the opposite of {x}[. What is it|, what should we write]", "Fill in the (blank|gap): the opposite of {x} is",
        "(I'm teaching my kids opposites|We are learning opposites|Let's play opposites|I'm learning English)(. What is|. What's|, what's) the opposite of {x}", "If (something is|it's) the opposite of {x}, what (is it|do you call it)",
        "What do you call the opposite of {x}", "How do you say the opposite of {x}", "What is opposite to {x}", "What would be the opposite of {x}", "I say {x}, you say the opposite", "(And|What about|How about|Ok, and) the opposite of {x}", "(Please|Pls|Can you|Could you|Would you) (give|tell|name|write|find|say) [me] the (opposite|antonym) of {x}", "{x}(, |: |? |. )(what's the opposite|opposite please|the opposite|antonym please|and the opposite|what is its opposite|now the opposite)", "(Antonym|Opposite|Opposite word|Contrary) (of|for|to) {x}", "{x} is the opposite of (what|which word|what word)", "The opposite of {x} is (what|which word|called what)", "(Vocabulary|Quiz|Crossword|Word game|English homework|Test)(: |, )(opposite of|the opposite of|antonym for) {x}", "(What's|What is) the (word|adjective|term) that is opposite to {x}", "(My kid|My son|My pupil|A friend) (asks for|asked me for|wants to know) the opposite of {x}", "(Which|What) is the (opposite|contrary|reverse) of [the (word|adjective|term)] {x}", "(Hi|Hello|Hey)[,] (what is|what's|tell me) the opposite of {x}", "(Learning words|Learning English|Teaching English)(: |, )(what is|give me|need) the opposite of {x}",
    ),
}
_MARKS = {
    "zh": "({x}|{x}|{x}|“{x}”|“{x}”|\"{x}\"|‘{x}’|「{x}」)", "en": "({x}|{x}|{x}|{x}|\"{x}\"|\"{x}\"|'{x}'|“{x}”)",
}
# fmt: on
LEADS = {"zh": "“{x}”的反义词", "en": 'The opposite of "{x}"'}
_ANSWERS = {"zh": LEADS["zh"] + "是“{y}”。", "en": LEADS["en"] + ' is "{y}".'}


def _opposites(language: str) -> dict[str, list[str]]:
    """Return the opposites of each word of both columns; the first is the one to answer with."""
    found: dict[str, list[str]] = {}
    for one, other in _PAIRS[language]:
        found.setdefault(one, []).append(other)
        found.setdefault(other, []).append(one)
    return found


_OPPOSITES = {language: _opposites(language) for language in _PAIRS}
# Questions with the slot {x}, and how an answer begins.
GRAMMARS = {
    language: f"({'|'.join(alternatives)})".replace("{x}", _MARKS[language])
    for language, alternatives in _FORMS.items()
}


class Opposites:
    """The words are a closed list; test cases ask for them in questions that training never holds."""

    name = "opposites"
    title_en = "Opposites"
    title_zh = "反义词"
    weight = 0.8

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a word and a question about it."""
        language = rng.choice(("zh", "en"))
        word = rng.choice(list(_OPPOSITES[language]))
        opposites = _OPPOSITES[language][word]
        while True:
            try:
                text = ask(rng, split, language, GRAMMARS[language], x=word)
                break
            except ValueError:
                continue
        answer = _ANSWERS[language].format(x=word, y=opposites[0])
        return Dialogue(((text, answer),), partial(_is_right, opposites=opposites))


def _is_right(answer: str, opposites: list[str]) -> bool:
    folded = unicodedata.normalize("NFKC", answer)
    last = folded.rsplit(" is " if " is " in folded else "是", 1)[-1]
    return any(words(last) == words(opposite) if last != folded else mentions(last, opposite) for opposite in opposites)


SKILL = Opposites()
