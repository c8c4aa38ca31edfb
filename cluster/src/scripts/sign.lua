-- node: it said something, whatever it was
redis.call('ZADD', P .. 'signs', NOW, ARGV[1])
return 0
