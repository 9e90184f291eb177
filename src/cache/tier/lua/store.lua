-- KEYS: entry, stamps. ARGV: position, milliseconds since the answer, time to live, most
-- variants, variance, list of fields, entry, URL, where its path begins, digests.
local key, stamps = KEYS[1], KEYS[2]
local low = low_of(stamps)
if not low then
  return { 'lost' }
end
local last = redis.call('ZSCORE', stamps, '=')
local about = { ARGV[1], now() - tonumber(ARGV[2]), ARGV[8], tonumber(ARGV[9]) }
for i = 10, #ARGV do
  about[#about + 1] = ARGV[i]
end
if is_purged(stamps, low, about) then
  return { 'purged', last }
end
local variance, vary = ARGV[5], ARGV[6]
local old = redis.call('HGET', key, 'm' .. variance)
if old then
  old = cmsgpack.unpack(old)
  if old[2] > about[2] and not is_purged(stamps, low, old) then
    return { 'older', last }
  end
elseif redis.call('HLEN', key) > 2 * tonumber(ARGV[4]) then
  redis.call('DEL', key)
end
-- The newest first, and no more than anybody would ask for.
local varies, count = vary .. '\n', 1
for known in string.gmatch(redis.call('HGET', key, 'v') or '', '([^\n]*)\n') do
  if known ~= vary and count < 4 then
    varies, count = varies .. known .. '\n', count + 1
  end
end
redis.call('HSET', key, 'v', varies, 'm' .. variance, cmsgpack.pack(about), 'b' .. variance, ARGV[7])
if redis.call('PTTL', key) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', key, ARGV[3])
end
return { 'stored', last }
