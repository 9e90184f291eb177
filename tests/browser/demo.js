// Checks the page of `edgeway demo` with a real browser. `tests/it/first_minute/demo.rs` passes
// `demo`, its URL.
//
// It prints `{"passed": [names], "failed": [{"check", "why", "console"}]}`.
import assert from 'node:assert/strict';

import { legibility, runAll, shot, violations, visit } from './bench.js';

const { demo } = JSON.parse(process.argv[2]);

/** The one failure that a tile announces. */
const isAnnounced = ({ status, path }) => status === 429 && path === '/limited';

/**
 * Opens a page of the demonstration. `failures` are responses of 400 and above, and requests without
 * one; errors in the console of those that are announced are left out of `problems`. Nothing moves
 * unless `options` say so: motion takes as much CPU as all else.
 */
async function open(path = '/', options = {}, prepare = async () => {}) {
  const failures = [];
  const announced = [];
  const visited = await visit(demo + path, { reducedMotion: 'reduce', ...options }, async (page) => {
    page.on('response', (response) => {
      const failure = { status: response.status(), path: new URL(response.url()).pathname };
      if (failure.status >= 400) (isAnnounced(failure) ? announced : failures).push(failure);
    });
    page.on('requestfailed', (request) => {
      const why = request.failure()?.errorText;
      // A stream that the page itself ends.
      if (why !== 'net::ERR_ABORTED') failures.push({ status: why, path: new URL(request.url()).pathname });
    });
    await prepare(page);
  });
  const problems = () => visited.problems.filter((line) => !(line.includes('429') && line.includes('/limited')));
  return { ...visited, problems, failures, announced };
}

/** Presses a button, and waits until what it does is over. */
async function press(page, id) {
  await page.click(`#${id}`);
  await page.waitForFunction((id) => !document.getElementById(id).disabled, id, { timeout: 90_000 });
}

const text = (page, selector) => page.textContent(selector);

/** Presses all buttons of the tiles. */
async function pressAll(page) {
  for (const id of ['try-cache', 'try-cache', 'try-limit', 'try-split', 'try-same', 'try-headers', 'try-explain']) await press(page, id);
}

/** Records which places of the picture light up with a word, and how many dots there were. */
const watch = (page) =>
  page.evaluate(() => {
    window.seen = { words: [], dots: 0 };
    new MutationObserver((changes) => {
      for (const { target, addedNodes } of changes) {
        if (target.id === 'dots') window.seen.dots += addedNodes.length;
        if (target.classList?.contains('is-up')) window.seen.words.push(`${target.parentElement.id.slice(5)} ${target.textContent}`);
      }
    }).observe(document.getElementById('way'), { subtree: true, childList: true, attributes: true, attributeFilter: ['class'] });
  });

const statusFrame = async (page) => {
  await page.locator('#status-frame').scrollIntoViewIfNeeded();
  const frame = await (await page.waitForSelector('#status-frame')).contentFrame();
  await frame.waitForSelector('#live:has-text("live")');
  return frame;
};

const checks = {
  async 'every link leads to a page, and nothing on the page fails'() {
    const { page, problems, failures, leave } = await open();
    await statusFrame(page);
    const links = await page.$$eval('a[href]', (all) => all.map((link) => link.href));
    assert.ok(links.length >= 8, links.join());
    for (const link of new Set(links)) {
      const url = new URL(link);
      if (url.origin !== demo) {
        assert.equal(url.protocol, 'https:', link);
        continue;
      }
      if (url.hash) assert.equal(await page.locator(url.hash).count(), 1, link);
      const other = await open(url.pathname);
      assert.equal(other.response.status(), 200, link);
      assert.deepEqual([...other.failures, ...other.problems()], [], link);
      await other.leave();
    }
    assert.deepEqual([...failures, ...problems()], []);
    await leave();
  },

  async 'every button does what its tile says'() {
    const { page, problems, failures, announced, leave } = await open();
    const pressed = new Set();
    const push = async (id) => {
      pressed.add(id);
      await press(page, id);
    };
    await push('try-cache');
    await push('try-cache');
    const time = async (id) => parseFloat(await text(page, `#${id} .ms`));
    assert.match(await text(page, '#race-app b'), /MISS|EXPIRED/);
    assert.equal(await text(page, '#race-cache b'), 'HIT');
    const times = [await time('race-app'), await time('race-cache')];
    assert.ok(times[0] >= 500 && times[1] < times[0], times.join());

    await push('try-limit');
    assert.equal(await text(page, '#limit-chips'), '200200200429');
    const left = (await text(page, '#limit-wait')).match(/in (\d+) s/)?.[1];
    // On a busy machine the time may be over by now.
    assert.ok(left === undefined || (left >= 1 && left <= 6), left);
    await page.waitForFunction(() => document.getElementById('limit-wait').textContent.includes('may come now'));

    await push('try-split');
    assert.match(await text(page, '#split-chips'), /^[AB]{8}$/);
    await push('try-same');
    assert.match(await text(page, '#split-chips'), /^(A{8}|B{8})$/);

    await push('try-headers');
    assert.ok((await page.locator('#headers dt').count()) >= 10);
    await push('try-explain');
    assert.match(await text(page, '#explained'), /route\/stock.*security_headers/);
    assert.equal(await page.locator('#explained dt:text-is("route") + dd').textContent(), '/stock');

    await push('try-stop');
    assert.match(await text(page, '#stop-says'), /back in rotation: \d+ requests, 0 failed/);
    const [sent, failed, ...by] = await Promise.all(['sent', 'failed', '1', '2'].map(async (id) => Number(await text(page, `#count-${id}`))));
    assert.equal(failed, 0);
    assert.ok(by[0] + by[1] === sent && by[0] >= 1 && by[1] >= 1, `${sent}: ${by}`);
    assert.equal(await page.locator('#ticks i').count(), sent);

    const all = await page.$$eval('[data-try]', (buttons) => buttons.map((button) => button.id));
    assert.deepEqual(all.sort(), [...pressed].sort());
    assert.equal(announced.length, 1);
    assert.deepEqual([...failures, ...problems()], []);
    await leave();
  },

  async 'each request is seen on its way to where it ends, and without motion too'() {
    for (const reducedMotion of ['no-preference', 'reduce']) {
      const { page, leave } = await open('/', { reducedMotion });
      await watch(page);
      await press(page, 'try-cache');
      await press(page, 'try-cache');
      await press(page, 'try-limit');
      await page.waitForFunction(() => window.seen.words.includes('limit 429'));
      await press(page, 'try-headers');
      await page.waitForFunction(() => window.seen.words.some((word) => /^shop-[12] 200$/.test(word)));
      const { words, dots } = await page.evaluate(() => window.seen);
      assert.ok(words.includes('cache HIT'), words.join());
      assert.equal(dots, reducedMotion === 'reduce' ? 0 : 7);
      // All have come back.
      await page.waitForFunction(() => document.querySelectorAll('#dots *').length === 0);
      const stopping = press(page, 'try-stop');
      await page.waitForSelector('#way.is-stopped');
      assert.equal(await text(page, '[data-served=shop-2]'), 'refuses');
      await stopping;
      assert.equal(await page.locator('#way.is-stopped').count(), 0);
      await leave();
    }
  },

  async 'every line is copied'() {
    const permissions = ['clipboard-read', 'clipboard-write'];
    const { page, problems, leave } = await open('/', { permissions });
    const lines = page.locator('[data-curl]');
    const count = await lines.count();
    assert.equal(count, 12);
    for (let at = 0; at < count; at += 1) {
      const line = lines.nth(at);
      await line.locator('xpath=..').locator('.copy').click();
      await page.waitForFunction(async (text) => (await navigator.clipboard.readText()) === text, await line.textContent());
    }
    assert.deepEqual(problems(), []);
    await leave();
  },

  async 'the status page below it is whole: style, script, icon, events and forms'() {
    const { page, problems, failures, leave } = await open();
    const frame = await statusFrame(page);
    const width = await frame.evaluate(() => getComputedStyle(document.body).maxWidth);
    assert.notEqual(width, 'none', 'it has its style');
    const icon = await frame.evaluate(async () => (await fetch(document.querySelector('link[rel=icon]').href)).headers.get('content-type'));
    assert.equal(icon, 'image/svg+xml');
    // A request that the page sends is among its events.
    await press(page, 'try-cache');
    await frame.locator('#requests tr', { hasText: '/product' }).first().waitFor();
    const said = async (form, button, words) => {
      await frame.evaluate(() => document.getElementById('notice').replaceChildren());
      await frame.click(`${form} ${button}`);
      await frame.waitForSelector(`#notice:has-text("${words}")`);
    };
    await frame.fill('form[action$=lookup] input[name=url]', `${demo}/product`);
    await said('form[action$=lookup]', 'button', 'cached');
    await frame.fill('form[action$=purge] input[name=value]', `${demo}/product`);
    await said('form[action$=purge]', 'button', 'Purged');
    await frame.fill('#explain input[name=url]', `${demo}/product`);
    await said('#explain', 'button', 'upstream pages');
    await frame.click('#tail summary');
    await frame.fill('form[data-tail] input[name=path]', '/product');
    await frame.click('form[data-tail] button');
    await frame.waitForFunction(() => [...document.querySelectorAll('#requests .target')].every((cell) => cell.textContent.includes('/product')));
    // One backend may leave, the last one of an upstream may not.
    const keys = await frame.$$eval('#upstreams button[data-key]', (all) => all.map((button) => button.dataset.key));
    assert.equal(keys.length, 7, keys.join());
    for (const key of keys) {
      const isOfTwo = /shop|pages/.test(key);
      await said('#upstreams', `button[data-key="${key}"]`, isOfTwo ? 'is now drained' : 'last');
      if (isOfTwo) await said('#upstreams', `button[data-key="${key.replace('drain', 'undrain')}"]`, 'is now');
    }
    assert.deepEqual([...failures, ...problems()], []);
    await leave();
  },

  async 'without script there are all texts, lines, settings and links'() {
    const { page, problems, failures, leave } = await open('/', { javaScriptEnabled: false });
    for (const [selector, count] of [['#way', 1], ['.tile h3', 6], ['[data-curl]', 12], ['[data-yaml]', 6], ['#smallest', 1], ['nav a', 3]]) {
      assert.equal(await page.locator(`${selector}:visible`).count(), count, selector);
    }
    for (const yaml of await page.locator('[data-yaml]').allTextContents()) assert.match(yaml, /\w+:/);
    // A button that nothing happens at.
    assert.equal(await page.locator('button:visible').count(), 0);
    await page.locator('#status-frame').scrollIntoViewIfNeeded();
    await page.frameLocator('#status-frame').locator('h1').waitFor();
    await shot(page, 'demo-without-script');
    assert.deepEqual([...failures, ...problems()], []);
    await leave();
  },

  async 'both pages are accessible, light and dark, wide and narrow'() {
    // `make test-all` has the other two as well.
    const others = process.env.EDGEWAY_TEST_ALL ? [['dark', 1280], ['light', 390]] : [];
    for (const [colorScheme, width] of [['light', 1280], ['dark', 390], ...others]) {
      for (const path of ['/', '/status']) {
        const { page, problems, failures, leave } = await open(path, { colorScheme, viewport: { width, height: 800 }, reducedMotion: 'reduce' });
        if (path === '/') {
          assert.deepEqual(await violations(page), [], `at first, ${width}, ${colorScheme}`);
          await pressAll(page);
        } else {
          await page.waitForSelector('#live:has-text("live")');
          await page.locator('#routes summary').first().click();
          await page.fill('#explain input[name=url]', `${demo}/product`);
          await page.click('#explain button');
          await page.waitForSelector('#notice pre');
        }
        const { fits } = await legibility(page);
        assert.ok(fits, `${path} fits into ${width}`);
        await shot(page, `demo-${path.slice(1) || 'page'}-${width}-${colorScheme}`);
        assert.deepEqual(await violations(page), [], `${path}, ${width}, ${colorScheme}`);
        assert.deepEqual([...failures, ...problems()], []);
        await leave();
      }
    }
  },

  async 'what these checks refuse is seen'() {
    const spoilt = await open('/', {}, async (page) => {
      await page.route('**/demo.css', (route) => route.fulfill({ status: 404 }));
      await page.route('**/stock', (route) => route.fulfill({ status: 503 }));
    });
    const { page } = spoilt;
    assert.deepEqual(spoilt.failures, [{ status: 404, path: '/demo.css' }]);
    await press(page, 'try-headers');
    assert.deepEqual(spoilt.failures.at(-1), { status: 503, path: '/stock' });
    assert.equal(spoilt.problems().length, 2);
    await page.evaluate(() => {
      document.getElementById('try-cache').textContent = '';
      document.querySelector('.hero p').style.cssText = 'color: #999; background: #888';
    });
    const broken = (await violations(page)).join();
    assert.match(broken, /button-name/);
    assert.match(broken, /color-contrast/);
    await spoilt.leave();
  },
};

await runAll(checks);
