-- ARGV: rest, since, epoch (`*` = this one), then the five of callers().
local found = callers(4)
if #found == 0 then
  return redis.error_reply('NOCALLER not registered')
end
local known = ARGV[3] == EPOCH or ARGV[3] == '*'
local since = known and ARGV[2] or '-1'
local jobs, seen = {}, {}
for _, cluster in ipairs(found) do
  if known then
    -- What the caller has, it need not be told again.
    redis.call('ZREMRANGEBYSCORE', P .. 'gone:' .. cluster, '-inf', since)
  end
  for _, list in ipairs({ 'feed:', 'gone:' }) do
    for _, job in ipairs(redis.call('ZRANGEBYSCORE', P .. list .. cluster, '(' .. since, '+inf')) do
      if not seen[job] then
        seen[job] = true
        jobs[#jobs + 1] = job
      end
    end
  end
end
return { EPOCH, redis.call('GET', P .. 'revision') or '0', jobs, found }
