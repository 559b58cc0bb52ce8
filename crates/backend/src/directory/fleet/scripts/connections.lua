-- Stores the connections of a session, for its farewell.
-- KEYS: lease, connections
-- ARGV: generation, life, writes, expiry in Unix ms, then per connection: id, URL
-- Returns 0 without such a lease.
local lease = redis.call('HMGET', KEYS[1], 'generation', 'life', 'writes')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] or tonumber(lease[3]) < tonumber(ARGV[3]) then return 0 end
redis.call('DEL', KEYS[2])
for n = 5, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[n], ARGV[n + 1]) end
redis.call('PEXPIREAT', KEYS[2], ARGV[4])
return 1
