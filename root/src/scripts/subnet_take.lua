-- An index serves both families. ARGV: rest, number of subnetworks.
local rest = P .. 'rest:subnet'
local due = redis.call('ZRANGEBYSCORE', rest, '-inf', text(now() - REST), 'LIMIT', 0, 1)[1]
if due then
  redis.call('ZREM', rest, due)
  return tonumber(due)
end
local index = tonumber(redis.call('HGET', P .. 'next', 'subnet') or 0)
if index >= tonumber(ARGV[2]) then
  return redis.error_reply('EMPTY subnet pool')
end
redis.call('HSET', P .. 'next', 'subnet', text(index + 1))
return index
