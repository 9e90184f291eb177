import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';

import { buildIdentity } from '../dist/build.js';
import { EdgewayCacheHandler } from '../dist/cache-handler.js';
import { PAGE, RESULT } from '../dist/codec.js';
import { purgesOf } from '../dist/gateways.js';
import { Memory } from '../dist/memory.js';
import { settingsFrom } from '../dist/settings.js';
import { Store } from '../dist/store.js';
import { useCacheHandler } from '../dist/use-cache.js';
import { openStore, page, pause, random, Redis } from './support.mjs';

let redis;
let stores = [];
before(async () => (redis = await Redis.start()));
after(() => redis.kill());
afterEach(() => stores.splice(0).forEach((store) => store.close()));

async function two(options = {}, url = redis.url) {
  await redis.clear();
  stores = [await openStore(url, options), await openStore(url, options)];
  return stores;
}

const read = (store, key) => new EdgewayCacheHandler({}, store).get(key, { kind: 'APP_PAGE' });

async function render(store, key, text, tags = ['t']) {
  const handler = new EdgewayCacheHandler({}, store);
  await handler.get(key, { kind: 'APP_PAGE' });
  await handler.set(key, page(text, tags));
}

test('one instance reads what the other has made, with all its parts', async () => {
  const [one, other] = await two();
  await render(one, '/a', 'text');
  const { value } = await read(other, '/a');
  assert.deepEqual(value, JSON.parse(JSON.stringify({ ...page('text', ['t']), rscData: 0, segmentData: 0 }), (k, v) =>
    k === 'rscData' ? Buffer.from([1, 2, 3]) : k === 'segmentData' ? new Map([['/a', Buffer.from('segment')]]) : v));
});

test('an older render that arrives late is not read', async () => {
  const [one, other] = await two();
  const slow = new EdgewayCacheHandler({}, one);
  await slow.get('/a', { kind: 'APP_PAGE' });
  await new EdgewayCacheHandler({}, other).revalidateTag('t');
  await slow.set('/a', page('old', ['t']));
  assert.equal(await read(one, '/a'), null);
  assert.equal(await read(other, '/a'), null);
  await render(other, '/a', 'new');
  await slow.set('/a', page('old', []));
  assert.equal((await read(one, '/a')).value.html, 'new');
});

test('a process reads what others have made from its first request on', async () => {
  const [one] = await two();
  const handler = useCacheHandler(one);
  await handler.get('f', []);
  const timestamp = performance.timeOrigin + performance.now();
  const entry = { value: new Response('r').body, tags: ['t'], stale: 0, timestamp, expire: 900, revalidate: 60 };
  await handler.set('f', Promise.resolve(entry));
  const started = new Store(settingsFrom({ EDGEWAY_REDIS_URL: redis.url }), 'build');
  stores.push(started);
  const found = await useCacheHandler(started).get('f', []);
  assert.equal(await new Response(found?.value).text(), 'r');
});

test('a soft revalidation gives a stale entry until its time is over', async () => {
  const [one, other] = await two();
  const handler = useCacheHandler(one);
  const timestamp = performance.timeOrigin + performance.now();
  await handler.get('f', []);
  const entry = { value: new Response('r').body, tags: ['t'], stale: 0, timestamp: timestamp + 5, expire: 900, revalidate: 60 };
  await pause(10);
  await handler.set('f', Promise.resolve(entry));
  assert.equal((await useCacheHandler(other).get('f', [])).revalidate, 60);
  await handler.updateTags(['t'], { expire: 0.1 });
  assert.equal((await useCacheHandler(other).get('f', [])).revalidate, -1);
  await pause(120);
  assert.equal(await useCacheHandler(other).get('f', []), undefined);
});

test('two builds never read each other, but share revalidations', async () => {
  await redis.client.flushAll();
  stores = [await openStore(redis.url, {}, 'one'), await openStore(redis.url, {}, 'two')];
  await render(stores[0], '/a', 'one');
  assert.equal(await read(stores[1], '/a'), null);
  await render(stores[1], '/a', 'two');
  assert.equal((await read(stores[0], '/a')).value.html, 'one');
  await new EdgewayCacheHandler({}, stores[1]).revalidateTag(['t']);
  assert.equal(await read(stores[0], '/a'), null);
});

test('builds with one BUILD_ID are two if their manifests differ', () => {
  const folders = ['a', 'b', 'a'].map((text) => {
    const folder = mkdtempSync(join(tmpdir(), 'edgeway-next-'));
    writeFileSync(join(folder, 'BUILD_ID'), 'same');
    writeFileSync(join(folder, 'prerender-manifest.json'), text);
    return folder;
  });
  const [one, two, copy] = folders.map(buildIdentity);
  for (const folder of folders) rmSync(folder, { recursive: true });
  assert.notEqual(one, two);
  assert.equal(one, copy);
  assert.equal(buildIdentity('/nonexistent'), undefined);
});

test('memory stays within its bytes, and its contents are what was put there last', () => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9);
  const draw = random(seed);
  const memory = new Memory(20_000);
  const model = new Map();
  for (let i = 0; i < 20_000; i += 1) {
    const key = String(Math.floor(draw() * 60));
    if (draw() < 0.6) {
      memory.set(key, i, Math.floor(draw() ** 4 * 25_000));
      model.set(key, i);
    } else {
      const value = memory.get(key);
      assert.ok(value === undefined || value === model.get(key), `seed ${seed}: step ${i}`);
    }
    assert.ok(memory.bytes >= 0 && memory.bytes <= 20_000, `seed ${seed}: ${memory.bytes} bytes`);
  }
});

test('bytes that are not an entry are a miss', async () => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9);
  const draw = random(seed);
  const entry = PAGE.encode({ value: page('text', ['t']), lastModified: 1, cacheControl: undefined });
  const result = RESULT.encode({ tags: [], stale: 0, timestamp: 1, expire: 1, revalidate: 1, bytes: Buffer.from('text') });
  for (let i = 0; i < 2000; i += 1) {
    const cut = (body) => body.subarray(0, Math.floor(draw() * (body.length - 1)));
    assert.equal(PAGE.decode(cut(entry)), undefined, `seed ${seed}`);
    assert.equal(RESULT.decode(cut(result)), undefined, `seed ${seed}`);
    assert.equal(PAGE.decode(randomBytes(40)), undefined);
    assert.equal(RESULT.decode(randomBytes(40)), undefined);
  }
  const [one, other] = await two();
  await render(one, '/a', 'text');
  for (const key of await redis.client.keys('*build:page*')) await redis.client.hSet(key, 'body', 'no entry');
  assert.equal(await read(other, '/a'), null);
  for (const key of await redis.client.keys('*build:page*')) await redis.client.hSet(key, 'tags', 'no list');
  assert.equal(await read(other, '/a'), null);
  for (const key of await redis.client.keys('*build:page*')) await redis.client.del(key).then(() => redis.client.set(key, 'text'));
  assert.equal(await read(other, '/a'), null);
});

test('a flushed redis, or one that lost its tags, leaves no old entry', async () => {
  const [one, other] = await two();
  await render(one, '/a', 'old');
  await new EdgewayCacheHandler({}, one).revalidateTag('t');
  await render(one, '/a', 'newer', ['t']);
  await redis.client.del('edgeway:next:{app}:tags');
  assert.equal(await read(one, '/a'), null);
  await render(one, '/a', 'again');
  assert.equal((await read(other, '/a')).value.html, 'again');
  await redis.client.flushAll();
  assert.equal(await read(one, '/a'), null);
});

test('a redis that hangs costs the deadline at most, then nothing, and no request fails', async () => {
  const [one] = await two({ deadline: 100, staleWithoutRedis: 600 });
  await render(one, '/a', 'text');
  redis.hang();
  try {
    let slow = 0;
    const begun = performance.now();
    while (performance.now() - begun < 500) {
      const at = performance.now();
      const found = await read(one, '/a');
      const took = performance.now() - at;
      assert.ok(took < 160, `a read took ${took} ms`);
      if (took > 90) slow += 1;
      assert.equal(found?.value.html, 'text');
      await pause(2);
    }
    assert.ok(slow >= 1 && slow <= 3, `${slow} reads waited`);
    await pause(300);
    assert.equal(await read(one, '/a'), null, 'stale within its bound only');
    // What this process makes meanwhile, it reads for as long.
    await render(one, '/a', 'local');
    assert.equal((await read(one, '/a')).value.html, 'local');
    await new EdgewayCacheHandler({}, one).revalidateTag('t');
    assert.equal(await read(one, '/a'), null);
  } finally {
    redis.goOn();
  }
});

test('a revalidation without redis reaches the others once it is back', async () => {
  const [one, other] = await two({ deadline: 100 });
  await render(one, '/a', 'old');
  await read(other, '/a');
  redis.hang();
  try {
    const { moment } = await one.revalidate(['t']);
    assert.equal((await one.receipt(moment)).instances, 'unreached');
    assert.equal(await read(one, '/a'), null);
  } finally {
    redis.goOn();
  }
  assert.ok((await one.ready(5000)) && (await other.ready(5000)));
  const end = performance.now() + 3000;
  while ((await read(other, '/a')) !== null) {
    assert.ok(performance.now() < end, 'the revalidation was not sent');
    await pause(20);
  }
});

test('a revalidation names the paths of pages that have the tag, or that are being made', async () => {
  const [one, other] = await two();
  assert.deepEqual((await other.revalidate(['t'])).paths, []);
  const handler = new EdgewayCacheHandler({}, one);
  await handler.get('/route-cache/APP_PAGE/0123/$/blog/a', { kind: 'APP_PAGE' });
  // Nobody knows its tags yet: a gateway that gets this render must not keep it.
  assert.deepEqual((await other.revalidate(['t'])).paths, ['/blog/a']);
  await handler.set('/route-cache/APP_PAGE/0123/$/blog/a', page('old', ['t']));
  assert.deepEqual((await other.revalidate(['t'])).paths, ['/blog/a'], 'it was refused, and may be on its way');
  await render(one, '/route-cache/APP_PAGE/0123/$/blog/a', 'new');
  assert.deepEqual((await other.revalidate(['u'])).paths, ['/blog/a'], 'the end of one render says nothing about another');
  await redis.client.del('edgeway:next:{app}:making');
  assert.deepEqual((await other.revalidate(['u'])).paths, []);
  assert.deepEqual((await other.revalidate(['t'])).paths, ['/blog/a']);
  await render(one, '/index', 'home', ['home']);
  assert.deepEqual((await other.revalidate(['home'])).paths, ['/']);
  for (let i = 0; i < 1100; i += 1) await one.get({ key: `page:/${i}`, page: { path: `/${i}`, render: 'r' } }, [], PAGE);
  const { paths } = await other.revalidate(['u']);
  assert.ok(paths.includes('*') && paths.length <= 1001, `${paths.length} paths`);
});

test('a page in the making outlasts entries that Redis evicts', async () => {
  const [one, other] = await two();
  await new EdgewayCacheHandler({}, one).get('/a', { kind: 'APP_PAGE' });
  const used = Number(/used_memory:(\d+)/.exec(await redis.client.info('memory'))[1]);
  await redis.client.configSet({ 'maxmemory-policy': 'volatile-ttl', maxmemory: String(used + 2_000_000) });
  try {
    const text = 'x'.repeat(60_000);
    for (let i = 0; i < 60; i += 1) await redis.client.set(`entry${i}`, text, { expiration: { type: 'EX', value: 604_800 } });
    assert.ok((await redis.client.keys('entry*')).length < 60, 'some are evicted');
    assert.deepEqual((await other.revalidate(['t'])).paths, ['/a']);
  } finally {
    await redis.client.configSet({ maxmemory: '0' });
  }
});

test('a page is in the making until its response is sent, or for as long as a render may take', async () => {
  const [one, other] = await two({ making: 2000 });
  let number = 0;
  const server = createServer(async (request, response) => {
    const handler = new EdgewayCacheHandler({}, one);
    await handler.get(request.url, { kind: 'APP_PAGE' });
    number += 1;
    if (request.url === '/slow') await pause(400);
    if (request.url === '/aborted') return request.socket.destroy();
    response.writeHead(500).end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${server.address().port}`;
  const making = async (expected, why) => {
    const end = performance.now() + 300;
    for (;;) {
      const { paths } = await other.revalidate(['t']);
      if (performance.now() > end || String(paths) === String(expected)) return assert.deepEqual(paths, expected, why);
      await pause(5);
    }
  };
  try {
    const slow = [fetch(`${url}/slow`), fetch(`${url}/slow`)];
    for (let i = 0; i < 1100; i += 20) {
      const failing = Array.from({ length: 20 }, (_, j) => fetch(`${url}/${i + j}`));
      for (const response of await Promise.all(failing)) assert.equal(response.status, 500);
    }
    await Promise.all(slow);
    const again = fetch(`${url}/slow`);
    while (number < 1103) await pause(2);
    await making(['/slow'], 'the end of one render is not that of the next');
    await again;
    await making([], '1,100 failed renders leave nothing');
    await assert.rejects(fetch(`${url}/aborted`));
    await making(['/aborted'], 'another request may wait for this render');
    await pause(2050);
    await making([]);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test('the permissions that the README lists are enough, and needed', async () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const words = /^ACL SETUSER app (.*)$/m.exec(readme)[1].replace('>PASSWORD', '>secret').split(' ');
  const url = redis.url.replace('redis://', 'redis://app:secret@');
  await redis.clear();
  await redis.client.sendCommand(['ACL', 'SETUSER', 'app', ...words]);
  stores = [await openStore(url)];
  await render(stores[0], '/a', 'text');
  assert.equal((await read(stores[0], '/a')).value.html, 'text');
  for (let i = 0; i < 2; i += 1) {
    const { moment, paths } = await stores[0].revalidate(['t'], i * 1000);
    assert.deepEqual([await stores[0].receipt(moment), paths], [{ instances: 'reached' }, ['/a']]);
  }
  assert.equal(await read(stores[0], '/a'), null);
  await redis.client.sendCommand(['ACL', 'SETUSER', 'app', '-zrange']);
  assert.equal((await stores[0].revalidate(['t'])).moment, undefined);
});

test('tags become purges of the paths that have them', () => {
  const both = (path) => [{ url: path }, { prefix: `${path}?` }];
  assert.deepEqual(purgesOf(['_N_T_/blog']), both('/blog'));
  assert.deepEqual(purgesOf(['_N_T_/']), both('/'));
  assert.deepEqual(purgesOf(['_N_T_/layout']), [{ all: true }]);
  assert.deepEqual(purgesOf(['_N_T_/blog/layout']), [{ url: '/blog' }, { prefix: '/blog/' }, { prefix: '/blog?' }]);
  assert.deepEqual(purgesOf(['_N_T_/blog/[slug]/page']), [{ prefix: '/blog/' }]);
  assert.deepEqual(purgesOf(['posts'], ['/a', '/a']), [{ tag: 'posts' }, ...both('/a')]);
  assert.deepEqual(purgesOf(['posts'], ['/a', '*']), [{ all: true }]);
  assert.deepEqual(purgesOf(Array.from({ length: 300 }, (_, i) => `t${i}`)), [{ all: true }]);
});
