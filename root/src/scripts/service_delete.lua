-- ARGV: rest, _id. Only without instances. Watchers keep a tombstone with the last revision.
local id = ARGV[2]
local job = redis.call('GET', P .. 'id:' .. id)
if not job then
  return redis.error_reply('NOJOB ' .. id .. ' is unknown')
end
local key = job_key(job)
local fields = redis.call('HGETALL', key)
for i = 1, #fields, 2 do
  if string.match(fields[i], '^i%d+$') then
    return redis.error_reply('REFUSED instances of ' .. job .. ' are left; undeploy them first')
  end
end
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 1) == 's' then
    for _, hex in ipairs(split(fields[i + 1])) do
      give_back(hex, job)
    end
  end
end
local revision = redis.call('INCR', P .. 'revision')
for _, cluster in ipairs(watchers(job)) do
  redis.call('ZREM', P .. 'feed:' .. cluster, job)
  redis.call('ZADD', P .. 'gone:' .. cluster, text(revision), job)
  publish(cluster, revision, job, '-1', 'UNDEPLOYMENT')
end
redis.call('DEL', key, P .. 'id:' .. id, P .. 'watch:' .. job)
redis.call('ZREM', P .. 'jobs', job)
return redis.status_reply('OK')
