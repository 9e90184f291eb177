// What gateways are told: in spellings that they accept, of the addresses of this build, and what
// the receipt says about it.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';

import { purgesOf } from '../dist/gateways.js';
import { EdgewayCacheHandler } from '../dist/cache-handler.js';
import { revalidateForNext, revalidateStore } from '../dist/revalidate.js';
import { settingsFrom } from '../dist/settings.js';
import { siteOf, UNKNOWN_SITE } from '../dist/site.js';
import { Store } from '../dist/store.js';
import { ALL, both, Gateway, openStore, page, Redis, until } from './support.mjs';

const site = (parts) => ({ ...UNKNOWN_SITE, ...parts });

let redis;
let gateway;
let stores = [];
before(async () => {
  redis = await Redis.start();
  gateway = await Gateway.start();
});
after(async () => {
  gateway.stop();
  await redis.kill();
});
afterEach(() => {
  stores.splice(0).forEach((store) => store.close());
  gateway.respond = () => [200, { others: 'alone' }];
  gateway.purges = [];
});

async function open(options = {}) {
  await redis.clear();
  stores.push(await openStore(redis.url, { gateways: [gateway.url], ...options }));
  return stores[0];
}

test('a path is sent as a visitor asks for it', () => {
  for (const [key, url] of [
    ['/blog/a b', '/blog/a%20b'],
    ['/blog/\r', '/blog/%0D'],
    ['/blog/\t', '/blog/%09'],
    ['/blog/\x7f', '/blog/%7F'],
    ['/blog/%2e%2e', '/blog/%252e%252e'],
    ['/blog/%00', '/blog/%2500'],
    ['/blog/%', '/blog/%25'],
    ['/blog/é\u2028', '/blog/%C3%A9%E2%80%A8'],
    ['/blog/a%2Fb%3Fc%23d', '/blog/a%2Fb%3Fc%23d'],
    ['/blog/\ud800', '/blog/%EF%BF%BD'],
  ]) {
    assert.deepEqual(purgesOf([], [key]), both(url), key);
  }
});

test('a path with delimiters is purged in all forms that links have', () => {
  const forms = ['/blog/x,y@&=%22%5B', '/blog/x,y@&=%22[', '/blog/x%2Cy%40%26%3D%22%5B'];
  assert.deepEqual(purgesOf([], ['/blog/x,y@&="[']), both(...forms));
  // As frameworks and browsers make links.
  for (const slug of ['a,b', '@user', 'a&b=c', '[x]', "it's (1)!*", 'a+b', 'a;b:c$d']) {
    const purged = purgesOf([], [`/blog/${slug}`]).map(({ url }) => url);
    for (const link of [encodeURIComponent(slug), new URL(`http://a.test/${slug}`).pathname.slice(1)]) {
      assert.ok(purged.includes(`/blog/${link}`), `${link} of ${purged}`);
    }
  }
});

test('a key that may stand for two paths purges what they have in common', () => {
  assert.deepEqual(purgesOf([], ['/blog/a%252fb']), [{ prefix: '/blog/a%25' }]);
  const long = `/blog/${'é'.repeat(1000)}`;
  assert.deepEqual(purgesOf([], [long]), [{ prefix: `/blog/${'%C3%A9'.repeat(194)}` }]);
  assert.deepEqual(purgesOf([], [`/${'a'.repeat(197)}%2F${'b'.repeat(2000)}`]), [{ prefix: `/${'a'.repeat(197)}` }]);
});

test('only what every gateway refuses is left out', () => {
  for (const key of ['/a/\0', '/a/%5C', '/a\\b', '/a/..', '/./a', '/a%2F..', '/..;x/a', '/%2F.']) {
    assert.deepEqual(purgesOf(['t'], [key, '/b']), [{ tag: 't' }, ...both('/b')], key);
  }
  assert.deepEqual(purgesOf([], ['/a/...', '/.b']), both('/a/...', '/.b'));
  assert.deepEqual(purgesOf([], ['no path']), ALL);
});

test('tags are sent as a response has them', () => {
  assert.deepEqual(purgesOf(['a, b']), [{ tag: 'a' }, { tag: 'b' }]);
  assert.deepEqual(purgesOf(['a\tb']), ALL);
  assert.deepEqual(purgesOf(['a'.repeat(1025)]), ALL);
});

test('a tag of a path is read in all its spellings', () => {
  assert.deepEqual(purgesOf(['_N_T_/blog/%78yz']), both('/blog/%2578yz', '/blog/xyz'));
  assert.deepEqual(purgesOf(['_N_T_/blog/page']), both('/blog', '/blog/page'));
  assert.deepEqual(purgesOf(['_N_T_/(shop)/cart/page']), [...both('/cart'), ...both('/(shop)/cart/page')]);
  assert.deepEqual(purgesOf(['_N_T_/(shop)/layout']), ALL);
  assert.deepEqual(purgesOf(['_N_T_/feed/(..)photo/page']), ALL);
  assert.deepEqual(purgesOf(['_N_T_/docs/[[...slug]]/page']), [{ url: '/docs' }, { prefix: '/docs/' }, { prefix: '/docs?' }]);
});

test('addresses have what the configuration puts around a path', () => {
  const slashed = site({ basePath: '/shop', hasSlash: true });
  assert.deepEqual(purgesOf([], ['/feed'], slashed), both('/shop/feed', '/shop/feed/'));
  assert.deepEqual(purgesOf([], ['/'], slashed), both('/shop', '/shop/'));
  assert.deepEqual(purgesOf([], ['/'], site({ hasSlash: true })), both('/'));
  assert.deepEqual(purgesOf(['_N_T_/blog/[slug]/page'], [], slashed), [{ prefix: '/shop/blog/' }]);
  const local = site({ locales: ['en', 'de'], defaultLocale: 'en', data: '/_next/data/b' });
  assert.deepEqual(purgesOf([], ['/en/pg/1'], local), [...both('/en/pg/1', '/pg/1'), { prefix: '/_next/data/b/en/pg/1.json' }]);
  assert.deepEqual(purgesOf([], ['/'], local), [...both('/'), { prefix: '/_next/data/b/index.json' }]);
});

test('with rewrites, all that they led to is purged too', () => {
  const rewriting = site({ hasRewrites: true });
  assert.deepEqual(purgesOf(['posts'], ['/a'], rewriting), [{ tag: 'posts' }, ...both('/a'), { tag: 'edgeway:rewritten' }]);
  assert.deepEqual(purgesOf(['posts'], ['*'], rewriting), ALL);
});

test('the build says what its addresses are', () => {
  const folder = mkdtempSync(join(tmpdir(), 'edgeway-next-'));
  const write = (file, value) => writeFileSync(join(folder, file), typeof value === 'string' ? value : JSON.stringify(value));
  try {
    assert.deepEqual(siteOf(folder), UNKNOWN_SITE);
    write('required-server-files.json', '{');
    assert.deepEqual(siteOf(folder), UNKNOWN_SITE);
    write('BUILD_ID', 'b1\n');
    write('required-server-files.json', { config: { basePath: '/shop', trailingSlash: true, i18n: { locales: ['en'], defaultLocale: 'en' } } });
    write('routes-manifest.json', { rewrites: { beforeFiles: [], afterFiles: [], fallback: [] }, dataRoutes: [{ page: '/pg' }] });
    write('prerender-manifest.json', { preview: { previewModeId: 'secret' } });
    const expected = { basePath: '/shop', hasSlash: true, locales: ['en'], defaultLocale: 'en', hasRewrites: false, data: '/shop/_next/data/b1', previewId: 'secret' };
    assert.deepEqual(siteOf(folder), expected);
    for (const rewrites of [[{ source: '/a' }], { beforeFiles: [], afterFiles: [{ source: '/a' }] }]) {
      write('routes-manifest.json', { rewrites });
      assert.equal(siteOf(folder).hasRewrites, true);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a gateway that refuses a purge drops everything, and the receipt says why', async () => {
  const store = await open();
  const why = 'purges[0]: url has a space in it: encode it';
  gateway.respond = (purges) => (purges[0].all ? [200, { others: 'alone' }] : [422, { error: { status: 422, reason: 'bad_purge', message: why } }]);
  const [receipt] = await store.purge(['t'], ['/a'], true);
  assert.deepEqual(receipt, { url: gateway.url, status: 200, receipt: { others: 'alone' }, refused: `status 422 bad_purge: ${why}` });
  assert.deepEqual(gateway.purges.at(-1), [{ all: true, soft: true }]);
  gateway.respond = () => [422, { error: { reason: 'bad_purge', message: why } }];
  assert.equal((await revalidateStore(store, { tags: ['t'] })).ok, false);
});

test('purges are sent in requests that a gateway reads', async () => {
  const store = await open();
  gateway.respond = (_, body) => (body.length > 16 * 1024 ? [413, {}] : [200, { others: 'alone' }]);
  const paths = Array.from({ length: 120 }, (_, i) => `/${'long'.repeat(50)}/${i}`);
  const [receipt] = await store.purge(['t'], paths, false);
  assert.deepEqual(receipt, { url: gateway.url, status: 200, receipt: { others: 'alone' } });
  assert.deepEqual(gateway.purges.flat(), purgesOf(['t'], paths));
  gateway.purges = [];
  await store.purge(['t'], paths.map((path) => path.replaceAll('long', 'longer than these')), false);
  assert.deepEqual(gateway.purges, [ALL]);
});

test('a gateway that was out of reach for a moment gets what it missed', async () => {
  const store = await open();
  // What a gateway has, and passes on by itself, is not sent again.
  gateway.respond = () => [202, { others: 'waiting' }];
  await store.purge(['s'], [], false);
  const refused = () => [503, {}];
  gateway.respond = refused;
  assert.equal((await revalidateStore(store, { tags: ['t'] })).ok, false);
  gateway.respond = () => [200, { others: 'alone' }];
  gateway.purges = [];
  await until(() => gateway.purges.length > 0, 'nobody told it again');
  assert.deepEqual(gateway.purges, [[{ tag: 't' }]]);
  // Another one meanwhile: what it lacks is not counted, so everything goes.
  gateway.respond = refused;
  for (const tag of ['t', 'u']) await new EdgewayCacheHandler({}, store).revalidateTag(tag);
  gateway.respond = () => [200, { others: 'alone' }];
  await until(() => String(gateway.purges.at(-1)) === String(ALL) && gateway.purges.at(-1)[0].all, 'it lacks one');
});

test('a route that keeps the responses of `fetch` purges all the same', async () => {
  const store = await open();
  const { fetch } = globalThis;
  globalThis.fetch = async () => Response.json({ others: 'alone' });
  try {
    await revalidateStore(store, { tags: ['t'] });
  } finally {
    globalThis.fetch = fetch;
  }
  assert.deepEqual(gateway.purges, [[{ tag: 't' }]]);
});

test('a path that gateways have dropped is not named again', async () => {
  const store = await open();
  const purged = async () => {
    gateway.purges = [];
    await revalidateStore(store, { tags: ['t'] });
    return gateway.purges[0];
  };
  const paths = Array.from({ length: 1000 }, (_, i) => ({ score: 1, value: `/${i}` }));
  await redis.client.zAdd('edgeway:next:{app}:paths:t', paths);
  await render(store, '/1000', ['t']);
  gateway.respond = () => [503, {}];
  assert.deepEqual(await purged(), ALL);
  gateway.respond = () => [200, { others: 'alone' }];
  assert.deepEqual(await purged(), ALL, 'it did not drop them yet');
  await render(store, '/a', ['t']);
  assert.deepEqual(await purged(), [{ tag: 't' }, ...both('/a')]);
  assert.deepEqual(await purged(), [{ tag: 't' }]);
});

test('the receipt is ok only if everybody has done it', async () => {
  const store = await open();
  assert.equal((await revalidateStore(store, { tags: ['t'] })).ok, true);
  for (const status of [202, 401, 502, 503]) {
    gateway.respond = () => [status, {}];
    assert.equal((await revalidateStore(store, { tags: ['t'] })).ok, false);
  }
  const alone = await openStore(undefined, { gateways: [] });
  stores.push(alone);
  assert.equal((await revalidateStore(alone, { tags: ['t'] })).ok, false, 'nothing is shared');
});

const read = (store, key) => new EdgewayCacheHandler({}, store).get(key, { kind: 'APP_PAGE' });

async function render(store, key, tags) {
  const handler = new EdgewayCacheHandler({}, store);
  await handler.get(key, { kind: 'APP_PAGE' });
  await handler.set(key, page('text', tags));
  assert.ok(await read(store, key));
}

test('a path is revalidated however it is spelled', async () => {
  const store = await open({ site: site({ hasSlash: true }) });
  for (const [key, tag, path] of [
    ['/blog/xyz', '_N_T_/blog/xyz', '/blog/%78yz'],
    ['/blog/é', '_N_T_/blog/%C3%A9', '/blog/é'],
    ['/blog/é', '_N_T_/blog/%C3%A9', '/blog/%C3%A9'],
    ['/blog/a b', '_N_T_/blog/a b', '/blog/a%20b/'],
    ['/blog/x,y', '_N_T_/blog/x,y', '/blog/x%2Cy'],
    ['/blog/c%23', '_N_T_/blog/c%23', '/blog/c#'],
    ['/blog/100%', '_N_T_/blog/100%', '/blog/100%'],
    ['/r/xy', '_N_T_/r/%78y/', '/r/xy'],
    ['/pg/1', '', '/pg/1'],
    ['/blog', '_N_T_/blog', '/blog?page=2'],
    ['/blog', '_N_T_/blog', 'blog'],
    ['/', '_N_T_/,_N_T_/index', '/'],
  ]) {
    await render(store, key, [tag]);
    await revalidateStore(store, { paths: [path] });
    assert.equal(await read(store, key), null, `${path} of ${key}`);
  }
  await render(store, '/a', ['%C3%A9']);
  await revalidateStore(store, { tags: ['é'] });
  assert.equal(await read(store, '/a'), null);
});

test('the path of a page in the default language needs no locale', async () => {
  const store = await open({ site: site({ locales: ['en', 'de'], defaultLocale: 'en' }) });
  await render(store, '/en/pg/1', []);
  await render(store, '/de/pg/1', []);
  await revalidateStore(store, { paths: ['/pg/1'] });
  assert.equal(await read(store, '/en/pg/1'), null);
  assert.ok(await read(store, '/de/pg/1'));
});

test('`res.revalidate` reaches the gateways, and nobody else can claim to be it', async () => {
  const store = await open({ site: site({ previewId: 'secret' }) });
  const name = '/route-cache/PAGES/0/$/pg/1';
  const make = (id) => new EdgewayCacheHandler({ _requestHeaders: { 'x-prerender-revalidate': id } }, store);
  await make('guess').set(name, page('text', []));
  assert.deepEqual(gateway.purges, []);
  await make('secret').set(name, page('text', []));
  assert.deepEqual(gateway.purges, [both('/pg/1')]);
  await make('secret').set('key', { kind: 'FETCH' }, { fetchCache: true });
  assert.equal(gateway.purges.length, 1);
});

test('the first page of a process is known to Redis', async () => {
  await redis.clear();
  const store = new Store({ ...settingsFrom({ EDGEWAY_REDIS_URL: redis.url }), deadline: 2000 }, 'build');
  stores.push(store);
  const handler = new EdgewayCacheHandler({}, store);
  assert.equal(await handler.get('/a', { kind: 'APP_PAGE' }), null);
  assert.deepEqual((await store.revalidate(['t'])).paths, ['/a'], 'it is in the making');
});

test('a revalidation at the start of a process reaches Redis', async () => {
  await redis.client.flushAll();
  const store = new Store({ ...settingsFrom({ EDGEWAY_REDIS_URL: redis.url }), deadline: 2000 }, 'build');
  stores.push(store);
  assert.deepEqual(await revalidateStore(store, { tags: ['t'] }), { ok: true, instances: 'reached', gateways: [] });
});

test('without Redis, only the first requests wait for it', async () => {
  const store = new Store({ ...settingsFrom({ EDGEWAY_REDIS_URL: 'redis://127.0.0.1:1' }), deadline: 100 }, 'build');
  stores.push(store);
  const handler = new EdgewayCacheHandler({}, store);
  await Promise.all([handler.get('/a'), handler.get('/b')]);
  const begun = performance.now();
  await handler.get('/a');
  assert.ok(performance.now() - begun < 50);
});

test('on a new Redis soft revalidations drop everything once, and then name what they mean', async () => {
  await redis.client.flushAll();
  const store = await openStore(redis.url, { gateways: [gateway.url] });
  stores.push(store);
  for (const tag of ['a', 'b', 'c']) {
    await revalidateForNext(store, [tag], { expire: 3600 });
    await until(() => gateway.purges.some((purges) => purges.some((purge) => purge.all || purge.tag === tag)));
  }
  assert.deepEqual(gateway.purges, [[{ all: true }], [{ tag: 'b', soft: true }], [{ tag: 'c', soft: true }]]);
});
