-- Clusters that neither answered nor asked for a long time lose their interests (they keep their
-- entry). What they watched stays listed as changed, so that one that returns reads it again.
-- ARGV: rest, milliseconds.
local limit = now() - tonumber(ARGV[2])
local expired = {}
for _, id in ipairs(redis.call('SMEMBERS', P .. 'clusters')) do
  local key = P .. 'cluster:' .. id
  local fields = redis.call('HMGET', key, 'status', 'since', 'seen')
  if fields[1] == 'ERROR' and tonumber(fields[2] or 0) < limit and tonumber(fields[3] or 0) < limit then
    local feed = redis.call('ZRANGE', P .. 'feed:' .. id, 0, -1)
    if #feed > 0 or redis.call('EXISTS', P .. 'queue:' .. id) == 1 then
      local revision = text(redis.call('INCR', P .. 'revision'))
      for _, job in ipairs(feed) do
        redis.call('SREM', P .. 'watch:' .. job, id)
        redis.call('ZADD', P .. 'gone:' .. id, revision, job)
      end
      redis.call('DEL', P .. 'feed:' .. id, P .. 'queue:' .. id)
      redis.call('SREM', P .. 'due', id)
      expired[#expired + 1] = id
    end
  end
end
return expired
