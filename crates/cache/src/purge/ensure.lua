-- KEYS: the log of purges (a stream), and the state of the gateways (a hash). In the hash, `#` is
-- the generation: a nonce, the replication id of Redis, and the time since which both are valid.
-- Every other field is a gateway: the time at which its lease expires, the last entry that it has
-- applied, and the number of responses that it dropped for each of the last entries.
--
-- ARGV[1]: a nonce; ARGV[2]: duration of a lease, in milliseconds.
local log, gateways = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lasts = tonumber(ARGV[2])
-- Redis has another one after each restart and each failover.
local history = assert(string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)'))
local generation = redis.call('HGET', gateways, '#')
if not generation or redis.call('EXISTS', log) == 0 then
  -- One of the keys was lost, or neither exists: positions in the old log are no longer valid.
  redis.call('DEL', log, gateways)
  generation = ''
end
if string.match(generation, ':(%x+) ') ~= history then
  -- The last entries and leases of the earlier history may be lost. An entry without a purge tells
  -- gateways that come later.
  generation = string.format('%s:%s %.0f', ARGV[1], history, now)
  redis.call('HSET', gateways, '#', generation)
  redis.call('XADD', log, '*', 'n', ARGV[1])
end
if tonumber(string.match(generation, ' (%d+)$')) > now then
  -- The clock was set back: the log would be young until it shows that time again.
  generation = string.gsub(generation, '%d+$', string.format('%.0f', now))
  redis.call('HSET', gateways, '#', generation)
end
local function last()
  local entry = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return entry[1], entry[2][2]
end
local function age()
  return now - tonumber(string.match(generation, ' (%d+)$'))
end
-- Returns the gateways that hold a lease, and the last 64 whose lease expired within an hour.
local function leases()
  local named, expired = {}, {}
  local all = redis.call('HGETALL', gateways)
  for i = 1, #all, 2 do
    local ends, id, done = string.match(all[i + 1], '^(%d+) (%S+) (%S*)$')
    if all[i] ~= '#' then
      if not ends or now - ends > 1200 * lasts then
        redis.call('HDEL', gateways, all[i])
      else
        local left = ends - now
        if left > lasts then
          -- The clock was set back: the lease ends by the new time, or a purge would wait for it.
          left = lasts
          redis.call('HSET', gateways, all[i], string.format('%.0f %s %s', now + lasts, id, done))
        end
        local list = left > 0 and named or expired
        list[#list + 1] = {all[i], left, id, done}
      end
    end
  end
  table.sort(expired, function(a, b) return a[2] > b[2] end)
  for i, gateway in ipairs(expired) do
    if i > 64 then
      redis.call('HDEL', gateways, gateway[1])
    else
      named[#named + 1] = gateway
    end
  end
  return named
end
