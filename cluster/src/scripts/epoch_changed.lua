-- A root that made its store anew knows nothing of what runs here: tell it again.
local count = 0
for _, job in ipairs(redis.call('SMEMBERS', P .. 'jobs')) do
  for _, number in ipairs(redis.call('HKEYS', P .. 'local:' .. job)) do
    owe('report:' .. job .. '/' .. number, redis.call('HGET', P .. 'job:' .. job, 'id') or '')
    count = count + 1
  end
  owe('refresh:' .. job, '')
end
return count
