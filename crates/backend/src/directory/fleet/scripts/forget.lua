-- Removes what is left of a session that is not the instance's any more.
-- KEYS: entry, connections, sessions of the instance
-- ARGV: instance, session
local entry = redis.call('HMGET', KEYS[1], 'instance', 'buried')
if not entry[1] or entry[2] then redis.call('DEL', KEYS[2]) end
if not entry[1] or entry[2] or entry[1] ~= ARGV[1] then redis.call('SREM', KEYS[3], ARGV[2]) end
return 1
