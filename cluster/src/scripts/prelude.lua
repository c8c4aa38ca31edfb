-- Shared by every script. KEYS[1] is the key prefix, whose hash tag puts all keys into one slot;
-- keys.rs says what each key holds.
local P = KEYS[1]
local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- Messages of one node that come through different replicas overtake each other by seconds, not
-- more; a lower number after this pause means that the node started its count anew.
local REORDER_MS = 30000

local function next_ticket() return redis.call('INCR', P .. 'ticket') end

-- Adds a task that is owed to a peer; an empty payload keeps the one that waits already.
local function owe(task, payload, delay)
  if payload == '' then
    local waiting = redis.call('HGET', P .. 'tasks', task)
    if waiting then payload = string.match(waiting, '^%d+ (.*)$') or '' end
  end
  redis.call('HSET', P .. 'tasks', task, next_ticket() .. ' ' .. payload)
  local lease = redis.call('HGET', P .. 'tasks:lease', task)
  if not lease or tonumber(lease) <= NOW then
    redis.call('ZADD', P .. 'tasks:due', NOW + (delay or 0), task)
  end
end

-- Whether a node's message is in order for one subject; remembers it when it is.
local function in_order(node, subject, seq)
  if seq == '' then return true end
  local key = P .. 'seq:' .. node
  local last = redis.call('HGET', key, subject)
  if last then
    local number, at = string.match(last, '^(%d+) (%d+)$')
    if tonumber(seq) < tonumber(number) and NOW - tonumber(at) < REORDER_MS then return false end
  end
  redis.call('HSET', key, subject, seq .. ' ' .. NOW)
  redis.call('PEXPIRE', key, 2 * REORDER_MS)
  return true
end

local function read_local(job, number)
  local text = redis.call('HGET', P .. 'local:' .. job, number)
  return text and cjson.decode(text)
end

local function write_local(job, number, record)
  redis.call('HSET', P .. 'local:' .. job, number, cjson.encode(record))
end

local function unhint(key, address, job)
  if address ~= '' and redis.call('HGET', P .. key, address) == job then
    redis.call('HDEL', P .. key, address)
  end
end

local function drop_local(job, number, record)
  redis.call('HDEL', P .. 'local:' .. job, number)
  redis.call('HDEL', P .. 'load:' .. job, number)
  redis.call('SREM', P .. 'node:instances:' .. record.node, job .. '/' .. number)
  unhint('namespaces:local', record.nsip, job)
  unhint('namespaces:local', record.nsip6, job)
end

-- Turns an instance into one that is gone and tells root and nodes.
local function withdraw(job, number, record)
  record.gone = true
  record.ticket = next_ticket()
  record.reported = nil
  write_local(job, number, record)
  redis.call('SREM', P .. 'node:instances:' .. record.node, job .. '/' .. number)
  redis.call('HDEL', P .. 'load:' .. job, number)
  owe('report:' .. job .. '/' .. number, redis.call('HGET', P .. 'job:' .. job, 'id') or '')
  owe('announce:' .. job, 'UNDEPLOYMENT')
end

local function own_subnet(node, pair)
  for part in string.gmatch(pair, '%S+') do redis.call('HSET', P .. 'subnets:owner', part, node) end
end

local function disown_subnet(pair)
  for part in string.gmatch(pair, '%S+') do redis.call('HDEL', P .. 'subnets:owner', part) end
end

-- The instance that stands for a node's own processes goes with the node.
local function owe_host(node, delay)
  local answer = redis.call('GET', P .. 'host:' .. node)
  if answer then
    redis.call('DEL', P .. 'host:' .. node)
    owe('hostback:' .. node, answer, delay)
  end
end

-- A node that vanished is back, and with it what was withdrawn, unless another node runs it by now.
local function come_back(node)
  if redis.call('SREM', P .. 'departed', node) == 0 then return 0 end
  local away, count = redis.call('HGETALL', P .. 'away:' .. node), 0
  redis.call('DEL', P .. 'away:' .. node)
  for at = 1, #away, 2 do
    local job, number = string.match(away[at], '^(.*)/(%d+)$')
    local record, held = cjson.decode(away[at + 1]), read_local(job, number)
    if not held or (held.gone and held.node == node) then
      record.ticket = next_ticket()
      record.reported = nil
      write_local(job, number, record)
      redis.call('SADD', P .. 'jobs', job)
      redis.call('SADD', P .. 'node:instances:' .. node, away[at])
      if record.nsip ~= '' then redis.call('HSET', P .. 'namespaces:local', record.nsip, job) end
      if record.nsip6 ~= '' then redis.call('HSET', P .. 'namespaces:local', record.nsip6, job) end
      owe('report:' .. away[at], redis.call('HGET', P .. 'job:' .. job, 'id') or '')
      owe('refresh:' .. job, 'DEPLOYMENT')
      count = count + 1
    end
  end
  return count
end

local function drop_copy(job)
  local listed = redis.call('HGET', P .. 'job:' .. job, 'addresses')
  if listed then
    for _, address in ipairs(cjson.decode(listed)) do unhint('addresses', address, job) end
  end
  redis.call('DEL', P .. 'job:' .. job)
end

-- A job that no node asks for and that runs nowhere here: forget it, and tell the root.
local function forget_if_unused(job)
  if redis.call('SCARD', P .. 'interest:' .. job) > 0 then return false end
  if redis.call('HLEN', P .. 'local:' .. job) > 0 then return false end
  local held = redis.call('EXISTS', P .. 'job:' .. job) == 1
  drop_copy(job)
  redis.call('DEL', P .. 'load:' .. job)
  redis.call('SREM', P .. 'jobs', job)
  redis.call('HDEL', P .. 'forgotten', job)
  if held then owe('forget:' .. job, '') end
  return held
end
