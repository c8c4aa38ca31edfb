-- job, ticket, announcement (or empty) -> 'older' | 'gone' | 'waiting'
-- The root does not know the job. What nodes announced is kept while it was never known (it may
-- come), and dropped when it was.
local job, ticket = ARGV[1], tonumber(ARGV[2])
local held = redis.call('HGET', P .. 'job:' .. job, 'ticket')
if held and tonumber(held) > ticket then return 'older' end
if held then
  drop_copy(job)
  local locals = redis.call('HGETALL', P .. 'local:' .. job)
  for at = 1, #locals, 2 do
    local record = cjson.decode(locals[at + 1])
    if record.ticket < ticket then drop_local(job, locals[at], record) end
  end
end
if held or ARGV[3] ~= '' then owe('announce:' .. job, ARGV[3] ~= '' and ARGV[3] or 'UNDEPLOYMENT') end
if redis.call('HLEN', P .. 'local:' .. job) > 0 then return 'waiting' end
if redis.call('SCARD', P .. 'interest:' .. job) == 0 then
  redis.call('SREM', P .. 'jobs', job)
  redis.call('DEL', P .. 'load:' .. job)
end
return 'gone'
