-- node, '0' and since when, or '' when it has no status -> 1 when it was forgotten
-- A node that has been away for very long: what it owned goes back.
local node, key = ARGV[1], P .. 'node:subnets:' .. ARGV[1]
if redis.call('SISMEMBER', P .. 'departed', node) == 0 then return 0 end
if (redis.call('HGET', P .. 'status', node) or '') ~= ARGV[2] then return 0 end
for _, pair in ipairs(redis.call('LRANGE', key, 0, -1)) do
  local v4 = string.match(pair, '^(%S*) ')
  disown_subnet(pair)
  owe('giveback:' .. v4, pair)
end
owe_host(node, 0)
redis.call('DEL', key, P .. 'away:' .. node)
redis.call('HDEL', P .. 'status', node)
redis.call('ZREM', P .. 'seen', node)
redis.call('ZREM', P .. 'signs', node)
redis.call('SREM', P .. 'departed', node)
return 1
