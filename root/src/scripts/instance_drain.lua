-- ARGV: rest, _id, number.
local job = redis.call('GET', P .. 'id:' .. ARGV[2])
if not job then
  return redis.error_reply('NOJOB ' .. ARGV[2] .. ' is unknown')
end
local key, field = job_key(job), 'i' .. ARGV[3]
local line = redis.call('HGET', key, field)
if not line then
  return redis.error_reply('NOINSTANCE ' .. job .. ' has no instance ' .. ARGV[3])
end
local parts = split(line)
if parts[DRAINING] ~= '1' then
  parts[DRAINING] = '1'
  redis.call('HSET', key, field, join(parts))
  changed(job, ARGV[3], 'DEPLOYMENT', true)
end
return kicked_once()
