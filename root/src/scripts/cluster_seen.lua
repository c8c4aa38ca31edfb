-- A sign of life. ARGV: rest, then the ids.
for i = 2, #ARGV do
  local key = P .. 'cluster:' .. ARGV[i]
  if redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'seen', text(now()))
  end
end
return redis.status_reply('OK')
