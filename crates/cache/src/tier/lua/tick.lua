-- Returns the next position. It is later than all earlier ones, even if the key was lost.
local time = redis.call('TIME')
local next = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
if next <= last then
  next = last + 1
end
local text = string.format('%.0f', next)
redis.call('SET', KEYS[1], text)
return text
