-- What the three scripts share: the state of scopes, loaded once a call and written once at its end.
--
-- Every key begins with KEYS[1], which holds the hash tag: all of them lie in one slot.
--   s:SCOPE   hash: tat (us), lvl (tokens x 60e6) at `at` (us) for `pm` tokens a minute, n open requests with ht
--             tokens and hn nano held; of the books v (version), d, dt, m, mn, f, fu, and q = 1 when a newer
--             standing must be asked for
--   h:OWNER   hash: request id -> its hold, packed
--   owners    sorted set: owner -> when its lease ends (us)
--   gens      hash: owner -> number of its connection; calls of an older one are refused
--   names     hash: worker -> its present owner id
--   meta      hash: run (of the server), until (us): nobody is admitted before, store: id of the books;
--             late: owners yet to report
local P, OWNER, GEN = KEYS[1], ARGV[1], tonumber(ARGV[2])
local MINUTE, FORGET_MS = 60000000, 600000
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local FIELDS = {'tat', 'lvl', 'at', 'pm', 'n', 'ht', 'hn', 'v', 'd', 'dt', 'm', 'mn', 'f', 'fu', 'q'}
local scopes, dirty = {}, {}

local function int(number) return string.format('%.0f', number) end

local function scope(name)
    local s = scopes[name]
    if s then return s end
    local f = redis.call('HMGET', P .. 's:' .. name, unpack(FIELDS))
    s = {
        tat = tonumber(f[1] or 0), lvl = tonumber(f[2] or 0), at = tonumber(f[3] or 0), pm = tonumber(f[4] or -1),
        n = tonumber(f[5] or 0), ht = tonumber(f[6] or 0), hn = tonumber(f[7] or 0),
        v = f[8] and tonumber(f[8]), d = tonumber(f[9] or 0), dt = tonumber(f[10] or 0), m = tonumber(f[11] or 0),
        mn = f[12] or '0', f = f[13] or '0', fu = tonumber(f[14] or 0), q = tonumber(f[15] or 0),
    }
    s.kept = s.n > 0
    scopes[name] = s
    return s
end

-- Scopes with something open stay; others are forgotten once a new one in their place would be the same.
local function commit()
    for name in pairs(dirty) do
        local s, key = scopes[name], P .. 's:' .. name
        redis.call('HSET', key, 'tat', int(s.tat), 'lvl', int(s.lvl), 'at', int(s.at), 'pm', int(s.pm),
            'n', int(s.n), 'ht', int(s.ht), 'hn', int(s.hn))
        if s.v then
            redis.call('HSET', key, 'v', int(s.v), 'd', int(s.d), 'dt', int(s.dt), 'm', int(s.m),
                'mn', s.mn, 'f', s.f, 'fu', int(s.fu), 'q', s.q)
        end
        if s.n <= 0 then
            local full = s.pm > 0 and (s.pm * MINUTE - s.lvl) / s.pm or 0
            redis.call('PEXPIRE', key, int(math.max(FORGET_MS, (s.tat - now) / 1000 + 1, full / 1000 + 1)))
        elseif not s.kept then
            redis.call('PERSIST', key)
        end
    end
end

-- Ends a hold {tokens, nano, scope, taken, ...}. `used` tokens; nil: nobody knows, the bucket keeps what was taken.
local function release(hold, used)
    for i = 3, #hold, 2 do
        local s, taken = scope(hold[i]), hold[i + 1]
        s.n, s.ht, s.hn = math.max(0, s.n - 1), math.max(0, s.ht - hold[1]), math.max(0, s.hn - hold[2])
        if used and taken >= 0 then s.lvl = s.lvl + (taken - used) * MINUTE end
        dirty[hold[i]] = true
    end
end

-- Ends all holds of an owner that is gone. It may have booked rows whose standings nobody here has seen.
local function reap(owner)
    local holds = redis.call('HGETALL', P .. 'h:' .. owner)
    for i = 2, #holds, 2 do
        local hold = cmsgpack.unpack(holds[i])
        release(hold, nil)
        for j = 3, #hold, 2 do scope(hold[j]).q = 1 end
    end
    redis.call('DEL', P .. 'h:' .. owner)
    redis.call('ZREM', P .. 'owners', owner)
    redis.call('HDEL', P .. 'gens', owner)
    redis.call('SREM', P .. 'late', owner)
    return #holds / 2
end

-- How long nobody is admitted yet, in ms: some may still have to report what they hold.
local function wait_ms()
    local meta = redis.call('HMGET', P .. 'meta', 'until', 'strangers')
    local left = tonumber(meta[1] or 0) - now
    if left > 0 and (meta[2] == '1' or redis.call('SCARD', P .. 'late') > 0) then return math.ceil(left / 1000) end
    return 0
end

local function registered() return tonumber(redis.call('HGET', P .. 'gens', OWNER) or -1) == GEN end
