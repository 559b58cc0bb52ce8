-- Registers sessions again.
-- KEYS: lease, epoch, sessions of the instance, an entry per session
-- ARGV: uuid, generation, life, writes, then per session: id, epoch (0: unknown), owner, expiry in Unix ms
-- Returns writes (0: no such lease), an epoch per session (0: another's, or buried).
local lease = redis.call('HMGET', KEYS[1], 'generation', 'life', 'writes')
if lease[1] ~= ARGV[2] or lease[2] ~= ARGV[3] or tonumber(lease[3]) < tonumber(ARGV[4]) then return {0, {}} end
local writes = redis.call('HINCRBY', KEYS[1], 'writes', 1)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local highest = tonumber(redis.call('GET', KEYS[2]) or 0)
local epochs = {}
for n = 4, #KEYS do
  local at = 5 + (n - 4) * 4
  local session, epoch, owner, expiry = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  local entry = redis.call('HMGET', KEYS[n], 'instance', 'buried', 'epoch')
  local known = tonumber(entry[3] or 0)
  if entry[1] == ARGV[1] and not entry[2] then
    epoch = math.max(epoch, known)
  elseif entry[1] and epoch <= known then
    epoch = nil
  elseif epoch == 0 then
    epoch = math.max(highest + 1, now)
  end
  if epoch then
    highest = math.max(highest, epoch)
    redis.call('DEL', KEYS[n])
    redis.call('HSET', KEYS[n], 'instance', ARGV[1], 'epoch', string.format('%.0f', epoch), 'owner', owner)
    redis.call('PEXPIREAT', KEYS[n], expiry)
    redis.call('SADD', KEYS[3], session)
    if redis.call('PTTL', KEYS[3]) < expiry - now then redis.call('PEXPIREAT', KEYS[3], expiry) end
  end
  epochs[n - 3] = epoch or 0
end
redis.call('SET', KEYS[2], string.format('%.0f', highest))
return {writes, epochs}
