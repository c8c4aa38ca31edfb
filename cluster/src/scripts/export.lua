-- -> { nodes: {id, pairs, host}, jobs: {name, interested nodes, announcements}, free pairs, owed pairs }
-- One step, so one moment of the store. The root's copies are left out: the root has them.
local nodes, seen = {}, {}
for _, node in ipairs(redis.call('HVALS', P .. 'subnets:owner')) do
  if not seen[node] then
    seen[node] = true
    nodes[#nodes + 1] = { node, redis.call('LRANGE', P .. 'node:subnets:' .. node, 0, -1),
      redis.call('GET', P .. 'host:' .. node) or '' }
  end
end
local jobs = {}
for i, job in ipairs(redis.call('SMEMBERS', P .. 'jobs')) do
  jobs[i] = { job, redis.call('SMEMBERS', P .. 'interest:' .. job), redis.call('HGETALL', P .. 'local:' .. job) }
end
local owed, tasks = {}, redis.call('HGETALL', P .. 'tasks')
for at = 1, #tasks, 2 do
  if string.sub(tasks[at], 1, 9) == 'giveback:' then
    owed[#owed + 1] = string.match(tasks[at + 1], '^%d+ (.*)$')
  end
end
return { nodes, jobs, redis.call('ZRANGE', P .. 'subnets:free', 0, -1), owed }
