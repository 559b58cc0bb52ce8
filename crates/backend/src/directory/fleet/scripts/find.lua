-- Finds a session's entry.
-- KEYS: lease of the caller, entry
-- ARGV: generation, life, writes
-- Returns 0 without such a lease, else 1; instance (empty: absent), epoch, 1 if buried.
local lease = redis.call('HMGET', KEYS[1], 'generation', 'life', 'writes')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] or tonumber(lease[3]) < tonumber(ARGV[3]) then return {0, '', 0, 0} end
local entry = redis.call('HMGET', KEYS[2], 'instance', 'epoch', 'buried')
return {1, entry[1] or '', tonumber(entry[2] or 0), entry[3] and 1 or 0}
