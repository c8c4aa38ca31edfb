-- A root that made its store anew, or lost a part of it, does not know what runs here: tell it again.
-- Its revisions start anew as well, so what was asked for later counts, as it does without them.
local count = 0
for _, job in ipairs(redis.call('SMEMBERS', P .. 'jobs')) do
  for _, number in ipairs(redis.call('HKEYS', P .. 'local:' .. job)) do
    owe('report:' .. job .. '/' .. number, redis.call('HGET', P .. 'job:' .. job, 'id') or '')
    count = count + 1
  end
  if redis.call('EXISTS', P .. 'job:' .. job) == 1 then
    redis.call('HSET', P .. 'job:' .. job, 'revision', '')
  end
  owe('refresh:' .. job, '')
end
return count
