-- node: a sign of life from the NodeEngine
redis.call('ZADD', P .. 'seen', NOW, ARGV[1])
-- It says nothing of a Net Manager whose own status says that it is gone.
local status = redis.call('HGET', P .. 'status', ARGV[1])
if not status or string.sub(status, 1, 1) == '1' then come_back(ARGV[1]) end
return 0
