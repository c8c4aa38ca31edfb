-- job, ticket, copy, id, epoch, revision, numbers (",0,1,"), addresses (JSON list),
-- placed (JSON object: number -> "nsip nsip6"), announcement (or empty), forget ('1' or empty)
-- -> 'older' | 'stored' | 'forgotten'
local job, ticket = ARGV[1], tonumber(ARGV[2])
local key = P .. 'job:' .. job
local function announce(epoch, revision)
  if ARGV[10] == '' then return end
  owe('announce:' .. job, ARGV[10])
  redis.call('HSET', key, 'told', epoch .. ' ' .. revision)
end
local held = redis.call('HMGET', key, 'ticket', 'epoch', 'revision', 'addresses')
if held[1] then
  local older
  if ARGV[5] ~= '' and ARGV[5] == held[2] and ARGV[6] ~= '' and held[3] ~= '' then
    older = tonumber(ARGV[6]) < tonumber(held[3])
  else
    older = ticket < tonumber(held[1])
  end
  if older then
    -- The announcement is owed all the same: the copy that we hold is newer than what it told of.
    announce(held[2], held[3])
    return 'older'
  end
  ticket = math.max(ticket, tonumber(held[1]))
end
local listed = cjson.decode(ARGV[8])
local present = {}
for _, address in ipairs(listed) do present[address] = true end
for _, address in ipairs(held[4] and cjson.decode(held[4]) or {}) do
  if not present[address] then unhint('addresses', address, job) end
end
for _, address in ipairs(listed) do redis.call('HSET', P .. 'addresses', address, job) end
redis.call('HSET', key, 'copy', ARGV[3], 'ticket', ticket, 'id', ARGV[4], 'epoch', ARGV[5],
  'revision', ARGV[6], 'numbers', ARGV[7], 'addresses', ARGV[8])
redis.call('SADD', P .. 'jobs', job)

local placed = cjson.decode(ARGV[9])
local dropped = false
local locals = redis.call('HGETALL', P .. 'local:' .. job)
for at = 1, #locals, 2 do
  local number, record = locals[at], cjson.decode(locals[at + 1])
  local told = record.reported and record.reported < ticket
  if not string.find(ARGV[7], ',' .. number .. ',', 1, true) then
    -- The root names an instance before a node can run it; what it left out later is gone.
    if record.ticket < ticket then
      drop_local(job, number, record)
      dropped = true
    end
  elseif told and record.gone then
    drop_local(job, number, record)
    dropped = true
  elseif told and not placed[number] then
    record.reported = nil
    record.ticket = next_ticket()
    write_local(job, number, record)
    owe('report:' .. job .. '/' .. number, ARGV[4])
  end
end

local forgotten = redis.call('HGET', P .. 'forgotten', job)
if forgotten then
  redis.call('HDEL', P .. 'forgotten', job)
  -- The root dropped our interest after it had answered this: ask once more.
  if tonumber(forgotten) > ticket then owe('refresh:' .. job, '') end
end
announce(ARGV[5], ARGV[6])
if (dropped or ARGV[11] == '1') and forget_if_unused(job) then return 'forgotten' end
return 'stored'
