-- node, '1' when the node listed what it has, then `<v4> <v6>` of each -> { v4, v6 } or {}
-- What the node owns and did not list comes first, then one that rested long enough.
local node, have = ARGV[1], {}
local key = P .. 'node:subnets:' .. node
-- A node that this store has nothing of had its own before the store was made: it keeps them.
local unknown = redis.call('EXISTS', key) == 0
for at = 3, #ARGV do
  local v4 = string.match(ARGV[at], '^(%S*) ')
  have[v4] = true
  if unknown and at < 3 + 16 and not redis.call('HGET', P .. 'subnets:owner', v4) then
    redis.call('ZREM', P .. 'subnets:free', ARGV[at])
    redis.call('RPUSH', key, ARGV[at])
    own_subnet(node, ARGV[at])
  end
end
for _, pair in ipairs(redis.call('LRANGE', key, 0, -1)) do
  local v4, v6 = string.match(pair, '^(%S*) (%S*)$')
  if not have[v4] then return { v4, v6 } end
end
local free = redis.call('ZRANGEBYSCORE', P .. 'subnets:free', '-inf', NOW, 'LIMIT', 0, 1)[1]
if not free then return {} end
local v4, v6 = string.match(free, '^(%S*) (%S*)$')
redis.call('ZREM', P .. 'subnets:free', free)
redis.call('RPUSH', key, free)
own_subnet(node, free)
return { v4, v6 }
