-- node, '1' when the node listed what it has, then those addresses -> { v4, v6 } or {}
-- What the node owns and did not list comes first, then one that rested long enough.
local node, have = ARGV[1], {}
for at = 3, #ARGV do have[ARGV[at]] = true end
for _, pair in ipairs(redis.call('LRANGE', P .. 'node:subnets:' .. node, 0, -1)) do
  local v4, v6 = string.match(pair, '^(%S*) (%S*)$')
  if not have[v4] then return { v4, v6 } end
end
local free = redis.call('ZRANGEBYSCORE', P .. 'subnets:free', '-inf', NOW, 'LIMIT', 0, 1)[1]
if not free then return {} end
local v4, v6 = string.match(free, '^(%S*) (%S*)$')
redis.call('ZREM', P .. 'subnets:free', free)
redis.call('RPUSH', P .. 'node:subnets:' .. node, free)
redis.call('HSET', P .. 'subnets:owner', v4, node)
return { v4, v6 }
