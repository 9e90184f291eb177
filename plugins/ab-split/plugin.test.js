import { assert, plugin, test } from 'edgeway:test';

const visit = (cookie) => new Request('https://shop.test/', { headers: cookie ? { cookie } : {} });

test('a new visitor gets a variant and a cookie', async () => {
  const { onRequest } = plugin({ config: { variants: { a: 0, b: 1 } } });
  const done = await onRequest(visit());
  assert.equal(done.response, undefined);
  assert.equal(done.request.headers.get('x-variant'), 'b');
  assert.match(done.headers.get('set-cookie'), /^ab=b; Path=\/; Expires=[\w, :]+ GMT; Max-Age=2592000; Secure; SameSite=lax$/);
});

test('a visitor with a variant keeps it', async () => {
  const { onRequest } = plugin({ config: { variants: { a: 1, b: 99 } } });
  const done = await onRequest(visit('theme=dark; ab=a'));
  assert.equal(done.request.headers.get('x-variant'), 'a');
  assert.equal(done.headers.get('set-cookie'), null);
});

test('an ended or unknown variant is replaced', async () => {
  const { onRequest } = plugin({ config: { variants: { a: 1, b: 0 } } });
  for (const cookie of ['ab=b', 'ab=c', 'ab=', 'ab=toString']) {
    const done = await onRequest(visit(cookie));
    assert.equal(done.request.headers.get('x-variant'), 'a', cookie);
    assert.ok(done.headers.has('set-cookie'), cookie);
  }
});

test('variants are chosen by weight', async () => {
  const { onRequest } = plugin({ config: { variants: { a: 3, b: 1 } } });
  const seen = { a: 0, b: 0 };
  for (let count = 0; count < 1000; count += 1) {
    const done = await onRequest(visit());
    seen[done.request.headers.get('x-variant')] += 1;
  }
  // 750 are expected; a difference of 100 is more than seven standard deviations.
  assert.ok(Math.abs(seen.a - 750) < 100, JSON.stringify(seen));
});

test('clients cannot send the header', async () => {
  const { onRequest } = plugin({ config: { variants: { a: 1 }, header: 'x-ab' } });
  const done = await onRequest(new Request('https://shop.test/', { headers: { 'x-ab': 'z' } }));
  assert.equal(done.request.headers.get('x-ab'), 'a');
});

test('the cache stores a response for each variant, and Vary informs other caches', async () => {
  const { onRequest, onCacheKey, onResponse } = plugin({ config: { variants: { a: 1, b: 1 } } });
  const { request } = await onRequest(visit('ab=b'));
  assert.equal((await onCacheKey(request)).value, 'b');
  const done = await onResponse(new Response('', { headers: { vary: 'Accept-Encoding' } }));
  assert.equal(done.headers.get('vary'), 'Accept-Encoding, Cookie');
});

test('weights without one above 0 are refused', async () => {
  const { onRequest } = plugin({ config: { variants: { a: 0 } } });
  await assert.rejects(onRequest(visit()), /weight of 0 or more for each/);
});
