"""Grammars of sentences that say who did what, where and when, and of the requests to take the three out again."""

# fmt: off
PEOPLE = {
    "en": {
        "one": (
            "{name}|{name}|{name}|{name} {name2}|{name} {name2}|(Mr|Mrs|Ms|Dr|Professor|President|Captain|Judge|Inspector|Sergeant|Coach|Chef|Senator|Sir|Mr.|Mrs.|Dr.) {name}|{pinyin}|{pinyin}|(Aunt|Uncle|Grandma|Grandpa|Cousin) {name}"
            "|the (mayor|governor|police chief|bishop|ambassador) of {city}|(my|her|his|our) (brother|sister|mother|father|neighbour|boss|teacher|uncle|best friend|cousin|roommate|grandmother|landlord)|(my|our) (friend|colleague|neighbour|teacher|cousin|son|daughter|coach) {name}"
            "|the (young|old|famous|French|local|retired|new|) (actor|singer|painter|doctor|nurse|pilot|baker|farmer|writer|lawyer|engineer|student|scientist|journalist|tourist|firefighter|minister|driver)|the (actor|singer|painter|writer|chef|director|scientist|player|actress|swimmer) {name} {name2}"
            "|a (young|old|tired|local|German|brave|) (woman|man|girl|boy|student|tourist|policeman|journalist|fisherman|driver)|the (prime minister|president|headmaster|company's founder|team captain|king|queen|museum director|coach)"
        ),
        "many": (
            "{name} and {name2}|{name} and {name2}|{name}, {name2} and {name3}|{name} and (his|her) (brother|sister|friend|wife|husband|dog|daughter|son)|Mr and Mrs {name}|(two|three|five|several|some|a group of|hundreds of) (students|tourists|workers|farmers|children|scientists|teachers|young people|neighbours)|my (parents|friends|grandparents|cousins|colleagues)"
            "|the (two sisters|twins|players|children|firefighters|police|students of the school|{name} family)|the {city} (police|football team|orchestra|city council)|{pinyin} and {pinyin2}|{name} and the (mayor|doctor|teacher|{noun4})|my (brother|sister|wife|husband|mother) and I"
        ),
    },
    "zh": {
        "one": (
            "{name}|{name}|{name}|{name}|{name}(先生|女士|老师|教授|医生|校长|经理|市长|主任|警官|律师|同学|同志|博士|师傅)|{surname}(先生|女士|老师|教授|医生|校长|经理|市长|主任|警官|律师|总|阿姨|叔叔|师傅)|(小|老|阿){surname}|{latin}|{latin}|{latin} {latin2}"
            "|(我|她|他)(妹妹|哥哥|爸爸|妈妈|爷爷|奶奶|的同事|的朋友|的室友|的老板|的邻居|表姐|女儿|儿子)|(我的|我们的|他的)(同事|朋友|邻居|同学|班长|老师|室友|教练){name}|{city}(市长|大学校长|队教练|警方发言人)|(歌手|演员|作家|画家|记者|导演|运动员|科学家|村民|居民|司机|网友|球员|厨师){name}"
            "|(一名|一位|一个)(记者|学生|老人|游客|女孩|男子|小男孩|年轻妈妈|外卖员|出租车司机|退休教师|消防员)|(总统|总理|校长|班主任|外交部长|公司创始人|馆长|主教练|董事长)|(玛丽|约翰|汤姆|露西|大卫|安娜|杰克|苏珊|彼得|迈克尔)|(约翰|玛丽|大卫|詹姆斯|安娜)·(史密斯|布朗|琼斯|米勒|怀特)"
        ),
        "many": (
            "{name}(和|与|跟|、){name2}|{name}(和|与|跟|、){name2}|{name}、{name2}和{name3}|{name}(夫妇|一家|和他的妻子|和他的弟弟|和女儿|和同学们|等人)|我(和|跟)({name}|妈妈|爸爸|几个同学|室友|老婆)|{latin}和({latin2}|{name})|小{surname}和(小|老){surname2}"
            "|(两名|三位|几个|五位|一群|数百名)(学生|老人|游客|工人|村民|孩子|志愿者|科学家|医生)|(我|他|她)(爸妈|的父母|和妹妹|的同学们|的爷爷奶奶)|{city}(队|警方|交响乐团|市政府)|(孩子们|同学们|这对姐妹|双胞胎兄弟|队员们|消防员们|专家组)"
        ),
    },
}
PLACES = {
    "en": (
        "at ~the (library|museum|station|airport|cinema|zoo|university|hospital|theatre|market|harbour|stadium|beach|swimming pool|embassy|post office|bus stop|city hall)[ in {city}]|in ~{city}|in ~{city}|in ~{city}|in ~(France|China|Canada|Kenya|northern Italy|southern Spain|Brazil|the Alps|central {city}|downtown {city}|the old town of {city})"
        "|in ~a (small|quiet|crowded|little|busy|famous|new) (cafe|restaurant|hotel|bookshop|church|village|bar|garden)[ (near|next to|behind|opposite) the (station|river|park|church|town hall|{noun})]|on ~{name3} (Street|Road|Avenue|Square|Bridge)|at ~{number} {name3} (Street|Road|Lane)|on ~(the corner of {name3} Street|the roof of the hotel|a train to {city}|the {city} bridge|a farm outside {city}|the third floor|the island of {name3})"
        "|at ~(home|school|work|Gate {few}|Terminal {few}|the top of the mountain|(my|her) (grandmother's|aunt's|sister's|friend's) house|the {name3} (Hotel|Theatre|Museum|Center|Gallery|Cafe)|{city} (Airport|University|Central Station|Zoo|Stadium))|in ~(Room {number}|the kitchen|the garden|the meeting room|the main hall[ of the (museum|university|palace)]|the middle of the lake|the woods near {city}|the living room|Class {few})"
        "|at ~the {noun}|in ~the {noun}|near ~the {noun}|in ~a village called {name3}|in ~the town of {name3}|at ~the {noun} in {city}"
    ),
    "zh": (
        "在~{city}|在~{city}|在~[{city}](图书馆|公园|火车站|机场|博物馆|医院|学校|体育馆|电影院|咖啡馆|书店|超市|广场|大学|动物园|美术馆|会议中心|酒店|码头|剧院|菜市场|地铁站|派出所|法院)|在~[{city}](市中心|郊区|老城区|机场二号航站楼|国际会展中心|人民广场|大剧院|开发区|第一中学)|在~{city}(南站|的一家餐厅|的一个小区|一所小学)"
        "|在~(中山|人民|解放|南京|长江|建设|{noun})(路|街|大道)[{number}号]|在~(火车站|学校|公司|河|商场|小区|医院|{noun})(旁边的小咖啡馆|门口|附近的面馆|对面的书店|楼下的便利店|后面的小树林|门口的小卖部)|在~(一家|一个|那家)(安静的|新开的|拥挤的|很小的|有名的|)(咖啡馆|餐厅|书店|酒吧|花店|酒店)|在~(家里|家|教室里|公司会议室|厨房|院子里|宿舍|办公室|山顶|河边|海边|操场上|高铁上|客厅|三楼会议室|{number}号房间)"
        "|在~(奶奶|外婆|姑姑|同学|朋友|老王)家|在~(法国|日本|美国|云南|四川|浙江|新疆|台湾|东北|江西)[的一个小(镇|村|城)]|在~{noun}|在~{noun}(村|镇|县|大厦|公园|酒店|广场|大厅|工厂|市)"
    ),
}
TIMES = {
    "en": {
        "past": (
            "yesterday[ (morning|afternoon|evening|at noon)]|last (night|week|month|year|summer|winter|weekend|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)|last (Monday|Tuesday|Friday|Saturday|Sunday) (at noon|morning|evening|at {hour} o'clock)|({few}|two|three|ten|a few|several) (days|weeks|months|years|hours|minutes) ago|an hour ago|in {past_year}|in the (summer|spring|winter|autumn) of {past_year}"
            "|during the (summer|war|holidays|storm|winter of {past_year}|match|lunch break)|on (January|March|April|May|June|August|October|December) {day}, {past_year}|in (January|May|July|September|November) {past_year}|the day before yesterday|earlier (today|this week|this year)|this morning[ at {hour}]|just now|at the beginning of the (year|month)|in the 1980s|shortly after midnight|on a cold (morning|night) in (January|November)|late (last night|on Friday|at night)"
        ),
        "future": (
            "tomorrow[ (morning|afternoon|evening|at noon|at {hour} pm)]|next (week|month|year|summer|weekend|Monday|Tuesday|Wednesday|Friday|Sunday)[ at {hour} o'clock]|in (two|three|{few}) (days|weeks|months|hours)|the day after tomorrow|this coming (Friday|Saturday|Monday)|tonight[ at {hour}]|in {future_year}|at the end of (the month|the year|next week)|later this (week|year|month)|on (March|July|October) {day}, {future_year}|by the end of the year|next (spring|autumn)|soon after (Christmas|Easter)|this weekend"
        ),
        "now": "right now|at the moment|today|this (morning|afternoon|evening|week)|now|currently|on this sunny afternoon|every (day|morning|Sunday|Friday evening|summer)|on weekends|these days|at this very moment",
        "any": (
            "on (Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)[ (morning|afternoon|evening|night|at {hour} o'clock)]|at {hour}(:{minute}| o'clock| am| pm|:30 pm)|at {hour} (am|pm) on (Monday|Friday|Saturday|May {day})|on ({day} (January|March|May|June|July|September)|(May|June|April|October|December) {day}|(March|April|July|August) {day}th)|in (March|May|August|December|early June|late October|mid-April)|on (Christmas Eve|New Year's Day|Easter Sunday|Valentine's Day|her birthday)|at (noon|midnight|dawn|sunset|half past {few}|dinner time)|before (sunrise|breakfast|lunch)|after (school|work|dinner|the concert)|over the weekend|on {year}-{month}-{day2}|from {few} to {hour} pm"
        ),
    },
    "zh": {
        "past": (
            "昨天[(早上|上午|中午|下午|傍晚|晚上|深夜|凌晨|晚上{hour}点|下午{hour}点半)]|前天[(上午|下午|晚上)]|(上周|上个)(一|二|三|五|六|日|周末|星期天)[(下午|晚上|早上)]|(上个月|上月)(|底|初|中旬|{day}号)|去年[(夏天|冬天|春节|国庆|年底|{month}月|{month}月{day}日)]|(三|两|十|{few}|几)(天|年|个月|个小时|周|分钟)前|{past_year}年|{past_year}年(夏天|冬天|春天|底|初|{month}月|{month}月{day}日|{month}月{day}日晚上{few}点)|刚刚|刚才|(上世纪|二十世纪)(八十|九十|七十)年代|昨晚[{few}点]|今天(凌晨|一早|早上)|不久前|半小时前|前几天|小时候|大学毕业那年|上学期|(疫情|战争|暑假|国庆)期间"
        ),
        "future": "明天[(早上|上午|中午|下午|晚上|下午{hour}点|上午{hour}点半)]|后天[(上午|下午|晚上)]|(下周|下个星期)(一|二|三|四|五|六|天)[(上午|下午|晚上|{few}点)]|下(个月|个月初|个月{day}号|周|周末|学期)|明年[(春天|夏天|{month}月|春节|年初)]|(两|三|{few})(天|个月|周|年|小时)后|今晚[{few}点]|{future_year}年[{month}月[{day}日]]|月底|年底|这个周末|(国庆|五一|春节|寒假)期间",
        "now": "现在|此刻|今天[(上午|下午|中午)]|这会儿|目前|每天(早上|晚上|)|每(周一|周末|个星期天|年夏天)|今天下午|这几天|平时",
        "any": "{month}月{day}(日|号)[(上午|下午|晚上|{hour}点|下午{few}点)]|(周|星期)(一|二|三|四|五|六|天|日)[(上午|下午|晚上|早上{few}点)]|周末|(早上|上午|下午|晚上|凌晨)({hour}点|{few}点半|{hour}点{minute}分|{few}点一刻|{hour}:{minute})|(除夕|元旦|国庆节|中秋节|端午节|圣诞节|情人节|清明节|元宵节)[(当天|晚上|上午)]|(正午|半夜|清晨|傍晚|黄昏|天亮前|饭后|下班后|放学后|课间)|(春节|国庆|暑假|五一假期|比赛)期间|{month}月(初|底|中旬)|{year}-{month}-{day2}",
    },
}
_THINGS_EN = (
    "(a|the|an old|a new|a small|a rare|his|her|this) (book|map|guitar|bike|letter|house|watch|painting|phone|ticket|wallet|coin|dress|cake|camera|umbrella)|(his|her|some|many) {noun2}|the {noun2}|the {noun3}"
)
_THINGS_ZH = "一(本书|台电脑|辆自行车|只猫|幅画|封信|束花|部手机|把吉他|张地图|个钱包|件大衣|份礼物|枚古币|块手表)|(很多|一些|那个|一个|两个|){noun2}"
_DOINGS_EN = (
    "(dinner|lunch|breakfast|a meeting|a drink|a party|an argument|a picnic)[ with (friends|two colleagues|the whole family|some customers)]"
)
ACTIONS = {
    "en": {
        "past": (
            f"(bought|found|lost|sold|painted|repaired|stole|broke|opened|forgot|photographed|saw|hid|burned|received|won|cleaned|designed|dropped|carried|ordered) ({_THINGS_EN})|had ({_DOINGS_EN})|(gave|held) (a speech|a lecture|a press conference|a concert|a talk about the {{noun2}}|an interview)|(met|ran into|visited|helped|waited for|argued with|interviewed) (an old friend|a famous writer|a lost tourist|some relatives|the neighbours|a stranger|reporters)"
            "|(won|lost|watched|missed|played) (the final|a football match|a chess tournament|the race|a concert|a play about the {noun2})|(signed|announced|presented|discussed|rejected) (a contract|a new law|the budget|a plan|the results|the {noun2} project)|(studied|taught|learned|practised) (French|chess|the violin|biology|cooking|Chinese|history)|(got married|fell asleep|went for a walk|broke a leg|took photos|went swimming|ate pizza|slept badly|gave up smoking|cried|danced|read a book|arrived|stayed for a week|got lost|retired|had an accident|proposed)"
            "|{was} (born|arrested|interviewed by reporters|seen with the {noun2}|awarded a (medal|prize)|invited to speak|injured in an accident|elected chairman|robbed|rescued by firefighters|treated for a broken arm|chosen as the winner|stopped by the police|photographed|given the {noun2})|{was} (reading|sleeping|waiting for a bus|walking the dog|working late|looking for the {noun2}|playing cards|repairing a car)|(opened|started|founded|closed) (a|their) (company|business|club)"
        ),
        "future": (
            f"(will|{{be}} going to|{{be}} planning to|hope{{s}} to|plan{{s}} to|want{{s}} to|intend{{s}} to) (buy|sell|show|present|look for|paint|repair|order|test) ({_THINGS_EN})|(will|{{be}} going to|plan{{s}} to) (have ({_DOINGS_EN})|give a (speech|concert|lecture)|meet (the president|old friends|a customer|the teacher)|open a (shop|restaurant|school)|get married|take an exam|sign the contract|run a marathon|start a new job|celebrate a birthday|see a doctor|play the final|watch a film|visit relatives)|{{be}} (meeting a friend|giving a talk|getting married|starting a course|hosting a party|flying a kite)|will be (interviewed|awarded a prize|married|honoured)|{{has}} an appointment"
        ),
        "now": "{be} (reading a book|waiting for the bus|having lunch|working|playing chess|taking photos|drinking coffee|looking for the {noun2}|talking about the {noun2}|writing a letter|learning French|cooking soup|sitting alone|filming a documentary|selling the {noun2}|repairing the {noun2}|having a meeting|studying for an exam)|(work{s}|swim{s}|sing{s}|play{s} tennis|run{s}|sell{s} vegetables|read{s} the news|feed{s} the birds|practise{s} the piano|draw{s})",
    },
    "zh": {
        "past": (
            f"(买|捡到|丢|卖掉|画|发现|收到|弄坏|看到|送出|修好|偷走|拍下|领取)了({_THINGS_ZH})|(参加|举行|主持|观看|错过|组织)了(会议|婚礼|一场演出|足球比赛|新书发布会|毕业典礼|马拉松|葬礼|一场{{noun2}}展|开幕式|生日聚会)|(见|遇到|采访|拜访|帮助|看望)了(老朋友|一位作家|客户|迷路的游客|老师|几个亲戚|受灾群众|一个陌生人)|(发表|宣布|签署|公布|讨论|拒绝)了(演讲|新计划|一份合同|调查结果|{{noun2}}项目|获奖名单|一项协议)"
            "|(吃|喝)了(晚饭|一碗面|火锅|咖啡|一顿烧烤|两杯奶茶)|(开|创办)了(一家店|一家公司|一所学校|{noun2}店)|(学习|练习|教孩子们)(英语|下棋|钢琴|游泳|书法|历史)|(看书|散步|画画|拍照|等朋友|睡着了|迷路了|结婚了|哭了|摔断了腿|跑步|弹钢琴|修理汽车|做志愿者|加班|堵车了|吵了一架|打篮球|聊了很久|出生|去世|求婚成功)"
            "|被(采访|警方逮捕|授予奖章|选为主席|偷了手机|一只狗咬伤|消防员救出|拍到|{noun2}吓了一跳|评为优秀员工|狠狠批评了一顿)|(和|跟)(朋友|家人|客户|同学|一位老外)(吃饭|见面|吵架|签了合同|打羽毛球|谈生意|看电影)|(获得|拿到|赢得)了(冠军|一等奖|驾照|奖学金|金牌|{noun2}奖)"
        ),
        "future": f"(将|要|会|打算|准备|计划|想)(买|卖|展示|画|寻找|介绍)({_THINGS_ZH})|(将|要|会|打算|准备|计划)(参加(会议|比赛|面试|考试|婚礼)|举行(婚礼|演唱会|新闻发布会|{{noun2}}展)|发表演讲|接受采访|开一家店|见客户|和朋友聚餐|拍电影|签合同|看病|看演出|上课|庆祝生日|跑马拉松|讲{{noun2}}的故事)|将被(授予奖章|表彰|采访)|有(个会|一场面试|一个约会|一场比赛)",
        "now": "(正在|正|)(看书|等车|吃饭|开会|下棋|拍照|喝咖啡|工作|写信|学法语|做饭|排队|直播|唱歌|跑步|打扫卫生|讨论{noun2}|卖{noun2}|修{noun2}|上课|钓鱼|遛狗|练太极)",
    },
}
HAPPENINGS = {
    "en": {
        "past": "a fire broke out|(a|the) (concert|meeting|wedding|football match|exhibition|festival|conference|{noun2} show) (took place|was held|was cancelled|ended)|it (rained heavily|snowed|was very hot)|there was (an earthquake|a traffic accident|a power cut|a big party|a market|a strike)|the (bridge|new airport|{noun2}) was (opened|closed|destroyed|discovered)|two trains collided|prices rose",
        "future": "(a|the) (concert|meeting|wedding|football match|exhibition|festival|conference|{noun2} show) will (take place|be held|start|be opened)|it will (rain|snow|be sunny)|there will be (a party|a flea market|a storm|fireworks|a power cut)|the new (bridge|museum|{noun2}) will be opened",
        "now": "it is (raining|snowing|very hot|foggy)|(a|the) (concert|market|exhibition|{noun2} show) is (taking place|open|going on)|there is (a party|a traffic jam|a strike|a lot of noise)",
    },
    "zh": {
        "past": "发生了(一场火灾|地震|一起交通事故|停电|爆炸)|(下了|下起了)(一场大雪|大雨|冰雹)|(举行|举办)了(一场音乐会|运动会|婚礼|灯会|{noun2}展|研讨会)|(开通了新地铁|建成了一座桥|发现了古墓|取消了演出|出土了一批文物)",
        "future": "将(举行|举办)(一场音乐会|运动会|婚礼|灯会|{noun2}展|研讨会|音乐节)|(会|将)(下雨|下雪|停电|停水|刮大风|升温)|将(开通新地铁|建成一座桥|举行烟花表演)",
        "now": "(正在|)(下雨|下雪|举行音乐会|举办{noun2}展|堵车|停电|施工)",
    },
}
_FRONTS_EN = "(According to (the police|local media|the newspaper|a report|witnesses), |I (heard|read|think|remember) that |They say that |It was reported that |As everyone knows, |The news says that |Dear diary, |Good news: |Breaking news: )"
_TAILS_EN = "(, and everyone was happy|, although it was raining|, which surprised everyone|, because of the strike|. (Everybody was happy|The weather was fine|It was a great success|Nobody knew why|More details are not known yet|What a surprise))"
_FRONTS_ZH = "(据报道，|听说|据悉，|据当地媒体报道，|有人说|我记得|新闻：|快讯：|好消息！|据警方通报，|日记：)"
_TAILS_ZH = "(，大家都很高兴|，虽然下着雨|，让人意外|，引起了不少关注|，现场气氛热烈|，真不容易|。(天气很好|大家都很开心|原因还在调查中|具体情况不详|真是难忘的一天))"
ORDERS = {
    "en": {
        "": (
            f"([{_FRONTS_EN}]{{p}}|{{p_}}) ({{a}} {{at}} {{w}}|{{a}} {{w}} {{at}})[{_TAILS_EN}].|{{p_}} {{a}} {{at}} {{w}}.|{{w_}}, {{p}} {{a}} {{at}}[{_TAILS_EN}].|{{w_}} {{at}}, {{p}} {{a}}.|{{at_}}, {{p}} {{a}} {{w}}[{_TAILS_EN}].|{_FRONTS_EN}{{w}}, {{p}} {{a}} {{at}}."
            "|{w_} {p} {a} {at}[ - or so I heard].|The {those} who {a} {at} {w} {be} {p}.|{p_} {a} {at}, I think {w}.|(Meeting|Lunch|Interview|Appointment|Dinner) with {p} {at}, {w}.|(Don't forget|Remember|Note to self): (lunch|dinner|meeting|coffee) with {p} {at} {w}."
            "|{p_}, {at}, {w}.|{w_}. {at_}. {p_} {a}.|{at_} {w}, {p} {a}."
        ),
        "past": (
            "{p_} {a} {at}. (It happened|It was|This was|That was) {w}.|{p_} {a} {w}. (It happened|It was|This was|It all took place) {at}.|It was {w} that {p} {a} {at}.|It was {at} that {p} {a} {w}.|The {those} who {a} {at} {w} {was} {p}.|(The police arrested|Reporters interviewed|We finally found|The prize was given to|A thief robbed|Doctors treated|The jury honoured|Nobody recognised) {p} {at} {w}."
            "|The (letter|book|bridge|old {noun2}|report|song|photo) was (shown|finished|presented|found|praised|taken|discovered) by {p} {at} {w}.|{w_} was a special (day|time) for {p}: the party {at} was unforgettable.|{p_} {was} {at} {w}.|When the news came {w}, {p} {was} {at}.|There {was} {p}, alone {at}, {w}."
        ),
        "who": f"[{_FRONTS_EN}]{{a}} {{at}} {{w}}[{_TAILS_EN}].|{{w_}}, {{a}} {{at}}[{_TAILS_EN}].|{{at_}}, {{a}} {{w}}.|{{a_}} {{w}} {{at}}.",
        "where": f"[{_FRONTS_EN}]{{p}} {{a}} {{w}}[{_TAILS_EN}].|{{w_}}, {{p}} {{a}}[{_TAILS_EN}].|{{w_}} {{p}} {{a}}.|{{p_}} {{a}} {{w}}.",
        "when": f"[{_FRONTS_EN}]{{p}} {{a}} {{at}}[{_TAILS_EN}].|{{at_}}, {{p}} {{a}}[{_TAILS_EN}].|{{p_}} {{a}} {{at}}.",
    },
    "zh": {
        "": (
            f"[{_FRONTS_ZH}]({{w}}，{{p}}|{{p}}{{w}}|{{w}}{{p}}|{{p}}{{w}}){{at}}{{a}}[{_TAILS_ZH}][。]|{{w}}{{p}}{{at}}{{a}}。|{{w}}{{at}}，{{p}}{{a}}[{_TAILS_ZH}]。|{{at}}，{{p}}{{w}}{{a}}[{_TAILS_ZH}]。|[{_FRONTS_ZH}]{{p}}{{at}}{{a}}，时间是{{w}}。|{{p}}{{w}}{{a}}。(地点是|地点就在|他们约在){{l}}。"
            "|{w}{at}{a}的(人|)是{p}。|(和|跟|约了){p}{w}{at}(吃饭|见面|开会|喝咖啡|聊聊)[。]|(别忘了|提醒|备忘)：{w}{at}(见|拜访|采访){p}[。]|{p}，{l}，{w}。|{l}：{p}{w}{a}。|没想到{p}{w}(居然|竟然|又|也){at}{a}[！]|{l}，{w}，{p}{a}。"
        ),
        "past": (
            "{p}{at}{a}。(这件事发生在|当时是|那是){w}。|{p}{w}{a}。事情发生在{l}。|{w}，{p}(来到|前往|去|到了|出现在){l}，{a}[。]|{p}于{w}{at}{a}。|(警方|记者|大家|我们|医生){w}{at}(找到了|采访了|见到了|救出了|遇见了|表扬了){p}。|(这封信|这本书|那张照片|这首歌|这份报告|那个{noun2})是{p}{w}{at}(写的|完成的|拍的|发现的|展示的)。"
            "|{w}的时候，{p}还{at}(呢|)[。]|{at}，我{w}(碰到|遇见|看见)了{p}。|对{p}来说，{w}{at}的聚会很难忘。|{p}{w}{at}。"
        ),
        "who": f"[{_FRONTS_ZH}]({{w}}，{{l}}|{{l}}{{w}}|{{w}}{{l}}){{a}}[{_TAILS_ZH}]。|{{w}}{{at}}{{a}}。",
        "where": f"[{_FRONTS_ZH}]({{w}}，{{p}}|{{p}}{{w}}|{{w}}{{p}}){{a}}[{_TAILS_ZH}]。|{{p}}{{a}}。时间是{{w}}。",
        "when": f"[{_FRONTS_ZH}]{{p}}{{at}}{{a}}[{_TAILS_ZH}]。|{{at}}，{{p}}{{a}}[{_TAILS_ZH}]。|{{p}}{{a}}。地点是{{l}}。",
    },
}
TERMS = {
    "en": {
        "question": {"who": "who", "where": "where", "when": "when"},
        "noun": {"who": "the (person|people|name|person involved|names)", "where": "the (place|location)", "when": "the (time|date|day)"},
        "bare": {"who": "(person|people|name|names|person involved)", "where": "(place|location|places)", "when": "(time|date|times)"},
    },
    "zh": {
        "question": {"who": "(谁|什么人|是谁)", "where": "(在哪里|在哪|什么地方|哪儿|哪里)", "when": "(什么时候|何时|什么时间)"},
        "noun": {"who": "(人物|人物|人|人名|主人公|姓名|当事人)", "where": "(地点|地点|地方|位置|场所)", "when": "(时间|时间|日期)"},
    },
}
JOINS = {"en": (", ", ", ", ", ", "/", " + "), "zh": ("、", "、", "、", "，", "", " ", "/", "和")}
_IN_EN = "[ (from|in) (this|the|the following) (sentence|text|passage|message|note|news)]"
ASKS = {
    "en": {
        "any": (
            f"(Extract|Find|Pull out|Get|Pick out|Identify|List|Give me|Tell me|Name|Note down|Determine|Spot|Take out|Fetch) {{f}}{_IN_EN}(: |:\n){{s}}|(Can|Could|Would) you (extract|find|pull out|list|tell me|pick out|identify) {{f}} (from|in|for) (this|this sentence|the following|the text below)(: |? |:\n){{s}}|{{s}}\n(Extract|Find|Pull out|List|Tell me|Give me|Identify) {{f}}[ (from|in) (the sentence above|this|the text)].|{{s}} (Extract|Pull out|List|Find) {{f}}."
            f"|(Extract|Find|Give me|List|Pull out) {{f}} from (\"{{s}}\"|“{{s}}”)|From (this sentence|this|the following), (extract|find|pull out|tell me) {{f}}: {{s}}|(I need|I want|I'm looking for|I'd like to know|I only need) {{f}}{_IN_EN}(: |:\n){{s}}|{{F}}: {{s}}|{{F}}? {{s}}|{{s}}\n{{F}}?|{{s}} {{F}}?|{{f}}\n{{s}}|{{s}} -> {{f}}|{{s}}\n{{F}}:"
            "|(Information extraction|Extraction|NER|Task|Output), {f}: {s}|(Read this|Read the sentence|Look at this|Here is a sentence|I got this message|I'm sorting news items|My teacher gave me this sentence|I'm filling in a report)(: |. ){s} (Now give me|Tell me|Please list|What I need is|Write down) {f}[ please].|I was wondering if you could (pull out|extract|tell me) {f}: {s}|Turn this into {f}: {s}|Fill in {f}: {s}|Summarise as {f}: {s}"
        ),
        "question": (
            "{F}? {s}|{s} {F}?|{s}\n{F}?|{F}?\n{s}|{s} - {f}?|(Tell me|Say|Explain|Find out|Do you know|I want to know) {f}: {s}|{s}\n(So|Now tell me|Just tell me|Say) {f}[ please]?|{F} (is it about|was it|did it happen|are we talking about)? {s}|(Answer|Give) {f} for (this|the sentence): {s}|\"{s}\" - {f}?|In \"{s}\", {f}?|{f} {s}"
        ),
    },
    "zh": {
        "any": (
            "(提取|找出|抽取|列出|标出|摘出|识别|写出|告诉我|挑出|说出|给出|整理出)[(下面|以下|这句话|这段话|句子|文本|原文|这条新闻|下列句子)(里的|中的|的)]{f}(：|:|：\n){s}|[请|帮我|麻烦|你能](从(下面|以下|这|后面)(的|)(句子|一句话|段话|文字|内容)(中|里)|)(提取|找出|抽取|列出|摘出|整理)(出|一下|){f}(：|:|：\n){s}|{s}\n[请](提取|找出|列出|写出|抽取|告诉我)[(上面这句|句子|这句话|以上内容)(的|中的|里的)]{f}[。]"
            "|{s}(这句话|这段话|句子|上面这句|原文)(的|里的|中的){f}(分别是什么|分别是啥|是什么|都是啥|是啥|各是什么|有哪些)？|{s}{f}(分别是什么|分别是啥|是什么|是啥|呢)？|{s}\n{f}(分别是什么|分别是啥|是啥|？|：|呢？)|“{s}”(，|里的|中的|这句话里的|的|){f}(分别是什么|是啥|分别是啥|是什么|)|把“{s}”(里的|中的|的){f}(找出来|提取出来|列出来|告诉我|写下来|挑出来)|把(下面这句话|这句话)(里的|中的|的){f}(找出来|提取出来|列出来|告诉我|写下来|挑出来)：{s}"
            "|(信息抽取|信息提取|抽取|要素提取|实体识别|关键信息|任务)（{f}）：{s}|{f}(：|:|是什么：|？|分别是什么？|分别是啥？|是啥？|？\n|\n){s}|(我只想知道|我要|我需要|我想知道|帮我看看|看看|只要|问一下|给我){f}(：|，|，原文：|：\n){s}|(我在整理新闻|我在做笔记|老师让我们做练习|朋友发来一条消息|同事给我发了这个|我要填表)(，|：)(帮我|请|麻烦你|)(找出|提取|列出|标一下){f}(：|:){s}|(这句话|下面这句|以下内容)(说的|提到的|涉及的|里的){f}(是什么|分别是啥|有哪些|是)(？|：|：\n){s}|(阅读|读一读|看)(下面的|这个|这)(句子|句话)，(写出|回答|指出){f}：{s}"
        ),
        "question": "{f}(？|：|?\n|？\n){s}|{s}{f}？|{s}\n{f}？|{s}(请问|问|那么|所以|说的是|告诉我|你说)(是|){f}？|(告诉我|说说|看看|问一下|找出|帮我找|说一下|我想知道)(是|){f}(：|:|，){s}|“{s}”{f}？|(这句话说的是|这里说的是|这是|下面说的){f}(？|：){s}",
    },
}
DIRECT = {
    "en": {
        "who": "Who (is it about|is this about|is mentioned|is the person|is named|was it|was there|is in the sentence|are we talking about|is the sentence about|did it|is involved)? {s}|{s} Who (was it|is it about|did that|is meant|was that|is this about)?|{s}\nWho (was it|is it about|is mentioned|did this)?|(Only|Just) the (name|person|who)[, please]: {s}|What is the name of the person [here|in this sentence]? {s}|Who? {s}|Find the person: {s}|In \"{s}\", who is meant?",
        "where": "Where (did it happen|did this happen|does it take place|does this take place|was it|is it|did that take place|is this|are we)? {s}|{s} Where (was it|did it happen|is that|did this take place|was that)?|{s}\nWhere (did it happen|was it|does this take place)?|(Only|Just) the (place|location)[, please]: {s}|What (place|location) (is mentioned|is given|is it)? {s}|Which (place|location) is (mentioned|named) here? {s}|Where? {s}|Find the (place|location): {s}|Where does (this|the story|the event) take place: {s}",
        "when": "When (did it happen|did this happen|does it take place|was it|is it|was that|does this take place|did that take place|is this)? {s}|{s} When (was it|did it happen|is that|was that)?|{s}\n(When|What time|On what date) (did it happen|was it|does this take place)?|(Only|Just) the (time|date)[, please]: {s}|What (time|date) (is mentioned|is given|is it)? {s}|When? {s}|Find the (time|date): {s}|Which (day|time|date) is mentioned here? {s}|When does (this|the event) take place: {s}",
    },
    "zh": {
        "who": "(是谁|说的是谁|谁|这是谁|提到了谁|主人公是谁|这句话说的是谁|人物是谁)(？|：|?\n){s}|{s}(说的是谁|这是谁|这个人是谁|这里的人是谁|人物是谁|是谁)？|{s}\n(是谁|说的是谁|谁|人物是谁)？|(只要人名|只提取人物|只告诉我人物|找出人物)：{s}|“{s}”(说的是谁|这句话里是谁|人物是谁)？",
        "where": "(在哪里|在哪儿|在哪|哪里|事情发生在哪里|发生在什么地方|地点在哪|什么地方|这是在哪)(？|：|?\n){s}|{s}(这是在哪里|发生在哪|地点在哪里|这事发生在什么地方|在哪儿发生的)？|{s}\n(在哪|在哪里发生的|地点呢|地点是哪)？|(只要地点|只提取地点|只告诉我地点|找出地点)：{s}|“{s}”(发生在哪里|这句话的地点是哪|是在哪儿)？",
        "when": "(什么时候|什么时候的事|是哪天|何时|是什么时间|事情发生在什么时候|时间是什么时候)(？|：|?\n){s}|{s}(这是什么时候的事|发生在什么时候|时间是什么时候|是哪天|什么时候发生的)？|{s}\n(什么时候|是什么时候的事|时间呢|何时)？|(只要时间|只提取时间|只告诉我时间|找出时间)：{s}|“{s}”(是什么时候的事|这句话的时间是什么|发生在何时)？",
    },
}
FORMS = {
    "en": "{s}\n{form}|{s}\n\n{form}|Fill in the form: {s}\n{form}|Fill in:\n{form}\n\n{s}|Complete the form.\n{s}\n{form}|Use this format:\n{form}\n{s}",
    "zh": "{s}\n{form}|{s}\n\n{form}|填表：{s}\n{form}|请填写：{s}\n{form}|根据句子填空：{s}\n{form}|按下面的格式提取：\n{form}\n{s}|请按格式填写\n{form}\n句子：{s}",
}
# fmt: on
