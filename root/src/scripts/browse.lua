-- For people: clusters, and the jobs that changed last, or those that are named. ARGV: rest, how
-- many, `1` when names follow, names.
-- Answers {epoch, revision, jobs, subnetworks handed out, resting ones, clusters, jobs}.
local names = {}
if ARGV[3] == '1' then
  for i = 4, #ARGV do
    names[#names + 1] = ARGV[i]
  end
else
  names = redis.call('ZREVRANGE', P .. 'jobs', 0, tonumber(ARGV[2]) - 1)
end
local jobs, clusters = {}, {}
for _, job in ipairs(names) do
  local fields = redis.call('HGETALL', job_key(job))
  if #fields > 0 then
    jobs[#jobs + 1] = { job, fields }
  end
end
for i, id in ipairs(redis.call('SMEMBERS', P .. 'clusters')) do
  local fields = redis.call('HMGET', P .. 'cluster:' .. id, 'address', 'port', 'status')
  clusters[i] = {
    id, fields[1] or '', fields[2] or '', fields[3] or 'ACTIVE',
    redis.call('ZCARD', P .. 'queue:' .. id),
    redis.call('ZCARD', P .. 'feed:' .. id),
  }
end
return {
  EPOCH,
  redis.call('GET', P .. 'revision') or '0',
  redis.call('ZCARD', P .. 'jobs'),
  redis.call('HGET', P .. 'next', 'subnet') or '0',
  redis.call('ZCARD', P .. 'rest:subnet'),
  clusters,
  jobs,
}
