-- node, name, address, seq -> { name, interested, copy, ticket, locals, loads }; '' for what is not there
local node, job, address, seq = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if job == '' then
  job = redis.call('HGET', P .. 'namespaces:local', address)
    or redis.call('HGET', P .. 'addresses', address) or ''
end
if job == '' then return { '', 0, '', 0, {}, {} } end
local interested = redis.call('SISMEMBER', P .. 'interest:' .. job, node)
local held = redis.call('HMGET', P .. 'job:' .. job, 'copy', 'ticket')
if not held[1] then return { job, interested, '', 0, {}, {} } end
if node ~= '' and in_order(node, 'q:' .. job, seq) then
  redis.call('SADD', P .. 'interest:' .. job, node)
  redis.call('SADD', P .. 'node:interests:' .. node, job)
end
return { job, interested, held[1], tonumber(held[2]),
  redis.call('HGETALL', P .. 'local:' .. job), redis.call('HGETALL', P .. 'load:' .. job) }
