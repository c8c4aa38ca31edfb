-- ARGV: rest, id, ACTIVE or ERROR. Answers whether that is new.
local key = P .. 'cluster:' .. ARGV[2]
if redis.call('EXISTS', key) == 0 or redis.call('HGET', key, 'status') == ARGV[3] then
  return 0
end
redis.call('HSET', key, 'status', ARGV[3], 'since', text(now()))
return 1
