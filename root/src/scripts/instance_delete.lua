-- ARGV: rest, _id, number (-1 = every one). Absent instances are no error.
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

local job = redis.call('GET', P .. 'id:' .. ARGV[2])
if not job then
  return redis.error_reply('NOJOB ' .. ARGV[2] .. ' is unknown')
end
local key = job_key(job)
local function remove(field, line)
  release_instance(job, string.sub(field, 2), split(line))
  redis.call('HDEL', key, field)
end
if ARGV[3] == '-1' then
  local fields = redis.call('HGETALL', key)
  local any = false
  for i = 1, #fields, 2 do
    if string.match(fields[i], '^i%d+$') then
      remove(fields[i], fields[i + 1])
      any = true
    end
  end
  if any then
    changed(job, '-1', 'UNDEPLOYMENT', true)
  end
else
  local field = 'i' .. ARGV[3]
  local line = redis.call('HGET', key, field)
  if line then
    remove(field, line)
    changed(job, ARGV[3], 'UNDEPLOYMENT', true)
  end
end
return kicked_once()
