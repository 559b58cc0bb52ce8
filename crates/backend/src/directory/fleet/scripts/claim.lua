-- Registers a session, if its id is absent, buried or the caller's.
-- KEYS: lease, epoch, sessions of the instance, entry, connections
-- ARGV: uuid, generation, life, writes, session, owner, expiry in Unix ms
-- Returns epoch (0: taken, -1: no such lease), writes.
local lease = redis.call('HMGET', KEYS[1], 'generation', 'life', 'writes')
if lease[1] ~= ARGV[2] or lease[2] ~= ARGV[3] or tonumber(lease[3]) < tonumber(ARGV[4]) then return {-1, 0} end
local entry = redis.call('HMGET', KEYS[4], 'instance', 'buried')
if entry[1] and not entry[2] and entry[1] ~= ARGV[1] then return {0, 0} end
local writes = redis.call('HINCRBY', KEYS[1], 'writes', 1)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = math.max(redis.call('INCR', KEYS[2]), now)
local text = string.format('%.0f', epoch)
redis.call('SET', KEYS[2], text)
redis.call('DEL', KEYS[4], KEYS[5])
redis.call('HSET', KEYS[4], 'instance', ARGV[1], 'epoch', text, 'owner', ARGV[6])
redis.call('PEXPIREAT', KEYS[4], ARGV[7])
redis.call('SADD', KEYS[3], ARGV[5])
if redis.call('PTTL', KEYS[3]) < ARGV[7] - now then redis.call('PEXPIREAT', KEYS[3], ARGV[7]) end
return {epoch, writes}
