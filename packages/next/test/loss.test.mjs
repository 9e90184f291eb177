// An instance that is cut off from Redis: what receipts say of it, and what gateways got from it.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';

import { EdgewayCacheHandler } from '../dist/cache-handler.js';
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
