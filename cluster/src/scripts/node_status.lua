-- node, '1' (online) or '0' -> 1 when that changed
local node, online = ARGV[1], ARGV[2]
local held = redis.call('HGET', P .. 'status', node)
if online == '1' then come_back(node) end
if held and string.sub(held, 1, 1) == online then return 0 end
redis.call('HSET', P .. 'status', node, online .. ' ' .. NOW)
return 1
