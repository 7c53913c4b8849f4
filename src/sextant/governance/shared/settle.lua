-- Takes standings, then ends holds, then renews the lease; with a heartbeat it ends what dead owners left.
--
-- ARGV[3]: {standings, ends, lease_us, whether this is a heartbeat}; a standing {scope, version, day, day tokens,
-- month, month nano, funds, funds until ms, whether it was asked for since the scope was in doubt}, an end
-- {request id, tokens used}. Answer: {0, holds ended of dead owners, ms until somebody is admitted}, {1} where the owner must begin anew.
if not registered() then return cmsgpack.pack({1}) end
local batch = cmsgpack.unpack(ARGV[3])
local standings, ends, lease, beat = batch[1], batch[2], batch[3], batch[4]
for _, t in ipairs(standings) do
    local s = scope(t[1])
    if not s.v or s.v <= t[2] then
        s.v, s.d, s.dt, s.m, s.mn, s.f, s.fu = t[2], t[3], t[4], t[5], t[6], t[7], t[8]
        if t[9] then s.q = 0 end
        dirty[t[1]] = true
    end
end
local ids = {}
for i, ended in ipairs(ends) do ids[i] = ended[1] end
if #ids > 0 then
    local key = P .. 'h:' .. OWNER
    local holds = redis.call('HMGET', key, unpack(ids))
    for i, hold in ipairs(holds) do
        if hold then release(cmsgpack.unpack(hold), ends[i][2]) end
    end
    redis.call('HDEL', key, unpack(ids))
end
redis.call('ZADD', P .. 'owners', int(now + lease), OWNER)
local reaped = 0
if beat then
    local dead = redis.call('ZRANGEBYSCORE', P .. 'owners', '-inf', int(now), 'LIMIT', 0, 1)
    if dead[1] then reaped = reap(dead[1]) end
end
commit()
return cmsgpack.pack({0, reaped, wait_ms()})
