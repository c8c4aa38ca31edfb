-- For metrics. Answers {epoch, revision, clusters: id, status, pending …, next IPv4 index, resting}.
local out = {}
for _, id in ipairs(redis.call('SMEMBERS', P .. 'clusters')) do
  out[#out + 1] = {
    id,
    redis.call('HGET', P .. 'cluster:' .. id, 'status') or 'ACTIVE',
    redis.call('ZCARD', P .. 'queue:' .. id),
  }
end
return {
  redis.call('GET', P .. 'revision') or '0',
  redis.call('HGET', P .. 'next', 'v4') or '0',
  redis.call('ZCARD', P .. 'rest:v4'),
  redis.call('HGET', P .. 'next', 'subnet') or '0',
  redis.call('ZCARD', P .. 'rest:subnet'),
  out,
}
