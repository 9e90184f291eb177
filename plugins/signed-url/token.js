// Tokens of the plugin `signed-url`. This module runs in the gateway and in Node: an app signs with
// `sign`. It needs only `crypto`, `atob` and `btoa`.
//
// A token is EXPIRES.DEPTH.SIGNATURE: seconds since 1970; the number of folders in the prefix;
// HMAC-SHA-256 of `EXPIRES\nPREFIX` as base64url. It is valid for every path below the prefix.

const encoder = new TextEncoder();
const TOKEN = /^(\d{1,12})\.(\d{1,2})\.([\w-]{43})$/;

const importKey = (secret) =>
  crypto.subtle.importKey('raw', encoder.encode(secret), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign', 'verify']);

const signed = (expires, prefix) => encoder.encode(`${expires}\n${prefix}`);

/** Returns a token for all paths below `prefix`, such as `/watch/42/`, valid for `seconds` (90). */
export async function sign(secret, prefix, seconds = 90, now = Date.now()) {
  const { pathname } = new URL(prefix, 'http://localhost');
  if (!pathname.endsWith('/')) throw new TypeError(`invalid prefix \`${prefix}\`: a token is for a folder, so it must end with \`/\``);
  const expires = Math.floor(now / 1000) + seconds;
  const signature = await crypto.subtle.sign('HMAC', await importKey(secret), signed(expires, pathname));
  const text = btoa(String.fromCharCode(...new Uint8Array(signature)));
  const depth = pathname.split('/').length - 2;
  return `${expires}.${depth}.${text.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')}`;
}

/** Imports secrets as keys that verify tokens. */
export const keysOf = (secrets) => Promise.all(secrets.map(importKey));

/** Returns the prefix and expiry of a token that is valid for a path; otherwise `undefined`. */
export async function verify(keys, token, pathname) {
  const [, expires, depth, text] = TOKEN.exec(token) ?? [];
  if (expires === undefined) return undefined;
  const folders = pathname.split('/').slice(1, -1);
  if (folders.length < Number(depth)) return undefined;
  const prefix = ['', ...folders.slice(0, Number(depth)), ''].join('/');
  const binary = atob(text.replaceAll('-', '+').replaceAll('_', '/'));
  const signature = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
  for (const key of keys) {
    // Compares in constant time.
    if (await crypto.subtle.verify('HMAC', key, signature, signed(expires, prefix))) {
      return { prefix, expires: Number(expires) };
    }
  }
  return undefined;
}
