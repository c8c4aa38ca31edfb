-- most, lease in ms -> { ms until the next is due (-1 for none), task, "ticket payload", ... }
local answer = { -1 }
local lease = NOW + tonumber(ARGV[2])
for _, task in ipairs(redis.call('ZRANGEBYSCORE', P .. 'tasks:due', '-inf', NOW, 'LIMIT', 0, ARGV[1])) do
  local held = redis.call('HGET', P .. 'tasks', task)
  if held then
    redis.call('ZADD', P .. 'tasks:due', lease, task)
    redis.call('HSET', P .. 'tasks:lease', task, lease)
    answer[#answer + 1] = task
    answer[#answer + 1] = held
  else
    redis.call('ZREM', P .. 'tasks:due', task)
    redis.call('HDEL', P .. 'tasks:lease', task)
  end
end
local first = redis.call('ZRANGE', P .. 'tasks:due', 0, 0, 'WITHSCORES')
if first[2] then answer[1] = math.max(0, tonumber(first[2]) - NOW) end
return answer
