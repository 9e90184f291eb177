import { assert, plugin, test } from 'edgeway:test';

const BROWSER = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0';
const by = (agent, headers = {}) => new Request('https://shop.test/', { headers: agent === undefined ? headers : { ...headers, 'user-agent': agent } });

test('browsers and search engines pass', async () => {
  const { onRequest } = plugin();
  for (const agent of [BROWSER, 'Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)', undefined, '']) {
    const done = await onRequest(by(agent));
    assert.equal(done.response, undefined, agent);
  }
});

test('scanners and crawlers are refused', async () => {
  const { onRequest } = plugin();
  for (const agent of ['sqlmap/1.8', 'Mozilla/5.0 (compatible; AhrefsBot/7.0)', 'Scrapy/2.11 (+https://scrapy.org)', `${BROWSER} Bytespider`]) {
    const { response } = await onRequest(by(agent));
    assert.equal(response?.status, 403, agent);
    assert.equal(response.headers.get('cache-control'), 'no-store');
  }
});

test('configured lists replace the defaults, and `allow` takes precedence', async () => {
  const { onRequest } = plugin({ config: { deny: ['^curl/', 'monitor'], allow: ['our-monitor/\\d+'], status: 429 } });
  assert.equal((await onRequest(by('curl/8.5.0'))).response.status, 429);
  assert.equal((await onRequest(by('a Monitor'))).response.status, 429);
  assert.equal((await onRequest(by('our-monitor/2'))).response, undefined);
  assert.equal((await onRequest(by('sqlmap/1.8'))).response, undefined);
});

test('clients without a User-Agent are refused if configured', async () => {
  const { onRequest } = plugin({ config: { empty: 'refuse' } });
  assert.equal((await onRequest(by(undefined))).response.status, 403);
  assert.equal((await onRequest(by(' '))).response.status, 403);
  assert.equal((await onRequest(by(BROWSER))).response, undefined);
});

test('`mark` admits clients and reports the match to the backend', async () => {
  const { onRequest } = plugin({ config: { action: 'mark', empty: 'refuse' } });
  const bot = await onRequest(by('Nikto/2.5'));
  assert.equal(bot.response, undefined);
  assert.equal(bot.request.headers.get('x-bot'), 'nikto');
  assert.equal((await onRequest(by(''))).request.headers.get('x-bot'), 'unnamed');
  // The header of the client is removed.
  const forged = await onRequest(by(BROWSER, { 'x-bot': 'googlebot' }));
  assert.equal(forged.request.headers.get('x-bot'), null);
});

test('a long User-Agent costs little', async () => {
  const { onRequest } = plugin();
  assert.equal((await onRequest(by('a'.repeat(8000)))).response, undefined);
});

test('an unknown action is refused', async () => {
  assert.throws(() => plugin({ config: { action: 'drop' } }), /action/);
});
