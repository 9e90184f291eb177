-- Records purges. KEYS: stamps. ARGV: position, limit on digests, limit on prefixes, then pairs of
-- kind and value. Without pairs, creates the stamps if they do not exist.
local stamps, position = KEYS[1], tonumber(ARGV[1])
local low = low_of(stamps)
if not low then
  -- Earlier purges are unknown from here on.
  redis.call('DEL', stamps)
  redis.call('ZADD', stamps, 0, 'P' .. cmsgpack.pack({}), ARGV[1], '!', ARGV[1], '=',
    'inf', history)
  return ARGV[1]
end
if #ARGV == 3 then
  return redis.call('ZSCORE', stamps, '=')
end
local floor = tonumber(low[4])
local prefixes = cmsgpack.unpack(string.sub(low[1], 2))
for i = 4, #ARGV, 2 do
  local kind, value = ARGV[i], ARGV[i + 1]
  if kind == 'all' then
    floor = math.max(floor, position)
  elseif kind == 'prefix' then
    for at, purged in ipairs(prefixes) do
      if purged[1] == value then
        position = math.max(position, purged[2])
        table.remove(prefixes, at)
        break
      end
    end
    table.insert(prefixes, { value, position })
    position = tonumber(ARGV[1])
  else
    redis.call('ZADD', stamps, 'GT', ARGV[1], value)
  end
end
while #prefixes > tonumber(ARGV[3]) do
  floor = math.max(floor, prefixes[1][2])
  table.remove(prefixes, 1)
end
local surplus = redis.call('ZCARD', stamps) - tonumber(ARGV[2])
if surplus > 0 then
  local last = redis.call('ZRANGE', stamps, surplus + 1, surplus + 1, 'WITHSCORES')
  floor = math.max(floor, tonumber(last[2]))
end
-- Positions below the floor count as purged without a stamp.
redis.call('ZREMRANGEBYSCORE', stamps, '(0', text(floor))
local kept = {}
for _, purged in ipairs(prefixes) do
  if purged[2] > floor then
    table.insert(kept, purged)
  end
end
redis.call('ZREM', stamps, low[1])
redis.call('ZADD', stamps, 0, 'P' .. cmsgpack.pack(kept), text(floor), '!')
-- Never below a recorded purge: another gateway may have written a later position first.
redis.call('ZADD', stamps, 'GT', text(math.max(tonumber(ARGV[1]), floor)), '=')
return redis.call('ZSCORE', stamps, '=')
