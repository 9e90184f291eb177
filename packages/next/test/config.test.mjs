import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';

import { EdgewayCacheHandler } from '../dist/cache-handler.js';
import { withEdgeway } from '../dist/index.js';
import { settingsFrom } from '../dist/settings.js';
import { useCacheHandler } from '../dist/use-cache.js';
import { openStore, Redis } from './support.mjs';

const started = process.cwd();
let folder;
let redis;
before(async () => (redis = await Redis.start()));
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'edgeway-next-'));
  process.chdir(folder);
});
afterEach(() => {
  process.chdir(started);
  rmSync(folder, { recursive: true });
});
after(async () => await redis.kill());

function install(version) {
  mkdirSync(join(folder, 'node_modules/next'), { recursive: true });
  writeFileSync(join(folder, 'node_modules/next/package.json'), JSON.stringify({ name: 'next', version }));
}

test('one line sets everything that this version of Next.js has', async () => {
  install('16.4.5');
  const config = withEdgeway({ cacheComponents: true, deploymentId: 'd1', cacheMaxMemorySize: 7, serverExternalPackages: ['redis', 'mine'] });
  assert.match(config.cacheHandler, /cache-handler\.js$/);
  assert.deepEqual(Object.keys(config.cacheHandlers), ['default', 'remote']);
  assert.equal(config.deploymentId, 'd1');
  assert.equal(config.cacheMaxMemorySize, 7, 'the own options come first');
  assert.deepEqual(config.serverExternalPackages, ['redis', 'mine', '@edgeway/next', '@redis/client']);
  const made = await withEdgeway(async (phase) => ({ phase, experimental: { useCache: true } }))('build');
  assert.equal(made.phase, 'build');
  assert.ok(made.cacheHandlers);
});

test('an app without `use cache` gets no handlers for it, with which the edge runtime does not build', () => {
  install('16.4.5');
  assert.equal(withEdgeway({}).cacheHandlers, undefined);
  assert.deepEqual(withEdgeway({ cacheHandlers: { default: '/mine.js' } }).cacheHandlers, { default: '/mine.js' });
});

test('the edge runtime gets a handler that needs no Node.js, and says that it cannot revalidate', async () => {
  const source = readFileSync(join(started, 'dist/next-cache-handler.js'), 'utf8');
  const exports = {};
  const errors = [];
  const load = (name) => assert.fail(`it loads ${name}`);
  const globals = { exports, require: load, process: { env: { NEXT_RUNTIME: 'edge' } }, console: { error: (text) => errors.push(text) } };
  new Function(...Object.keys(globals), source)(...Object.values(globals));
  const handler = new exports.default();
  assert.equal(await handler.get('/a'), null);
  await assert.rejects(handler.revalidateTag('t'), /remove `runtime = 'edge'`/);
  assert.equal(errors.length, 1);
});

test('Next.js 15 gets no handlers that it refuses', () => {
  install('15.2.2');
  process.env.EDGEWAY_DEPLOYMENT_ID = 'd2';
  try {
    const config = withEdgeway({});
    assert.equal(config.cacheHandlers, undefined);
    assert.equal(config.deploymentId, 'd2');
  } finally {
    delete process.env.EDGEWAY_DEPLOYMENT_ID;
  }
});

test('without Next.js, or with a number that is none, the message says what to do', () => {
  assert.throws(() => withEdgeway({}), /no package `next`.*run it where the app is installed/);
  assert.throws(() => settingsFrom({ EDGEWAY_NEXT_DEADLINE_MS: 'soon' }), /`soon` is not a number.*write digits/);
});

test('Next.js revalidates once for all handlers, and does not wait for a gateway that hangs', async () => {
  const purges = [];
  const gateway = createServer((request) => {
    let body = '';
    request.on('data', (chunk) => (body += chunk)).on('end', () => purges.push([request.headers.authorization, JSON.parse(body)]));
  }).listen(0, '127.0.0.1');
  await once(gateway, 'listening');
  const url = `http://127.0.0.1:${gateway.address().port}`;
  await redis.clear();
  const store = await openStore(redis.url, { gateways: [url], gatewayToken: 'token' });
  try {
    const begun = performance.now();
    const handler = new EdgewayCacheHandler({}, store);
    await Promise.all([useCacheHandler(store).updateTags(['t']), handler.revalidateTag(['t'])]);
    const took = performance.now() - begun;
    assert.ok(took > 900 && took < 2000, `it took ${took} ms`);
    const expected = { purges: [{ tag: 't' }], fan_out: false };
    assert.deepEqual(purges, [['Bearer token', expected]]);
    assert.equal(await redis.client.hGet('edgeway:next:{app}:meta', 'version'), '2');
  } finally {
    store.close();
    gateway.closeAllConnections();
    gateway.close();
  }
});
