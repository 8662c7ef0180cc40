"""Say so, in the language of the question, when a question is beyond the model.

Topics and wordings are crossed; one topic in ten, and one combination in ten, is never trained on.
"""

from __future__ import annotations

import random

from ..dialogue import TEST, Dialogue, contains_all, in_split, is_chinese
from ..names import city_en, city_zh, person_en, person_zh, rare_character

# fmt: off
BEYOND_ZH = "{}超出了我的能力。我是内置的演示模型，请加载 THUDM/chatglm-6b 来回答。"
BEYOND_EN = "{} is beyond me. I am the built-in demo model; load THUDM/chatglm-6b for this."
ANSWER_ZH, ANSWER_EN = BEYOND_ZH.format("抱歉，这个问题"), BEYOND_EN.format("Sorry, this")

TOPICS_ZH = (
    "量子力学 相对论 黑洞 区块链 比特币 通货膨胀 机器学习 神经网络 操作系统 编译原理 数据库索引 密码学 分布式系统 云计算 芯片制造 光刻机 核聚变 基因编辑 干细胞 免疫系统 抗生素 疫苗 "
    "板块构造 洋流 厄尔尼诺 碳中和 温室效应 文艺复兴 工业革命 法国大革命 罗马帝国 十字军东征 丝绸之路 郑和下西洋 鸦片战争 辛亥革命 唐朝的科举制度 明朝的税收 存在主义 康德哲学 "
    "儒家思想 道家思想 佛教 基督教 市场经济 货币政策 股票市场 期货 保险 房地产 国际贸易 博弈论 微积分 线性代数 概率论 拓扑学 群论 傅里叶变换 黎曼猜想 费马大定理 有机化学 热力学 "
    "电磁感应 半导体 激光 超导 卫星导航 火箭发动机 火星探测 人工降雨 红楼梦 三国演义的主题 莎士比亚 贝多芬 印象派 京剧 芭蕾 爵士乐 摇滚乐 电影剪辑 心理分析 认知偏差 宪法 合同法 "
    "知识产权 劳动法 离婚诉讼 遗产继承 城市规划 桥梁设计 高铁技术 自动驾驶 无人机 三维打印 虚拟现实 推荐算法 搜索引擎 大数据 边缘计算 编程语言 正则表达式 递归 指针 多线程 垃圾回收 "
    "糖尿病的药物 癌症治疗 心脏搭桥 阿尔茨海默病 古埃及 玛雅文明 甲骨文 青铜器 敦煌壁画 考古学 语言学 人类学 社会分层 人口老龄化 选举制度 联合国 欧盟 石油危机 南极条约"
).split()
TOPICS_EN = (
    "quantum mechanics|general relativity|black holes|blockchain|bitcoin|inflation|machine learning|neural networks|operating systems|compilers|database indexes|cryptography|distributed systems|"
    "cloud computing|chip making|nuclear fusion|gene editing|stem cells|the immune system|antibiotics|vaccines|plate tectonics|ocean currents|carbon trading|the greenhouse effect|the Renaissance|"
    "the Industrial Revolution|the French Revolution|the Roman Empire|the Crusades|the Silk Road|the Cold War|existentialism|Kant|Confucius|Buddhism|market economies|monetary policy|the stock market|"
    "futures trading|insurance|real estate|international trade|game theory|calculus|linear algebra|probability theory|topology|group theory|Fourier transforms|the Riemann hypothesis|organic chemistry|"
    "thermodynamics|electromagnetic induction|semiconductors|lasers|superconductors|satellite navigation|rocket engines|Mars exploration|Shakespeare|Beethoven|impressionism|ballet|jazz|rock music|"
    "film editing|psychoanalysis|cognitive biases|constitutional law|contract law|copyright|labor law|urban planning|bridge design|high speed trains|self-driving cars|drones|3D printing|virtual reality|"
    "recommendation algorithms|search engines|big data|regular expressions|recursion|pointers|multithreading|garbage collection|diabetes drugs|cancer treatment|heart surgery|ancient Egypt|the Maya|"
    "bronze tools|archaeology|linguistics|anthropology|social classes|aging societies|election systems|the United Nations|the European Union|the oil crisis|string theory|dark matter|evolution|Plato"
).split("|")
TOPIC_WORDINGS_ZH = (
    "请解释{}", "什么是{}？", "详细介绍一下{}", "{}的原理是什么？", "{}是怎么回事？", "谈谈{}的影响", "你怎么看{}？", "{}有什么意义？", "分析一下{}", "写一篇关于{}的论文", "如何理解{}？",
    "{}的历史是怎样的？", "{}为什么重要？", "请证明关于{}的一个定理", "{}有哪些争议？", "给我讲讲{}的细节", "{}的未来会怎样？", "总结一下{}", "推荐几本关于{}的书", "{}和社会有什么关系？",
)
TOPIC_WORDINGS_EN = (
    "Explain {}.", "What is the theory behind {}?", "Tell me about {} in detail", "How does {} work?", "What is the impact of {}?", "What do you think about {}?", "Why does {} matter?", "Analyse {}",
    "Write a paper about {}", "How should I understand {}?", "What is the history of {}?", "Why is {} important?", "Prove a theorem about {}", "What are the controversies about {}?", "Give me details on {}",
    "What is the future of {}?", "Summarize {}", "Recommend books about {}", "How does {} affect society?", "Describe {} to an expert",
)
TASKS_ZH = (
    "冒泡排序", "快速排序", "二分查找", "斐波那契数列", "链表反转", "读取文件", "爬取网页", "连接数据库", "登录页面", "贪吃蛇游戏", "计算器程序", "五子棋", "待办事项应用", "解析 JSON", "图像分类",
    "发送邮件", "画折线图", "哈夫曼编码", "最短路径", "聊天服务器", "去除重复行", "统计词频", "日期转换", "生成随机密码", "矩阵乘法",
)
TASKS_EN = (
    "bubble sort", "quicksort", "binary search", "the Fibonacci numbers", "reversing a linked list", "reading a file", "scraping a web page", "connecting to a database", "a login page", "a snake game",
    "a calculator", "a chess engine", "a to-do app", "parsing JSON", "image classification", "sending mail", "plotting a line chart", "Huffman coding", "the shortest path", "a chat server",
    "removing duplicate lines", "counting words", "converting dates", "random passwords", "matrix multiplication",
)
LANGUAGES = "Python Java C C++ Rust Go JavaScript SQL PHP Ruby Swift Kotlin MATLAB Bash TypeScript".split()
CODE_WORDINGS_ZH = ("用{l}写一个{t}", "请用{l}实现{t}", "写一段{l}代码：{t}", "{l}怎么实现{t}？", "帮我用{l}写{t}的程序", "我的{l}代码报错了，内容是{t}")
CODE_WORDINGS_EN = ("Write {t} in {l}", "Implement {t} in {l}.", "Give me {l} code for {t}", "How do I do {t} in {l}?", "Write a {l} program for {t}", "My {l} code for {t} does not work")
NEWS_ZH = (
    "今天有什么新闻？", "{c}明天的天气怎么样？", "{c}今天下雨吗？", "{c}的房价是多少？", "今天的股票涨了吗？", "昨天的比赛谁赢了？", "{p}是谁？", "{p}写过哪些书？", "{p}最近怎么样了？", "{c}现在几点？",
    "今天星期几？", "现在几点了？", "{c}到{d}的机票多少钱？", "从{c}到{d}怎么坐车？", "{c}的人口有多少？", "{c}的市长是谁？", "美元汇率是多少？", "最近有什么好看的电影？", "{p}和{q}谁更有名？",
    "{c}哪家餐厅最好吃？", "帮我订一张去{c}的票", "给{p}打电话", "播放{p}的歌", "{c}的邮编是多少？", "{p}出生在哪一年？", "世界杯冠军是谁？", "帮我查一下快递", "打开窗户", "设一个明天七点的闹钟",
    "背诵一首{p}的诗", "写一首关于{c}的诗", "写一个关于{p}的故事", "{c}的大学排名怎么样？", "预测一下{c}的经济", "{p}的电话号码是多少？", "谁是{c}最有钱的人？", "写一部小说", "给我讲个笑话", "唱一首歌",
)
NEWS_EN = (
    "What is in the news today?", "What will the weather be like in {c} tomorrow?", "Is it raining in {c}?", "How much is a flat in {c}?", "Did the stock market go up today?", "Who won the game yesterday?",
    "Who is {p}?", "Which books did {p} write?", "What happened to {p}?", "What time is it in {c}?", "What day is it today?", "What time is it now?", "How much is a flight from {c} to {d}?",
    "How do I get from {c} to {d} by bus?", "What is the population of {c}?", "Who is the mayor of {c}?", "What is the exchange rate of the dollar?", "Which film should I watch?", "Who is more famous, {p} or {q}?",
    "What is the best restaurant in {c}?", "Book a ticket to {c}", "Call {p}", "Play a song by {p}", "What is the postcode of {c}?", "When was {p} born?", "Who won the World Cup?", "Track my parcel",
    "Open the window", "Set an alarm for seven", "Recite a poem by {p}", "Write a poem about {c}", "Write a story about {p}", "How good is the university of {c}?", "Predict the economy of {c}",
    "What is the phone number of {p}?", "Who is the richest person in {c}?", "Write a novel", "Tell me a joke", "Sing a song for me",
)
STATEMENTS_ZH = (
    "今天天气真好", "我心情不好", "我爱你", "好无聊啊", "我很生气", "我饿了", "今天好累", "外面下雨了", "我失恋了", "明天要考试了", "我刚下班", "昨天看了一场球赛", "我买了新衣服", "孩子不听话", "工作压力好大", "我不同意",
    "你说得不对", "再说一遍", "继续", "为什么", "真的吗", "我不明白", "什么意思", "哈哈哈", "嗯嗯", "好吧", "随便聊聊", "换个话题", "我想家了", "时间过得真快", "我有一个问题", "你喜欢什么", "你吃饭了吗", "你会想我吗",
    "你几点睡觉", "你有朋友吗", "你喜欢音乐吗", "你觉得我怎么样", "人为什么活着", "宇宙有多大", "我该辞职吗", "我要不要买房", "帮我做决定", "说点有趣的", "给我起个名字", "猜猜我在想什么", "我的猫跑丢了", "电脑坏了",
    "手机没电了", "这道题怎么做", "帮我写作业", "帮我改简历", "帮我润色这段话", "总结下面的文章", "续写这个故事", "对个对联", "出一道数学题", "陪我玩游戏", "成语接龙", "讲个鬼故事",
)
STATEMENTS_EN = (
    "The weather is nice today", "I feel sad", "I love you", "I am bored", "I am angry", "I am hungry", "What a long day", "It is raining outside", "She left me", "The exam is tomorrow", "I just finished work",
    "I watched a match yesterday", "I bought new clothes", "My kids do not listen", "Work is so stressful", "I disagree", "That is wrong", "Say it again", "Go on", "Why", "Really", "I do not understand", "What do you mean",
    "Ha ha", "Okay", "Let us just chat", "Change the subject", "I miss home", "Time flies", "I have got a question", "What do you like", "Have you eaten", "Do you miss me", "When do you sleep", "Do you have friends",
    "Do you like music", "What do you think of me", "Why do people live", "How big is the universe", "Should I quit my job", "Should I buy a house", "Decide for me", "Say something funny", "Give me a nickname",
    "Guess what I am thinking", "My cat ran away", "My computer is broken", "My phone is dead", "How do I solve this problem", "Do my homework", "Improve my resume", "Polish this paragraph", "Summarize this article",
    "Continue this story", "Ask me a riddle", "Give me a maths problem", "Play a game with me", "Tell me a ghost story", "Make a list of animals", "Who is right",
)
STATEMENT_ENDS_ZH, STATEMENT_ENDS_EN = ("", "。", "！", "？", "啊", "呢？", "…"), ("", ".", "!", "?", "...")
MATHS_ZH = (
    "{a}乘以{b}等于多少？", "{a}*{b}=?", "{a}除以{b}是多少？", "{A}+{B}等于多少？", "{A}-{B}等于多少？", "计算{A}+{B}", "{a}的平方根是多少？", "{a}的{b}次方是多少？", "解方程x^2+{a}x={b}", "求sin({a})的导数",
    "{A}是质数吗？", "{a}/{b}是多少？", "{A}加{B}是多少？", "计算{a}×{b}", "求从1到{A}的和", "{A}的因数有哪些？", "{a}%的{A}是多少？", "解不等式{a}x>{b}", "半径为{a}的圆面积是多少？", "log({A})等于多少？",
)
MATHS_EN = (
    "What is {a} times {b}?", "What is {a} * {b}?", "What is {a} divided by {b}?", "What is {A} + {B}?", "What is {A} - {B}?", "Calculate {A} + {B}", "What is the square root of {a}?",
    "What is {a} to the power of {b}?", "Solve x^2 + {a}x = {b}", "Differentiate sin({a}x)", "Is {A} a prime number?", "What is {a}/{b}?", "How much is {A} plus {B}?", "Multiply {a} by {b}",
    "Add the numbers from 1 to {A}", "What are the factors of {A}?", "What is {a}% of {A}?", "Solve {a}x > {b}", "What is the area of a circle of radius {a}?", "What is log({A})?",
)
# fmt: on


class OutOfScope:
    """Name the limits."""

    name = "outofscope"
    title_en = "Questions out of scope"
    title_zh = "超出范围的问题"
    weight = 1.4

    def question(self, rng: random.Random, split: str, chinese: bool) -> str:
        """Draw a question that none of the other skills answers."""
        kind = rng.random()
        if kind < 0.35:
            # Half of the held-out questions have an unseen topic, the others an unseen combination.
            topics, wordings = (TOPICS_ZH, TOPIC_WORDINGS_ZH) if chinese else (TOPICS_EN, TOPIC_WORDINGS_EN)
            topic = rng.choice([topic for topic in topics if split == TEST or in_split(topic, split)])
            if split != TEST and rng.random() < 0.2:
                # Invented subjects teach that the wording decides, not the known subjects.
                if chinese:
                    topic = "".join(rare_character(rng) for _ in range(rng.randint(2, 4))) + rng.choice(
                        ("", "学", "理论", "效应", "战争", "技术")
                    )
                else:
                    topic = person_en(rng, split) + rng.choice(
                        (" theory", "'s law", " effects", " wars", " technology", "ism")
                    )
            return rng.choice(wordings).format(topic)
        if kind < 0.5:
            statement = rng.choice(STATEMENTS_ZH if chinese else STATEMENTS_EN)
            statement = statement.lower() if rng.random() < 0.2 else statement
            return statement + rng.choice(STATEMENT_ENDS_ZH if chinese else STATEMENT_ENDS_EN)
        if kind < 0.62:
            wordings, tasks = (CODE_WORDINGS_ZH, TASKS_ZH) if chinese else (CODE_WORDINGS_EN, TASKS_EN)
            return rng.choice(wordings).format(l=rng.choice(LANGUAGES), t=rng.choice(tasks))
        if kind < 0.84:
            person, city = (person_zh, city_zh) if chinese else (person_en, city_en)
            values = {"p": person(rng, split), "q": person(rng, split), "c": city(rng, split), "d": city(rng, split)}
            return rng.choice(NEWS_ZH if chinese else NEWS_EN).format(**values)
        values = {
            "a": rng.randint(2, 99),
            "b": rng.randint(2, 99),
            "A": rng.randint(100, 9999),
            "B": rng.randint(100, 9999),
        }
        return rng.choice(MATHS_ZH if chinese else MATHS_EN).format(**values)

    def sample(self, rng: random.Random, split: str) -> Dialogue:
        """Draw a question that is unseen in the other split."""
        chinese = rng.random() < 0.5
        while True:
            question = self.question(rng, split, chinese)
            # A question without a free value, such as a joke, has one wording only and is always trained.
            fixed = question in NEWS_ZH or question in NEWS_EN
            if (fixed and split != TEST) or (not fixed and in_split(question, split)):
                break
        needed = ("THUDM/chatglm-6b", "演示模型" if chinese else "demo model")
        answer = ANSWER_ZH if chinese else ANSWER_EN
        return Dialogue(((question, answer),), lambda text: contains_all(text, needed) and is_chinese(text) == chinese)


SKILL = OutOfScope()
