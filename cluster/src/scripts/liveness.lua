-- -> { now, status (node, "1 since" ...), seen (node, ms ...), departed }
return { NOW, redis.call('HGETALL', P .. 'status'),
  redis.call('ZRANGE', P .. 'seen', 0, -1, 'WITHSCORES'), redis.call('SMEMBERS', P .. 'departed') }
