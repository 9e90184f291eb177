// Functions with `use cache`: their results are shared by two instances.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { until } from '../support.mjs';
import { build, Fleet, NEXT16, post, value } from './fleet.mjs';

// Each one is a render. `make test-all` has more of the same.
const READS = process.env.EDGEWAY_TEST_ALL ? 50 : 10;

/** Reads pages that Next.js can make only with the shell of the build. */
async function withEmptyShell({ instances, data, redis }) {
  const ids = ['1', '2', '7'];
  const all = async (expected) => {
    for (const port of instances) {
      for (const id of ids) assert.equal((await value(port, `/items/${id}`)).value, expected, `/items/${id}`);
    }
  };
  data.value = 'new';
  await all('new');
  for (const [round, tag] of ['item-1', 'item-7', '_N_T_/layout', '_N_T_/items/[id]/page'].entries()) {
    if (round < 2) ids.splice(0, ids.length, tag.slice(5));
    else ids.splice(0, ids.length, '1', '2', '7', String(8 + round));
    data.value = `newer${round}`;
    await post(instances[round % 2], `/api/revalidate?tag=${encodeURIComponent(tag)}`);
    await all(`newer${round}`);
  }
  data.value = 'broken';
  for (const port of instances) {
    const responses = Array.from({ length: 20 }, (_, i) => fetch(`http://127.0.0.1:${port}/items/broken${i}`));
    for (const response of await Promise.all(responses)) await response.text();
  }
  await until(async () => (await redis.client.zCard('edgeway:next:{app}:making')) === 0, 'failed renders are expected all the time');
}

test('a function with `use cache` runs once for both instances', async (t) => {
  const app = build(NEXT16, 'use-cache');
  // On a busy machine a command may take longer than the usual 200 ms.
  const env = { EDGEWAY_ADMIN_URL: '', EDGEWAY_NEXT_DEADLINE_MS: '10000' };
  const fleet = await Fleet.start(app, { gateways: false, env });
  try {
    const [one, other] = fleet.instances;
    const results = async () => {
      const keys = await fleet.redis.client.keys('edgeway:next:{app}:*:use:*');
      return (await Promise.all(keys.map((key) => fleet.redis.client.hGet(key, 'id')))).join();
    };
    const leases = () => fleet.redis.client.zCard('edgeway:next:{app}:leases');
    await until(async () => (await leases()) === fleet.instances.length, 'an instance has no link to Redis');
    await post(one, '/api/revalidate?tag=used');
    fleet.data.reads = 0;
    for (let round = 1; round <= 5; round += 1) {
      fleet.data.value = `r${round}`;
      const ports = round % 2 ? [one, other] : [other, one];
      if (round > 1) assert.equal(JSON.parse(await post(ports[1], '/api/revalidate?tag=used')).instances, 'reached');
      const before = await results();
      assert.equal((await value(ports[0], '/used')).value, `r${round}`);
      // Next.js does not wait for the handler before it ends the response.
      await until(async () => (await results()) !== before, 'the result is not in Redis');
      for (let i = 0; i < READS; i += 1) {
        for (const port of ports) assert.equal((await value(port, '/used')).value, `r${round}`);
      }
      assert.equal(fleet.data.reads, round, 'the function ran once for each revalidation');
    }
    await withEmptyShell(fleet);
  } catch (error) {
    t.diagnostic(fleet.output.slice(-3000));
    throw error;
  } finally {
    await fleet.stop();
  }
});
