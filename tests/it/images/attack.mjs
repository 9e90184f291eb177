// Attacks on the fetches of images in a network of its own, whose DNS server and addresses are ours:
// `node attack.mjs PROGRAM CONFIG APP IMAGE`. Writes the outcome of each as JSON.
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { readFileSync } from 'node:fs';
import { createServer, get } from 'node:http';
import { isIPv4, isIPv6 } from 'node:net';

const [program, config, app, file] = process.argv.slice(2);
const image = readFileSync(file);
const PORT = 8000;

/** Addresses of each name: for the first query, and for all later ones. */
const NAMES = {
  'steady.test': [['8.8.8.8']],
  'both.test': [['8.8.8.8', '2606:4700::1']],
  'rebinding.test': [['8.8.8.8'], ['127.0.0.1']],
  'naive.test': [['8.8.8.8'], ['127.0.0.1']],
  'later.test': [['8.8.8.8'], ['127.0.0.1']],
  'loopback.test': [['127.0.0.1']],
  'private.test': [['10.1.2.3']],
  'shared.test': [['100.64.0.1']],
  'metadata.test': [['169.254.169.254']],
  'nothing.test': [['0.0.0.0']],
  'mixed.test': [['8.8.8.8', '127.0.0.1']],
  'mixed-six.test': [['8.8.8.8', '::1']],
  'six.test': [['::1']],
  'unique.test': [['fd00::1']],
  'link.test': [['fe80::1']],
  'mapped.test': [['::ffff:127.0.0.1']],
  'translated.test': [['64:ff9b::7f00:1']],
  'relayed.test': [['2002:7f00:1::']],
};
const asked = new Map();

/** Returns the data of a record. */
function data(address) {
  if (isIPv4(address)) return Buffer.from(address.split('.').map(Number));
  const tail = address.match(/^(.*:)(\d+\.\d+\.\d+\.\d+)$/);
  const text = tail ? `${tail[1]}${tail[2].split('.').map(Number).reduce((all, it, n) => all + (n === 2 ? ':' : '') + it.toString(16).padStart(2, '0'), '')}` : address;
  const [left, right] = text.split('::').map((half) => half.split(':').filter(Boolean));
  const groups = right ? [...left, ...Array(8 - left.length - right.length).fill('0'), ...right] : left;
  return Buffer.from(groups.map((group) => group.padStart(4, '0')).join(''), 'hex');
}

const dns = createSocket('udp4', (query, { port, address }) => {
  const labels = [];
  let at = 12;
  while (query[at] > 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + query[at]));
    at += query[at] + 1;
  }
  const kind = query.readUInt16BE(at + 1);
  const name = labels.join('.').toLowerCase();
  const turns = asked.get(`${name} ${kind}`) ?? 0;
  asked.set(`${name} ${kind}`, turns + 1);
  const all = NAMES[name] ?? [[]];
  const wanted = { 1: isIPv4, 28: isIPv6 }[kind] ?? (() => false);
  const found = all[Math.min(turns, all.length - 1)].filter((it) => wanted(it));
  const header = Buffer.alloc(12);
  query.copy(header, 0, 0, 2);
  header.writeUInt16BE(NAMES[name] ? 0x8580 : 0x8583, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(found.length, 6);
  const records = found.map((it) => {
    const bytes = data(it);
    const record = Buffer.from([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, bytes.length]);
    return Buffer.concat([record, bytes]);
  });
  dns.send(Buffer.concat([header, query.subarray(12, at + 5), ...records]), port, address);
});
await new Promise((resolve) => dns.bind(53, '127.0.0.1', resolve));

/** Requests of the gateway that arrived at addresses of this machine, and at those of the internet. */
const arrived = { local: [], public: [] };
const PUBLIC = ['8.8.8.8', '2606:4700::1'];
for (const address of ['127.0.0.1', '::1', '10.1.2.3', '100.64.0.1', '169.254.169.254', 'fd00::1', ...PUBLIC]) {
  const server = createServer((request, response) => {
    if (request.headers['accept-encoding'] === 'identity' || request.headers['x-naive']) {
      arrived[PUBLIC.includes(address) ? 'public' : 'local'].push(`${request.headers.host}${request.url}`);
    }
    const to = new URL(request.url, 'http://n').searchParams.get('to');
    if (to) response.writeHead(302, { location: to });
    response.end(image);
  });
  await new Promise((resolve) => server.listen(PORT, address, resolve));
}

const stdio = ['pipe', 'ignore', 'inherit'];
const children = [
  spawn(program, ['run', '-c', config], { stdio }),
  spawn(process.execPath, ['node_modules/next/dist/bin/next', 'start', '-H', '127.0.0.1', '-p', '3000'], {
    cwd: app, stdio, env: { ...process.env, NODE_ENV: 'production' },
  }),
];
process.on('exit', () => children.forEach((child) => child.kill('SIGKILL')));

/** Returns status, type and body. */
const fetched = (url, headers = {}) => new Promise((resolve, reject) => {
  const request = get(url, { headers }, (response) => {
    const chunks = [];
    response.on('data', (chunk) => chunks.push(chunk));
    response.on('end', () => resolve({ status: response.statusCode, type: response.headers['content-type'], body: Buffer.concat(chunks).toString('base64') }));
  });
  request.on('error', reject);
});

async function untilReady(url) {
  for (let turn = 0; turn < 300; turn++) {
    try {
      if ((await fetched(url)).status === 200) return;
    } catch {
      // Not yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${url} does not respond`);
}
await untilReady('http://127.0.0.1:3000/api/health');
await untilReady('http://127.0.0.1:8080/api/health');

/** A client that checks the name before it connects to it. */
async function naive(name) {
  const { address } = await lookup(name);
  const isPublic = PUBLIC.includes(address);
  if (isPublic) await fetched(`http://${name}:${PORT}/a.png`, { 'x-naive': '1' });
  return isPublic;
}

const at = (host, path = '/a.png') => `http://${host}:${PORT}${path}`;
const through = (to) => at('steady.test', `/a.png?to=${encodeURIComponent(to)}`);
const attacks = {
  ...Object.fromEntries(Object.keys(NAMES).filter((name) => name !== 'naive.test').map((name) => [name, at(name)])),
  'rebound': at('rebinding.test', '/b.png'),
  'address': at('127.0.0.1'),
  'address of six': at('[::1]'),
  'mapped address': at('[::ffff:7f00:1]'),
  'number': at('2130706433'),
  'metadata': at('169.254.169.254'),
  'to a page': through('/c.png'),
  'to another': through(at('both.test')),
  'to loopback': through(at('127.0.0.1')),
  'to a name of loopback': through(at('loopback.test')),
  'to metadata': through(at('169.254.169.254')),
  'to a later rebinding': through(at('later.test')),
  'to six': through(at('[::1]')),
};
const outcomes = {};
for (const [what, url] of Object.entries(attacks)) {
  const before = { local: arrived.local.length, public: arrived.public.length };
  const target = `/_next/image?url=${encodeURIComponent(url)}&w=64&q=75`;
  const ours = await fetched(`http://127.0.0.1:8080${target}`, { accept: 'image/webp' });
  const theirs = await fetched(`http://127.0.0.1:3000${target}`, { accept: 'image/webp' });
  outcomes[what] = {
    ours: ours.status,
    theirs: theirs.status,
    // Two optimizers make an image of each other's likeness, not the same bytes.
    isSame: ours.type === 'image/webp' ? theirs.type === ours.type : ours.body === theirs.body,
    local: arrived.local.slice(before.local),
    public: arrived.public.slice(before.public),
  };
}
const before = arrived.local.length;
const isPassed = await naive('naive.test');
outcomes.control = { isPassed, local: arrived.local.slice(before) };
console.log(JSON.stringify(outcomes));
process.exit(0);
