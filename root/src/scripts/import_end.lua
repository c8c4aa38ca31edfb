-- Everything is written: the store is in use from now on. ARGV: rest, schema version, epoch. An
-- epoch that nobody has seen makes every cluster read all its jobs again.
local P = '{oak:root}:'
redis.call('SET', P .. 'schema', ARGV[2])
redis.call('SET', P .. 'epoch', ARGV[3])
return redis.status_reply('OK')
