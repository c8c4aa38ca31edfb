-- Prepended to every script. ARGV[1] is always the rest of given-back addresses, in milliseconds.
-- keys.rs documents every key and what holds between them.
local P = '{oak:root}:'
local REST = tonumber(ARGV[1])
local EPOCH = redis.call('GET', P .. 'epoch')
if not EPOCH then
  return redis.error_reply('NOSTORE the store is not made yet')
end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- Addresses are hex digits here: 8 for IPv4, 32 for IPv6. 16 neighbours share a hash.
local function place(hex)
  return P .. 'ip:' .. string.sub(hex, 1, -2), string.sub(hex, -1)
end

local function owner(hex)
  local key, field = place(hex)
  return redis.call('HGET', key, field)
end

local function own(hex, who)
  local key, field = place(hex)
  redis.call('HSET', key, field, who)
end

local function disown(hex, who)
  local key, field = place(hex)
  if redis.call('HGET', key, field) == who then
    redis.call('HDEL', key, field)
    return true
  end
  return false
end

local function pool6(base)
  return {
    -- Whole numbers end there in Lua; no deployment gets near.
    count = 9007199254740992,
    hex = function(index)
      return string.format('%s%018x%06x', base, math.floor(index / 16777216), index % 16777216)
    end,
  }
end

local pools = {
  v4 = {
    count = 64516,
    hex = function(index)
      return string.format('0a1e%02x%02x', math.floor(index / 254), index % 254)
    end,
  },
  instance6 = pool6('fdff0000'),
  Closest6 = pool6('fdff1000'),
  RR6 = pool6('fdff2000'),
  Underutilized6 = pool6('fdff3000'),
}

-- The next free addresses in the order in which they are handed out: rested ones, oldest first,
-- then the sequence. Calls use(hex, from_sequence_next or false); stops when it returns true.
local function free(pool, use)
  local rest = P .. 'rest:' .. pool
  local offset = 0
  while true do
    local due = redis.call('ZRANGEBYSCORE', rest, '-inf', text(now() - REST), 'LIMIT', offset, 1)[1]
    if not due then
      break
    end
    if not owner(due) and use(due, false) then
      return true
    end
    offset = offset + 1
  end
  local index = tonumber(redis.call('HGET', P .. 'next', pool) or 0)
  while index < pools[pool].count do
    local hex = pools[pool].hex(index)
    index = index + 1
    if not owner(hex) and not redis.call('ZSCORE', rest, hex) and use(hex, index) then
      return true
    end
  end
  return false
end

local function take(pool, who)
  local taken = false
  free(pool, function(hex, following)
    taken = hex
    own(hex, who)
    if following then
      redis.call('HSET', P .. 'next', pool, text(following))
    else
      redis.call('ZREM', P .. 'rest:' .. pool, hex)
    end
    return true
  end)
  return taken
end

local function pool_of(hex)
  if #hex == 8 then
    return 'v4'
  end
  local group = string.sub(hex, 5, 5)
  return ({ ['0'] = 'instance6', ['1'] = 'Closest6', ['2'] = 'RR6', ['3'] = 'Underutilized6' })[group]
end

-- Takes the address that a caller chose; it must be free or the caller's.
local function choose(hex, who)
  redis.call('ZREM', P .. 'rest:' .. pool_of(hex), hex)
  own(hex, who)
end

local function give_back(hex, who, rested)
  if hex == '' or not disown(hex, who) then
    return
  end
  -- 10.30.254.0 and the like may be chosen, but are never handed out.
  if #hex == 8 and (string.sub(hex, 5, 6) > 'fd' or string.sub(hex, 7, 8) > 'fd') then
    return
  end
  redis.call('ZADD', P .. 'rest:' .. pool_of(hex), rested and 0 or text(now()), hex)
end

-- An instance is nine fields: v4, v6, weight, draining, ns4, ns6, host, port, cluster.
local V4, V6, WEIGHT, DRAINING, NS4, NS6, HOST, PORT, CLUSTER = 1, 2, 3, 4, 5, 6, 7, 8, 9

local function split(line)
  local out = {}
  for part in string.gmatch(line .. '\t', '([^\t]*)\t') do
    out[#out + 1] = part
  end
  return out
end

local function join(parts)
  return table.concat(parts, '\t')
end

local function job_key(name)
  return P .. 'job:' .. name
end

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

-- The clusters that call, in the contract's order of matching. ARGV[at..at+4]: cluster_id,
-- cluster_name, address, port, source address; empty where unknown.
local function callers(at)
  for i = at, at + 1 do
    if ARGV[i] ~= '' and redis.call('EXISTS', P .. 'cluster:' .. ARGV[i]) == 1 then
      return { ARGV[i] }
    end
  end
  for _, address in ipairs({ ARGV[at + 2], ARGV[at + 4] }) do
    if address ~= '' then
      local found = redis.call('SMEMBERS', P .. 'at:' .. address)
      if address == ARGV[at + 2] and ARGV[at + 3] ~= '' then
        local exact = {}
        for _, cluster in ipairs(found) do
          if redis.call('HGET', P .. 'cluster:' .. cluster, 'port') == ARGV[at + 3] then
            exact[#exact + 1] = cluster
          end
        end
        if #exact > 0 then
          return exact
        end
      end
      if #found > 0 then
        return found
      end
    end
  end
  return {}
end

local function release_instance(job, number, parts)
  local who = job .. '/' .. number
  give_back(parts[V4], who)
  give_back(parts[V6], who)
  for _, hex in ipairs({ parts[NS4], parts[NS6] }) do
    if hex ~= '' then
      disown(hex, who)
    end
  end
end
