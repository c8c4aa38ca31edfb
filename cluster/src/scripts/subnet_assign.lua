-- node, v4, v6, then addresses that the node has -> { v4, v6 } that the node gets, or {}
-- A second request of the node may have been served meanwhile: then this one was never used, and
-- is free at once.
local node, have = ARGV[1], {}
for at = 4, #ARGV do have[ARGV[at]] = true end
local pair = ARGV[2] .. ' ' .. ARGV[3]
local owner = redis.call('HGET', P .. 'subnets:owner', ARGV[2])
for _, owned in ipairs(redis.call('LRANGE', P .. 'node:subnets:' .. node, 0, -1)) do
  local v4, v6 = string.match(owned, '^(%S*) (%S*)$')
  if not have[v4] then
    if not owner then redis.call('ZADD', P .. 'subnets:free', NOW, pair) end
    return { v4, v6 }
  end
end
-- A root that lost its memory hands out what a node owns: never two owners, and never twice to one.
if owner then return {} end
redis.call('ZREM', P .. 'subnets:free', pair)
redis.call('RPUSH', P .. 'node:subnets:' .. node, pair)
own_subnet(node, pair)
-- Its own from now on, but no answer to a node that has it.
if have[ARGV[2]] then return {} end
return { ARGV[2], ARGV[3] }
