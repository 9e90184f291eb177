// An instance that is cut off from Redis: what receipts say of it, and what gateways got from it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, afterEach, before, beforeEach, test } from 'node:test';

import { EdgewayCacheHandler } from '../dist/cache-handler.js';
import { PAGE } from '../dist/codec.js';
import { revalidateStore } from '../dist/revalidate.js';
import { ALL, both, Gateway, Network, openStore, page, Redis, until } from './support.mjs';

let redis;
let gateway;
let network;
let lost;
let other;
before(async () => {
  redis = await Redis.start();
  gateway = await Gateway.start();
});
after(async () => {
  gateway.stop();
  await redis.kill();
});
beforeEach(async () => {
  await redis.clear();
  network = await Network.start(redis);
  lost = await openStore(network.url, { gateways: [gateway.url] });
  other = await openStore(redis.url, { gateways: [gateway.url] });
  gateway.purges = [];
});
afterEach(() => {
  for (const store of [lost, other]) store.close();
  network.stop();
});

const read = async (store, key) => (await new EdgewayCacheHandler({}, store).get(key, { kind: 'APP_PAGE' }))?.value.html;

async function render(store, key, text, tags = ['t']) {
  const handler = new EdgewayCacheHandler({}, store);
  await handler.get(key, { kind: 'APP_PAGE' });
  await handler.set(key, page(text, tags));
}

const dropped = () => until(() => gateway.purges.some(([first]) => first.all), 'the gateway keeps what it has');

test('a receipt counts an instance that is cut off, and gateways drop what they got from it once it is back', async () => {
  await render(lost, '/a', 'old');
  network.cut();
  const { ok, instances, lapsed } = await revalidateStore(other, { tags: ['t'] });
  assert.deepEqual([ok, instances, lapsed], [false, 'linked', 1]);
  assert.equal(await read(lost, '/a'), 'old', 'it cannot know better, and a gateway may ask it');
  gateway.purges = [];
  network.mend();
  await dropped();
  assert.equal(await read(lost, '/a'), undefined);
  assert.equal((await revalidateStore(other, { tags: ['t'] })).ok, true);
  await lost.leave();
  network.cut();
  assert.equal((await revalidateStore(other, { tags: ['t'] })).ok, true, 'one that ends gives its lease back');
});

test('a server that a signal ends gives its lease back first', async () => {
  const code = `process.on('SIGTERM', () => process.exit(7));
    require('./dist/shared.js').shared('.').store.ready(5000).then(() => console.log('ready'));
    setInterval(() => undefined, 1000);`;
  const env = { ...process.env, EDGEWAY_REDIS_URL: redis.url, EDGEWAY_NEXT_APP: 'signal' };
  const server = spawn(process.execPath, ['-e', code], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  await once(server.stdout, 'data');
  assert.equal(await redis.client.zCard('edgeway:next:{signal}:leases'), 1);
  server.kill('SIGTERM');
  assert.deepEqual(await once(server, 'exit'), [7, null]);
  assert.equal(await redis.client.zCard('edgeway:next:{signal}:leases'), 0);
});

test('a clock of Redis that is set back holds up no receipt', async () => {
  const ahead = Date.now() + 3_600_000;
  await redis.client.hSet('edgeway:next:{app}:meta', 'since', ahead);
  await redis.client.zAdd('edgeway:next:{app}:leases', { score: ahead, value: 'killed' });
  await until(async () => (await revalidateStore(other, { tags: ['t'] })).lapsed === 1, 'it waits for one that is gone');
});

test('after a receipt an instance serves nothing older, even if it loses Redis then', async () => {
  await render(lost, '/a', 'old', ['t']);
  await render(lost, '/b', 'other', ['u']);
  assert.equal((await revalidateStore(other, { tags: ['t'] })).ok, true);
  network.cut();
  assert.equal(await read(lost, '/a'), undefined);
  assert.equal(await read(lost, '/b'), 'other');
});

test('if nothing was revalidated meanwhile, gateways drop only the pages that Redis does not know', async () => {
  await render(lost, '/a', 'text');
  network.cut();
  await render(lost, '/b', 'local');
  assert.equal(await read(lost, '/a'), 'text');
  network.mend();
  await until(() => gateway.purges.length > 0, 'no later revalidation would name the page');
  assert.deepEqual(gateway.purges, [both('/b')]);
});

test('a revalidation that Redis gets late reaches the gateways again', async () => {
  network.cut();
  assert.deepEqual((await revalidateStore(lost, { tags: ['t'] })).instances, 'unreached');
  assert.deepEqual(gateway.purges, [ALL]);
  gateway.purges = [];
  // Until it is sent, a gateway may fetch an older page from this one again.
  await render(other, '/a', 'old');
  network.mend();
  await dropped();
  assert.equal(await read(other, '/a'), undefined);
});

test('a render that ends without Redis is not expected any more once it is back', async () => {
  const one = { path: '/a', render: 'r' };
  await lost.get({ key: 'page:/a', page: one }, [], PAGE);
  const expected = () => redis.client.zCard('edgeway:next:{app}:making');
  assert.equal(await expected(), 1);
  network.cut();
  await lost.forget([one]);
  network.mend();
  await until(async () => (await expected()) === 0, 'each revalidation purges it for a minute');
});

test('a receipt waits until gateways have dropped what a lost instance served', async () => {
  network.cut();
  await render(lost, '/b', 'local');
  network.mend();
  assert.equal((await revalidateStore(other, { tags: ['u'] })).ok, true);
  assert.ok(gateway.purges.some(([first]) => first.all || first.url === '/b'), 'its page may be older');
});

test('after Redis has lost its data, gateways drop everything once, and no instance serves an older entry', async () => {
  for (let i = 0; i < 3; i += 1) await revalidateStore(other, { tags: ['t'] });
  await render(lost, '/a', 'old');
  await redis.client.flushAll();
  const purged = async () => {
    gateway.purges = [];
    assert.equal((await revalidateStore(other, { tags: ['t'] })).instances, 'reached');
    return gateway.purges[0];
  };
  gateway.respond = () => [503, {}];
  assert.deepEqual(await purged(), ALL);
  gateway.respond = () => [200, { others: 'alone' }];
  assert.deepEqual(await purged(), ALL, 'it did not drop them yet');
  await render(other, '/b', 'new');
  assert.deepEqual(await purged(), [{ tag: 't' }, ...both('/b')]);
  network.cut();
  assert.equal(await read(lost, '/a'), undefined);
});

test('a Redis that crashes and returns with older data undoes no revalidation, also for a new instance', async () => {
  await render(other, '/a', 'old');
  await redis.client.sendCommand(['SAVE']);
  assert.equal((await revalidateStore(other, { tags: ['t'] })).ok, true);
  await render(other, '/b', 'new');
  gateway.purges = [];
  await redis.crash();
  const fresh = await openStore(redis.url, { gateways: [gateway.url] });
  for (const store of [fresh, lost, other]) {
    assert.equal(await store.ready(5000), true);
    assert.equal(await read(store, '/a'), undefined, 'it was revalidated');
  }
  await fresh.leave();
  fresh.close();
  assert.equal((await revalidateStore(other, { tags: ['t'] })).instances, 'reached');
  assert.deepEqual(gateway.purges[0], ALL, 'Redis does not know their paths');
});

test('a connection on which nothing passes any more is replaced', async () => {
  await render(lost, '/a', 'old');
  network.stick();
  await other.revalidate(['t']);
  await until(async () => (await read(lost, '/a')) === undefined, 'the instance did not come back');
});

/** Returns the lines of the log that the test has caused so far. */
function log(t) {
  const { mock } = t.mock.method(console, 'warn', () => undefined);
  return () => mock.calls.map(({ arguments: [line] }) => line);
}

test('a Redis that is no master any more counts as lost', async (t) => {
  const lines = log(t);
  await render(lost, '/a', 'text');
  await redis.client.replicaOf('127.0.0.1', 1);
  try {
    await until(() => lines().filter((line) => /redis lost.*READONLY/.test(line)).length === 2, 'it is trusted');
    assert.equal(await lost.ready(0), false);
  } finally {
    await redis.client.replicaOf('NO', 'ONE');
  }
  assert.equal(await lost.ready(5000), true);
});

for (const [error, full, usual] of [
  ['OOM', { maxmemory: '1' }, { maxmemory: '0' }],
  ['NOREPLICAS', { 'min-replicas-to-write': '1' }, { 'min-replicas-to-write': '0' }],
]) {
  test(`what is made while Redis rejects writes is kept in the process, and the log says so (${error})`, async (t) => {
    const lines = log(t);
    const name = { key: 'fetch:a' };
    const get = () => lost.get(name, [], PAGE);
    await redis.client.configSet(full);
    try {
      assert.equal((await lost.revalidate(['t'])).moment, undefined);
      const { moment } = await get();
      await lost.set(name, { value: page('text', ['t']), lastModified: 1, cacheControl: undefined }, ['t'], PAGE, moment, 60);
      for (let i = 0; i < 3; i += 1) assert.ok((await get()).found, 'it is made again each time');
      const told = lines().filter((line) => line.includes(`redis rejected a command: ${error}`));
      assert.ok(told.length >= 1 && told.length <= 2, `${told.length} lines of two instances`);
    } finally {
      await redis.client.configSet(usual);
    }
    await until(async () => (await get()).found === undefined, 'the revalidation was not sent');
  });
}
