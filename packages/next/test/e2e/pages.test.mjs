// Pages of two instances behind two gateways, with each version of Next.js.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { pause, Redis } from '../support.mjs';
import { ALL, build, Fleet, post, value } from './fleet.mjs';

const STALE = 3000;

/** Time in which everybody knows of a revalidation after Redis is back, in milliseconds. */
const KNOWN = 10_000;

for (const folder of ALL) {
  test(`1,000 reads after a receipt are all newer (${folder.split('/').at(-1)})`, async (t) => {
    const app = build(folder);
    t.diagnostic(`Next.js ${app.version}`);
    const fleet = await Fleet.start(app, { env: { EDGEWAY_NEXT_STALE_MS: String(STALE) } });
    try {
      const [one, other] = fleet.instances;
      const everywhere = [...fleet.gateways, one, other];
      const read = async (count, least) => {
        let stored = 0;
        await Promise.all(everywhere.map(async (port) => {
          for (let i = 0; i < count / everywhere.length; i += 1) {
            const seen = await value(port, '/tagged');
            assert.ok(Number(seen.value) >= least, `${seen.value} after ${least} at ${everywhere.indexOf(port)}`);
            if (/hit/i.test(seen.headers.get('x-cache') ?? seen.headers.get('cache-status') ?? '')) stored += 1;
          }
        }));
        return stored;
      };
      // Whoever asks first for a page: what others get has nothing of the address.
      const secret = 'token=first-visitor';
      await (await fetch(`http://127.0.0.1:${one}/?${secret}&more=1`)).text();
      for (const port of everywhere) {
        const page = await (await fetch(`http://127.0.0.1:${port}/`)).text();
        assert.ok(!page.includes('first-visitor'), `a visitor's query is at ${everywhere.indexOf(port)}`);
      }
      // The first read of a page from before the data was there.
      await post(one, '/api/revalidate?tag=data');
      await read(40, 1);
      fleet.data.reads = 0;
      await read(40, 1);
      assert.equal(fleet.data.reads, 0, 'everything is stored');

      // Several times, with readers all the while, so that renders race with the revalidation. They
      // pause, as visitors do: without, they take all CPU of the machine.
      let isOver = false;
      const readers = everywhere.map(async (port) => {
        while (!isOver) {
          await value(port, '/tagged');
          await pause(5);
        }
      });
      try {
        for (let round = 2; round <= 6; round += 1) {
          fleet.data.value = round;
          const receipt = JSON.parse(await post(round % 2 ? one : other, '/api/revalidate?tag=data'));
          assert.equal(receipt.instances, 'reached');
          assert.deepEqual(receipt.gateways.map(({ status, receipt }) => [status, receipt.others]), [[200, 'reached']]);
          const stored = await read(round === 6 ? 1000 : 40, round);
          if (round === 6) t.diagnostic(`1,000 reads, all newer; ${stored} from the gateways' caches`);
        }
      } finally {
        isOver = true;
        await Promise.all(readers);
      }

      // With the function of Next.js itself, which may respond before it is done.
      fleet.data.value = 7;
      await post(other, '/api/native?tag=data');
      const end = performance.now() + 2000;
      for (const port of everywhere) {
        while ((await value(port, '/tagged')).value !== '7') {
          assert.ok(performance.now() < end, `revalidateTag did not reach ${port}`);
          await pause(20);
        }
      }

      await withoutRedis(fleet, t);
    } catch (error) {
      t.diagnostic(fleet.output.slice(-3000));
      throw error;
    } finally {
      await fleet.stop();
    }
  });
}

/** Kills Redis: no request fails, and what is stale is stale within its bound. */
async function withoutRedis(fleet, t) {
  await fleet.redis.kill();
  const lost = performance.now();
  fleet.data.value = 8;
  const [one, other] = fleet.instances;
  let slowest = 0;
  let reads = 0;
  let stale = 0;
  while (performance.now() - lost < STALE + 1000) {
    for (const port of [one, other]) {
      const begun = performance.now();
      const seen = await value(port, '/tagged');
      slowest = Math.max(slowest, performance.now() - begun);
      reads += 1;
      if (seen.value === '8') continue;
      assert.equal(seen.value, '7');
      assert.ok(begun - lost < STALE + 200, `stale ${begun - lost} ms after the loss`);
      stale += 1;
    }
    await pause(10);
  }
  assert.ok(stale > 0, 'what was there is served for a while');
  for (const port of [one, other]) assert.equal((await value(port, '/tagged')).value, '8');
  t.diagnostic(`without redis: ${reads} reads, ${stale} stale, none failed, the slowest took ${Math.round(slowest)} ms`);

  fleet.data.value = 9;
  // A gateway that lacks Redis waits before it responds.
  const revalidated = post(one, '/api/revalidate?tag=data');
  await pause(500);
  assert.equal((await value(one, '/tagged')).value, '9', 'its own revalidation counts at once');

  // The other instance does not know of it, so gateways take older pages from it. Each query is a
  // stored response of its own.
  const paths = Array.from({ length: 20 }, (_, number) => `/tagged?n=${number}`);
  const values = { 7: 0, 8: 0, 9: 0 };
  for (let round = 0; round < 10; round += 1) {
    for (const path of paths) {
      for (const port of fleet.gateways) values[(await value(port, path)).value] += 1;
    }
  }
  assert.ok(values[8] > 0, `a gateway has an older page: ${JSON.stringify(values)}`);
  t.diagnostic(`without redis, ${20 * paths.length} reads of gateways after a revalidation, none failed: ${JSON.stringify(values)}`);

  const receipt = JSON.parse(await revalidated);
  assert.equal(receipt.instances, 'unreached');

  fleet.redis = await Redis.start(fleet.redis.port);
  const back = performance.now();
  const newest = async () => {
    for (const port of [...fleet.gateways, one, other]) {
      for (const path of ['/tagged', ...paths]) if ((await value(port, path)).value !== '9') return false;
    }
    return true;
  };
  while (!(await newest())) {
    assert.ok(performance.now() - back < KNOWN, `an older page ${KNOWN} ms after Redis came back`);
    await pause(20);
  }
  t.diagnostic(`${Math.round(performance.now() - back)} ms after Redis came back every read is new`);
}
