// Functions with `use cache`: their results are shared by two instances.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { build, Fleet, NEXT16, post, value } from './fleet.mjs';

test('a function with `use cache` runs once for both instances', async (t) => {
  const app = build(NEXT16, 'use-cache');
  const fleet = await Fleet.start(app, { gateways: false, env: { EDGEWAY_ADMIN_URL: '' } });
  try {
    const [one, other] = fleet.instances;
    await post(one, '/api/revalidate?tag=used');
    fleet.data.reads = 0;
    for (let round = 1; round <= 5; round += 1) {
      fleet.data.value = `r${round}`;
      const ports = round % 2 ? [one, other] : [other, one];
      if (round > 1) assert.equal(JSON.parse(await post(ports[1], '/api/revalidate?tag=used')).instances, 'reached');
      for (let i = 0; i < 50; i += 1) {
        for (const port of ports) assert.equal((await value(port, '/used')).value, `r${round}`);
      }
      assert.equal(fleet.data.reads, round, 'the function ran once for each revalidation');
    }
  } catch (error) {
    t.diagnostic(fleet.output.slice(-3000));
    throw error;
  } finally {
    await fleet.stop();
  }
});
