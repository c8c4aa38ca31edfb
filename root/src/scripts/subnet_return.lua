-- ARGV: rest, index. Giving back twice is no error and does not start the rest again.
local index = tonumber(ARGV[2])
if index >= tonumber(redis.call('HGET', P .. 'next', 'subnet') or 0) then
  return redis.error_reply('NOSUBNET it was never handed out')
end
redis.call('ZADD', P .. 'rest:subnet', 'NX', text(now()), text(index))
return redis.status_reply('OK')
