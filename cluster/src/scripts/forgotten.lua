-- job: the root dropped our interest. A copy that was pulled meanwhile has to be pulled again.
local job = ARGV[1]
if redis.call('EXISTS', P .. 'job:' .. job) == 1 then
  owe('refresh:' .. job, '')
else
  redis.call('HSET', P .. 'forgotten', job, next_ticket())
end
return 0
