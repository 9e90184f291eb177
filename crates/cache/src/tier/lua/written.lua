-- Removes entries that writes have changed, and keeps out older responses that are still being
-- stored. KEYS: stamps, writes, then each key to remove: an entry, or the marker of a place. ARGV:
-- position, then the slot of each key in the table of writes.
for i = 3, #KEYS do
  redis.call('DEL', KEYS[i])
  -- Another gateway may have written a later position first.
  local last = tonumber(redis.call('HGET', KEYS[2], ARGV[i - 1]) or '0')
  if last < tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[2], ARGV[i - 1], ARGV[1])
  end
end
redis.call('ZADD', KEYS[1], 'XX', 'GT', ARGV[1], '=')
return redis.call('ZSCORE', KEYS[1], '=') or ''
