-- Gives up the caller's lease.
-- KEYS: lease, instances, URLs of the release, sessions of the instance
-- ARGV: uuid, generation, url
if redis.call('HGET', KEYS[1], 'generation') == ARGV[2] then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[3], ARGV[3])
  if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('ZREM', KEYS[2], ARGV[1]) end
end
return 1
