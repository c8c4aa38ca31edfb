-- ARGV: rest, name or ip, value, register (1 or 0), then the five of callers().
local found = {}
if ARGV[4] == '1' then
  found = callers(5)
  if #found == 0 then
    return redis.error_reply('NOCALLER not registered')
  end
end
local job = ARGV[3]
if ARGV[2] == 'ip' then
  local who = owner(ARGV[3])
  if not who then
    return redis.error_reply('NOJOB no service has this address')
  end
  job = string.match(who, '^[^/]+')
end
local fields = redis.call('HGETALL', job_key(job))
if #fields == 0 then
  return redis.error_reply('NOJOB ' .. job .. ' is unknown')
end
for _, cluster in ipairs(found) do
  if redis.call('SADD', P .. 'watch:' .. job, cluster) == 1 then
    redis.call('ZADD', P .. 'feed:' .. cluster, redis.call('HGET', job_key(job), 'rev') or '0', job)
    redis.call('ZREM', P .. 'gone:' .. cluster, job)
  end
end
return { job, EPOCH, fields, found }
