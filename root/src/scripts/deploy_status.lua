-- ARGV: rest, _id, then per instance: number, ns4, ns6, host, port, UNDEPLOYED or empty.
-- An instance that was undeployed meanwhile is not brought back.
local job = redis.call('GET', P .. 'id:' .. ARGV[2])
if not job then
  return redis.error_reply('NOJOB ' .. ARGV[2] .. ' is unknown')
end
local key = job_key(job)
for at = 3, #ARGV, 6 do
  local number = ARGV[at]
  local field = 'i' .. number
  local line = redis.call('HGET', key, field)
  if line then
    local who = job .. '/' .. number
    local parts = split(line)
    for i, slot in ipairs({ NS4, NS6 }) do
      local hex = ARGV[at + i]
      if parts[slot] ~= hex and parts[slot] ~= '' then
        disown(parts[slot], who)
      end
      if hex ~= '' then
        own(hex, who)
      end
      parts[slot] = hex
    end
    parts[HOST], parts[PORT] = ARGV[at + 3], ARGV[at + 4]
    local kind = ARGV[at + 5] == '' and 'DEPLOYMENT' or 'UNDEPLOYMENT'
    local after = join(parts)
    if after ~= line then
      redis.call('HSET', key, field, after)
      changed(job, number, kind, true)
    else
      repeated(job, number, kind)
    end
  end
end
return kicked_once()
