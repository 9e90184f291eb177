import { assert, plugin, test } from 'edgeway:test';
import { bytes, networks } from './address.js';

const HTML = { headers: { accept: 'text/html,*/*;q=0.8' } };

test('without maintenance, all clients pass', async () => {
  const { onRequest } = plugin();
  assert.equal((await onRequest('https://shop.test/')).response, undefined);
});

test('during maintenance, browsers get a page and other clients JSON', async () => {
  const { onRequest } = plugin({ config: { on: true, retry_after: 120, title: 'A <b>', message: 'x & y' } });
  const page = (await onRequest(new Request('https://shop.test/', HTML))).response;
  assert.equal(page.status, 503);
  assert.equal(page.headers.get('retry-after'), '120');
  assert.equal(page.headers.get('cache-control'), 'no-store');
  assert.match(page.headers.get('content-type'), /^text\/html/);
  const text = await page.text();
  assert.ok(text.includes('A &#60;b&#62;') && text.includes('x &#38; y') && !text.includes('<b>'), text);
  const json = (await onRequest('https://shop.test/api')).response;
  assert.equal(json.status, 503);
  assert.deepEqual(await json.json(), { error: 'maintenance', message: 'x & y' });
});

test('clients in `bypass` pass', async () => {
  const { onRequest } = plugin({ config: { on: true, bypass: ['192.0.2.0/24', '2001:db8::/32', '198.51.100.7'] } });
  for (const ip of ['192.0.2.200', '2001:db8:1::9', '198.51.100.7', '::ffff:192.0.2.1']) {
    assert.equal((await onRequest('https://shop.test/', { ip })).response, undefined, ip);
  }
  for (const ip of ['192.0.3.1', '2001:db9::', '198.51.100.8', '::1', '']) {
    assert.equal((await onRequest('https://shop.test/', { ip })).response?.status, 503, ip);
  }
});

test('open paths pass: single ones, or all below a folder', async () => {
  const { onRequest } = plugin({ config: { on: true, open: ['/health', '/status/'] } });
  for (const path of ['/health', '/health?x', '/status/', '/status/a']) {
    assert.equal((await onRequest(`https://shop.test${path}`)).response, undefined, path);
  }
  for (const path of ['/healthy', '/health/x', '/status', '/', '/status/../x']) {
    assert.equal((await onRequest(`https://shop.test${path}`)).response?.status, 503, path);
  }
});

test('addresses are parsed', () => {
  assert.deepEqual(bytes('1.2.3.4'), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4]);
  assert.deepEqual(bytes('::'), Array(16).fill(0));
  assert.deepEqual(bytes('fe80::1:2'), [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);
  assert.deepEqual(bytes('::ffff:1.2.3.4'), bytes('1.2.3.4'));
  for (const text of ['', '1.2.3', '1.2.3.256', '1.2.3.4.5', ':::', '1::2::3', 'g::', '1:2:3:4:5:6:7', '1:2:3:4:5:6:7:8:9', '::12345', '::1.2.3']) {
    assert.equal(bytes(text), undefined, text);
  }
});

test('invalid networks are refused', () => {
  for (const text of ['10.0.0.0/33', '10.0.0.0/', '10.0.0.0/8/8', 'fd00::/129', 'home', '10.0.0.0/-1']) {
    assert.throws(() => networks([text]), /invalid network/, text);
  }
  assert.ok(networks(['0.0.0.0/0'])('9.9.9.9'));
  assert.ok(!networks(['0.0.0.0/0'])('fd00::1'));
  assert.ok(networks(['::/0'])('9.9.9.9'));
});
