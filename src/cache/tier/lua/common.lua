-- Stamps are one sorted set, so that they are lost together or not at all:
--   score 0                a list of purged prefixes with their positions
--   '!'                    what is older than its score counts as purged
--   a digest               the position of the last purge of a URL or tag
--   '='                    the position of the last purge
-- `low` are its first two. Positions have 16 digits: doubles hold them, `tostring` does not.
local function text(number)
  return string.format('%.0f', number)
end

local function low_of(stamps)
  local low = redis.call('ZRANGE', stamps, 0, 1, 'WITHSCORES')
  if #low < 4 or low[3] ~= '!' then
    return nil
  end
  return low
end

-- `about` is position, time of the answer, URL, where its path begins, and digests.
local function is_purged(stamps, low, about)
  local position = tonumber(about[1])
  if position < tonumber(low[4]) then
    return true
  end
  if tonumber(redis.call('ZSCORE', stamps, '=')) <= position then
    return false
  end
  for _, score in ipairs(redis.call('ZMSCORE', stamps, unpack(about, 5))) do
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
