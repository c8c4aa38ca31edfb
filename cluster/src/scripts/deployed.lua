-- node, job, number, nsip, nsip6, host, port, seq, the subnetworks of nsip and nsip6
-- -> 'late' | 'foreign' | 'same' | 'new'
local node, job, number = ARGV[1], ARGV[2], ARGV[3]
if not in_order(node, 'i:' .. job .. '/' .. number, ARGV[8]) then return 'late' end
-- A node announces addresses of its own subnetworks only. One that has none here got its own before
-- this store was made, or from somebody else: then nobody else's are refused.
local has_none = redis.call('EXISTS', P .. 'node:subnets:' .. node) == 0
for at = 9, 10 do
  local owner = ARGV[at] ~= '' and redis.call('HGET', P .. 'subnets:owner', ARGV[at])
  if ARGV[at] ~= '' and owner ~= node and (owner or not has_none) then return 'foreign' end
end
come_back(node)
local old = read_local(job, number)
local record = { node = node, nsip = ARGV[4], nsip6 = ARGV[5], host = ARGV[6], port = tonumber(ARGV[7]) }
if old and not old.gone and old.node == node and old.nsip == record.nsip and old.nsip6 == record.nsip6
  and old.host == record.host and old.port == record.port then
  return 'same'
end
if old then drop_local(job, number, old) end
record.ticket = next_ticket()
write_local(job, number, record)
redis.call('SADD', P .. 'jobs', job)
redis.call('SADD', P .. 'node:instances:' .. node, job .. '/' .. number)
if record.nsip ~= '' then redis.call('HSET', P .. 'namespaces:local', record.nsip, job) end
if record.nsip6 ~= '' then redis.call('HSET', P .. 'namespaces:local', record.nsip6, job) end
local known = redis.call('HMGET', P .. 'job:' .. job, 'id', 'numbers')
owe('report:' .. job .. '/' .. number, known[1] or '')
if known[2] and string.find(known[2], ',' .. number .. ',', 1, true) then
  owe('announce:' .. job, 'DEPLOYMENT')
else
  owe('refresh:' .. job, 'DEPLOYMENT')
end
return 'new'
