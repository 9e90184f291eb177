-- KEYS: the log of purges (a stream), and what is known of the gateways (a hash). In the hash
-- `#` is the generation: what was drawn when the log was begun, and when that was. Every
-- other field is a gateway: when its lease runs out, the last entry that it has applied, and
-- what it dropped for the last ones.
--
-- ARGV[1]: something drawn at random; ARGV[2]: how long a lease lasts.
local log, gateways = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lasts = tonumber(ARGV[2])
local generation = redis.call('HGET', gateways, '#')
if not generation or redis.call('EXISTS', log) == 0 then
  -- One of them was lost, or there was nothing: nobody's place in the old log counts.
  redis.call('DEL', log, gateways)
  generation = string.format('%s %.0f', ARGV[1], now)
  redis.call('HSET', gateways, '#', generation)
  redis.call('XADD', log, '*', 'n', ARGV[1])
end
local function last()
  local entry = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return entry[1], entry[2][2]
end
local function age()
  return now - tonumber(string.match(generation, ' (%d+)$'))
end
-- Who holds a lease, and who held one not long ago.
local function leases()
  local answer = {}
  local all = redis.call('HGETALL', gateways)
  for i = 1, #all, 2 do
    local ends, id, done = string.match(all[i + 1], '^(%d+) (%S+) (%S*)$')
    if all[i] ~= '#' then
      if not ends or now - ends > 20 * lasts then
        redis.call('HDEL', gateways, all[i])
      else
        answer[#answer + 1] = {all[i], ends - now, id, done}
      end
    end
  end
  return answer
end
