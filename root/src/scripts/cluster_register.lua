-- Upsert by id. ARGV: rest, id, address, port, then every address it is known by.
local id = ARGV[2]
local key = P .. 'cluster:' .. id
for _, old in ipairs(split(redis.call('HGET', key, 'known') or '')) do
  redis.call('SREM', P .. 'at:' .. old, id)
end
local known = {}
for i = 5, #ARGV do
  known[#known + 1] = ARGV[i]
  redis.call('SADD', P .. 'at:' .. ARGV[i], id)
end
redis.call('HSET', key, 'address', ARGV[3], 'port', ARGV[4], 'known', join(known),
  'status', 'ACTIVE', 'seen', text(now()))
redis.call('SADD', P .. 'clusters', id)
return redis.status_reply('OK')
