-- node, job, number, host, port, seq -> 'late' | 'unknown' | 'same' | 'changed'
local node, job, number = ARGV[1], ARGV[2], ARGV[3]
if not in_order(node, 'i:' .. job .. '/' .. number, ARGV[6]) then return 'late' end
local record = read_local(job, number)
if not record or record.gone or record.node ~= node then return 'unknown' end
local host = ARGV[4] ~= '' and ARGV[4] or record.host
local port = tonumber(ARGV[5]) or record.port
if host == record.host and port == record.port then return 'same' end
record.host, record.port = host, port
record.ticket = next_ticket()
record.reported = nil
write_local(job, number, record)
owe('report:' .. job .. '/' .. number, redis.call('HGET', P .. 'job:' .. job, 'id') or '')
owe('announce:' .. job, 'DEPLOYMENT')
return 'changed'
