-- task, payload, delay in ms
owe(ARGV[1], ARGV[2], tonumber(ARGV[3]))
return 0
