// Invariant: a read that begins after a revalidation resolved sees no entry whose making began
// before the revalidation, in any instance, whatever arrives late.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { EdgewayCacheHandler } from '../dist/cache-handler.js';
import { useCacheHandler } from '../dist/use-cache.js';
import { openStore, page, pause, random, Redis } from './support.mjs';

const KEYS = { a: ['x'], b: ['x', 'y'], c: ['y'], d: ['z', '_N_T_/d'] };
const TAGS = ['x', 'y', 'z', '_N_T_/d'];
const SEED = Number(process.env.SEED ?? Date.now() % 1e9);

// `make test-all` draws twice as many actions.
const ACTIONS = process.env.EDGEWAY_TEST_ALL ? 4000 : 2000;

// On a busy machine a revalidation must not count as resolved because Redis was slow.
const PATIENT = { deadline: 10_000 };

let redis;
before(async () => (redis = await Redis.start()));
after(() => redis.kill());

/** What is true now: the number of revalidations of each tag, begun and resolved. */
class Model {
  begun = Object.fromEntries(TAGS.map((tag) => [tag, 0]));
  resolved = Object.fromEntries(TAGS.map((tag) => [tag, 0]));
  reads = 0;
  hits = 0;

  made(key) {
    return JSON.stringify(KEYS[key].map((tag) => this.begun[tag]));
  }

  least(key) {
    return KEYS[key].map((tag) => this.resolved[tag]);
  }

  check(key, text, least) {
    this.reads += 1;
    if (text === undefined) return;
    this.hits += 1;
    JSON.parse(text).forEach((seen, i) =>
      assert.ok(seen >= least[i], `seed ${SEED}: ${key} has revalidation ${seen} of ${KEYS[key][i]}, ${least[i]} resolved before`));
  }

  async revalidate(tag, act) {
    this.begun[tag] += 1;
    const number = this.begun[tag];
    await act(tag);
    this.resolved[tag] = Math.max(this.resolved[tag], number);
  }
}

async function run(model, draw, actors, count) {
  const active = new Set();
  for (let i = 0; i < count; i += 1) {
    const action = actors(draw).finally(() => active.delete(action));
    active.add(action);
    if (active.size > 12 || draw() < 0.2) await Promise.race(active);
    if (draw() < 0.05) await pause(1);
  }
  await Promise.all(active);
  assert.ok(model.hits > model.reads / 20, `seed ${SEED}: only ${model.hits} hits of ${model.reads} reads`);
}

const pick = (draw, list) => list[Math.floor(draw() * list.length)];

test('pages of two instances are never older than a revalidation before', async (t) => {
  t.diagnostic(`SEED=${SEED}`);
  const draw = random(SEED);
  const stores = [await openStore(redis.url, PATIENT), await openStore(redis.url, PATIENT)];
  const model = new Model();
  await run(model, draw, async () => {
    const handler = new EdgewayCacheHandler({}, pick(draw, stores));
    if (draw() < 0.15) return model.revalidate(pick(draw, TAGS), (tag) => handler.revalidateTag(tag));
    const key = pick(draw, Object.keys(KEYS));
    const least = model.least(key);
    const found = await handler.get(key, { kind: 'APP_PAGE' });
    model.check(key, found?.value.html, least);
    if (found && draw() < 0.8) return;
    // A render reads its data, and stores what it made from it a while later.
    const made = model.made(key);
    if (draw() < 0.6) await pause(draw() * 12);
    await handler.set(key, page(made, KEYS[key]));
  }, ACTIONS);
  t.diagnostic(`${model.reads} reads, ${model.hits} hits`);
  for (const store of stores) store.close();
});

test('results of `use cache` are never older than a revalidation before', async (t) => {
  const draw = random(SEED + 1);
  const stores = [await openStore(redis.url, PATIENT, 'other'), await openStore(redis.url, PATIENT, 'other')];
  const handlers = stores.map((store) => useCacheHandler(store));
  const model = new Model();
  await run(model, draw, async () => {
    const handler = pick(draw, handlers);
    if (draw() < 0.15) return model.revalidate(pick(draw, TAGS), (tag) => handler.updateTags([tag]));
    const key = pick(draw, Object.keys(KEYS));
    const least = model.least(key);
    const found = await handler.get(key, []);
    model.check(key, found && (await new Response(found.value).text()), least);
    if (found && draw() < 0.8) return;
    const timestamp = performance.timeOrigin + performance.now();
    const made = model.made(key);
    const entry = { value: new Response(made).body, tags: KEYS[key], stale: 0, timestamp, expire: 900, revalidate: 60 };
    await handler.set(key, pause(draw() < 0.6 ? draw() * 12 : 0).then(() => entry));
  }, ACTIONS);
  t.diagnostic(`${model.reads} reads, ${model.hits} hits`);
  for (const store of stores) store.close();
});
