-- A gateway says how far it is, is told what follows, and has its lease renewed.
--
-- ARGV[3]: the gateway. ARGV[4], ARGV[5]: its place, an entry's id and what was drawn for it;
-- empty without one. ARGV[6]: what it dropped for the last entries. ARGV[7]: entries at most.
-- ARGV[8]: whether it asks for the leases of all. Then ids and what was drawn for them, of
-- entries that are to be there.
--
-- The answer: 1 if its place is in the log, else 0; the generation and its age; the milliseconds
-- that its lease lasts, 0 without one; what follows, or the last entry if its place is
-- not there; leases; for each entry asked for whether it is there.
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
    -- More is nothing that a gateway has written.
    answer[5][i] = {entry[1], entry[2][2], #text > 4194304 and '?' or text}
  end
  local known = redis.call('HGET', gateways, gateway)
  local ends, id, said = string.match(known or '', '^(%d+) (%S+) (%S*)$')
  local left = ends and ends - now or 0
  -- Who let it run out may have been passed over: it applies all there is before it counts
  -- again.
  if left > 0 or #follow == 0 then
    -- More than a lease lasts: the clock was put back.
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
