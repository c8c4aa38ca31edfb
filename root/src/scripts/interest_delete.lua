-- ARGV: rest, job (empty: an address was named, nothing to drop), then the five of callers().
local found = callers(3)
if #found == 0 then
  return redis.error_reply('NOCALLER not registered')
end
if ARGV[2] ~= '' then
  for _, cluster in ipairs(found) do
    redis.call('SREM', P .. 'watch:' .. ARGV[2], cluster)
    redis.call('ZREM', P .. 'feed:' .. cluster, ARGV[2])
    redis.call('ZREM', P .. 'gone:' .. cluster, ARGV[2])
  end
end
return redis.status_reply('OK')
