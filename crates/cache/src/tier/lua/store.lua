-- Stores an entry. KEYS: entries of a URL, stamps, marker, writes. ARGV: position, milliseconds
-- since the response, time to live, limit on variants, variance, list of fields, entry, URL, index
-- at which its path begins, the key's hash, two slots of the table of writes, digests.
local key, stamps, marker, writes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local low = low_of(stamps)
if not low then
  return { 'lost' }
end
local position, lasts, hash = tonumber(ARGV[1]), tonumber(ARGV[3]), ARGV[10]
local last = redis.call('ZSCORE', stamps, '=')
local about = { ARGV[1], now() - tonumber(ARGV[2]), ARGV[8], tonumber(ARGV[9]), history }
for i = 13, #ARGV do
  about[#about + 1] = ARGV[i]
end
local vary, name = ARGV[6], hash .. ARGV[5]
-- A slot of the table of writes stands for many URLs, so a refused response may be the newest one:
-- an older one must not outlast it. Positions do not show this: a gateway that has not reached
-- Redis for a while has a low position for a response that it has just requested.
local function refuse()
  local old = redis.call('HGET', key, 'm' .. name)
  old = old and cmsgpack.unpack(old)
  if old and old[2] <= about[2] then
    redis.call('HDEL', key, 'm' .. name, 'b' .. name)
  end
  return { 'purged', last }
end
for _, at in ipairs(redis.call('HMGET', writes, ARGV[11], ARGV[12])) do
  if at and tonumber(at) > position then
    return refuse()
  end
end
local least = tonumber(redis.call('GET', marker) or '')
if (least and position < least) or is_purged(stamps, low, about) then
  return refuse()
end
local old = redis.call('HGET', key, 'm' .. name)
if old then
  old = cmsgpack.unpack(old)
  local counts = least and tonumber(old[1]) >= least
  if counts and old[2] > about[2] and not is_purged(stamps, low, old) then
    return { 'older', last }
  end
elseif redis.call('HLEN', key) > 2 * tonumber(ARGV[4]) then
  redis.call('DEL', key)
end
-- The newest list of fields first, and no more lists than a load tries.
local varies, count = vary .. '\n', 1
for known in string.gmatch(redis.call('HGET', key, 'v' .. hash) or '', '([^\n]*)\n') do
  if known ~= vary and count < 4 then
    varies, count = varies .. known .. '\n', count + 1
  end
end
redis.call('HSET', key, 'v' .. hash, varies, 'm' .. name, cmsgpack.pack(about), 'b' .. name, ARGV[7])
if redis.call('PTTL', key) < lasts then
  redis.call('PEXPIRE', key, lasts)
end
-- A new marker begins at this position: entries from before it do not count.
if not least then
  redis.call('SET', marker, ARGV[1], 'PX', lasts)
elseif redis.call('PTTL', marker) < lasts then
  redis.call('PEXPIRE', marker, lasts)
end
return { 'stored', last }
