-- node, seq, then job, number, flows ... -> number of instances noted
local node, count = ARGV[1], 0
if not in_order(node, 'load', ARGV[2]) then return 0 end
for at = 3, #ARGV, 3 do
  if redis.call('SISMEMBER', P .. 'node:instances:' .. node, ARGV[at] .. '/' .. ARGV[at + 1]) == 1 then
    redis.call('HSET', P .. 'load:' .. ARGV[at], ARGV[at + 1], ARGV[at + 2])
    count = count + 1
  end
end
return count
