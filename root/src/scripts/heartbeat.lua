-- One replica of all: ARGV: rest, milliseconds during which no other does it.
if not redis.call('SET', P .. 'beat', '1', 'NX', 'PX', ARGV[2]) then
  return 0
end
local clusters = redis.call('SMEMBERS', P .. 'clusters')
for _, id in ipairs(clusters) do
  local last = redis.call('HGET', P .. 'cluster:' .. id, 'prev') or '0'
  redis.call('PUBLISH', 'oak:root:changes:' .. id,
    string.format('{"epoch":"%s","revision":%s}', EPOCH, last))
end
return #clusters
