import { assert, plugin, test } from 'edgeway:test';
import { sign } from './token.js';

const SECRET = 'a secret of 32 characters or more';
const OTHER = 'another secret, for when it changes';
const { onRequest } = plugin({ config: { secrets: [SECRET] } });
const at = (path, cookie) => onRequest(new Request(`https://video.test${path}`, { headers: cookie ? { cookie } : {} }));
const refusal = async (done, status = 401) => {
  assert.equal(done.response?.status, status);
  assert.equal(done.response.headers.get('cache-control'), 'no-store');
  return (await done.response.json()).error;
};

test('a playlist and its segments pass with one token, below its folder', async () => {
  const token = await sign(SECRET, '/watch/42/');
  for (const path of ['/watch/42/index.m3u8', '/watch/42/720p/segment-1.ts?part=2']) {
    const separator = path.includes('?') ? '&' : '?';
    const done = await at(`${path}${separator}token=${token}`);
    assert.equal(done.response, undefined);
    assert.equal(done.rewrite, `https://video.test${path}`);
  }
  const done = await at(`/watch/42/a?x=%20+%C3%BC&token=${token}&y`);
  assert.equal(done.rewrite, 'https://video.test/watch/42/a?x=%20+%C3%BC&y');
  for (const path of ['/watch/43/index.m3u8', '/watch/42', '/watch/', '/', '/watch/421/x', '/x/watch/42/y']) {
    assert.equal(await refusal(await at(`${path}?token=${token}`)), 'token_invalid', path);
  }
});

test('a token in the path is kept by relative URLs', async () => {
  const token = await sign(SECRET, '/watch/42/');
  const playlist = new URL(`https://video.test/watch/42/~${token}/index.m3u8`);
  const segment = new URL('720p/segment-1.ts', playlist);
  const done = await at(segment.pathname);
  assert.equal(done.rewrite, 'https://video.test/watch/42/720p/segment-1.ts');
  assert.equal(done.headers.get('set-cookie'), null);
  // A relative URL that leaves the folder loses the token.
  const outside = new URL('../../../43/segment-1.ts', segment);
  assert.equal(outside.pathname, '/watch/43/segment-1.ts');
  assert.equal(await refusal(await at(outside.pathname)), 'token_missing');
  assert.equal(await refusal(await at(`/watch/43/~${token}/segment-1.ts`)), 'token_invalid');
});

test('a token in the parameter is stored in a cookie for the folder', async () => {
  const token = await sign(SECRET, '/watch/42/', 60);
  const first = await at(`/watch/42/index.m3u8?token=${token}`);
  assert.match(first.headers.get('set-cookie'), /^playback=\d+\.2\.[\w-]+; Path=\/watch\/42\/; Expires=[\w, :]+ GMT; Max-Age=(59|60); Secure; HttpOnly; SameSite=lax$/);
  const next = await at('/watch/42/segment-1.ts', `playback=${token}`);
  assert.equal(next.response, undefined);
  assert.equal(next.rewrite, undefined);
  assert.equal(await refusal(await at('/watch/43/segment-1.ts', `playback=${token}`)), 'token_invalid');
});

test('a token expires', async () => {
  const good = await sign(SECRET, '/watch/42/', 90, Date.now() - 85_000);
  assert.equal((await at(`/watch/42/a?token=${good}`)).response, undefined);
  const late = await sign(SECRET, '/watch/42/', 90, Date.now() - 91_000);
  assert.equal(await refusal(await at(`/watch/42/a?token=${late}`)), 'token_expired');
  const lenient = plugin({ config: { secrets: [SECRET], leeway: 5 } });
  assert.equal((await lenient.onRequest(`https://video.test/watch/42/a?token=${late}`)).response, undefined);
});

test('a token that is valid for too long is refused', async () => {
  const token = await sign(SECRET, '/watch/42/', 3600);
  assert.equal(await refusal(await at(`/watch/42/a?token=${token}`)), 'token_invalid');
});

test('missing and forged tokens are refused', async () => {
  assert.equal(await refusal(await at('/watch/42/a')), 'token_missing');
  assert.equal(await refusal(await at('/watch/42/a?token=')), 'token_missing');
  const token = await sign(SECRET, '/watch/42/');
  const [expires, depth, signature] = token.split('.');
  const flipped = signature.startsWith('A') ? `B${signature.slice(1)}` : `A${signature.slice(1)}`;
  for (const forged of [
    'x', `${expires}.${depth}`, `${Number(expires) + 1}.${depth}.${signature}`, `${expires}.1.${signature}`, `${expires}.0.${signature}`,
    `${expires}.99.${signature}`, `${expires}.${depth}.${flipped}`, `${token}A`, await sign(OTHER, '/watch/42/'),
  ]) {
    assert.equal(await refusal(await at(`/watch/42/a?token=${forged}`)), 'token_invalid', forged);
  }
});

test('an encoded slash does not leave the folder', async () => {
  const token = await sign(SECRET, '/watch/42/');
  for (const path of ['/watch/42/x%2F..%2F..%2F43/a', '/watch/42/%5c../a']) {
    assert.equal(await refusal(await at(`${path}?token=${token}`), 400), 'path_invalid', path);
  }
  assert.equal(await refusal(await at(`/watch/42/../43/a?token=${token}`)), 'token_invalid');
});

test('two secrets are valid while one replaces the other', async () => {
  const both = plugin({ config: { secrets: [OTHER, SECRET] } });
  for (const secret of [SECRET, OTHER]) {
    const done = await both.onRequest(`https://video.test/watch/42/a?token=${await sign(secret, '/watch/42/')}`);
    assert.equal(done.response, undefined);
  }
});

test('secrets can come from the environment', async () => {
  const { onRequest } = plugin({ config: { secrets_from: ['PLAYBACK'] }, env: { PLAYBACK: OTHER } });
  const done = await onRequest(`https://video.test/watch/42/a?token=${await sign(OTHER, '/watch/42/')}`);
  assert.equal(done.response, undefined);
  const unset = plugin({ config: { secrets_from: ['PLAYBACK'] } });
  await assert.rejects(unset.onRequest('https://video.test/'), /32 characters/);
});

test('short secrets are refused, and the message does not contain them', async () => {
  for (const secrets of [['short'], [SECRET, 'short']]) {
    assert.throws(() => plugin({ config: { secrets } }), (error) => /`config.secrets/.test(error.message) && !/short'/.test(error.message));
  }
  assert.throws(() => plugin(), /`secrets` is missing, or `secrets_from` is missing/);
  await assert.rejects(plugin({ config: { secrets: [] } }).onRequest('https://video.test/'), /32 characters/);
});

test('only a folder can be signed', () => assert.rejects(sign(SECRET, '/watch/42'), TypeError));
