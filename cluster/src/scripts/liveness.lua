-- -> { now, status (node, "1 since" ...), seen (node, ms ...), departed, signs (node, ms ...), busy }
-- Busy are nodes that are online by their own word and run something: they speak every minute.
local status, busy = redis.call('HGETALL', P .. 'status'), {}
for at = 1, #status, 2 do
  if string.sub(status[at + 1], 1, 1) == '1'
    and redis.call('EXISTS', P .. 'node:instances:' .. status[at]) == 1 then
    busy[#busy + 1] = status[at]
  end
end
return { NOW, status, redis.call('ZRANGE', P .. 'seen', 0, -1, 'WITHSCORES'),
  redis.call('SMEMBERS', P .. 'departed'),
  redis.call('ZRANGE', P .. 'signs', 0, -1, 'WITHSCORES'), busy }
