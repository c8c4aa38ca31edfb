-- Pools: handing addresses out, and taking them back.
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
