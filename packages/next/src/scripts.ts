// The scripts that run inside Redis, each atomic.
//
// `meta` holds the epoch (a random name of this data set), the version (a counter of
// revalidations), the floor (entries stamped below it are misses) and the number of tags; and
// `unknown` while gateways may have pages from before the epoch, whose paths nobody knows; and
// `data`, the id that Redis gives its data.
// `tags` holds for each tag `expired:stale:until`: entries stamped below `expired` are misses,
// those below `stale` are stale until the clock of Redis shows `until`, in milliseconds.
// `order` holds the tags by their version, so that the oldest can be dropped.

// For the gateways, `paths:TAG` holds the paths of stored pages with that tag, by the version at
// which they were stored, and `making` the pages that are being made, whose tags nobody knows yet,
// by the time until which that is expected. A member is `RENDER PATH`: the end of one render of a
// path says nothing about another. `making` has no time to live: under `volatile-ttl` the shortest
// one is evicted first.

// `leases` holds the instances by the time of their last renewal, and `positions:EPOCH` by the
// version whose revalidations count for all that was served there, without Redis too. `since` in
// `meta` is when the epoch began: instances that have not renewed their lease since are unknown.

import { createHash } from 'node:crypto';

/** Most tags that Redis remembers; beyond them, entries older than the oldest are misses. */
export const MOST_TAGS = 100_000;

/** Most tags that an instance is told at once; beyond them, all that it has counts as revalidated. */
export const MOST_MISSED = 1000;

/** Milliseconds for which a lease counts as a link to Redis. */
export const LEASE = 3000;

/** Seconds for which an instance without a lease is remembered: an hour, as by gateways. */
const REMEMBERED = 3600;

export interface Script {
  readonly text: string;
  readonly sha: string;
}

function script(text: string): Script {
  return { text, sha: createHash('sha1').update(text).digest('hex') };
}

// A set of tags that lost a member (evicted, restored from a part) has lost a revalidation, so
// everything before it counts as lost too.
const META = `
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'version', 'floor', 'count')
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
if not meta[1] or redis.call('HLEN', KEYS[2]) ~= tonumber(meta[4]) then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'version', 1, 'floor', 1, 'count', 0, 'unknown', 1, 'since', clock())
  meta = { ARGV[1], '1', '1', '0' }
end
local epoch, version, floor = meta[1], tonumber(meta[2]), tonumber(meta[3])
local function parse(text)
  local expired, stale, till = string.match(text, '^(%d+):(%d+):(%d+)$')
  return tonumber(expired), tonumber(stale), tonumber(till)
end
-- Returns 0 for a miss, 1 for fresh and 2 for stale.
local function judge(stamp, list)
  if stamp < floor or stamp > version then return 0 end
  local verdict = 1
  for _, tag in ipairs(list) do
    local text = redis.call('HGET', KEYS[2], tag)
    if text then
      local expired, stale, till = parse(text)
      if stamp < expired then return 0 end
      if stamp < stale then
        if clock() >= till then return 0 end
        verdict = 2
      end
    end
  end
  return verdict
end
`;

/** Most paths remembered for a tag, or in the making; beyond them, `*` stands for all. */
const MOST_PATHS = 1000;

/** KEYS meta, tags, order, entry, making; ARGV epoch, the id at hand, the render or '', most milliseconds of a render, more tags. */
export const GET = script(`${META}
local function miss()
  if ARGV[3] ~= '' then
    local now = clock()
    redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
    local render = ARGV[3]
    if redis.call('ZCARD', KEYS[5]) >= ${MOST_PATHS} then render = ' *' end
    redis.call('ZADD', KEYS[5], now + tonumber(ARGV[4]), render)
  end
  return { epoch, version, 0 }
end
local entry = redis.call('HMGET', KEYS[4], 'id', 'stamp', 'epoch', 'tags')
if not entry[1] or entry[3] ~= epoch then return miss() end
local ok, own = pcall(cjson.decode, entry[4])
local stamp = tonumber(entry[2])
if not ok or type(own) ~= 'table' or not stamp then return miss() end
local more = {}
for i = 5, #ARGV do more[#more + 1] = ARGV[i] end
local verdict = judge(stamp, own)
if verdict == 0 then return miss() end
local second = judge(stamp, more)
if second == 0 then return miss() end
if second == 2 then verdict = 2 end
if entry[1] == ARGV[2] then return { epoch, version, verdict, entry[1], stamp } end
return { epoch, version, verdict, entry[1], stamp, redis.call('HGET', KEYS[4], 'body'), entry[4] }
`);

/** KEYS meta, tags, order, entry, making, paths; ARGV epoch, of the stamp, stamp, id, tags, body, seconds, path or '', longest, render. */
export const SET = script(`${META}
local stamp = tonumber(ARGV[3])
if ARGV[2] ~= epoch then return { epoch, version, 0 } end
if judge(stamp, cjson.decode(ARGV[5])) == 0 then return { epoch, version, 0 } end
local old = redis.call('HMGET', KEYS[4], 'stamp', 'epoch')
if old[1] and old[2] == epoch and tonumber(old[1]) > stamp then return { epoch, version, 0 } end
redis.call('DEL', KEYS[4])
redis.call('HSET', KEYS[4], 'id', ARGV[4], 'stamp', stamp, 'epoch', epoch, 'tags', ARGV[5], 'body', ARGV[6])
redis.call('EXPIRE', KEYS[4], ARGV[7])
if ARGV[8] ~= '' then
  for _, tag in ipairs(cjson.decode(ARGV[5])) do
    if string.sub(tag, 1, 5) ~= '_N_T_' then
      local paths = KEYS[6] .. tag
      local path = ARGV[8]
      if redis.call('ZCARD', paths) >= ${MOST_PATHS} then path = '*' end
      redis.call('ZADD', paths, version, path)
      redis.call('EXPIRE', paths, ARGV[9])
    end
  end
  redis.call('ZREM', KEYS[5], ARGV[10])
end
return { epoch, version, 1 }
`);

/** KEYS meta, tags, order, making, paths; ARGV epoch, milliseconds until stale entries expire or '', tags. */
export const REVALIDATE = script(`${META}
version = version + 1
local now = clock()
for i = 3, #ARGV do
  local text = redis.call('HGET', KEYS[2], ARGV[i])
  local expired, stale, till = 0, 0, 0
  if text then expired, stale, till = parse(text) end
  if ARGV[2] == '' then
    expired = version
  else
    local ends = now + tonumber(ARGV[2])
    -- An earlier deadline of older entries stays: repeating the call must not postpone it.
    if stale > 0 and now >= till then expired = math.max(expired, stale)
    elseif stale > expired then ends = math.min(ends, till) end
    stale, till = version, ends
  end
  redis.call('HSET', KEYS[2], ARGV[i], string.format('%.0f:%.0f:%.0f', expired, stale, till))
  redis.call('ZADD', KEYS[3], version, ARGV[i])
end
while redis.call('HLEN', KEYS[2]) > ${MOST_TAGS} do
  local oldest = redis.call('ZPOPMIN', KEYS[3])
  if not oldest[1] then
    redis.call('DEL', KEYS[2])
    floor = version
    break
  end
  redis.call('HDEL', KEYS[2], oldest[1])
  floor = math.max(floor, tonumber(oldest[2]))
end
redis.call('HSET', KEYS[1], 'version', version, 'floor', floor, 'count', redis.call('HLEN', KEYS[2]))
if redis.call('HGET', KEYS[1], 'unknown') then return { epoch, version, 1, { '*' }, 1 } end
local paths = {}
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
for _, render in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  paths[#paths + 1] = string.match(render, '^%S* (.*)$')
end
for i = 3, #ARGV do
  if string.sub(ARGV[i], 1, 5) ~= '_N_T_' then
    for _, path in ipairs(redis.call('ZRANGE', KEYS[5] .. ARGV[i], 0, -1)) do paths[#paths + 1] = path end
  end
end
return { epoch, version, 1, paths }
`);

/** KEYS meta, paths; ARGV epoch and version of a revalidation whose paths gateways have dropped, `*` if all, its tags. */
export const DROPPED = script(`
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return { 0 } end
if ARGV[3] == '*' then redis.call('HDEL', KEYS[1], 'unknown') end
for i = 4, #ARGV do redis.call('ZREMRANGEBYSCORE', KEYS[2] .. ARGV[i], '-inf', '(' .. ARGV[2]) end
return { 1 }
`);

/** KEYS meta, tags, order, leases, positions; ARGV epoch, the instance, the epoch and version that it applies, '1' if they count for all that it served; without these it ends. */
export const RENEW = script(`
-- It changes with each restart and failover: the data may be from before confirmed revalidations.
local data = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or ''
if (redis.call('HGET', KEYS[1], 'data') or data) ~= data then redis.call('DEL', KEYS[1]) end
${META}
redis.call('HSET', KEYS[1], 'data', data)
local positions = KEYS[5] .. epoch
redis.call('ZREM', KEYS[4], ARGV[2])
redis.call('ZREM', positions, ARGV[2])
if not ARGV[3] then return { epoch, version, 1, {} } end
local now = clock()
for _, gone in ipairs(redis.call('ZRANGE', KEYS[4], '-inf', now - ${1000 * REMEMBERED}, 'BYSCORE')) do
  redis.call('ZREM', KEYS[4], gone)
  redis.call('ZREM', positions, gone)
end
redis.call('ZADD', KEYS[4], now, ARGV[2])
if ARGV[3] ~= epoch then return { epoch, version, 1, {} } end
if ARGV[5] == '1' then
  redis.call('ZADD', positions, ARGV[4], ARGV[2])
  redis.call('EXPIRE', positions, ${REMEMBERED})
end
return { epoch, version, 1, redis.call('ZRANGE', KEYS[3], '(' .. ARGV[4], '+inf', 'BYSCORE', 'LIMIT', 0, ${MOST_MISSED + 1}) }
`);

/** KEYS meta, leases, positions; ARGV version: how many linked instances have not applied it, and how many are cut off. */
export const INSTANCES = script(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local since = now - ${LEASE}
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'since')
-- The clock was set back: the time of these counts from now on.
if tonumber(meta[2] or 0) > now then
  meta[2] = now
  redis.call('HSET', KEYS[1], 'since', now)
end
for _, ahead in ipairs(redis.call('ZRANGE', KEYS[2], '(' .. now, '+inf', 'BYSCORE')) do redis.call('ZADD', KEYS[2], now, ahead) end
local waiting, applies = 0, {}
if tonumber(meta[2] or 0) > since then waiting = 1 end
for _, instance in ipairs(redis.call('ZRANGE', KEYS[3] .. (meta[1] or ''), ARGV[1], '+inf', 'BYSCORE')) do applies[instance] = true end
for _, instance in ipairs(redis.call('ZRANGE', KEYS[2], since, '+inf', 'BYSCORE')) do
  if not applies[instance] then waiting = waiting + 1 end
end
local lapsed = redis.call('ZRANGE', KEYS[2], '-inf', '(' .. since, 'BYSCORE')
return { meta[1] or '', waiting, #lapsed }
`);

/** KEYS making; ARGV renders that have ended. */
export const FORGET = script(`return { redis.call('ZREM', KEYS[1], unpack(ARGV)) }`);
