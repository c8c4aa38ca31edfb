-- Before every script. ARGV[1] is always the rest of given-back addresses, in milliseconds.
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
