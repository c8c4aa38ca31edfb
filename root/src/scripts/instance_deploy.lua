-- ARGV: rest, _id, number, cluster, weight (empty = leave). Answers 1 when IPv4 ran out.
local job = redis.call('GET', P .. 'id:' .. ARGV[2])
if not job then
  return redis.error_reply('NOJOB ' .. ARGV[2] .. ' is unknown')
end
local number, cluster, weight = ARGV[3], ARGV[4], ARGV[5]
local key, field = job_key(job), 'i' .. number
local line = redis.call('HGET', key, field)
if line then
  local parts = split(line)
  local moved = parts[CLUSTER] ~= cluster
  local weighed = weight ~= '' and parts[WEIGHT] ~= weight
  if moved or weighed then
    parts[CLUSTER] = cluster
    if weighed then
      parts[WEIGHT] = weight
    end
    redis.call('HSET', key, field, join(parts))
    changed(job, number, 'DEPLOYMENT', weighed)
  end
  return { 0, kicked_once() }
end
local who = job .. '/' .. number
local v4 = take('v4', who) or ''
local v6 = take('instance6', who)
if not v6 then
  give_back(v4, who, true)
  return redis.error_reply('EMPTY instance6 pool')
end
redis.call('HSET', key, field, join({ v4, v6, weight, '', '', '', '', '', cluster }))
changed(job, number, 'DEPLOYMENT', false)
return { v4 == '' and 1 or 0, {} }
