-- Gives back capacity that was taken from one bucket, less the part that has refilled since then.
--
-- ARGV: N; the cost; the time at which it was taken, in microseconds.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local state = redis.call('GET', KEYS[1])
if not state then
  return 0
end
local whole, nanos, fraction = string.match(state, '^(%d+):(%d+):(%d+)$')
if not whole then
  return 0
end
local n = tonumber(ARGV[1])
local back, back_sub = ARGV[2] - math.max(0, now - ARGV[4]), tonumber(ARGV[3])
if back < 0 then
  return 0
end
local us = tonumber(whole) - back
local sub = nanos * n + math.min(fraction, n - 1) - back_sub
if sub < 0 then
  us, sub = us - 1, sub + n * 1000
end
if us < now then
  redis.call('DEL', KEYS[1])
else
  local state = string.format('%.0f:%.0f:%.0f', us, math.floor(sub / n), sub % n)
  redis.call('SET', KEYS[1], state, 'PX', math.floor((us - now) / 1000) + 2)
end
return 1
