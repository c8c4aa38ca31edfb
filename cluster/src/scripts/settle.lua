-- Whether the server that serves us now is the one that did before; run on each new connection.
-- Its run id, 1 when it cannot have lost what was acknowledged -> what was done, or nothing
local before = redis.call('GET', P .. 'server')
if before == ARGV[1] then return '' end
redis.call('SET', P .. 'server', ARGV[1])
if not before or ARGV[2] == '1' then return '' end
-- Tasks, copies, interests and announcements may be missing. Root and nodes know the rest: everything is
-- read and told again, and nodes that hear of a job ask for it.
redis.call('DEL', P .. 'feed')
local count = 0
for _, job in ipairs(redis.call('SMEMBERS', P .. 'jobs')) do
  for _, number in ipairs(redis.call('HKEYS', P .. 'local:' .. job)) do
    owe('report:' .. job .. '/' .. number, redis.call('HGET', P .. 'job:' .. job, 'id') or '')
  end
  owe('refresh:' .. job, '')
  owe('announce:' .. job, 'DEPLOYMENT')
  count = count + 1
end
return count .. ' jobs are read and told again'
