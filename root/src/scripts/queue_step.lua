-- One step of delivering a cluster's queue, under a lease so that order holds across replicas.
-- ARGV: rest, cluster, replica, lease in milliseconds, delivered member and its score (or empty).
-- Answers {} when another replica has it or nothing is left (then the lease is gone), else
-- {address, port, status, member, score, epoch}.
local id, replica = ARGV[2], ARGV[3]
local lease, queue, key = P .. 'lease:' .. id, P .. 'queue:' .. id, P .. 'cluster:' .. id
local holder = redis.call('GET', lease)
if holder and holder ~= replica then
  return {}
end
-- Changed again while it was sent: it goes out once more.
if ARGV[5] ~= '' and redis.call('ZSCORE', queue, ARGV[5]) == ARGV[6] then
  redis.call('ZREM', queue, ARGV[5])
end
local to = redis.call('HMGET', key, 'address', 'port', 'status')
if not to[1] then
  redis.call('DEL', queue)
end
local head = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
if #head == 0 then
  redis.call('DEL', lease)
  redis.call('SREM', P .. 'due', id)
  return {}
end
redis.call('SET', lease, replica, 'PX', ARGV[4])
return { to[1], to[2], to[3] or 'ACTIVE', head[1], head[2], EPOCH }
