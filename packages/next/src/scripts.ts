// The scripts that run inside Redis, each atomic.
//
// `meta` holds the epoch (a random name of this data set), the version (a counter of
// revalidations), the floor (entries stamped below it are misses) and the number of tags.
// `tags` holds for each tag `expired:stale:until`: entries stamped below `expired` are misses,
// those below `stale` are stale until the clock of Redis shows `until`, in milliseconds.
// `order` holds the tags by their version, so that the oldest can be dropped.

// For the gateways, `pages:TAG` holds the paths of stored pages with that tag, and `making` the
// pages that are being made, whose tags nobody knows yet, by the time when that began. A member is
// `RENDER PATH`: the end of one render of a path says nothing about another.

import { createHash } from 'node:crypto';

/** Most tags that Redis remembers; beyond them, entries older than the oldest are misses. */
export const MOST_TAGS = 100_000;

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
if not meta[1] or redis.call('HLEN', KEYS[2]) ~= tonumber(meta[4]) then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'version', 1, 'floor', 1, 'count', 0)
  meta = { ARGV[1], '1', '1', '0' }
end
local epoch, version, floor = meta[1], tonumber(meta[2]), tonumber(meta[3])
local function parse(text)
  local expired, stale, till = string.match(text, '^(%d+):(%d+):(%d+)$')
  return tonumber(expired), tonumber(stale), tonumber(till)
end
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
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
    redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - tonumber(ARGV[4]))
    local render = ARGV[3]
    if redis.call('ZCARD', KEYS[5]) >= ${MOST_PATHS} then render = ' *' end
    redis.call('ZADD', KEYS[5], now, render)
    redis.call('PEXPIRE', KEYS[5], ARGV[4])
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

/** KEYS meta, tags, order, entry, making, pages; ARGV epoch, of the stamp, stamp, id, tags, body, seconds, path or '', longest, render. */
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
      if redis.call('SCARD', paths) >= ${MOST_PATHS} then path = '*' end
      redis.call('SADD', paths, path)
      redis.call('EXPIRE', paths, ARGV[9])
    end
  end
  redis.call('ZREM', KEYS[5], ARGV[10])
end
return { epoch, version, 1 }
`);

/** KEYS meta, tags, order, making, pages; ARGV epoch, milliseconds until stale entries expire or '', tags. */
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
local paths = {}
for _, render in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  paths[#paths + 1] = string.match(render, '^%S* (.*)$')
end
for i = 3, #ARGV do
  if string.sub(ARGV[i], 1, 5) ~= '_N_T_' then
    for _, path in ipairs(redis.call('SMEMBERS', KEYS[5] .. ARGV[i])) do paths[#paths + 1] = path end
  end
end
return { epoch, version, 1, paths }
`);

/** KEYS making; ARGV renders that have ended. */
export const FORGET = script(`return { redis.call('ZREM', KEYS[1], unpack(ARGV)) }`);
