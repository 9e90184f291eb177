import { assert, plugin, test } from 'edgeway:test';

const requestWith = (headers = {}) => new Request('https://shop.test/', { headers });
const roles = { headers: { 'x-user-id': 'sub', 'x-roles': 'realm_access.roles' } };

test('claims become headers, by name and by path', async () => {
  const { onRequest } = plugin({ config: roles });
  const jwt = { sub: 'ann', realm_access: { roles: ['admin', 'editor'] } };
  const done = await onRequest(requestWith(), { jwt });
  assert.equal(done.response, undefined);
  assert.equal(done.request.headers.get('x-user-id'), 'ann');
  assert.equal(done.request.headers.get('x-roles'), 'admin,editor');
});

test('headers of clients are removed, with a token and without', async () => {
  const { onRequest } = plugin({ config: roles });
  for (const jwt of [undefined, {}, { sub: null, realm_access: 'admin' }]) {
    const done = await onRequest(requestWith({ 'x-user-id': 'root', 'X-Roles': 'admin' }), { jwt });
    assert.equal(done.request.headers.get('x-user-id'), null);
    assert.equal(done.request.headers.get('x-roles'), null);
  }
});

test('a value that a reader would split is left out', async () => {
  const { onRequest } = plugin({ config: roles });
  const jwt = { sub: 'a\r\nx-admin: 1', realm_access: { roles: ['user,admin', 'editor', { a: 1 }, ' '] } };
  const { request } = await onRequest(requestWith(), { jwt });
  assert.equal(request.headers.get('x-user-id'), null);
  assert.equal(request.headers.get('x-roles'), 'editor');
});

test('a claim whose name has dots takes precedence over a path, and nothing is inherited', async () => {
  const { onRequest } = plugin({ config: { headers: { 'x-a': 'https://a.test/role', 'x-b': 'constructor.name' } } });
  const { request } = await onRequest(requestWith(), { jwt: { 'https://a.test/role': 7, 'https://a': { 'test/role': 8 } } });
  assert.equal(request.headers.get('x-a'), '7');
  assert.equal(request.headers.get('x-b'), null);
});

test('non-ASCII values are sent as UTF-8', async () => {
  const { onRequest } = plugin();
  const { request } = await onRequest(requestWith(), { jwt: { sub: 'ü' } });
  assert.equal(request.headers.get('x-user-id'), '\u00c3\u00bc');
});

test('a required claim must have an accepted value', async () => {
  const { onRequest } = plugin({ config: { require: { role: ['admin', 'owner'] } } });
  const status = async (jwt) => (await onRequest(requestWith(), { jwt })).response?.status;
  assert.equal(await status({ role: 'owner' }), undefined);
  assert.equal(await status({ role: ['guest', 'admin'] }), undefined);
  assert.equal(await status({ role: 'guest' }), 403);
  assert.equal(await status({}), 403);
  assert.equal(await status(undefined), 401);
});

test('requests without a token can be refused', async () => {
  const { onRequest } = plugin({ config: { anonymous: 'refuse' } });
  const { response } = await onRequest(requestWith());
  assert.equal(response.status, 401);
  assert.equal(response.headers.get('www-authenticate'), 'Bearer');
});
