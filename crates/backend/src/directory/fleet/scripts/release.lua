-- Removes a session of the caller, if it has this epoch.
-- KEYS: entry, connections, sessions of the instance
-- ARGV: uuid, session, epoch
local entry = redis.call('HMGET', KEYS[1], 'instance', 'epoch', 'buried')
if entry[1] == ARGV[1] and entry[2] == ARGV[3] and not entry[3] then
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('SREM', KEYS[3], ARGV[2])
end
return 1
