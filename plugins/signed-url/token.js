// Tokens of the plugin `signed-url`. It runs in the gateway and in node alike: an app signs
// with `sign`, and `crypto` and `btoa` are all that this needs.
//
// A token is EXPIRES.DEPTH.SIGNATURE: seconds since 1970; of how many folders the prefix is
// made; HMAC-SHA-256 of `EXPIRES\nPREFIX` as base64url. It opens every path below the prefix.

const encoder = new TextEncoder();
const TOKEN = /^(\d{1,12})\.(\d{1,2})\.([\w-]{43})$/;

const importKey = (secret) =>
  crypto.subtle.importKey('raw', encoder.encode(secret), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign', 'verify']);

const signed = (expires, prefix) => encoder.encode(`${expires}\n${prefix}`);

/** A token for all below `prefix`, such as `/watch/42/`, good for `seconds` (90). */
export async function sign(secret, prefix, seconds = 90, now = Date.now()) {
  const { pathname } = new URL(prefix, 'http://localhost');
  if (!pathname.endsWith('/')) throw new TypeError('a prefix ends with `/`: a token is for a folder');
  const expires = Math.floor(now / 1000) + seconds;
  const signature = await crypto.subtle.sign('HMAC', await importKey(secret), signed(expires, pathname));
  const text = btoa(String.fromCharCode(...new Uint8Array(signature)));
  const depth = pathname.split('/').length - 2;
  return `${expires}.${depth}.${text.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')}`;
}

/** The keys that tokens are verified with. */
export const keysOf = (secrets) => Promise.all(secrets.map(importKey));

/** What a token says of a path: the prefix and when it ends, or nothing if it is not for it. */
export async function verify(keys, token, pathname) {
  const [, expires, depth, text] = TOKEN.exec(token) ?? [];
  if (expires === undefined) return undefined;
  const folders = pathname.split('/').slice(1, -1);
  if (folders.length < Number(depth)) return undefined;
  const prefix = ['', ...folders.slice(0, Number(depth)), ''].join('/');
  const binary = atob(text.replaceAll('-', '+').replaceAll('_', '/'));
  const signature = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
  for (const key of keys) {
    // Compares in a time that does not tell how much of it is right.
    if (await crypto.subtle.verify('HMAC', key, signature, signed(expires, prefix))) {
      return { prefix, expires: Number(expires) };
    }
  }
  return undefined;
}
