-- Jobs that changed after a revision, in that order. ARGV: rest, revision, how many. The last page
-- carries everything else, so that all pages together are the store as it is now: what changed
-- while earlier pages were read comes once more.
-- Answers {jobs, rest}: {name, fields} …; {} or {revision, next, resting subnetworks, clusters, names}.
local page = {}
local names = redis.call('ZRANGEBYSCORE', P .. 'jobs', '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])
for i, job in ipairs(names) do
  page[i] = { job, redis.call('HGETALL', job_key(job)) }
end
if #names == tonumber(ARGV[3]) then
  return { page, {} }
end
local clusters = {}
for i, id in ipairs(redis.call('SMEMBERS', P .. 'clusters')) do
  clusters[i] = {
    id,
    redis.call('HGETALL', P .. 'cluster:' .. id),
    redis.call('ZRANGE', P .. 'feed:' .. id, 0, -1),
    redis.call('ZRANGE', P .. 'gone:' .. id, 0, -1, 'WITHSCORES'),
  }
end
return { page, { {
  redis.call('GET', P .. 'revision') or '0',
  redis.call('HGETALL', P .. 'next'),
  redis.call('ZRANGE', P .. 'rest:subnet', 0, -1),
  clusters,
  redis.call('ZRANGE', P .. 'jobs', 0, -1),
} } }
