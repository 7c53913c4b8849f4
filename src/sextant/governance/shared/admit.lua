-- Admits or refuses each ask of a batch, in order; nothing is charged for one that is refused.
--
-- ARGV[3]: {rule sets, asks, whether asks may have been answered before}; a rule {scope, interval_us, burst,
-- per_min, concurrent, tokens_per_day, nano_per_month ('' for none), prepaid}, an ask {request id, number of its
-- rule set from 1, tokens, nano, day, month, now_ms}.
-- Answer: {0, now_us, one answer an ask}, {1} where the owner must begin anew, {2, ms to wait} where nobody is
-- admitted yet. Of an ask: {1, tat, lvl, n of each scope}, {0, everything of each scope} when refused,
-- {2, numbers of the rules whose scope is not known from the books}.
local GAP_UNITS = 4000000

local function split(nano)
    local sign = 1
    if nano:sub(1, 1) == '-' then sign, nano = -1, nano:sub(2) end
    return sign * (tonumber(nano:sub(1, -10)) or 0), sign * (tonumber(nano:sub(-9)) or 0)
end

-- a - b of two amounts that a double may not hold; cut at 4 million units, far more than is ever held.
local function gap(a, b)
    local a_units, a_rest = split(a)
    local b_units, b_rest = split(b)
    local units = math.max(-GAP_UNITS, math.min(GAP_UNITS, a_units - b_units))
    return units * 1000000000 + a_rest - b_rest
end

local function refresh(s, rule)
    local interval, per_min = rule[2], rule[4]
    if interval >= 0 then
        if s.tat <= now then s.tat = now else s.tat = math.min(s.tat, now + interval * rule[3]) end
    end
    if per_min >= 0 then
        if s.pm < 0 then
            s.lvl = per_min * MINUTE
        else
            local level = s.lvl
            if now > s.at then level = level + (now - s.at) * per_min end
            s.lvl = math.min(level, per_min * MINUTE)
        end
        s.at, s.pm = now, per_min
    end
end

local function needs_books(rule) return rule[8] or rule[6] >= 0 or rule[7] ~= '' end

local function unknown(s, now_ms) return not s.v or s.q == 1 or (s.fu > 0 and s.fu <= now_ms) end

local function booked(s, rule, ask)
    local tokens, nano = ask[3], ask[4]
    if rule[6] >= 0 and tokens > 0 then
        if tokens > rule[6] - (s.d >= ask[5] and s.dt or 0) - s.ht then return true end
    end
    if rule[7] ~= '' and nano > 0 then
        if nano > gap(rule[7], s.m >= ask[6] and s.mn or '0') - s.hn then return true end
    end
    return rule[8] and nano > gap(s.f, '0') - s.hn
end

local function admits(s, rule, ask)
    if rule[2] >= 0 and s.tat - now - rule[2] * (rule[3] - 1) > 0 then return false end
    if rule[4] >= 0 and s.lvl < math.min(ask[3], rule[4]) * MINUTE then return false end
    if rule[5] >= 0 and s.n >= rule[5] then return false end
    return not (needs_books(rule) and booked(s, rule, ask))
end

-- The hold of an ask that is admitted.
local function charge(rules, ask)
    local hold = {ask[3], ask[4]}
    for _, rule in ipairs(rules) do
        local s = scope(rule[1])
        if rule[2] >= 0 then s.tat = s.tat + rule[2] end
        s.n, s.ht, s.hn = s.n + 1, s.ht + ask[3], s.hn + ask[4]
        local taken = -1
        if rule[4] >= 0 then
            taken = math.min(ask[3], rule[4])
            s.lvl = s.lvl - taken * MINUTE
        end
        hold[#hold + 1] = rule[1]
        hold[#hold + 1] = taken
        dirty[rule[1]] = true
    end
    return cmsgpack.pack(hold)
end

local function answer(code, rules)
    local said = {code}
    for _, rule in ipairs(rules) do
        local s = scope(rule[1])
        local values = {s.tat, s.lvl, s.n}
        if code == 0 then
            values = {s.tat, s.lvl, s.n, s.ht, s.hn, s.v and 1 or 0, s.d, s.dt, s.m, s.mn, s.f, s.fu}
        end
        for _, value in ipairs(values) do said[#said + 1] = value end
    end
    return said
end

local function decide(rules, ask, charged)
    local free, missing = true, {2}
    for number, rule in ipairs(rules) do
        local s = scope(rule[1])
        refresh(s, rule)
        if needs_books(rule) and unknown(s, ask[7]) then
            missing[#missing + 1] = number
        elseif not admits(s, rule, ask) then
            free = false
        end
    end
    if #missing > 1 then return missing end
    if not free then return answer(0, rules) end
    charged[#charged + 1] = ask[1]
    charged[#charged + 1] = charge(rules, ask)
    return answer(1, rules)
end

if not registered() then return cmsgpack.pack({1}) end
local wait = wait_ms()
if wait > 0 then return cmsgpack.pack({2, wait}) end
local batch = cmsgpack.unpack(ARGV[3])
local sets, asks, again = batch[1], batch[2], batch[3]
local answers, charged = {}, {}
for _, ask in ipairs(asks) do
    local rules = sets[ask[2]]
    if again and redis.call('HEXISTS', P .. 'h:' .. OWNER, ask[1]) == 1 then
        for _, rule in ipairs(rules) do refresh(scope(rule[1]), rule) end
        answers[#answers + 1] = answer(1, rules)
    else
        answers[#answers + 1] = decide(rules, ask, charged)
    end
end
if #charged > 0 then redis.call('HSET', P .. 'h:' .. OWNER, unpack(charged)) end
commit()
return cmsgpack.pack({0, now, answers})
