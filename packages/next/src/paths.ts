// Paths in the forms that Next.js and gateways use.
//
// The key of a page is its path with every segment decoded once; delimiters inside of a segment
// stay encoded, such as `%2F`. Its tag is the key, with encoded bytes outside of ASCII; that of a
// route handler is the path as the visitor wrote it. Gateways take encoded paths only.

/** Prefix of the tag of a path, as Next.js forms it. */
export const PATH_TAG = '_N_T_';

/** Where a key may stand for two paths: Next.js encodes an encoded delimiter once more. */
const AMBIGUOUS = /%25(?:2f|23|3f|5c)/i;

/** Longest path that is sent as it is: a request to a gateway holds 16 KiB. */
const LONGEST = 2000;

/** Characters that are left of a longer one. */
const LEFT = 200;

export interface EncodedPath {
  readonly text: string;
  /** True if the text is only the beginning. */
  readonly isPrefix: boolean;
}

/** Returns the path of a page from the name of its entry, where Next.js 16 puts its route before it. */
export function pathOfEntry(name: string): string {
  const path = name.replace(/^\/route-cache\/[^/]+\/[^/]+\/\$/, '');
  return path === '/index' ? '/' : path;
}

/** Encodes what cannot be in a header, as Next.js does it in tags. */
export function headerSafe(text: string): string {
  return text.replace(/[^\t\x20-\x7e]+/g, (run) => encodeURIComponent(wellFormed(run)));
}

/** Returns the keys that a path may stand for, whether it is encoded or not. */
export function keysOf(path: string): string[] {
  const decoded = decodedKey(path);
  return [...new Set(decoded === undefined ? [path] : [path, decoded])];
}

/** Returns the paths that a caller may mean, without a query and without a slash at the end. */
export function meantPaths(given: string): string[] {
  const path = given.startsWith('/') ? given : `/${given}`;
  const without = path.replace(/[?#].*$/s, '');
  return [...new Set([without, escaped(path)].map(withoutSlash))];
}

/** Returns the path of a key as a visitor asks for it; nothing if every gateway refuses it. */
export function encodedPath(key: string): EncodedPath | undefined {
  if (isRefused(encoded(key))) return undefined;
  const at = key.search(AMBIGUOUS);
  return at < 0 ? shortened(key) : { text: `${encoded(key.slice(0, at))}%25`, isPrefix: true };
}

/** Returns the encoded forms that links to a key may have: browsers encode fewer delimiters than code does. */
export function spellings(key: string): string[] {
  const text = encoded(key);
  const components = text.split('/').map((segment) => segment.replace(/[,:;@&=+$\[\]]/g, encodeURIComponent));
  return [...new Set([text, text.replace(/%5B/g, '[').replace(/%5D/g, ']'), components.join('/')])];
}

/** Encodes a key for a URL. */
export function encoded(key: string): string {
  const text = encodeURI(wellFormed(key)).replace(/%25(2f|23|3f|5c)/gi, '%$1');
  return text.replace(/[?#]/g, encodeURIComponent);
}

function decodedKey(path: string): string | undefined {
  try {
    return path.split('/').map((segment) => escaped(decodeURIComponent(segment), true)).join('/');
  } catch {
    return undefined;
  }
}

function escaped(text: string, withEncoded = false): string {
  return text.replace(withEncoded ? /[/#?\\]|%(?:2f|23|3f|5c)/gi : /[#?\\]/g, encodeURIComponent);
}

function shortened(key: string): EncodedPath {
  const text = encoded(key);
  if (text.length <= LONGEST) return { text, isPrefix: false };
  // The end may be a part of an encoded delimiter.
  const start = [...key].slice(0, LEFT).join('').replace(/%.{0,2}$/su, '');
  return { text: encoded(start), isPrefix: true };
}

/** What the normal form of paths in gateways does not allow; encoded dots cannot be sent at all. */
function isRefused(text: string): boolean {
  return /%00|%5C/i.test(text) || text.split(/\/|%2F/i).some((segment) => /^\.\.?(?:;|%3B|$)/i.test(segment));
}

function withoutSlash(path: string): string {
  return path.replace(/(?<=.)\/+$/s, '');
}

function wellFormed(text: string): string {
  return Buffer.from(text).toString();
}
