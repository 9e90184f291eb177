import { assert, plugin, test } from 'edgeway:test';

const germany = { country: 'DE', city: 'Köln', region: 'NW', latitude: 50.9, timezone: 'Europe/Berlin' };
const visit = (path = '/', headers = {}) => new Request(`https://shop.test${path}`, { headers });

test('the backend gets the country', async () => {
  const { onRequest } = plugin();
  const { request } = await onRequest(visit(), { geo: germany });
  assert.equal(request.headers.get('x-country'), 'DE');
});

test('an unknown country is reported as such, and clients cannot send the header', async () => {
  const { onRequest } = plugin();
  for (const geo of [undefined, {}]) {
    const { request } = await onRequest(visit('/', { 'x-country': 'DE' }), { geo });
    assert.equal(request.headers.get('x-country'), 'XX');
  }
});

test('configured headers replace the default', async () => {
  const { onRequest } = plugin({ config: { headers: { 'x-city': 'city', 'x-lat': 'latitude', 'x-tz': 'timezone' } } });
  const { request } = await onRequest(visit(), { geo: germany });
  assert.equal(request.headers.get('x-city'), 'K%C3%B6ln');
  assert.equal(request.headers.get('x-lat'), '50.9');
  assert.equal(request.headers.get('x-tz'), 'Europe/Berlin');
  assert.equal(request.headers.get('x-country'), null);
});

test('the front page redirects to the pages of a country', async () => {
  const { onRequest } = plugin({ config: { redirect: { DE: '/de/' } } });
  const { response } = await onRequest(visit('/?a=b'), { geo: germany });
  assert.equal(response.status, 307);
  assert.equal(response.headers.get('location'), '/de/?a=b');
  assert.equal(response.headers.get('cache-control'), 'private, no-store');
  for (const [path, headers, geo] of [
    ['/shop', {}, germany],
    ['/', { cookie: 'locale=en' }, germany],
    ['/', {}, { country: 'FR' }],
    ['/', {}, undefined],
    ['/', {}, { country: 'toString' }],
  ]) {
    assert.equal((await onRequest(visit(path, headers), { geo })).response, undefined, `${path} ${geo?.country}`);
  }
});

test('redirects to other sites and unknown values are refused', () => {
  for (const config of [{ redirect: { DE: '//evil.test' } }, { redirect: { DE: 'https://evil.test/' } }, { headers: { 'x-a': 'planet' } }]) {
    assert.throws(() => plugin({ config }));
  }
});
