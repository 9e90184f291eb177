// feature-flags: fetches a list of flags, and tells the backend which are on for a visitor.
//
// What was fetched is kept by each instance, and in the kv for all of them. A service that does
// not answer changes nothing: the last good list holds until there is another one.

const defaults = { refresh: 30, retry: 5, header: 'x-flags', cookie: 'visitor', max_age: 365 * 24 * 3600, fallback: {} };
const KEY = 'flags';

let settings;
const read = (config) => {
  const all = { ...defaults, ...config };
  if (typeof all.url !== 'string') throw new Error('`url` is where the flags are fetched');
  return { ...all, fallback: checked(all.fallback) };
};

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

// A flag is on, off, a word, or on for some.
const checked = (flags) => {
  if (!isObject(flags)) throw new Error('flags are an object');
  for (const [name, flag] of Object.entries(flags)) {
    const isRight = typeof flag === 'boolean' || typeof flag === 'string' || (isObject(flag) && flag.percent >= 0 && flag.percent <= 100);
    if (!isRight) throw new Error(`the flag \`${name}\` is neither true, false, a word nor { percent: 10 }`);
  }
  return flags;
};

// What this instance has: the list, and until when nobody needs to be asked.
let known;

const fetched = async ({ url }) => {
  const answer = await fetch(url, { headers: { accept: 'application/json' } });
  if (!answer.ok) throw new Error(`it answered ${answer.status}`);
  return checked(await answer.json());
};

const flagsOf = async (settings, { kv }) => {
  const now = Date.now();
  if (known && now < known.until) return known.flags;
  let kept;
  try {
    kept = await kv.get(KEY);
    if (kept && now < kept.until) return (known = kept).flags;
    // One of all instances asks; the others make do with what there is, if there is anything.
    const isFirst = (await kv.increment('asks', 1, { ttl: settings.retry })) === 1;
    const last = kept ?? known;
    if (!isFirst && last) {
      known = { flags: last.flags, until: now + 1000 };
      return known.flags;
    }
  } catch (error) {
    console.warn(`the kv cannot be asked: ${error.message}`);
  }
  try {
    known = { flags: await fetched(settings), until: now + settings.refresh * 1000 };
  } catch (error) {
    console.warn(`the flags cannot be fetched: ${error.message}`);
    known = { flags: (kept ?? known)?.flags ?? settings.fallback, until: now + settings.retry * 1000 };
    return known.flags;
  }
  try {
    await kv.put(KEY, known);
    await kv.delete('asks');
  } catch (error) {
    console.warn(`the flags cannot be kept: ${error.message}`);
  }
  return known.flags;
};

// A number from 0 to 100 for a visitor and a flag, always the same (FNV-1a).
const share = (text) => {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  // The last letters would hardly move it.
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b) >>> 0;
  hash = (hash ^ (hash >>> 16)) >>> 0;
  return (hash / 2 ** 32) * 100;
};

export async function onRequest(request, ctx) {
  settings ??= read(ctx.config);
  const { header, cookie, max_age } = settings;
  const flags = Object.entries(await flagsOf(settings, ctx));
  let id = ctx.jwt?.sub ?? request.cookies.get(cookie)?.value;
  const isNew = id === undefined && flags.some(([, flag]) => isObject(flag));
  if (isNew) id = crypto.randomUUID();
  const on = {};
  for (const [name, flag] of flags.sort(([a], [b]) => (a < b ? -1 : 1))) {
    const value = isObject(flag) ? share(`${name}:${id}`) < flag.percent : flag;
    if (value !== false) on[name] = value;
  }
  // As ASCII, which JSON can always be.
  const text = JSON.stringify(on).replace(/[^\x20-\x7e]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`);
  request.headers.set(header, text);
  if (!isNew) return;
  const response = NextResponse.next();
  response.cookies.set(cookie, id, { maxAge: max_age, sameSite: 'lax', httpOnly: true, secure: request.nextUrl.protocol === 'https:' });
  return response;
}

// Answers differ by what is on, and not by whom it is on for.
export function onCacheKey(request, ctx) {
  settings ??= read(ctx.config);
  return request.headers.get(settings.header);
}
