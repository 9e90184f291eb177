import { assert, plugin, test } from 'edgeway:test';

const URL_OF_FLAGS = 'https://flags.test/flags.json';
const loaded = (responses, config = {}) => plugin({ config: { url: URL_OF_FLAGS, ...config }, fetch: { [URL_OF_FLAGS]: responses } });
const visit = (cookie) => new Request('https://shop.test/', { headers: cookie ? { cookie } : {} });
const flags = (done) => JSON.parse(done.request.headers.get('x-flags'));

test('the backend gets the flags that are on', async () => {
  const { onRequest, onCacheKey } = loaded({ json: { search: true, old: false, colour: 'rot', ü: true } });
  const done = await onRequest(visit());
  assert.deepEqual(flags(done), { colour: 'rot', search: true, ü: true });
  assert.match(done.request.headers.get('x-flags'), /^[\x20-\x7e]+$/);
  assert.equal(done.headers.get('set-cookie'), null);
  assert.equal((await onCacheKey(done.request)).value, done.request.headers.get('x-flags'));
});

test('clients cannot send the header', async () => {
  const { onRequest } = loaded({ json: {} });
  const done = await onRequest(new Request('https://shop.test/', { headers: { 'x-flags': '{"admin":true}' } }));
  assert.deepEqual(flags(done), {});
});

test('flags are fetched again when the list expires', async () => {
  const { onRequest } = loaded([{ json: { a: true } }, { json: { b: true } }]);
  await onRequest(visit());
  assert.deepEqual(flags(await onRequest(visit())), { a: true });
  const expired = loaded([{ json: { a: true } }, { json: { b: true } }], { refresh: 0 });
  await expired.onRequest(visit());
  assert.deepEqual(flags(await expired.onRequest(visit())), { b: true });
});

test('the last valid list stays in use, however the service fails', async () => {
  for (const bad of [{ error: 'gone' }, { status: 500, body: 'no' }, { body: '<html>' }, { json: [1] }, { json: { a: 7 } }, { json: { a: { percent: 101 } } }]) {
    const { onRequest } = loaded([{ json: { a: true } }, bad], { refresh: 0, retry: 60 });
    await onRequest(visit());
    const done = await onRequest(visit());
    assert.deepEqual(flags(done), { a: true }, JSON.stringify(bad));
    assert.match(done.console[0].text, /cannot be fetched/);
    // The service is not requested again until `retry` has passed.
    assert.deepEqual((await onRequest(visit())).console, []);
  }
});

test('without any list, the fallback of the configuration applies', async () => {
  const { onRequest } = loaded({ error: 'gone' }, { fallback: { safe: true } });
  assert.deepEqual(flags(await onRequest(visit())), { safe: true });
});

test('a share of visitors, each always the same', async () => {
  const { onRequest } = loaded({ json: { beta: { percent: 30 }, all: { percent: 100 }, none: { percent: 0 } } });
  const first = await onRequest(visit());
  const cookie = first.headers.get('set-cookie').split(';')[0];
  assert.match(first.headers.get('set-cookie'), /^visitor=[0-9a-f-]{36}; Path=\/; Expires=[\w, :]+ GMT; Max-Age=31536000; Secure; HttpOnly; SameSite=lax$/);
  const again = await onRequest(visit(cookie));
  assert.deepEqual(flags(again), flags(first));
  assert.equal(again.headers.get('set-cookie'), null);
  let on = 0;
  for (let visitor = 0; visitor < 1000; visitor += 1) {
    const seen = flags(await onRequest(visit(`visitor=v${visitor}`)));
    assert.ok(seen.all && !seen.none);
    on += seen.beta ? 1 : 0;
  }
  // 300 are expected; a difference of 100 is more than six standard deviations.
  assert.ok(Math.abs(on - 300) < 100, String(on));
});

test('a user has the same flags everywhere', async () => {
  const { onRequest } = loaded({ json: { beta: { percent: 50 } } });
  const context = { jwt: { sub: 'ann' } };
  const [one, other] = [await onRequest(visit(), context), await onRequest(visit('visitor=x'), context)];
  assert.deepEqual(flags(one), flags(other));
  assert.equal(one.headers.get('set-cookie'), null);
});

test('an invalid configuration is refused', () => {
  assert.throws(() => plugin(), /url/);
  assert.throws(() => loaded({ json: {} }, { fallback: { a: 1 } }));
});
