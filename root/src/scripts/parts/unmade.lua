-- Before settle.lua: a store that is not made yet has nothing to settle, one of another version is
-- not ours to touch.
local schema = redis.call('GET', '{oak:root}:schema')
if not schema then
  redis.call('SET', '{oak:root}:server', ARGV[1])
end
if schema ~= SCHEMA then
  return ''
end
