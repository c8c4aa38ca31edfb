-- node, status as it was judged ('' when it has none), last sign as it was judged ('' when none)
-- -> number of instances withdrawn, -1 when the node came back meanwhile
local node = ARGV[1]
if (redis.call('HGET', P .. 'status', node) or '') ~= ARGV[2] then return -1 end
if ARGV[2] == '' and (redis.call('ZSCORE', P .. 'seen', node) or '') ~= ARGV[3] then return -1 end
redis.call('SADD', P .. 'departed', node)
local count = 0
for _, name in ipairs(redis.call('SMEMBERS', P .. 'node:instances:' .. node)) do
  local job, number = string.match(name, '^(.*)/(%d+)$')
  local record = job and read_local(job, number)
  if record and record.node == node and not record.gone then
    redis.call('HSET', P .. 'away:' .. node, name, cjson.encode(record))
    withdraw(job, number, record)
    count = count + 1
  end
end
for _, job in ipairs(redis.call('SMEMBERS', P .. 'node:interests:' .. node)) do
  redis.call('SREM', P .. 'interest:' .. job, node)
  forget_if_unused(job)
end
redis.call('DEL', P .. 'node:interests:' .. node, P .. 'node:instances:' .. node)
return count
