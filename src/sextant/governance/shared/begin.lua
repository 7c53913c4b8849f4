-- A gateway worker reports: on each new connection, or when it finds that it is not registered.
--
-- ARGV[3]: {worker's name, lease_us, run id of the server, holds to keep, id of its books or ''}; a hold
-- {request id, {tokens, nano, scope, taken, ...}, or {} for one that is kept only where it is recorded}. What an earlier process of the same name left is ended, what
-- is recorded and not named is refunded, what is named and not recorded is recorded. When the server has started
-- anew it may have forgotten holds: then nobody is admitted until all that had a lease have reported, or, where it
-- has forgotten even those, for the time of a lease. Answer: {0, holds ended, ms until somebody is
-- admitted}, {1} from an older connection, {4} where these are the limits of other books, until nobody of
-- theirs has had a lease for so long that what they said of scopes is forgotten.
local batch = cmsgpack.unpack(ARGV[3])
local name, lease, run, keep, books = batch[1], batch[2], batch[3], batch[4], batch[5]
local others = books ~= '' and redis.call('HGET', P .. 'meta', 'store')
if others and others ~= books then
    local latest = redis.call('ZRANGE', P .. 'owners', 0, 0, 'REV', 'WITHSCORES')
    if latest[2] and tonumber(latest[2]) + FORGET_MS * 1000 > now then return cmsgpack.pack({4}) end
    for _, owner in ipairs(redis.call('ZRANGE', P .. 'owners', 0, -1)) do reap(owner) end
end
if books ~= '' then redis.call('HSET', P .. 'meta', 'store', books) end
local known = tonumber(redis.call('HGET', P .. 'gens', OWNER) or -1)
if known >= GEN then return cmsgpack.pack({1}) end
local reaped = 0
local before = redis.call('HGET', P .. 'names', name)
if before and before ~= OWNER then reaped = reap(before) end
redis.call('HSET', P .. 'names', name, OWNER)
redis.call('HSET', P .. 'gens', OWNER, int(GEN))
local ran = redis.call('HGET', P .. 'meta', 'run')
if ran ~= run then
    redis.call('DEL', P .. 'late')
    for _, owner in ipairs(redis.call('ZRANGE', P .. 'owners', 0, -1)) do
        redis.call('SADD', P .. 'late', owner)
        redis.call('ZADD', P .. 'owners', int(now + lease), owner) -- nobody could renew it meanwhile
    end
    redis.call('HSET', P .. 'meta', 'run', run, 'until', int(now + lease), 'strangers', ran and '0' or '1')
end
redis.call('SREM', P .. 'late', OWNER)
local key, wanted = P .. 'h:' .. OWNER, {}
local recorded = redis.call('HGETALL', key)
for _, hold in ipairs(keep) do wanted[hold[1]] = hold[2] end
for i = 1, #recorded, 2 do
    if wanted[recorded[i]] then
        wanted[recorded[i]] = nil
    else
        release(cmsgpack.unpack(recorded[i + 1]), 0)
        redis.call('HDEL', key, recorded[i])
    end
end
for id, hold in pairs(wanted) do
    if #hold > 0 then
        for i = 3, #hold, 2 do
            local s = scope(hold[i])
            s.n, s.ht, s.hn = s.n + 1, s.ht + hold[1], s.hn + hold[2]
            dirty[hold[i]] = true
        end
        redis.call('HSET', key, id, cmsgpack.pack(hold))
    end
end
redis.call('ZADD', P .. 'owners', int(now + lease), OWNER)
commit()
return cmsgpack.pack({0, reaped, wait_ms()})
