"""The vocabulary the generators draw from: words, names, places, and random strings that no list holds."""

from __future__ import annotations

import string
from random import Random

from sextant.workshop.nano.problem import Language

EN_WORDS = """apple pear plum fig grape lemon mango peach cherry banana orange melon berry olive carrot potato onion
garlic tomato pepper cabbage lettuce spinach bean pea corn rice wheat bread butter cheese milk cream sugar salt honey
tea coffee water juice soup stew cake pie cookie candy table chair desk lamp sofa bed shelf door window wall floor
roof garden fence gate road street bridge river lake ocean beach island mountain valley forest desert field meadow
tree flower grass leaf root branch seed stone rock sand clay iron copper silver gold wood paper glass cotton silk wool
leather plastic rubber cat dog horse cow pig sheep goat chicken duck goose rabbit mouse rat squirrel fox wolf bear
tiger lion zebra monkey elephant giraffe camel deer eagle hawk owl crow swan robin sparrow penguin shark whale dolphin
salmon trout crab lobster turtle frog snake lizard spider ant bee butterfly moth beetle red blue green yellow black
white brown purple pink gray violet hammer nail saw drill wrench screw ladder bucket brush broom mop rope chain wire
needle thread button zipper shirt pants jacket coat dress skirt shoe boot sock glove hat scarf belt ring watch necklace
book pen pencil eraser ruler notebook letter stamp envelope map globe clock radio phone camera computer keyboard
screen printer cable battery engine wheel tire brake pedal bicycle car bus train plane boat ship ferry truck tractor
rocket satellite planet star moon sun cloud rain snow wind storm thunder lightning fog ice fire smoke ash winter
spring summer autumn morning evening night noon doctor nurse teacher student farmer baker butcher tailor painter
singer dancer actor writer poet judge lawyer soldier sailor pilot driver king queen prince knight castle tower palace
temple museum library school hospital market bakery hotel station airport harbor square circle triangle cube sphere
number letter word sentence story song poem dance music piano guitar violin drum flute trumpet game ball bat net goal
team coach player winner medal trophy ticket money coin bank wallet price value level model token cache server client
proxy router switch packet buffer thread process kernel memory disk file folder query index alpha bravo delta echo
quartz umbrella vase yarn xenon jungle kettle igloo hotel violet walnut quiet zone kiwi yogurt""".split()
EN_WORDS = sorted(set(EN_WORDS))

ZH_WORDS = """苹果 梨 葡萄 柠檬 芒果 桃子 樱桃 香蕉 橙子 西瓜 草莓 胡萝卜 土豆 洋葱 大蒜 番茄 辣椒 白菜 菠菜 玉米 米饭 面包
黄油 奶酪 牛奶 白糖 盐 蜂蜜 茶 咖啡 水 果汁 汤 蛋糕 饼干 糖果 桌子 椅子 台灯 沙发 床 书架 门 窗户 墙 地板 屋顶 花园 围栏
道路 街道 桥 河流 湖泊 海洋 沙滩 岛屿 山 山谷 森林 沙漠 田野 草地 树 花 草 叶子 种子 石头 沙子 铁 铜 银 金 木头 纸 玻璃
棉花 丝绸 羊毛 猫 狗 马 牛 猪 羊 鸡 鸭 鹅 兔子 老鼠 松鼠 狐狸 狼 熊 老虎 狮子 斑马 猴子 大象 长颈鹿 骆驼 鹿 老鹰 猫头鹰
乌鸦 天鹅 企鹅 鲨鱼 鲸鱼 海豚 螃蟹 乌龟 青蛙 蛇 蜘蛛 蚂蚁 蜜蜂 蝴蝶 红色 蓝色 绿色 黄色 黑色 白色 紫色 锤子 钉子 锯子 梯子
水桶 刷子 绳子 针 线 衬衫 裤子 外套 裙子 鞋子 袜子 手套 帽子 围巾 戒指 手表 书 钢笔 铅笔 尺子 本子 信 邮票 地图 钟 收音机
电话 相机 电脑 键盘 屏幕 打印机 电池 发动机 轮子 自行车 汽车 公交车 火车 飞机 船 卡车 火箭 卫星 星星 月亮 太阳 云 雨 雪 风
雷 雾 冰 火 冬天 春天 夏天 秋天 早上 晚上 医生 护士 老师 学生 农民 画家 歌手 演员 作家 诗人 法官 律师 士兵 司机 国王 王后
城堡 塔 宫殿 寺庙 博物馆 图书馆 学校 医院 市场 酒店 车站 机场 数字 故事 歌曲 音乐 钢琴 吉他 小提琴 鼓 游戏 球 球队 教练
冠军 票 钱 银行 价格 模型 缓存 服务器 客户端 内存 磁盘 文件 索引""".split()
ZH_WORDS = sorted(set(ZH_WORDS))

EN_NAMES = """Alice Bob Carol David Emma Frank Grace Henry Irene Jack Kate Leo Mary Nina Oscar Paul Quinn Rose Sam Tom
Uma Victor Wendy Xavier Yara Zoe Anna Ben Clara Dan Eva Felix Gina Hugo Ivy John Karen Liam Mia Noah Olivia Peter Ruth
Sarah Tina Lucas Maria Omar Priya Raj Sofia Wei Ming""".split()
ZH_NAMES = """小明 小红 小刚 小丽 小华 小芳 小强 小李 小王 小张 张伟 王芳 李娜 刘洋 陈静 杨帆 赵磊 黄丽 周杰 吴敏 徐涛 孙燕 马超
朱琳 胡军 郭晶 何勇 高峰 林燕 罗丹 郑爽 梁栋 谢娜 宋佳 唐宁 韩雪 冯刚 董洁 萧何 程龙""".split()

EN_CITIES = [
    *"""Paris London Berlin Madrid Rome Vienna Prague Warsaw Lisbon Dublin Oslo Stockholm Helsinki Athens Moscow
Istanbul Cairo Lagos Nairobi Dubai Delhi Mumbai Bangkok Singapore Jakarta Manila Hanoi Seoul Tokyo Osaka Kyoto Beijing
Shanghai Shenzhen Guangzhou Hangzhou Chengdu Taipei Sydney Melbourne Auckland Toronto Vancouver Montreal Chicago Boston
Seattle Denver Dallas Austin Miami Houston Phoenix Lima Bogota Santiago Zurich Geneva Munich Hamburg Milan Naples
Barcelona Amsterdam Brussels Copenhagen Budapest""".split(),
    "New York", "San Francisco", "Los Angeles", "Hong Kong", "Mexico City", "Rio de Janeiro", "Cape Town", "Tel Aviv",
]  # fmt: skip
ZH_CITIES = """北京 上海 广州 深圳 杭州 成都 重庆 武汉 西安 南京 天津 苏州 长沙 郑州 青岛 大连 厦门 宁波 济南 合肥 福州 昆明
沈阳 哈尔滨 长春 石家庄 太原 南昌 贵阳 南宁 海口 兰州 银川 西宁 拉萨 乌鲁木齐 呼和浩特 香港 澳门 台北 东京 巴黎 伦敦 纽约
柏林 首尔 曼谷 新加坡 悉尼 莫斯科 罗马 马德里""".split()

EN_KEYS = """name age city color price size weight height width length owner status code id type brand model year month
day phone email address country language score rank level speed power voltage capacity material shape taste stock
quantity total discount rate tax fee budget team role title department floor room seat gate flight train platform
author publisher genre pages chapter version host port user region zone cluster node replica timeout retries key value
priority category label tag source target start end limit offset count index token channel format mode theme font
temperature humidity pressure altitude latitude longitude depth volume density""".split()
ZH_KEYS = """姓名 年龄 城市 颜色 价格 尺寸 重量 高度 宽度 长度 主人 状态 编号 类型 品牌 型号 年份 电话 邮箱 地址 国家 语言 分数
排名 等级 速度 功率 容量 材料 形状 口味 库存 数量 总计 折扣 税率 费用 预算 团队 角色 职位 部门 楼层 房间 座位 航班 站台 作者
出版社 页数 版本 主机 端口 用户 区域 节点 优先级 类别 标签 来源 目标 开始 结束 上限 温度 湿度 气压 深度 体积 密码""".split()

_COMMON = """hello world python code test example friend family house mother father brother sister love time people help
please thank sorry today tomorrow yesterday good great nice small large happy sad simple hard easy first second last
north south east west left right open close start stop write read sort reverse compare convert random banana science
program function variable string array object class method engine nano sextant deepseek""".split()
SPELLABLE = sorted({w.lower() for w in (*EN_WORDS, *EN_KEYS, *EN_NAMES, *EN_CITIES, *_COMMON) if w.isalpha()})
"""The words that are spelled out or backwards."""

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def word(rng: Random, language: Language) -> str:
    return rng.choice(ZH_WORDS if language == "zh" else EN_WORDS)


def name(rng: Random, language: Language) -> str:
    """A name: mostly listed, sometimes one nobody has heard of."""
    if rng.random() < 0.3:
        return pseudo_word(rng).capitalize() if language == "en" or rng.random() < 0.3 else han(rng, 2, 3)
    return rng.choice(ZH_NAMES if language == "zh" else EN_NAMES)


def city(rng: Random, language: Language) -> str:
    """A place: mostly listed, sometimes made up, sometimes with its region."""
    if language == "en" and rng.random() < 0.06:
        return f"{rng.choice(EN_CITIES)}, {rng.choice(['France', 'CA', 'MA', 'UK', 'Germany', 'China', 'TX', 'NY', 'Japan', pseudo_word(rng).capitalize()])}"
    if rng.random() < 0.25:
        return pseudo_word(rng).capitalize() if language == "en" or rng.random() < 0.3 else han(rng, 2, 3)
    return rng.choice(ZH_CITIES if language == "zh" and rng.random() < 0.8 else EN_CITIES)


def key_name(rng: Random, language: Language) -> str:
    """A field name: a listed word, two joined by an underscore, or made up."""
    if language == "zh" and rng.random() < 0.6:
        return rng.choice(ZH_KEYS)
    draw = rng.random()
    if draw < 0.6:
        return rng.choice(EN_KEYS)
    if draw < 0.85:
        return rng.choice(EN_KEYS) + "_" + rng.choice(EN_KEYS)
    return pseudo_word(rng)


def pseudo_word(rng: Random) -> str:
    """A pronounceable word that no list holds."""
    out = "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 3)))
    return out + (rng.choice(_CONSONANTS) if rng.random() < 0.6 else "")


def letters(rng: Random, low: int, high: int) -> str:
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(low, high)))


def han(rng: Random, low: int, high: int) -> str:
    """Random Chinese characters of the common range."""
    return "".join(chr(rng.randint(0x4E00, 0x9F00)) for _ in range(rng.randint(low, high)))


def code(rng: Random) -> str:
    """A part number, order number, token or the like."""
    pattern = rng.choice(
        ["A9", "AA-99", "A999", "aa99", "999-999", "A9A9", "aaaa-9", "99AA", "AAA-9999", "aA9aA9", "a-a-9"]
    )
    draw = {"A": string.ascii_uppercase, "a": string.ascii_lowercase, "9": string.digits}
    return "".join(rng.choice(draw[c]) if c in draw else c for c in pattern)


def value(rng: Random, language: Language) -> str:
    """A value to be copied: a word, number, code, name, mail address, place, or random characters."""
    kind = rng.randrange(12)
    if kind <= 2:
        return word(rng, language)
    if kind <= 4:
        return str(rng.randint(0, 10 ** rng.randint(1, 5)))
    if kind == 5:
        return code(rng)
    if kind == 6:
        return name(rng, language)
    if kind == 7:
        return city(rng, language)
    if kind == 8:
        return f"{pseudo_word(rng)}@{pseudo_word(rng)}.{rng.choice(['com', 'org', 'net', 'cn', 'io'])}"
    if kind == 9:
        return pseudo_word(rng) if language == "en" or rng.random() < 0.25 else han(rng, 1, 4)
    if kind == 10:
        return f"{rng.randint(0, 99)}.{rng.randint(0, 99)}"
    return letters(rng, 3, 8) if rng.random() < 0.5 else f"{word(rng, language)} {word(rng, language)}"
