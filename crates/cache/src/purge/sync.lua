-- Records the position of a gateway, returns the entries after it, and renews the lease.
--
-- ARGV[3]: the gateway. ARGV[4], ARGV[5]: its position, as the id and the nonce of an entry;
-- empty without one. ARGV[6]: the number of responses that it dropped for each of the last entries.
-- ARGV[7]: limit on returned entries. ARGV[8]: `1` to request the leases of all gateways. Then
-- pairs of id and nonce, of entries to look up.
--
-- Returns 1 if the position is in the log, else 0; the generation and its age; the milliseconds
-- until the lease expires, 0 without one; the entries after the position, or the last entry if the
-- position is not in the log; the leases; for each entry to look up, 1 if it is in the log, else 0.
local function is_there(id, drawn)
  local entry = redis.call('XRANGE', log, id, id)[1]
  return entry and entry[2][2] == drawn
end
local gateway, place, drawn, done = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local answer = {1, generation, age(), 0, {}, {}, {}}
if place == '' or not is_there(place, drawn) then
  local id, drawn_last = last()
  answer[1] = 0
  answer[5] = {{id, drawn_last, ''}}
else
  local follow = redis.call('XRANGE', log, '(' .. place, '+', 'COUNT', ARGV[7])
  for i, entry in ipairs(follow) do
    local text = entry[2][4] or ''
    -- A longer text was not written by a gateway.
    answer[5][i] = {entry[1], entry[2][2], #text > 4194304 and '?' or text}
  end
  local known = redis.call('HGET', gateways, gateway)
  local ends, id, said = string.match(known or '', '^(%d+) (%S+) (%S*)$')
  local left = ends and ends - now or 0
  -- Purges may not have waited for a gateway whose lease expired. It gets one again together with
  -- all entries that it lacks, and relies on it once they are applied: under a stream of purges
  -- there is always another one.
  if left > 0 or #follow < tonumber(ARGV[7]) then
    -- A remainder above the duration of a lease: the clock was set back.
    if left < lasts * 2 / 3 or left > lasts or id ~= place or said ~= done then
      left = lasts
      local value = string.format('%.0f %s %s', now + lasts, place, done)
      redis.call('HSET', gateways, gateway, value)
    end
    answer[4] = left
  end
end
if ARGV[8] == '1' then
  answer[6] = leases()
end
for i = 9, #ARGV, 2 do
  answer[7][#answer[7] + 1] = is_there(ARGV[i], ARGV[i + 1]) and 1 or 0
end
return answer
