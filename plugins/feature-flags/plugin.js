// feature-flags: fetches a list of flags, and reports to the backend which are on for a visitor.
//
// Each instance keeps the list in memory, and the kv stores it for all of them. If the service does
// not respond, the last valid list stays in use until there is a new one.

const defaults = { refresh: 30, retry: 5, header: 'x-flags', cookie: 'visitor', max_age: 365 * 24 * 3600, fallback: {} };
const KEY = 'flags';

let settings;
const read = (config) => {
  const all = { ...defaults, ...config };
  if (typeof all.url !== 'string') throw new Error('`url` must be the URL of the flags');
  return { ...all, fallback: checked(all.fallback) };
};

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

// Validates flags: each is true, false, a string, or on for a percentage of visitors.
const checked = (flags) => {
  if (!isObject(flags)) throw new Error('flags must be an object');
  for (const [name, flag] of Object.entries(flags)) {
    const isValid = typeof flag === 'boolean' || typeof flag === 'string' || (isObject(flag) && flag.percent >= 0 && flag.percent <= 100);
    if (!isValid) throw new Error(`invalid flag \`${name}\`: use true, false, a string or { percent: 10 }`);
  }
  return flags;
};

// List of this instance, and the time until which it is valid.
let current;

const fetched = async ({ url }) => {
  const response = await fetch(url, { headers: { accept: 'application/json' } });
  if (!response.ok) throw new Error(`the service responded with status ${response.status}`);
  return checked(await response.json());
};

const flagsOf = async (settings, { kv }) => {
  const now = Date.now();
  if (current && now < current.until) return current.flags;
  let stored;
  try {
    stored = await kv.get(KEY);
    if (stored && now < stored.until) return (current = stored).flags;
    // One of all instances fetches; the others use the last list, if there is one.
    const isFirst = (await kv.increment('asks', 1, { ttl: settings.retry })) === 1;
    const last = stored ?? current;
    if (!isFirst && last) {
      current = { flags: last.flags, until: now + 1000 };
      return current.flags;
    }
  } catch (error) {
    console.warn(`the kv cannot be read: ${error.message}`);
  }
  try {
    current = { flags: await fetched(settings), until: now + settings.refresh * 1000 };
  } catch (error) {
    console.warn(`the flags cannot be fetched: ${error.message}`);
    current = { flags: (stored ?? current)?.flags ?? settings.fallback, until: now + settings.retry * 1000 };
    return current.flags;
  }
  try {
    await kv.put(KEY, current);
    await kv.delete('asks');
  } catch (error) {
    console.warn(`the flags cannot be stored in the kv: ${error.message}`);
  }
  return current.flags;
};

// Returns a number from 0 to 100, always the same for one visitor and flag (FNV-1a).
const share = (text) => {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  // Mixes the bits: in FNV-1a the last characters hardly change the upper ones.
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
  // Escaped to ASCII, which JSON always allows.
  const text = JSON.stringify(on).replace(/[^\x20-\x7e]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`);
  request.headers.set(header, text);
  if (!isNew) return;
  const response = NextResponse.next();
  response.cookies.set(cookie, id, { maxAge: max_age, sameSite: 'lax', httpOnly: true, secure: request.nextUrl.protocol === 'https:' });
  return response;
}

// Responses depend on the flags that are on, and not on the visitor.
export function onCacheKey(request, ctx) {
  settings ??= read(ctx.config);
  return request.headers.get(settings.header);
}
