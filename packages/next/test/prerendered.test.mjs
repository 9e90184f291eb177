// Pages of `next build`, in a folder as Next.js writes it, read by a class like that of Next.js.

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';

import { EdgewayCacheHandler } from '../dist/cache-handler.js';
import { openStore, page, Redis } from './support.mjs';

// As in Next.js, reading has errors of its own for what is not there.
const READER = `exports.default = class {
  constructor({ fs, serverDistDir, flushToDisk }) {
    if (flushToDisk) throw new Error('the build must not be changed');
    this.entries = JSON.parse(fs.readFileSync(serverDistDir + '/entries.json', 'utf8'));
  }
  async get(key) {
    const { segments, ...value } = this.entries[key];
    return { value: { ...value, segmentData: new Map(segments ?? []) }, lastModified: 5 };
  }
};`;

const STATE = '4:nulleJxTheResultsOfTheBuild';
const shell = { kind: 'APP_PAGE', html: '', postponed: STATE, status: 200,
  headers: { link: '<a.css>', 'x-next-cache-tags': '_N_T_/layout' }, segments: [['/_tree', 'tree'], ['/_full', 'content']] };
const ENTRIES = {
  '/a/[id]': shell,
  '/b/[id]': { ...shell, html: '<p>content</p>' },
  '/c/[id]': { ...shell, postponed: 'of another version' },
  '/page': { kind: 'APP_PAGE', html: 'built', headers: { 'x-next-cache-tags': 't,_N_T_/page' } },
  '/part': { kind: 'APP_PAGE', html: 'built', postponed: STATE, headers: { 'x-next-cache-tags': 't' } },
};

let redis;
let folder;
let stores = [];
before(async () => {
  redis = await Redis.start();
  folder = mkdtempSync(join(tmpdir(), 'edgeway-next-'));
  const module = join(folder, 'node_modules/next/dist/server/lib/incremental-cache');
  mkdirSync(module, { recursive: true });
  writeFileSync(join(module, 'file-system-cache.js'), READER);
  writeFileSync(join(folder, 'node_modules/next/package.json'), '{ "name": "next" }');
  mkdirSync(join(folder, '.next/server'), { recursive: true });
  writeFileSync(join(folder, '.next/server/entries.json'), JSON.stringify(ENTRIES));
});
afterEach(() => stores.splice(0).forEach((store) => store.close()));
after(async () => {
  rmSync(folder, { recursive: true });
  await redis.kill();
});

async function reading(url) {
  const store = await openStore(url);
  stores.push(store);
  const fs = await import('node:fs');
  const read = (key, isFallback = false) =>
    new EdgewayCacheHandler({ fs, serverDistDir: join(folder, '.next/server') }, store).get(key, { kind: 'APP_PAGE', isFallback });
  return { store, read };
}

test('with redis, only shells without content come from the build, and nothing that was made there', async () => {
  const { store, read } = await reading(redis.url);
  const { value, cacheControl } = await read('/a/[id]', true);
  assert.deepEqual(value, { kind: 'APP_PAGE', html: '', postponed: '4:nullnull', status: 200,
    headers: { link: '<a.css>' }, segmentData: new Map([['/_tree', 'tree']]) });
  assert.deepEqual(cacheControl, { revalidate: false });
  for (const key of ['/b/[id]', '/c/[id]', '/none/[id]']) assert.equal(await read(key, true), null, key);
  for (const key of ['/a/[id]', '/page', '/part', '/none']) assert.equal(await read(key), null, key);
  await store.revalidate(['_N_T_/layout']);
  assert.equal((await read('/a/[id]', true)).value.html, '', 'there is nothing in it that could be outdated');
  assert.equal(await read('/page'), null);
  redis.hang();
  try {
    assert.equal(await read('/page'), null, 'others may have revalidated it');
  } finally {
    redis.goOn();
  }
});

test('without redis, whole pages come from the build until this process revalidates one of their tags', async () => {
  const { store, read } = await reading(undefined);
  assert.equal((await read('/page')).value.html, 'built');
  assert.equal(await read('/part'), null, 'it may hold results whose tags nobody names');
  assert.equal(await read('/none'), null);
  await store.revalidate(['other']);
  assert.equal((await read('/page')).value.html, 'built');
  await store.revalidate(['t']);
  assert.equal(await read('/page'), null);
  const { store: next, read: readNext } = await reading(undefined);
  await new EdgewayCacheHandler({}, next).set('/page', page('newer', ['t']), {});
  assert.equal((await readNext('/page')).value.html, 'newer');
});

test('nothing comes from a build that is being made', async () => {
  process.env.NEXT_PHASE = 'phase-production-build';
  try {
    const { read } = await reading(undefined);
    assert.equal(await read('/page'), null);
    assert.equal(await read('/a/[id]', true), null);
  } finally {
    delete process.env.NEXT_PHASE;
  }
});
