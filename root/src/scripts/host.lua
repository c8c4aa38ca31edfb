-- The node's own processes as instance 0 of a job. ARGV: rest, job, cluster, node.
local job, cluster = ARGV[2], ARGV[3]
local key, node = job_key(job), ARGV[3] .. '\t' .. ARGV[4]
local before = redis.call('HMGET', key, 'id', 'node', 'i0')
if before[1] and before[2] ~= node then
  return redis.error_reply('REFUSED the name ' .. job .. ' already belongs to another node or service')
end
if before[3] then
  local parts = split(before[3])
  return { parts[V4], parts[V6] }
end
local who = job .. '/0'
local v4 = take('v4', who) or ''
local v6 = take('instance6', who)
if not v6 then
  give_back(v4, who, true)
  return redis.error_reply('EMPTY instance6 pool')
end
local id = string.sub(redis.sha1hex(job), 1, 24)
redis.call('SET', P .. 'id:' .. id, job)
redis.call('HSET', key, 'id', id, 'app', '', 'node', node,
  'i0', join({ v4, v6, '', '', '', '', '', '', cluster }))
changed(job, '0', 'DEPLOYMENT', false)
return { v4, v6 }
