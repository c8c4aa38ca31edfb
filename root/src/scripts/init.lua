-- Makes the store, once. ARGV: rest, schema version, a candidate for the epoch. No prelude.
local P = '{oak:root}:'
local schema = redis.call('GET', P .. 'schema')
if schema and schema ~= ARGV[2] then
  return redis.error_reply('SCHEMA ' .. schema)
end
if not schema then
  redis.call('SET', P .. 'schema', ARGV[2])
end
redis.call('SETNX', P .. 'epoch', ARGV[3])
return redis.call('GET', P .. 'epoch')
