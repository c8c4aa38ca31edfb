-- task, ticket that was claimed, 'done' | 'again', first delay in ms, longest delay in ms
-- -> 1 when nothing of the task is left
local task = ARGV[1]
redis.call('HDEL', P .. 'tasks:lease', task)
local held = redis.call('HGET', P .. 'tasks', task)
if not held then
  redis.call('ZREM', P .. 'tasks:due', task)
  redis.call('HDEL', P .. 'tasks:attempts', task)
  return 1
end
if ARGV[3] == 'done' then
  redis.call('HDEL', P .. 'tasks:attempts', task)
  if string.match(held, '^(%d+) ') == ARGV[2] then
    redis.call('ZREM', P .. 'tasks:due', task)
    redis.call('HDEL', P .. 'tasks', task)
    return 1
  end
  -- Owed anew while it ran.
  redis.call('ZADD', P .. 'tasks:due', NOW, task)
  return 0
end
local attempts = redis.call('HINCRBY', P .. 'tasks:attempts', task, 1)
local delay = math.min(tonumber(ARGV[4]) * 2 ^ math.min(attempts - 1, 20), tonumber(ARGV[5]))
redis.call('ZADD', P .. 'tasks:due', NOW + math.floor(delay * (75 + NOW % 50) / 100), task)
return 0
