-- node, job, seq -> 'late' | 'forgotten' | 'kept'
local node, job = ARGV[1], ARGV[2]
if not in_order(node, 'q:' .. job, ARGV[3]) then return 'late' end
redis.call('SREM', P .. 'node:interests:' .. node, job)
if redis.call('SREM', P .. 'interest:' .. job, node) == 0 then return 'kept' end
return forget_if_unused(job) and 'forgotten' or 'kept'
