import { assert, plugin, test } from 'edgeway:test';

// SHA-256 of `ek_acme` and `ek_globex`: real keys are 256 random bits (`edgeway hash api-key`).
const hash = async (key) => {
  const bytes = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(key)));
  return `sha256:${[...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`;
};
const loaded = async () =>
  plugin({
    config: {
      keys: [
        { name: 'acme', hash: await hash('ek_acme'), plan: 'gold' },
        { name: 'globex', hash: (await hash('ek_globex')).toUpperCase().replace('SHA256', 'sha256'), methods: ['GET', 'HEAD'] },
      ],
    },
  });
const requestWith = (headers, method = 'GET') => new Request('https://api.test/items', { method, headers });

test('a valid key is admitted, and the backend gets its name', async () => {
  const { onRequest } = await loaded();
  const done = await onRequest(requestWith({ 'x-api-key': 'ek_acme' }));
  assert.equal(done.response, undefined);
  assert.equal(done.request.headers.get('x-client'), 'acme');
  assert.equal(done.request.headers.get('x-plan'), 'gold');
  assert.equal(done.request.headers.get('x-api-key'), null);
});

test('a missing key and an unknown key get different errors', async () => {
  const { onRequest } = await loaded();
  for (const [headers, error] of [
    [{}, 'api_key_missing'],
    [{ 'x-api-key': '' }, 'api_key_invalid'],
    [{ 'x-api-key': 'ek_acm' }, 'api_key_invalid'],
    [{ 'x-api-key': 'ek_acme, ek_globex' }, 'api_key_invalid'],
    [{ 'x-client': 'acme' }, 'api_key_missing'],
  ]) {
    const { response } = await onRequest(requestWith(headers));
    assert.equal(response.status, 401);
    assert.equal(response.headers.get('www-authenticate'), 'ApiKey');
    assert.deepEqual(await response.json(), { error });
  }
});

test('a key can be limited to some methods', async () => {
  const { onRequest } = await loaded();
  const read = await onRequest(requestWith({ 'x-api-key': 'ek_globex', 'x-plan': 'gold' }));
  assert.equal(read.response, undefined);
  // This key has no plan, and the client's header is removed.
  assert.equal(read.request.headers.get('x-plan'), null);
  const write = await onRequest(requestWith({ 'x-api-key': 'ek_globex' }, 'POST'));
  assert.equal(write.response.status, 403);
});

test('a key instead of a hash is refused, and the message does not contain it', () => {
  const config = { keys: [{ name: 'acme', hash: 'ek_acme' }] };
  assert.throws(() => plugin({ config }), (error) => /`config.keys\[0\].hash` does not match/.test(error.message) && !/ek_acme/.test(error.message));
});
