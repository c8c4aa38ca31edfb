-- node, address ('' for all) -> number given back
local node, count = ARGV[1], 0
local key = P .. 'node:subnets:' .. node
for _, pair in ipairs(redis.call('LRANGE', key, 0, -1)) do
  local v4 = string.match(pair, '^(%S*) ')
  if ARGV[2] == '' or ARGV[2] == v4 then
    redis.call('LREM', key, 0, pair)
    disown_subnet(pair)
    owe('giveback:' .. v4, pair)
    count = count + 1
  end
end
if ARGV[2] == '' then owe_host(node, 2000) end
return count
