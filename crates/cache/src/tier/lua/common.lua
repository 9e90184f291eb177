-- Stamps are one sorted set, so that they are lost together or not at all:
--   score 0                the list of purged prefixes, each with the position of its purge
--   '!'                    responses with a position below its score count as purged
--   a digest               the position of the last purge of a URL or tag
--   '='                    the position of the last purge
--   '@', replication id    always last: another one in Redis, and later stamps may be lost
-- `low` holds its first two members. Positions have 16 digits: doubles hold them exactly, and
-- `tostring` rounds them.
-- Redis has another one after each restart and each failover.
local history = '@' .. assert(string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)'))

local function text(number)
  return string.format('%.0f', number)
end

local function low_of(stamps)
  local low = redis.call('ZRANGE', stamps, 0, 1, 'WITHSCORES')
  if #low < 4 or low[3] ~= '!' or not redis.call('ZSCORE', stamps, history) then
    return nil
  end
  return low
end

-- Returns true if an entry was purged. `about` is its position, the time of the response, the URL,
-- the index at which its path begins, the history that it was written in, and the digests.
local function is_purged(stamps, low, about)
  local position = tonumber(about[1])
  -- Whatever the stamps and all clocks say: purges of an earlier history may be lost.
  if position < tonumber(low[4]) or about[5] ~= history then
    return true
  end
  if tonumber(redis.call('ZSCORE', stamps, '=')) <= position then
    return false
  end
  for _, score in ipairs(redis.call('ZMSCORE', stamps, unpack(about, 6))) do
    if score and tonumber(score) > position then
      return true
    end
  end
  local url, target = about[3], string.sub(about[3], about[4])
  for _, purged in ipairs(cmsgpack.unpack(string.sub(low[1], 2))) do
    local prefix = purged[1]
    local begins = string.sub(url, 1, #prefix) == prefix
      or string.sub(target, 1, #prefix) == prefix
    if begins and purged[2] > position then
      return true
    end
  end
  return false
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
