-- The clusters that call, in the contract's order of matching. ARGV[at..at+4]: cluster_id,
-- cluster_name, address, port, source address; empty where unknown.
local function callers(at)
  for i = at, at + 1 do
    if ARGV[i] ~= '' and redis.call('EXISTS', P .. 'cluster:' .. ARGV[i]) == 1 then
      return { ARGV[i] }
    end
  end
  for _, address in ipairs({ ARGV[at + 2], ARGV[at + 4] }) do
    if address ~= '' then
      local found = redis.call('SMEMBERS', P .. 'at:' .. address)
      if address == ARGV[at + 2] and ARGV[at + 3] ~= '' then
        local exact = {}
        for _, cluster in ipairs(found) do
          if redis.call('HGET', P .. 'cluster:' .. cluster, 'port') == ARGV[at + 3] then
            exact[#exact + 1] = cluster
          end
        end
        if #exact > 0 then
          return exact
        end
      end
      if #found > 0 then
        return found
      end
    end
  end
  return {}
end
