-- Whether the server that serves us now is the one that did before; run on each new connection.
-- ARGV: its run id, 1 when it cannot have lost what was acknowledged, a candidate for the epoch.
-- Answers what was done, or nothing.
local before = redis.call('GET', P .. 'server')
if before == ARGV[1] then
  return ''
end
redis.call('SET', P .. 'server', ARGV[1])
if not before or ARGV[2] == '1' then
  return ''
end
-- Revisions may come again for other changes: under another epoch nobody takes one for the other.
redis.call('SET', P .. 'epoch', ARGV[3])
-- What was handed out and forgotten may be in use still: the next of each pool rest first, and the
-- next subnetworks count as in use.
for pool, range in pairs(pools) do
  local first = tonumber(redis.call('HGET', P .. 'next', pool) or 0)
  local last = math.min(first + 64, range.count)
  for index = first, last - 1 do
    local hex = range.hex(index)
    if not owner(hex) then
      redis.call('ZADD', P .. 'rest:' .. pool, 'NX', text(now()), hex)
    end
  end
  redis.call('HSET', P .. 'next', pool, text(last))
end
local subnet = tonumber(redis.call('HGET', P .. 'next', 'subnet') or 0)
redis.call('HSET', P .. 'next', 'subnet', text(math.min(subnet + 16, SUBNETS)))
return 'the epoch is ' .. ARGV[3] .. ' from now on'
