-- replace ('1' or ''), schema, pattern of every key, then lists of documents as JSON
-- -> 'OK', or what is in the way. One step, so all of it or nothing.
local jobs, subnets = redis.call('SCARD', P .. 'jobs'), redis.call('HLEN', P .. 'subnets:owner')
if ARGV[1] ~= '1' and (jobs > 0 or subnets > 0) then
  return jobs .. ' jobs, ' .. subnets .. ' subnetworks of nodes'
end
local cursor = '0'
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', ARGV[3], 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do redis.call('UNLINK', key) end
until cursor == '0'
redis.call('SET', P .. 'schema', ARGV[2])

local function import_node(document)
  local node = document.node
  for _, pair in ipairs(document.subnets) do
    redis.call('RPUSH', P .. 'node:subnets:' .. node, pair[1] .. ' ' .. pair[2])
    redis.call('HSET', P .. 'subnets:owner', pair[1], node)
  end
  if document.host then redis.call('SET', P .. 'host:' .. node, document.host) end
end

local function import_job(document)
  local job = document.job
  redis.call('SADD', P .. 'jobs', job)
  for _, node in ipairs(document.interested) do
    redis.call('SADD', P .. 'interest:' .. job, node)
    redis.call('SADD', P .. 'node:interests:' .. node, job)
  end
  for number, record in pairs(document.locals) do
    record.ticket = next_ticket()
    write_local(job, number, record)
    redis.call('SADD', P .. 'node:instances:' .. record.node, job .. '/' .. number)
    if record.nsip ~= '' then redis.call('HSET', P .. 'namespaces:local', record.nsip, job) end
    if record.nsip6 ~= '' then redis.call('HSET', P .. 'namespaces:local', record.nsip6, job) end
    owe('report:' .. job .. '/' .. number, '')
  end
  owe('refresh:' .. job, '')
end

for at = 4, #ARGV do
  for _, document in ipairs(cjson.decode(ARGV[at])) do
    if document.node then import_node(document)
    elseif document.job then import_job(document)
    elseif document.free then redis.call('ZADD', P .. 'subnets:free', NOW, document.free)
    else owe('giveback:' .. string.match(document.owed, '^(%S*) '), document.owed) end
  end
end
return 'OK'
