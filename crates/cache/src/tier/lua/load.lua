-- Loads an entry. KEYS: entries of a URL, stamps, marker. ARGV: size limit of an entry in bytes,
-- the key's hash, then pairs of a list of fields and the request's variance for it.
local key, stamps, marker, hash = KEYS[1], KEYS[2], KEYS[3], ARGV[2]
local low = low_of(stamps)
if not low then
  return { 'lost' }
end
local last = redis.call('ZSCORE', stamps, '=')
local least = tonumber(redis.call('GET', marker) or '')
local varies = redis.call('HGET', key, 'v' .. hash)
-- A longer list was not written by a gateway.
if not least or not varies or #varies > 4096 then
  return { 'miss', last }
end
local variances = {}
for i = 3, #ARGV, 2 do
  variances[ARGV[i]] = ARGV[i + 1]
end
for vary in string.gmatch(varies, '([^\n]*)\n') do
  local variance = variances[vary]
  if not variance then
    return { 'vary', last, varies }
  end
  local name = hash .. variance
  local about = redis.call('HGET', key, 'm' .. name)
  if about then
    about = cmsgpack.unpack(about)
    if tonumber(about[1]) < least or is_purged(stamps, low, about) then
      redis.call('HDEL', key, 'm' .. name, 'b' .. name)
    else
      local passed = math.max(0, now() - about[2])
      if redis.call('HSTRLEN', key, 'b' .. name) > tonumber(ARGV[1]) then
        return { 'large', last }
      end
      return { 'hit', last, text(passed), redis.call('HGET', key, 'b' .. name) or '' }
    end
  end
end
return { 'miss', last }
