-- The next free addresses, unreserved. ARGV: rest, pool, how many.
local out = {}
local wanted = tonumber(ARGV[3])
free(ARGV[2], function(hex)
  out[#out + 1] = hex
  return #out >= wanted
end)
return out
