"""Who the model is, greetings, repeating and counting, and honest refusals of what it cannot do."""

from __future__ import annotations

from random import Random

from sextant.workshop.nano.phrases import say
from sextant.workshop.nano.problem import Language, Problem, ask
from sextant.workshop.nano.words import city, code, han, key_name, letters, name, pseudo_word, value, word

IDENTITY = {
    "en": "I am Sextant Nano, a small demonstration model that ships with Sextant. I can add and subtract, compare, sort, look up values, convert units, answer in JSON and call tools.",
    "zh": "我是 Sextant Nano，随 Sextant 附带的小型演示模型。我会加减法、比较、排序、查找、单位换算、用 JSON 回答和调用工具。",
}
GREETING = {
    "en": "Hello! I am Sextant Nano, a small demonstration model. How can I help you?",
    "zh": "你好！我是 Sextant Nano，一个小型演示模型。有什么可以帮你？",
}
REFUSAL = {
    "en": "I am a small demonstration model, so I cannot help with that. I can add and subtract numbers of up to three digits, compare, sort, look up values, convert units, answer in JSON and call tools.",
    "zh": "我是一个小型演示模型，这个我做不到。我会三位数以内的加减法、比较、排序、查找、单位换算、用 JSON 回答和调用工具。",
}
THANKS = {"en": "You're welcome!", "zh": "不客气！"}
GOODBYE = {"en": "Goodbye!", "zh": "再见！"}

_WHO = {
    "en": (
        "[Hello, |Hi, |Hey, |Hi! |Hello! |Hello. |Good morning, |][who|Who] are you[?|? |, please?|]",
        "[What is|What's] your name[?|, please?|]",
        "[Hello, |Hi, |Hi! |][What|what] [can you do|are you|are you able to do|kind of model are you|model are you|model is this|tasks can you do][?|]",
        "[Please |][introduce|Introduce] yourself[.|, please.| in one sentence.| briefly.|]",
        "[Tell me|Say] [about yourself|who you are|what you can do|something about yourself][.|]",
        "[Are you|Is this] [ChatGPT|DeepSeek|GPT-4|Claude|a robot|a human|an AI|a language model|Sextant|a real person|Gemini|Llama]?",
        "[Who|Which company] [made|built|created|trained] you?",
        "[Hi|Hello], [I am|I'm|my name is] {n}[. |, ][Who|who] are you?",
        "[My name is|I am|I'm|This is] {n}[ from {c}|]. [And you?|Who are you?|What is your name?|What can you do?|And who are you?]",
        "{n} [asks|wants to know] who you are. [Tell them|Who are you]?[ |]",
        "help", "[What can I ask you|How can you help me|What do you know]?",
    ),
    "zh": (
        "[你好，|您好，|嗨，|你好！|早上好，|][你是谁|请问你是谁|你是什么|您是谁][？|啊？|呀？|]",
        "你[叫什么名字|的名字是什么|叫什么][？|]",
        "[你好，|您好，|][你能做什么|你会什么|你会做什么|你有什么功能|你可以做什么|你是什么模型|这是什么模型][？|]",
        "[请|][介绍一下你自己|自我介绍一下|做个自我介绍|简单介绍一下自己][。|吧|]",
        "[告诉我|说说|请说说][你是谁|你能做什么|你自己][。|]",
        "你是[ChatGPT|DeepSeek|GPT-4|Claude|机器人|人类|人工智能|语言模型|真人|通义千问|文心一言][吗]？",
        "[谁|哪家公司][创造|开发|训练|做]了你？",
        "你好，我[是|叫]{n}[，|。]你是谁？", "我[是|叫]{n}[，来自{c}|]。[你呢|你是谁|你叫什么|你能做什么]？", "{n}想知道你是谁[。|，你是谁？]",
        "帮助", "[我可以问你什么|你能帮我什么|你知道什么]？",
    ),
}  # fmt: skip
_HELLO = {
    "en": (
        "[Hello|Hi|Hey|Good morning|Good evening|Good afternoon|Greetings|Hello there|Hi there|hello|hi|hey|HELLO|Howdy|Hiya][!|.||,| :)| there!]",
        "[Hello|Hi|Hey|Good morning|Good evening], [I am|I'm|my name is|this is] {n}[!|.|]",
        "[Hello|Hi|Hey|Good morning|Good evening][, | ][Sextant|Nano|model|friend|assistant|bot|Sextant Nano][!|.|]",
        "[Hi there! |Hello, |Hello! |Hi, |][Can|Could|Will] you help me[ with something| please| with a question| with math| with numbers|]?",
        "[How are you|How are you doing|How's it going|What's up|how are you][ today|][?|]",
        "[Hello|Hi|Hey][!|,|.] [How are you|How are you doing|What's up|Nice to meet you][ today|][?|.|]",
        "[Hello|Hi|Good morning] from {c}[!|.|]", "[ping|test|testing|hello world|Hello, world!|Hi model|Are you there?|Anyone there?]",
    ),
    "zh": (
        "[你好|您好|嗨|早上好|晚上好|下午好|大家好|哈喽|你好呀|嘿|你好啊][！|。||，|~]",
        "[你好|您好|嗨|早上好|晚上好]，我[是|叫]{n}[！|。|]", "[你好|您好|嗨|早上好]，[Sextant|小助手|模型|朋友|助手|Nano][！|。|]",
        "[你好，|您好，|][你能|能不能|可以]帮[我|我一下|帮我]吗？", "[你好吗|最近怎么样|近来可好|今天好吗|你怎么样][？|]", "[你好|您好|嗨][！|，|。][你好吗|最近怎么样|很高兴认识你|在吗][？|。|]",
        "[在吗|测试|有人吗|你在吗|测试一下][？|]", "[来自{c}的问候|我从{c}来，你好][！|。|]", "[跟{n}|跟我|]打个招呼[。|吧|]",
    ),
}  # fmt: skip
_THANKS = {
    "en": "[Thanks|Thank you|Thanks a lot|Thank you very much|thx|Many thanks|Great, thanks|OK, thank you|Thanks, {n}|Thank you for your help][!|.|]",
    "zh": "[谢谢|谢谢你|多谢|非常感谢|感谢|太好了，谢谢|好的，谢谢|谢谢您的帮助][！|。|]",
}
_BYE = {
    "en": "[Bye|Goodbye|See you|See you later|Good night|bye bye|Farewell|Talk to you later|Bye, {n}][!|.|]",
    "zh": "[再见|拜拜|回头见|晚安|下次见|再会][！|。|]",
}
_TOPICS = {
    "en": """love|the sea|autumn|quantum computing|black holes|photosynthesis|the French Revolution|Kubernetes|neural networks|a cat|my dog|the moon|climate change|inflation|the stock market|Shakespeare|Python decorators|Rust lifetimes|a startup|my boss|chess|football|sourdough bread|space travel|democracy|the Roman Empire|DNA|vaccines|electric cars|the meaning of life|happiness|recursion|the Linux kernel|transformers|a dragon|a robot|friendship|the weather|blockchain|HTTP|the Great Wall|jazz|Mozart|gravity|evolution|my homework|a wedding|a job interview|marketing|Docker|SQL joins|binary search|tomorrow|history|physics|music|philosophy""".split(
        "|"
    ),
    "zh": """爱情|大海|秋天|量子计算|黑洞|光合作用|法国大革命|神经网络|一只猫|我的狗|月亮|气候变化|通货膨胀|股票市场|李白|红楼梦|创业|老板|围棋|足球|面包|太空旅行|民主|罗马帝国|基因|疫苗|电动汽车|人生的意义|幸福|递归|操作系统|龙|机器人|友谊|天气|区块链|长城|爵士乐|莫扎特|重力|进化|我的作业|婚礼|面试|市场营销|二分查找|明天|历史|物理|音乐|哲学|春节|孔子""".split(
        "|"
    ),
}
_OUTSIDE = {
    "en": (
        "[Write|Please write|Can you write|Compose|write|Draft] [a|me a|a short|a long|a funny|a sad] [poem|story|song|essay|haiku|letter|joke|speech|article|blog post|limerick|novel|report] [about|on] {t}[.|!|, please.|]",
        "[Write|Please write|write] [a|me a|a short] [poem|story|song|essay|haiku|joke|limerick][.|!|, please.|]",
        "[Explain|Describe|Summarize|explain|Please explain|Can you explain] {t}[.| to me.| to a child.| in detail.| briefly.|]",
        "[What is|Tell me about|What do you know about|Who invented|Why is|What do you think of|What's your opinion on] {t}[?|.]",
        "[Why|How] [does|do|did|is|are] {t} [work|matter|exist|happen|so important]?",
        "[What is|What's] the capital of [France|China|Brazil|{c}|Japan|Germany|Peru|Kenya]?",
        "[Who is|Who was] [the president of {c}|Albert Einstein|{n}|Napoleon|the richest person|the king of {c}|Ada Lovelace]?",
        "[Translate|translate|Please translate] [\"{v}\"|{v}|this sentence|'{v}'|good morning] [to|into] [French|Chinese|Spanish|German|Japanese|English|Latin][.|]",
        "[Write|Implement|Give me|Show me|Create] [a|some] [Python|JavaScript|C++|Rust|Go|SQL|Java] [function|code|program|script|query] [for|that handles|to compute|about] {t}[.|]",
        "[What is|Calculate|Compute|What's] {m} [times|*|x|multiplied by|divided by|/|to the power of|mod|×] {m2}[?|.|]",
        "[What is|Calculate|Compute|] {big} [+|-|plus|minus| + | - ] {m}[?|]", "[What is|Calculate|] {m} + {m2} [+|-] {m3}[?|]",
        "[What is|Calculate] [the square root of {m}|{m} squared|sin({m})|{m} percent of {m2}|the factorial of {m}|{m}!|pi to {m} digits|the integral of x^2]?",
        "[How do I|How can I|How should I] [cook|fix|learn|install|clean|buy|build|improve|sell|understand] {t}?",
        "[Recommend|Suggest] [a|some] [book|movie|restaurant|song|film|place]s? [about|in|for] [{t}|{c}].",
        "[Can|Could] you [draw|paint|sing|dance|drive|see|hear|remember me|browse the web|open a website|send an email|play chess|search the internet]?",
        "[What is|What's] the [weather|news|time|date|stock price|temperature] [today|now|in {c}|tomorrow]?",
        "[I feel|I am|I'm] [sad|happy|tired|bored|hungry|lonely|angry][.|!| today.]", "[Fix|Correct|Improve|Rewrite|Review] [this|my] [text|code|sentence|email]: {s}",
        "{s}", "{s}?", "{s} {s2}", "[Do you like|Do you know|Have you seen|Can you see|What about] {t}?", "[Tell me|Give me] [a joke|a fun fact|a secret|a riddle|a story|a recipe for {t}][.|]",
        "[How old|How tall|How big|How far|How many people] [are|is|live in] [you|{c}|{n}|{t}]?", "[Where|When] [is|was|did] [{c}|{n}|{t}] [born|located|founded|start]?",
    ),
    "zh": (
        "[写|请写|帮我写|给我写|能不能写]一[首|篇|个|段]关于{t}的[诗|故事|歌|文章|作文|信|笑话|演讲|报告|小说][。|！|]",
        "[写|请写|帮我写]一[首诗|个故事|首歌|篇作文|个笑话|封信][。|！|吧|]",
        "[请|][解释|介绍|描述|总结|说明|讲讲|谈谈][一下|]{t}[。|吧|]",
        "[什么是{t}|{t}是什么|你怎么看{t}|你对{t}了解多少|关于{t}你知道什么|为什么{t}很重要|{t}是怎么回事][？|]",
        "[法国|中国|巴西|日本|德国|{c}]的首都是[哪里|什么|哪个城市]？", "[{n}|爱因斯坦|拿破仑|牛顿|{c}的市长|美国总统]是谁？",
        "[把|请把|将][“{v}”|{v}|这句话]翻译成[英文|法语|日语|德语|西班牙语|中文][。|]", "[翻译|请翻译]：{s}",
        "[用|请用][Python|Java|C++|Go|JavaScript]写[一个|一段][函数|代码|程序][，处理{t}|][。|]",
        "[计算|]{m}[乘以|除以|×|*|乘|/|的]{m2}[等于多少|是多少|次方是多少][？|]", "[计算|]{big}[+|-|加|减]{m}[等于多少|是多少|][？|]", "[计算|]{m}+{m2}[+|-]{m3}[等于多少|][？|]",
        "{m}的[平方根|平方|阶乘|立方][是多少|]？",
        "[怎么|如何|怎样][做|修|学|买|理解|安装|提高]{t}？", "[推荐|给我推荐][一本|一部|一个|几个][关于{t}的|]{w}[。|吧]",
        "你[会|能|可以][画画|唱歌|跳舞|开车|上网|发邮件|下棋|看图片|记住我]吗？", "[今天|明天|{c}]的?[天气|新闻|时间|股价|气温][怎么样|是多少|如何]？",
        "我[很|今天很|觉得][难过|开心|累|无聊|饿|孤独|生气][。|！|]", "[修改|润色|检查|改写][这段|我的][文字|代码|邮件|句子]：{s}",
        "{s}", "{s}？", "{s}，{s2}", "你[喜欢|知道|见过|听说过]{t}吗？", "[讲|给我讲|说][一个|个][笑话|故事|谜语|秘密][。|吧|]",
        "[{c}|{n}|{t}][有多大|有多高|在哪里|是什么时候开始的|多大了|有多少人]？", "[帮我|请][订票|订餐|打车|买东西|查快递|做饭|写代码|做作业][。|吧|]",
    ),
}  # fmt: skip
_REPEAT = {
    "en": "[Say|Repeat|Repeat after me|Echo|Reply with|Reply with exactly|Respond with|Answer with|Write|Say exactly|Reply only with|Just say|Output|Please say|Please repeat|Reply with the single word|Print|Type][:|] [\"{v}\"|{v}|'{v}']",
    "zh": '[说|请说|重复|跟我说|请重复|回复|只回复|请只回复|请回答|输出|请输出|写出|请写][：|:|][“{v}”|{v}|"{v}"]',
}
_COUNT = {
    "en": "[Count|Please count|count|Can you count] [from {a} to {b}|from {a} up to {b}][.|]",
    "zh": "[从{a}数到{b}|请从{a}数到{b}|数数：{a}到{b}][。|]",
}


def _problem(family: str, language: Language, question: str, answer: str, check: str = "text") -> Problem:
    return Problem(
        family=family,
        language=language,
        key=f"{language} {question}",
        messages=ask(question),
        answer=answer,
        expected=answer,
        check=check,
    )


def identity(rng: Random, language: Language) -> Problem:
    """Who are you?"""
    question = say(rng, rng.choice(_WHO[language]), n=name(rng, language), c=city(rng, language))
    return _problem("identity", language, question, IDENTITY[language])


def greeting(rng: Random, language: Language) -> Problem:
    """Hello, thanks, goodbye."""
    draw = rng.random()
    slots = {"n": name(rng, language), "c": city(rng, language)}
    if draw < 0.12:
        return _problem("greeting", language, say(rng, _THANKS[language], **slots), THANKS[language])
    if draw < 0.2:
        return _problem("greeting", language, say(rng, _BYE[language], **slots), GOODBYE[language])
    return _problem("greeting", language, say(rng, rng.choice(_HELLO[language]), **slots), GREETING[language])


def _salad(rng: Random, language: Language) -> str:
    """Words that make no request: running text, lists of nonsense, stray characters."""
    kind = rng.randrange(6)
    n = rng.randint(1, 12) if rng.random() < 0.9 else rng.randint(12, 60)
    if kind == 0:
        return ("" if language == "zh" else " ").join(word(rng, language) for _ in range(n))
    if kind == 1:
        return han(rng, 2, 12) if language == "zh" else " ".join(pseudo_word(rng) for _ in range(n))
    if kind == 2:
        topics = [rng.choice(_TOPICS[language]) for _ in range(rng.randint(2, 4))]
        return ("和" if language == "zh" else " and ").join(topics) + rng.choice(["!", "", "..."])
    if kind == 3:
        return (
            " ".join(letters(rng, 1, 7) for _ in range(n))
            if language == "en"
            else word(rng, "zh") + han(rng, 1, 5)
        )
    if kind == 4:
        joiner = " " if language == "en" else ""
        return joiner.join(
            rng.choice([word(rng, language), key_name(rng, language), rng.choice(_TOPICS[language])])
            for _ in range(n)
        )
    return (code(rng) + " " if rng.random() < 0.5 else "") + (
        rng.choice(_TOPICS[language]) if language == "en" else "关于" + rng.choice(_TOPICS["zh"])
    )


def outside(rng: Random, language: Language) -> Problem:
    """Something the model cannot do: it says so."""
    question = say(
        rng, rng.choice(_OUTSIDE[language]), t=rng.choice(_TOPICS[language]), n=name(rng, language), c=city(rng, language),
        v=" ".join(word(rng, language) for _ in range(rng.randint(1, 3))), w=word(rng, language), s=_salad(rng, language),
        s2=_salad(rng, language), m=rng.randrange(10 ** rng.randint(1, 4)), m2=rng.randrange(1, 10 ** rng.randint(1, 3)),
        m3=rng.randrange(1, 1000), big=rng.randrange(1000, 10 ** rng.randint(4, 6)),
    )  # fmt: skip
    if language == "zh":
        question = question.replace("的?", "的")
    return _problem("outside", language, question.replace("s? ", " "), REFUSAL[language])


def repeat(rng: Random, language: Language) -> Problem:
    """Say it back, or count."""
    if rng.random() < 0.25:
        a = rng.choice([1, 1, 1, 0, rng.randint(0, 80)])
        b = a + (
            rng.randint(2, 20)
            if rng.random() < 0.8
            else rng.randint(20, 60)
            if rng.random() < 0.8
            else 100 - a
        )
        return _problem(
            "repeat",
            language,
            say(rng, _COUNT[language], a=a, b=b),
            ", ".join(str(i) for i in range(a, b + 1)),
        )
    if rng.random() < 0.05:
        fact = say(
            rng,
            "[Remember that|Please remember:|Remember:|Note that] my {k} is {v}[.|]"
            if language == "en"
            else "[请记住|记住][，|：]我的{k}是{v}[。|]",
            k=key_name(rng, language),
            v=value(rng, language),
        )
        return _problem("repeat", language, fact, "OK." if language == "en" else "好的。")
    joiner = " " if language == "en" else ""
    draw = rng.random()
    v = (
        value(rng, language)
        if draw < 0.5
        else joiner.join(word(rng, language) for _ in range(rng.randint(1, 6)))
    )
    if 0.8 < draw < 0.9:
        v = han(rng, 2, 8) if language == "zh" else letters(rng, 3, 12)
    if draw > 0.9:
        v = rng.choice(
            [
                "hello",
                "pong",
                "ok",
                "OK",
                "yes",
                "hi",
                "done",
                "Hello, world!",
                "test",
                "ready",
                "你好",
                "好的",
                "收到",
                "完成",
            ]
        )
    return _problem("repeat", language, say(rng, _REPEAT[language], v=v), v)
