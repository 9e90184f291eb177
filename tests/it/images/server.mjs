// Servers of images: `node server.mjs FOLDER [CERTIFICATE KEY]`. Writes their ports as JSON, that for
// HTTP first, and ends with its input. `/img/<name=value,…>/<file>` sends a file of the folder in this
// way, `/log` the requests since it was last asked for.
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';

const [folder, certificate, key] = process.argv.slice(2);
let log = [];
const ports = [];

const CONTROL = [
  'public, max-age=20000', 's-maxage=30000, max-age=5', 'private, no-store', 'max-age="50000"',
  'S-MAXAGE=17000', 'max-age=2e9', 'no-cache', 'max-age=20000, max-age=40000', 'max-age=-5',
  's-maxage=, max-age=16000', 'max-age = 30000', 'max-age=15000x', 's-maxage="60000, max-age=1', '',
];
const TAGS = ['"abc"', 'W/"a b"', 'plain'];
const TYPES = ['image/jpeg', 'text/html; charset=utf-8', 'image/svg+xml', 'application/octet-stream'];
const ENCODINGS = { gzip: gzipSync, br: brotliCompressSync, deflate: deflateSync };

function target(to, path) {
  const [plain, secure] = ports;
  switch (to) {
    case 'relative': return path;
    case 'absolute': return `http://127.0.0.1:${plain}${path}`;
    case 'other': return secure ? `https://localhost:${secure}${path}` : path;
    case 'outside': return `http://127.0.0.1:${plain}${path.replace('/img/', '/elsewhere/')}`;
    case 'host': return `//127.0.0.1:${plain}${path}`;
    case 'credentials': return `http://a:b@127.0.0.1:${plain}${path}`;
    case 'scheme': return 'ftp://127.0.0.1/a.png';
    case 'bad': return 'http://[/';
    case 'closed': return 'http://127.0.0.1:1/a.png';
    default: return undefined;
  }
}

async function respond(request, response) {
  if (request.url === '/log') {
    response.end(JSON.stringify(log));
    log = [];
    return;
  }
  log.push({ url: request.url, headers: request.headers });
  const [, place, how, name = ''] = new URL(request.url, 'http://n').pathname.split('/');
  const ways = Object.fromEntries(decodeURIComponent(how ?? '').split(',').map((way) => way.split('=')));
  const has = (way) => Object.hasOwn(ways, way);
  const file = join(folder, decodeURIComponent(name));
  if (!['img', 'elsewhere'].includes(place) || !statSync(file, { throwIfNoEntry: false })?.isFile()) {
    response.statusCode = 404;
    return response.end('no such image');
  }
  if (has('late')) await new Promise((resolve) => setTimeout(resolve, Number(ways.late)));
  if (has('close')) return response.destroy();
  if (has('control')) response.setHeader('cache-control', CONTROL[ways.control]);
  if (has('twice')) response.setHeader('cache-control', ['max-age=16000', 'public']);
  if (has('tag')) response.setHeader('etag', TAGS[ways.tag]);
  if (has('type')) response.setHeader('content-type', TYPES[ways.type]);
  if (has('cookie')) response.setHeader('set-cookie', 'seen=1');
  if (has('hops') && Number(ways.hops) > 0) {
    response.statusCode = 302;
    response.setHeader('location', `/img/hops=${Number(ways.hops) - 1}/${name}`);
    return response.end('elsewhere');
  }
  if (has('to')) {
    response.statusCode = Number(ways.status ?? 302);
    const to = target(ways.to, `/img/n=1/${name}`);
    if (to !== undefined) response.setHeader('location', to);
    return response.end('elsewhere');
  }
  response.statusCode = Number(ways.status ?? 200);
  let bytes = readFileSync(file);
  if (has('empty') || [204, 304].includes(response.statusCode)) bytes = Buffer.alloc(0);
  if (has('more')) bytes = Buffer.concat([bytes, Buffer.alloc(Number(ways.more) << 20)]);
  if (has('encoding')) {
    bytes = (ENCODINGS[ways.encoding] ?? ((own) => own))(bytes);
    response.setHeader('content-encoding', ways.encoding);
  }
  if (has('forever')) {
    const timer = setInterval(() => response.write(bytes), 50);
    return response.on('close', () => clearInterval(timer));
  }
  // Nothing of an empty one is missing, and its connection would be used again.
  if (has('cut') && bytes.length > 0) {
    response.setHeader('content-length', bytes.length);
    response.write(bytes.subarray(0, bytes.length >> 1));
    return setTimeout(() => response.destroy(), 20);
  }
  if (has('pieces')) {
    for (let at = 0; at < bytes.length; at += Math.ceil(bytes.length / 5)) {
      response.write(bytes.subarray(at, at + Math.ceil(bytes.length / 5)));
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    return response.end();
  }
  response.end(bytes);
}

const servers = [createServer(respond)];
if (certificate) {
  servers.push(createSecureServer({ cert: readFileSync(certificate), key: readFileSync(key) }, respond));
}
for (const server of servers) {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  ports.push(server.address().port);
}
console.log(JSON.stringify(ports));
process.stdin.on('end', () => process.exit()).resume();
