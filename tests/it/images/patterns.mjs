// Draws patterns of servers and URLs, and writes as JSON which of them Next.js allows:
// `node patterns.mjs SEED COUNT`.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { written } from './manifest.mjs';

const require = createRequire(join(process.cwd(), 'package.json'));
const { hasRemoteMatch } = require('next/dist/shared/lib/match-remote-pattern');
const [seed, count] = process.argv.slice(2).map(Number);
let state = seed >>> 0;
const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
const one = (list) => list[Math.floor(random() * list.length)];
const maybe = (odds, value) => (random() < odds ? value() : undefined);

const HOSTS = ['a.test', 'cdn.a.test', 'x.cdn.a.test', 'a-b.test', '127.0.0.1', '10.0.0.1', '[::1]', '[2001:db8::1]', 'localhost', 'a.test.', 'b_c.test', 'evil.test'];
const HOST_PATTERNS = ['a.test', '*.a.test', '**.a.test', '**', '*', '127.0.0.1', '{a,b}.test', 'a?b.test', '[ab].test', '127.0.0.*', '**.test', '!(evil).test', 'local*'];
const PATHS = ['/', '/img', '/img/', '/img/a.png', '/img/x/a.png', '/IMG/a.png', '/.hidden/a.png', '/img/.a.png', '/a%20b.png', '/img/%2e%2e/a.png', '/img/../a.png', '/img/./a.png', '//img/a.png', '/img/a.png/', "/it's(a)*+,;=:@!$&.png", '/img/~a_b-c.png', '/img/%2Fa.png', '/ä.png', '/img/a b.png', '/img;x/a.png'];
const PATH_PATTERNS = ['**', '/**', '/img/**', '/img/*', '/*', '/img/a.png', '/**/*.png', '/{img,IMG}/**', '/img/.*', ''];
const QUERIES = ['', '?', '?v=1', '?v=2', '?v=1&w=2', "?q='", '?url=http://a.test/', '?a=%20&b=+'];
const PORTS = ['', ':80', ':443', ':8080', ':3000', ':22', ':0', ':65535', ':'];
const BEFORE = ['', '', '', '', '', '', '', 'user@', 'user:pw@', '@'];
const AFTER = ['', '', '', '', '', '', '#x', '#'];
const SCHEMES = ['http://', 'https://', 'http://', 'https://', 'HTTP://', 'http:/', 'ftp://', 'http:\\\\', 'http:', 'data:'];

function pattern() {
  return {
    protocol: maybe(0.5, () => one(['http', 'https', 'https:'])),
    hostname: one(HOST_PATTERNS),
    port: maybe(0.5, () => one(['', '8080', '3000', '443'])),
    pathname: maybe(0.7, () => one(PATH_PATTERNS.slice(0, -1))),
    search: maybe(0.3, () => one(['', '?v=1'])),
  };
}

const usual = (list) => list[Math.floor(random() ** 3 * list.length)];
for (let number = 0; number < count; number++) {
  const images = {
    domains: random() < 0.3 ? [one(HOSTS)] : [],
    remotePatterns: Array.from({ length: Math.floor(random() * 3) }, pattern),
  };
  const urls = Array.from({ length: 20 }, () => {
    const url = one(SCHEMES.slice(0, random() < 0.8 ? 4 : 10)) + usual(BEFORE) + one(HOSTS) + usual(PORTS) + one(PATHS) + one(QUERIES) + usual(AFTER);
    if (!URL.canParse(url)) return { url, href: null, isAllowed: false };
    const parsed = new URL(url);
    const isHttp = ['http:', 'https:'].includes(parsed.protocol);
    const isAllowed = isHttp && !url.startsWith('/') && hasRemoteMatch(images.domains, images.remotePatterns, parsed);
    return { url, href: parsed.href, isAllowed, target: `${parsed.pathname}${parsed.search}`, host: parsed.host };
  });
  console.log(JSON.stringify({ images: written(images), urls }));
}
