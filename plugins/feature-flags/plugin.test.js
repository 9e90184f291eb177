import { assert, plugin, test } from 'edgeway:test';

const URL_OF_FLAGS = 'https://flags.test/flags.json';
const loaded = (answers, config = {}) => plugin({ config: { url: URL_OF_FLAGS, ...config }, fetch: { [URL_OF_FLAGS]: answers } });
const ask = (cookie) => new Request('https://shop.test/', { headers: cookie ? { cookie } : {} });
const flags = (done) => JSON.parse(done.request.headers.get('x-flags'));

test('the backend is told what is on', async () => {
  const { onRequest, onCacheKey } = loaded({ json: { search: true, old: false, colour: 'rot', ü: true } });
  const done = await onRequest(ask());
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

test('they are fetched once in a while', async () => {
  const { onRequest } = loaded([{ json: { a: true } }, { json: { b: true } }]);
  await onRequest(ask());
  assert.deepEqual(flags(await onRequest(ask())), { a: true });
  const impatient = loaded([{ json: { a: true } }, { json: { b: true } }], { refresh: 0 });
  await impatient.onRequest(ask());
  assert.deepEqual(flags(await impatient.onRequest(ask())), { b: true });
});

test('what was good last holds, whatever the service says', async () => {
  for (const bad of [{ error: 'gone' }, { status: 500, body: 'no' }, { body: '<html>' }, { json: [1] }, { json: { a: 7 } }, { json: { a: { percent: 101 } } }]) {
    const { onRequest } = loaded([{ json: { a: true } }, bad], { refresh: 0, retry: 60 });
    await onRequest(ask());
    const done = await onRequest(ask());
    assert.deepEqual(flags(done), { a: true }, JSON.stringify(bad));
    assert.match(done.console[0].text, /cannot be fetched/);
    // And it is left alone for a while.
    assert.deepEqual((await onRequest(ask())).console, []);
  }
});

test('with nothing at all there are those of the configuration', async () => {
  const { onRequest } = loaded({ error: 'gone' }, { fallback: { safe: true } });
  assert.deepEqual(flags(await onRequest(ask())), { safe: true });
});

test('a share of visitors, each always the same', async () => {
  const { onRequest } = loaded({ json: { beta: { percent: 30 }, all: { percent: 100 }, none: { percent: 0 } } });
  const first = await onRequest(ask());
  const cookie = first.headers.get('set-cookie').split(';')[0];
  assert.match(first.headers.get('set-cookie'), /^visitor=[0-9a-f-]{36}; Path=\/; Expires=[\w, :]+ GMT; Max-Age=31536000; Secure; HttpOnly; SameSite=lax$/);
  const again = await onRequest(ask(cookie));
  assert.deepEqual(flags(again), flags(first));
  assert.equal(again.headers.get('set-cookie'), null);
  let on = 0;
  for (let visitor = 0; visitor < 1000; visitor += 1) {
    const told = flags(await onRequest(ask(`visitor=v${visitor}`)));
    assert.ok(told.all && !told.none);
    on += told.beta ? 1 : 0;
  }
  // 300 are expected; 100 away is more than six standard deviations.
  assert.ok(Math.abs(on - 300) < 100, String(on));
});

test('a user has the same flags everywhere', async () => {
  const { onRequest } = loaded({ json: { beta: { percent: 50 } } });
  const context = { jwt: { sub: 'ann' } };
  const [one, other] = [await onRequest(ask(), context), await onRequest(ask('visitor=x'), context)];
  assert.deepEqual(flags(one), flags(other));
  assert.equal(one.headers.get('set-cookie'), null);
});

test('a configuration that says nothing is refused', () => {
  assert.throws(() => plugin(), /url/);
  assert.throws(() => loaded({ json: {} }, { fallback: { a: 1 } }));
});
