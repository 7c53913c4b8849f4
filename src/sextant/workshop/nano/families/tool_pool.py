"""The tools that the problems offer: everyday ones with their ways of asking, and made-up ones nobody has seen.

Names, parameter names and descriptions vary, so that the model reads the offer instead of remembering it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from sextant.workshop.nano.problem import Language
from sextant.workshop.nano.words import city, code, key_name, name, pseudo_word, value, word


@dataclass(frozen=True)
class Parameter:
    """One parameter: its possible names, type, description, what it may hold, and whether a call may leave it out."""

    names: str
    type: str
    about: str
    draw: Callable[[Random, Language], Any]
    choices: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Tool:
    """One everyday tool: possible names, description, parameters, and requests with and without the optional one."""

    names: str
    about: str
    parameters: tuple[Parameter, ...]
    en: str
    zh: str
    en_full: str = ""
    zh_full: str = ""


def _text(rng: Random, language: Language) -> str:
    joiner = "" if language == "zh" else " "
    return joiner.join(word(rng, language) for _ in range(rng.randint(1, 4)))


def _sum(rng: Random, language: Language) -> str:
    sign = rng.choice([" + ", " - ", " * ", "+", "-", "*", " / "])
    return f"{rng.randrange(1000)}{sign}{rng.randrange(1, 1000)}"


def _date(rng: Random, language: Language) -> str:
    return f"20{rng.randint(24, 29)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def _clock(rng: Random, language: Language) -> str:
    return f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"


def _mail(rng: Random, language: Language) -> str:
    return f"{pseudo_word(rng)}@{pseudo_word(rng)}.{rng.choice(['com', 'org', 'cn'])}"


def _small(rng: Random, language: Language) -> int:
    return rng.randint(1, 99)


def _big(rng: Random, language: Language) -> int:
    return rng.randrange(1000)


def _code(rng: Random, language: Language) -> str:
    return code(rng)


def _symbol(rng: Random, language: Language) -> str:
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 5)))


def _currency(rng: Random, language: Language) -> str:
    return rng.choice(["USD", "EUR", "CNY", "JPY", "GBP", "CHF", "KRW", "INR"])


def _room(rng: Random, language: Language) -> str:
    rooms = {
        "en": ["kitchen", "bedroom", "office", "garage", "living room", "hall"],
        "zh": ["厨房", "卧室", "办公室", "车库", "客厅", "书房"],
    }
    return rng.choice(rooms[language])


_LANGUAGES = ("French", "German", "Chinese", "English", "Spanish", "Japanese")


def _tongue(rng: Random, language: Language) -> str:
    return rng.choice(_LANGUAGES)


P = Parameter
_UNIT = P(
    "unit|units|scale",
    "string",
    "Temperature unit",
    lambda r, lang: r.choice(["celsius", "fahrenheit"]),
    ("celsius", "fahrenheit"),
    True,
)

TOOLS: tuple[Tool, ...] = (
    Tool(
        "get_weather|get_current_weather|weather|fetch_weather|weather_lookup|getWeather", "[Get|Returns|Look up|Get the] [the current weather|current weather|weather] [for a city|in a given location|of a place|]",
        (P("city|location|place|city_name", "string", "[The city|City name|The city and country|Name of the place]", city), _UNIT),
        "[[What is|What's|How is|Tell me|what is|Check|How's] the weather [like |]in {0}[ today| right now| now| tomorrow|]|[Weather|weather|The weather|Current weather|Forecast|Get the weather] [in|for|of] {0}[ today|]|{0} weather|Is it [raining|sunny|cold|warm] in {0}[ today|]|Do I need [an umbrella|a jacket] in {0}[ today|]|How [hot|cold|warm] is it in {0}[ now|]|[What is|What's] the temperature in {0}[ now|]][?|]", "[{0}的天气怎么样|{0}今天天气如何|查一下{0}的天气|{0}天气|今天{0}天气怎么样][？|]",
        "What is the weather in {0} in {1}?", "{0}的天气怎么样？用{1}",
    ),
    Tool(
        "calculator|calculate|compute|math|evaluate", "[Evaluate|Calculate|Compute] [an arithmetic expression|a math expression|an expression]", (P("expression|expr|formula|input", "string", "[The expression|Expression to evaluate|Math expression]", _sum),),
        "[What is|Calculate|Compute|Use the calculator: |Use the tool to compute] {0}[?|]", "[计算|请计算|用计算器算|算一下]{0}[等于多少|][？|]",
    ),
    Tool(
        "add|add_numbers|sum_two|plus|addition", "[Add two numbers|Adds two integers|Sum of two numbers]", (P("a|x|first|left", "integer", "[First number|The first addend]", _big), P("b|y|second|right", "integer", "[Second number|The second addend]", _big)),
        "[What is|Add|Compute|Please add] {0} [and|plus|+] {1}[?|]", "[计算|请计算|]{0}[加|+|加上]{1}[等于多少|][？|]",
    ),
    Tool("get_time|current_time|get_current_time|clock", "[Get the current time|Current local time] [in a city|of a place]", (P("city|timezone|location|place", "string", "[The city|Where]", city),), "[What time is it|What is the time|Tell me the time|Time|Current time|What's the current time|Get the time] in {0}[ now|][?|]", "[{0}现在几点|{0}几点了|现在{0}是几点][？|]"),
    Tool("search|web_search|search_web|google|find_documents", "[Search the web|Search documents|Find information]", (P("query|q|text|keywords", "string", "[The query|Search query|What to look for]", _text),), "[Search for|Look up|Find information about|Search the web for|Google] {0}[.|]", "[搜索|搜一下|查找|帮我搜索]{0}[。|]"),
    Tool(
        "send_email|send_mail|email|mail", "Send an email", (P("to|recipient|address", "string", "[Recipient|Email address]", _mail), P("subject|title|body|text", "string", "[Subject|Subject line|Text]", _text)),
        "[Send an email to|Email|Write an email to] {0} [with the subject|about|saying] {1}[.|]", "给{0}发[邮件|一封邮件]，[主题是|内容是|标题为]{1}[。|]",
    ),
    Tool("create_event|add_event|schedule_meeting|add_to_calendar", "[Create a calendar event|Schedule a meeting]", (P("title|name|summary", "string", "Title", _text), P("date|day", "string", "[Date|Date as YYYY-MM-DD]", _date)), "[Create an event|Schedule a meeting|Add an event] [called|named|titled] {0} on {1}[.|]", "[在|]{1}[安排|创建|添加][会议|日程|活动]{0}[。|]"),
    Tool(
        "translate|translate_text|translator", "[Translate text|Translate a text]", (P("text|input|sentence", "string", "[Text|Text to translate]", _text), P("target_language|language|to", "string", "Target language", _tongue, _LANGUAGES)),
        "[Translate|Please translate] [{0}|\"{0}\"] [to|into] {1}[.|]", "[把|请把][{0}|“{0}”]翻译成{1}[。|]",
    ),
    Tool("get_stock_price|stock_price|quote|get_quote", "[Get the stock price|Current price of a stock]", (P("symbol|ticker|stock", "string", "[Ticker symbol|Stock symbol]", _symbol),), "[[What is|What's|Get|Tell me|Check] the [stock price|price|current price|share price] of|[Stock price|Price|Stock price] of|How much is] {0}[ stock| shares|][?|]", "[{0}的股价是多少|查一下{0}的股价|{0}股票多少钱][？|]"),
    Tool(
        "convert_currency|currency|exchange|convert", "Convert an amount between currencies", (P("amount|value", "number", "Amount", _big), P("from|from_currency|source", "string", "Source currency", _currency), P("to|to_currency|target", "string", "Target currency", _currency)),
        "[Convert|Exchange|How much is] {0} {1} [to|in|into] {2}[?|]", "[把|]{0}{1}[换成|兑换成|等于多少]{2}[？|。|]",
    ),
    Tool("set_timer|start_timer|timer", "[Set a timer|Start a timer]", (P("minutes|duration_minutes|mins", "integer", "[Minutes|How many minutes]", _small),), "[Set|Start] a [timer for {0} minutes|{0} minute timer][.|]", "[设置|定|设]一个{0}分钟的[计时器|定时器][。|]"),
    Tool("play_music|play_song|play", "[Play a song|Play music]", (P("song|title|track", "string", "[Song|Song title]", _text),), "[Play|Please play|Put on] [the song|] {0}[.|]", "[播放|请播放|放一首]{0}[。|]"),
    Tool("get_user|lookup_user|find_user|fetch_user", "[Get a user|Fetch a user] by id", (P("user_id|id|uid", "string", "[User id|The id]", _code),), "[Get|Fetch|Look up|Show] [the user|user] [with id|] {0}[.|]", "[查询|获取|查一下]用户{0}[。|的信息]"),
    Tool("turn_on_light|switch_light|light_on|set_light", "[Turn a light on or off|Switch a light]", (P("room|where|location", "string", "Room", _room), P("state|action", "string", "[on or off]", lambda r, lang: r.choice(["on", "off"]), ("on", "off"))), "[Turn|Switch] {1} the [light|lights|lamp] in the {0}[.|]", "[把|请把]{0}的灯[设为|切换到]{1}[。|]"),
    Tool(
        "book_flight|search_flights|find_flights|flights", "[Book a flight|Search flights]", (P("from|origin|from_city|departure", "string", "From", city), P("to|destination|to_city|arrival", "string", "To", city), P("date|day", "string", "Date", _date)),
        "[Book a flight|Find flights|I need a flight|Search flights] from {0} to {1} on {2}[.|]", "[订|查询|我要订]{2}从{0}到{1}的[机票|航班][。|]",
    ),
    Tool("get_news|news|latest_news", "[Get news|Latest news about a topic]", (P("topic|subject|about", "string", "Topic", _text),), "[What is the latest news|Give me news|Any news|Show news] [about|on] {0}[?|]", "[有关|关于]{0}[的新闻|有什么新闻|的最新消息][？|]"),
    Tool("open_file|read_file|load_file", "[Read a file|Open a file]", (P("path|file|filename", "string", "[Path|File path]", lambda r, lang: f"/{pseudo_word(r)}/{pseudo_word(r)}.{r.choice(['txt', 'py', 'md', 'json'])}"),), "[Open|Read|Show me|Load] [the file|] {0}[.|]", "[打开|读取|查看]文件{0}[。|]"),
    Tool("set_temperature|thermostat|set_heating", "[Set the room temperature|Set the thermostat]", (P("room|zone", "string", "Room", _room), P("degrees|temperature|celsius", "number", "Degrees", _small)), "Set the [temperature|heating|thermostat] in the {0} to {1}[ degrees|][.|]", "把{0}的温度[设为|调到]{1}度[。|]"),
    Tool("add_to_cart|order_item|buy", "[Add an item to the cart|Order an item]", (P("item|product|name", "string", "Item", word), P("quantity|count|amount", "integer", "[How many|Quantity]", _small)), "[Add|Order|Buy|I want] {1} {0}[ to my cart|][.|]", "[买|订购|我要]{1}个{0}[。|]"),
    Tool("get_order_status|order_status|track_order|track", "[Get the status of an order|Track an order]", (P("order_id|order|id|number", "string", "Order number", _code),), "[Where is|What is the status of|Track|Check] [my order|order] {0}[?|]", "[订单{0}的状态|查一下订单{0}|我的订单{0}到哪了][？|]"),
    Tool("create_reminder|remind_me|set_reminder|add_reminder", "[Create a reminder|Set a reminder]", (P("text|message|what", "string", "[What to remember|Text]", _text), P("time|at|when", "string", "[Time|Time as HH:MM]", _clock)), "[Remind me|Set a reminder] [about|of|for] {0} at {1}[.|]", "{1}提醒我{0}[。|]"),
    Tool("find_person|lookup_contact|get_phone|contact", "[Find a person|Look up a contact]", (P("name|person|who", "string", "Name", name),), "[Find|Look up|Get] [the contact|the phone number of|contact] {0}[.|]", "[查找|查一下][联系人|]{0}[的电话|][。|]"),
    Tool("get_definition|define|dictionary", "[Get the definition of a word|Define a word]", (P("word|term", "string", "Word", word),), "[Define|What is the definition of|Look up the definition of] [{0}|\"{0}\"][?|]", "[“{0}”|{0}]的[定义|释义]是什么？"),
)  # fmt: skip


def made_up(rng: Random) -> tuple[str, list[Parameter]]:
    """A tool that no list holds: its name and parameters."""
    verb = rng.choice(
        [
            "get",
            "set",
            "run",
            "make",
            "find",
            "update",
            "delete",
            "list",
            "check",
            "start",
            "stop",
            pseudo_word(rng),
        ]
    )
    tool_name = verb + "_" + rng.choice([pseudo_word(rng), word(rng, "en")])
    kinds: list[tuple[str, Callable[[Random, Language], Any]]] = [
        ("string", value),
        ("string", value),
        ("integer", _big),
        ("number", _small),
        ("boolean", lambda r, lang: r.random() < 0.5),
    ]
    parameters = []
    for key in dict.fromkeys(key_name(rng, "en") for _ in range(rng.randint(1, 3))):
        kind, draw = rng.choice(kinds)
        parameters.append(Parameter(key, kind, rng.choice(["", f"The {key}", key.replace("_", " ")]), draw))
    return tool_name, parameters
