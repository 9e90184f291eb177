-- Takes capacity from the bucket of each key: from all of them or from none.
--
-- A bucket is stored as the time at which it is full again: microseconds, nanoseconds below one
-- microsecond, and a fraction in Nths of a nanosecond, where N is the limit's count. Sums are pairs
-- of whole microseconds and Nths of a nanosecond below one microsecond, so that all of them are
-- exact in doubles.
--
-- ARGV, for each key: N; the cost; the time in which an empty bucket refills; how far ahead the
-- stored time may lie, which is that time plus the longest delay of a request.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer = {1, time[1], time[2]}
local after, lowered = {}, {}
for i, key in ipairs(KEYS) do
  local n = tonumber(ARGV[i * 7 - 6])
  local full, full_sub = tonumber(ARGV[i * 7 - 3]), tonumber(ARGV[i * 7 - 2])
  local room, room_sub = tonumber(ARGV[i * 7 - 1]), tonumber(ARGV[i * 7])
  local scale = n * 1000
  local us, sub = now, 0
  local state = redis.call('GET', key)
  answer[i + 3] = state or ''
  if state then
    local whole, nanos, fraction = string.match(state, '^(%d+):(%d+):(%d+)$')
    whole = tonumber(whole)
    if whole and whole >= now then
      us, sub = whole, nanos * n + math.min(fraction, n - 1)
      -- Further ahead than this limit allows: written for another limit, or by another clock.
      local most = now + room + 1000000
      if us > most or (us == most and sub > room_sub) then
        us, sub = now + room, room_sub
        lowered[i] = {us, sub, n}
      end
    end
  end
  us, sub = us + ARGV[i * 7 - 5], sub + ARGV[i * 7 - 4]
  if sub >= scale then
    us, sub = us + 1, sub - scale
  end
  if us > now + room or (us == now + room and sub > room_sub) then
    answer[1] = 0
  elseif us > now + full or (us == now + full and sub > full_sub) then
    -- A request is delayed by whole nanoseconds.
    sub = sub + (full_sub - sub) % n
    if sub >= scale then
      us, sub = us + 1, sub - scale
    end
  end
  after[i] = {us, sub, n}
end
if answer[1] == 0 then
  -- A lowered bucket is stored and refills from here on; otherwise it would be lowered each time.
  after = lowered
end
for i, key in ipairs(KEYS) do
  if after[i] then
    local us, sub, n = after[i][1], after[i][2], after[i][3]
    local state = string.format('%.0f:%.0f:%.0f', us, math.floor(sub / n), sub % n)
    -- Expires once it is full: a missing bucket is full.
    redis.call('SET', key, state, 'PX', math.floor((us - now) / 1000) + 2)
  end
end
return answer
