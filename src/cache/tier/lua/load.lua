-- KEYS: entry, stamps. ARGV: pairs of a list of fields and the request's variance in them.
local key, stamps = KEYS[1], KEYS[2]
local low = low_of(stamps)
if not low then
  return { 'lost' }
end
local last = redis.call('ZSCORE', stamps, '=')
local varies = redis.call('HGET', key, 'v')
if not varies then
  return { 'miss', last }
end
local variances = {}
for i = 1, #ARGV, 2 do
  variances[ARGV[i]] = ARGV[i + 1]
end
for vary in string.gmatch(varies, '([^\n]*)\n') do
  local variance = variances[vary]
  if not variance then
    return { 'vary', last, varies }
  end
  local about = redis.call('HGET', key, 'm' .. variance)
  if about then
    about = cmsgpack.unpack(about)
    if is_purged(stamps, low, about) then
      redis.call('HDEL', key, 'm' .. variance, 'b' .. variance)
    else
      local passed = math.max(0, now() - about[2])
      return { 'hit', last, text(passed), redis.call('HGET', key, 'b' .. variance) or '' }
    end
  end
end
return { 'miss', last }
