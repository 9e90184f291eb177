-- What writes have changed goes, and what is on its way of it is kept out.
-- KEYS: stamps, writes, then what goes: an entry, or the marker of a place. ARGV: position, then
-- the slot of each in the table of writes.
for i = 3, #KEYS do
  redis.call('DEL', KEYS[i])
  -- Another gateway may have had a later position and been first.
  local last = tonumber(redis.call('HGET', KEYS[2], ARGV[i - 1]) or '0')
  if last < tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[2], ARGV[i - 1], ARGV[1])
  end
end
redis.call('ZADD', KEYS[1], 'XX', 'GT', ARGV[1], '=')
return redis.call('ZSCORE', KEYS[1], '=') or ''
