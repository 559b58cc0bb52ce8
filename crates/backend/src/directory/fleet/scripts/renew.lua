-- Extends the caller's lease, or makes another if this is not the one it knows.
-- KEYS: lease, epoch, instances, releases, releases' last renewals, URLs of the release
-- ARGV: uuid, generation, known life, known writes, url, release, ms of a lease, ms that a release is remembered
-- Returns life (0: superseded), writes, rank, newest rank, newest release, dead instances.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function next_epoch()
  local epoch = math.max(redis.call('INCR', KEYS[2]), now)
  redis.call('SET', KEYS[2], string.format('%.0f', epoch))
  return epoch
end
local lease = redis.call('HMGET', KEYS[1], 'generation', 'life', 'writes')
local generation = tonumber(lease[1] or 0)
if generation > tonumber(ARGV[2]) then return {0, 0, 0, 0, '', {}} end
local life = lease[2]
if lease[1] ~= ARGV[2] or life ~= ARGV[3] or tonumber(lease[3]) < tonumber(ARGV[4]) then
  life = string.format('%.0f', next_epoch())
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'generation', ARGV[2], 'life', life)
end
redis.call('HSET', KEYS[1], 'url', ARGV[5])
local writes = redis.call('HINCRBY', KEYS[1], 'writes', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('ZADD', KEYS[3], now, ARGV[1])
redis.call('ZADD', KEYS[5], now, ARGV[6])
local past = now - ARGV[8]
for _, release in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', past)) do
  redis.call('ZREM', KEYS[4], release)
  redis.call('ZREM', KEYS[5], release)
end
local rank = redis.call('ZSCORE', KEYS[4], ARGV[6])
if not rank then
  rank = next_epoch()
  redis.call('ZADD', KEYS[4], rank, ARGV[6])
end
local newest = redis.call('ZREVRANGE', KEYS[4], 0, 0, 'WITHSCORES')
redis.call('ZADD', KEYS[6], now, ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', past)
redis.call('PEXPIRE', KEYS[6], ARGV[8])
local dead = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[7], 'LIMIT', 0, 8)
return {tonumber(life), writes, tonumber(rank), tonumber(newest[2]), newest[1], dead}
