-- pair, rest in ms: onto our own free list
redis.call('ZADD', P .. 'subnets:free', NOW + tonumber(ARGV[2]), ARGV[1])
return 0
