-- job -> number of instances withdrawn
local job = ARGV[1]
local id = redis.call('HGET', P .. 'job:' .. job, 'id') or ''
local held = id ~= '' or redis.call('EXISTS', P .. 'job:' .. job) == 1
local count = 0
local locals = redis.call('HGETALL', P .. 'local:' .. job)
for at = 1, #locals, 2 do
  local record = cjson.decode(locals[at + 1])
  drop_local(job, locals[at], record)
  redis.call('HDEL', P .. 'away:' .. record.node, job .. '/' .. locals[at])
  owe('report:' .. job .. '/' .. locals[at], id)
  count = count + 1
end
for _, node in ipairs(redis.call('SMEMBERS', P .. 'interest:' .. job)) do
  redis.call('SREM', P .. 'node:interests:' .. node, job)
end
redis.call('DEL', P .. 'interest:' .. job)
-- Nodes ask again when they hear of it: after the root was told, where it can be.
owe('announce:' .. job, 'UNDEPLOYMENT', count > 0 and 300 or 0)
forget_if_unused(job)
redis.call('SREM', P .. 'jobs', job)
return count
