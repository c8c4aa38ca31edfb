-- A replica that stops gives its leases up. ARGV: rest, replica, then the clusters.
for i = 3, #ARGV do
  local lease = P .. 'lease:' .. ARGV[i]
  if redis.call('GET', lease) == ARGV[2] then
    redis.call('DEL', lease)
  end
end
return redis.status_reply('OK')
