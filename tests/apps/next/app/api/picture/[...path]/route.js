import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

export const dynamic = 'force-dynamic';

const CONTROL = [
  'public, max-age=20000', 's-maxage=30000, max-age=5', 'private, no-store', 'max-age="50000"',
  'S-MAXAGE=17000', 'max-age=2e9', 'no-cache', 'max-age=20000, max-age=40000', 'max-age=-5',
  's-maxage=, max-age=16000', 'max-age = 30000', 'max-age=15000x', 's-maxage="60000, max-age=1', '',
];
const TAGS = ['"abc"', 'W/"a b"', 'plain'];
const TYPES = ['image/jpeg', 'text/html; charset=utf-8', 'image/svg+xml', 'application/octet-stream'];

let count = 0;

/** Returns a picture of `public/`, in the way of `/api/picture/<name=value,…>/<file>`. */
export async function GET(request, { params }) {
  const [how, name] = (await params).path;
  const ways = Object.fromEntries(how.split(',').map((way) => way.split('=')));
  const has = (way) => Object.hasOwn(ways, way);
  if (has('count')) return new Response(String(count));
  count += 1;
  if (has('delay')) await new Promise((resolve) => setTimeout(resolve, Number(ways.delay)));
  const isKnown = ['cookie', 'authorization', 'user-agent', 'accept', 'accept-language', 'referer', 'x-visitor', 'x-request-id']
    .some((header) => request.headers.has(header));
  const file = has('who') ? (isKnown ? 'scene-0.jpg' : 'grey.jpg') : name;
  const headers = new Headers();
  if (has('control')) headers.set('cache-control', CONTROL[ways.control]);
  if (has('tag')) headers.set('etag', TAGS[ways.tag]);
  if (has('type')) headers.set('content-type', TYPES[ways.type]);
  if (has('cookie')) headers.set('set-cookie', 'seen=1');
  if (has('redirect')) headers.set('location', `/${name}`);
  if (has('vary')) headers.set('vary', 'cookie');
  const status = Number(ways.status ?? (has('redirect') ? 307 : 200));
  if ([101, 204, 304].includes(status)) return new Response(null, { status, headers });
  let bytes = await readFile(join(/* turbopackIgnore: true */ process.cwd(), 'public', file));
  if (has('empty')) bytes = Buffer.alloc(0);
  if (has('more')) bytes = Buffer.concat([bytes, Buffer.alloc(Number(ways.more) << 20)]);
  if (has('gzip')) {
    bytes = gzipSync(bytes);
    headers.set('content-encoding', 'gzip');
  }
  if (has('length')) headers.set('content-length', String(bytes.length));
  if (!has('pieces') && !has('cut')) return new Response(bytes, { status, headers });
  const end = has('cut') ? bytes.length >> 1 : bytes.length;
  let at = 0;
  const body = new ReadableStream({
    async pull(controller) {
      await new Promise((resolve) => setTimeout(resolve, 2));
      if (at < end) return controller.enqueue(new Uint8Array(bytes.subarray(at, (at += Math.ceil(end / 5)))));
      if (has('cut')) controller.error(new Error('cut'));
      else controller.close();
    },
  });
  return new Response(body, { status, headers });
}
