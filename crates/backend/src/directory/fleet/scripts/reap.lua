-- Takes the right to bury an instance's sessions, and lists some; an instance may always list all of its own.
-- KEYS: lease of the instance, its reaper, its sessions, instances
-- ARGV: uuid of the caller, instance, ms of the right, most sessions
-- Returns 0 if it has a lease or another reaper, else 1; sessions.
if ARGV[1] == ARGV[2] then return {1, redis.call('SMEMBERS', KEYS[3])} end
local reaper = redis.call('GET', KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 1 or (reaper and reaper ~= ARGV[1]) then return {0, {}} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
local sessions = redis.call('SRANDMEMBER', KEYS[3], ARGV[4])
if #sessions == 0 then redis.call('ZREM', KEYS[4], ARGV[2]) end
return {1, sessions}
