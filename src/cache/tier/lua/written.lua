-- What writes have changed goes, and what is on its way of it is kept out.
-- KEYS: stamps, writes, then what goes: an entry, or the marker of a place. ARGV: position, then
-- the slot of each in the table of writes.
for i = 3, #KEYS do
  redis.call('DEL', KEYS[i])
  redis.call('HSET', KEYS[2], ARGV[i - 1], ARGV[1])
end
redis.call('ZADD', KEYS[1], 'XX', 'GT', ARGV[1], '=')
return redis.call('ZSCORE', KEYS[1], '=') or ''
