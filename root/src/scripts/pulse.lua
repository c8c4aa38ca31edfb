-- A text that is another one whenever a person would see something else. ARGV: rest.
local out = { EPOCH, redis.call('GET', P .. 'revision') or '0', redis.call('HGET', P .. 'next', 'subnet') or '0',
  redis.call('ZCARD', P .. 'rest:subnet') }
local clusters = redis.call('SMEMBERS', P .. 'clusters')
table.sort(clusters)
for _, id in ipairs(clusters) do
  local fields = redis.call('HMGET', P .. 'cluster:' .. id, 'address', 'port', 'status')
  out[#out + 1] = join({ id, fields[1] or '', fields[2] or '', fields[3] or '', redis.call('ZCARD', P .. 'queue:' .. id) })
end
return redis.sha1hex(join(out))
