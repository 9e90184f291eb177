-- Returns the next position. It is later than all earlier ones, even if the key was lost, and than
-- ARGV[1], the last one that the gateway has seen, even if Redis has another clock since.
local time = redis.call('TIME')
local next = time[1] * 1000000 + time[2]
local last = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1]))
if next <= last then
  next = last + 1
end
local text = string.format('%.0f', next)
redis.call('SET', KEYS[1], text)
return text
