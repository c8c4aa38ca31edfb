-- ARGV: rest, _id, job, applicationID, then for RR, Closest, Underutilized the wanted IPv4 and
-- IPv6 address: empty, `auto`, or hex. Nothing is stored unless everything can be.
local id, job, application = ARGV[2], ARGV[3], ARGV[4]
local key = job_key(job)
local known = redis.call('GET', P .. 'id:' .. id)
if known and known ~= job then
  return redis.error_reply('REFUSED _id ' .. id .. ' already names the service ' .. known)
end
if redis.call('HEXISTS', key, 'node') == 1 then
  return redis.error_reply('REFUSED the name ' .. job .. ' belongs to a node')
end
local policies = { 'RR', 'Closest', 'Underutilized' }
for i = 5, 4 + 2 * #policies do
  local wanted = ARGV[i]
  if wanted ~= '' and wanted ~= 'auto' then
    local other = owner(wanted)
    if other and other ~= job then
      return redis.error_reply('TAKEN ' .. wanted .. ' ' .. other)
    end
  end
end

local acquired, fields = {}, {}
local short = 0
local function get(wanted, pool)
  local hex = wanted
  if wanted == '' or wanted == 'auto' then
    hex = take(pool, job)
  else
    choose(wanted, job)
  end
  if hex then
    acquired[#acquired + 1] = hex
  end
  return hex
end
for i, policy in ipairs(policies) do
  local have = split(redis.call('HGET', key, 's' .. policy) or '\t')
  local wanted4, wanted6 = ARGV[3 + 2 * i], ARGV[4 + 2 * i]
  local failed = false
  if have[1] == '' and (policy == 'RR' or wanted4 ~= '') then
    local hex = get(wanted4, 'v4')
    if hex then
      have[1] = hex
    elseif wanted4 == 'auto' then
      failed = 'v4'
    else
      short = 1
    end
  end
  if not failed and have[2] == '' then
    have[2] = get(wanted6, policy .. '6') or ''
    if have[2] == '' then
      failed = policy .. '6'
    end
  end
  if failed then
    for _, hex in ipairs(acquired) do
      give_back(hex, job, true)
    end
    return redis.error_reply('EMPTY ' .. failed .. ' pool')
  end
  fields[#fields + 1] = 's' .. policy
  fields[#fields + 1] = join(have)
end

local before = redis.call('HMGET', key, 'id', 'app')
if before[1] and before[1] ~= id then
  redis.call('DEL', P .. 'id:' .. before[1])
end
redis.call('SET', P .. 'id:' .. id, job)
redis.call('HSET', key, 'id', id, 'app', application, unpack(fields))
if #acquired > 0 or before[1] ~= id or before[2] ~= application then
  changed(job, '-1', 'DEPLOYMENT', false)
end
return short
