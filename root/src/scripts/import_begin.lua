-- Reserves the store for an import. ARGV: rest, schema version, what `schema` says meanwhile,
-- replace (1 or 0). No prelude: while there is no epoch, every other script answers NOSTORE.
local P = '{oak:root}:'
local schema = redis.call('GET', P .. 'schema')
if schema and schema ~= ARGV[2] and schema ~= ARGV[3] then
  return redis.error_reply('SCHEMA ' .. schema)
end
local jobs, subnets = redis.call('ZCARD', P .. 'jobs'), redis.call('HGET', P .. 'next', 'subnet') or '0'
if schema ~= ARGV[3] and ARGV[4] ~= '1' and (jobs > 0 or subnets ~= '0') then
  return redis.error_reply('REFUSED the store is in use: ' .. jobs .. ' jobs, ' .. subnets
    .. ' subnetworks handed out; import into an empty one, or throw its contents away with --replace')
end
redis.call('SET', P .. 'schema', ARGV[3])
redis.call('DEL', P .. 'epoch')
return redis.status_reply('OK')
