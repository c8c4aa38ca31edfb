-- Telling the interested clusters that a job changed.

-- Clusters whose queue got something: the caller delivers.
local kicked = {}

local function kicked_once()
  local seen, out = {}, {}
  for _, cluster in ipairs(kicked) do
    if not seen[cluster] then
      seen[cluster] = true
      out[#out + 1] = cluster
    end
  end
  return out
end

local function publish(cluster, revision, job, instance, kind)
  local key = P .. 'cluster:' .. cluster
  local previous = redis.call('HGET', key, 'prev') or '0'
  redis.call('HSET', key, 'prev', text(revision))
  redis.call('PUBLISH', 'oak:root:changes:' .. cluster, string.format(
    '{"epoch":"%s","prev":%s,"revision":%s,"job_name":"%s","instance_number":%s,"type":"%s"}',
    EPOCH, previous, text(revision), job, instance, kind))
end

local function watchers(job)
  local out = {}
  for _, cluster in ipairs(redis.call('SMEMBERS', P .. 'watch:' .. job)) do
    if redis.call('EXISTS', P .. 'cluster:' .. cluster) == 1 then
      out[#out + 1] = cluster
    else
      redis.call('SREM', P .. 'watch:' .. job, cluster)
    end
  end
  return out
end

local function enqueue(cluster, revision, job, instance, kind)
  redis.call('ZADD', P .. 'queue:' .. cluster, text(revision), kind .. '\t' .. job .. '\t' .. instance)
  redis.call('SADD', P .. 'due', cluster)
  kicked[#kicked + 1] = cluster
end

-- A job changed: a new revision, for its watchers too; with notify also by HTTP.
local function changed(job, instance, kind, notify)
  local revision = redis.call('INCR', P .. 'revision')
  redis.call('HSET', job_key(job), 'rev', text(revision))
  redis.call('ZADD', P .. 'jobs', text(revision), job)
  for _, cluster in ipairs(watchers(job)) do
    redis.call('ZADD', P .. 'feed:' .. cluster, text(revision), job)
    publish(cluster, revision, job, instance, kind)
    if notify then
      enqueue(cluster, revision, job, instance, kind)
    end
  end
end

-- Told again, though nothing changed: the revision stays.
local function repeated(job, instance, kind)
  local revision = tonumber(redis.call('HGET', job_key(job), 'rev') or 0)
  for _, cluster in ipairs(watchers(job)) do
    enqueue(cluster, revision, job, instance, kind)
  end
end
