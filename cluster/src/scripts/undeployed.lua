-- node, job, number, nsip (or empty), seq -> 'late' | 'unknown' | 'withdrawn'
local node, job, number = ARGV[1], ARGV[2], ARGV[3]
if not in_order(node, 'i:' .. job .. '/' .. number, ARGV[5]) then return 'late' end
-- Not to come back with its node.
redis.call('HDEL', P .. 'away:' .. node, job .. '/' .. number)
local record = read_local(job, number)
if not record or record.gone or record.node ~= node then return 'unknown' end
-- Another address means an earlier life of the instance, which was replaced since.
if ARGV[4] ~= '' and record.nsip ~= '' and record.nsip ~= ARGV[4] then return 'unknown' end
withdraw(job, number, record)
return 'withdrawn'
