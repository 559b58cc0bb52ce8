-- Marks a session as gone, if its instance has no lease; with an epoch, if its entry has that.
-- KEYS: lease of the instance, entry, connections
-- ARGV: instance, epoch or empty
-- Returns its connections: id, URL, …
local entry = redis.call('HMGET', KEYS[2], 'instance', 'epoch')
if entry[1] ~= ARGV[1] then return {} end
if ARGV[2] == '' then
  if redis.call('EXISTS', KEYS[1]) == 1 then return {} end
elseif entry[2] ~= ARGV[2] then
  return {}
end
redis.call('HSET', KEYS[2], 'buried', '1')
redis.call('HDEL', KEYS[2], 'owner')
return redis.call('HGETALL', KEYS[3])
