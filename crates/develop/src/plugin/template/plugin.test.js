import { assert, plugin, test } from 'edgeway:test';

const { onRequest, onResponse } = plugin({ config: { greeting: 'good day' } });

test('it greets', async () => {
  const { response } = await onRequest(new Request('https://shop.test/hello'), { ip: '192.0.2.7' });
  assert.equal(response.status, 200);
  assert.equal(await response.text(), 'good day, 192.0.2.7\n');
});

test('other requests go on with a mark', async () => {
  const done = await onRequest(new Request('https://shop.test/'));
  assert.equal(done.response, undefined);
  assert.equal(done.request.headers.get('x-plugin'), 'NAME');
});

test('responses are marked', async () => {
  const done = await onResponse(new Response('hi'));
  assert.equal(done.headers.get('x-plugin'), 'NAME');
});
