-- node: a sign of life from the NodeEngine
redis.call('ZADD', P .. 'seen', NOW, ARGV[1])
redis.call('SREM', P .. 'departed', ARGV[1])
return 0
