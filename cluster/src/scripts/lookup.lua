-- node, name, address, seq, job and version of a copy that the caller has
-- -> { name, interested, version, copy, ticket, locals, loads }; '' for what is not there, and for
-- a copy that the caller has. Only ticket, epoch and revision together tell copies apart.
local node, job, address, seq = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if job == '' then
  job = redis.call('HGET', P .. 'namespaces:local', address)
    or redis.call('HGET', P .. 'addresses', address) or ''
end
if job == '' then return { '', 0, '', '', 0, {}, {} } end
local interested = redis.call('SISMEMBER', P .. 'interest:' .. job, node)
local held = redis.call('HMGET', P .. 'job:' .. job, 'ticket', 'epoch', 'revision')
if not held[1] then return { job, interested, '', '', 0, {}, {} } end
if node ~= '' and in_order(node, 'q:' .. job, seq) and interested == 0 then
  redis.call('SADD', P .. 'interest:' .. job, node)
  redis.call('SADD', P .. 'node:interests:' .. node, job)
end
local version = held[1] .. ' ' .. (held[2] or '') .. ' ' .. (held[3] or '')
local copy = ''
if job ~= ARGV[5] or version ~= ARGV[6] then
  copy = redis.call('HGET', P .. 'job:' .. job, 'copy') or ''
end
return { job, interested, version, copy, tonumber(held[1]),
  redis.call('HGETALL', P .. 'local:' .. job), redis.call('HGETALL', P .. 'load:' .. job) }
