// Checks the status page with a real browser. `tests/it/browser/status_page.rs` passes:
//
// - `admin`, `token`: an admin listener and its token; `site`: the gateway's own listener;
// - `backend`: the address of a backend that responds;
// - `bare`, `link`, `bareLinks`: an admin listener without a token, and links for one use to it;
// - `hostile`: a name of a route and the reason of bans, which would be markup;
// - `pid`: the process that serves before the upgrade.
//
// It prints `{"passed": [names], "failed": [{"check", "why", "console"}]}`.
import assert from 'node:assert/strict';

import { legibility, runAll, shot, violations, visit } from './bench.js';

const { admin, site, token, backend, bare, link, bareLinks, hostile, pid } = JSON.parse(process.argv[2]);

/** Opens the page, and logs in. */
async function enter(options = {}, prepare = async () => {}) {
  const visited = await visit(`${admin}/`, options, prepare);
  const { page } = visited;
  assert.equal(new URL(page.url()).pathname, '/login');
  await page.fill('input[name=token]', token);
  await page.click('text=Log in');
  await page.waitForSelector('h1:has-text("serving")');
  // By the keyboard: while a pointer is down the page holds its sections.
  await page.press('#tail summary', 'Enter');
  return visited;
}

/** Opens the page with streams that the check drives: `window.streams` are those that it opened. */
async function enterWithStreams() {
  return enter({}, (page) =>
    page.addInitScript(() => {
      window.streams = [];
      window.EventSource = class extends EventTarget {
        static CLOSED = 2;
        readyState = 1;
        constructor(url) {
          super();
          this.url = url;
          window.streams.push(this);
        }
        close() {
          this.readyState = 2;
        }
      };
    }),
  );
}

/** Sends a section by the stream that the page opened last. */
const sendSection = (page, id, html) =>
  page.evaluate((data) => {
    window.streams.at(-1).dispatchEvent(new MessageEvent('section', { data }));
  }, JSON.stringify({ id, html }));

/** Refuses the stream that the page opened last. */
const refuseStream = (page) =>
  page.evaluate(() => {
    const stream = window.streams.at(-1);
    stream.readyState = 2;
    stream.dispatchEvent(new Event('error'));
  });

/** Holds the responses of an address back, until the function that it returns is called. */
async function hold(page, address) {
  const held = [];
  let isHeld = true;
  await page.route(address, (route) => (isHeld ? void held.push(route) : route.continue()));
  const asked = page.waitForRequest(address);
  return {
    asked,
    async release() {
      isHeld = false;
      const response = page.waitForResponse(address);
      await Promise.all(held.map((route) => route.continue()));
      await (await response).finished();
      // What the page does with it comes before its next response.
      await page.evaluate(() => fetch('/healthz').then((healthy) => healthy.text()));
    },
  };
}

async function filterBy(page, name, value) {
  await page.fill(`form[data-tail] input[name=${name}]`, value);
  await page.click('form[data-tail] button');
}

const row = (page, text) => page.locator('#upstreams tr', { hasText: text });

/** Fails if the page is loaded again. */
async function stays(page) {
  await page.evaluate(() => {
    window.isSame = true;
  });
  return () => page.evaluate(() => window.isSame === true);
}

const checks = {
  async 'a wrong token is refused, the right one opens the page, and a logout ends it'() {
    const { page, problems, leave } = await visit(`${admin}/`);
    await page.fill('input[name=token]', 'x'.repeat(32));
    await page.click('text=Log in');
    assert.match(await page.textContent('#why'), /not the token/);
    await shot(page, 'login');
    await page.fill('input[name=token]', token);
    await page.click('text=Log in');
    await page.waitForSelector('h1:has-text("serving")');
    const cookies = await page.context().cookies();
    assert.equal(cookies.length, 1);
    const { httpOnly, sameSite, path } = cookies[0];
    assert.deepEqual({ httpOnly, sameSite, path }, { httpOnly: true, sameSite: 'Strict', path: '/' });
    assert.equal(await page.evaluate(() => document.cookie), '');
    await page.click('text=Log out');
    await page.waitForSelector('input[name=token]');
    await page.goto(`${admin}/status`);
    assert.equal(new URL(page.url()).pathname, '/login');
    assert.deepEqual(problems, []);
    await leave();
  },

  async 'a link opens the page once'() {
    const first = await visit(link);
    await first.page.waitForSelector('h1:has-text("serving")');
    assert.equal(new URL(first.page.url()).pathname, '/status');
    assert.deepEqual(first.problems, []);
    const second = await visit(link);
    await second.page.waitForSelector('#why');
    assert.match(await second.page.textContent('#why'), /once/);
    // Without a token there is nothing to type.
    assert.equal(await second.page.locator('input[type=password]').count(), 0);
    // The name of its own keeps the cookie from other ports of 127.0.0.1.
    await first.page.goto(`${bare}/status`);
    assert.equal(new URL(first.page.url()).pathname, '/login');
    await Promise.all([first.leave(), second.leave()]);
    // Without script there is a button.
    const plain = await visit(bareLinks[0], { javaScriptEnabled: false });
    await plain.page.click('text=Open the status page');
    await plain.page.waitForSelector('h1:has-text("serving")');
    await plain.leave();
  },

  async 'buttons drain and undrain, and the page shows it without loading again'() {
    const one = await enter();
    const other = await enter();
    const [isSame, isOtherSame] = [await stays(one.page), await stays(other.page)];
    const dead = '127.0.0.2:1';
    // As a screen reader finds it.
    await one.page.getByRole('button', { name: `Drain ${dead} of web`, exact: true }).click();
    await row(one.page, dead).locator('text=drained').waitFor();
    assert.match(await one.page.textContent('#notice'), /is now drained/);
    // The other browser learns it from the stream.
    await row(other.page, dead).locator('text=drained').waitFor();
    await row(other.page, dead).locator('button:has-text("Undrain")').click();
    await row(one.page, dead).locator('button:has-text("Drain")').waitFor();
    // The last backend needs another confirmation.
    const single = one.page.locator('#upstreams tr', { hasText: backend }).first();
    await single.locator('button').click();
    await one.page.waitForSelector('#notice .bad');
    await one.page.click('text=Drain it anyway');
    await one.page.waitForSelector('#notice:has-text("is now drained")');
    await one.page.locator('#upstreams tr', { hasText: 'drained' }).locator('button').click();
    await one.page.waitForSelector('#notice:has-text("is now healthy")');
    assert.ok((await isSame()) && (await isOtherSame()), 'neither page was loaded again');
    assert.deepEqual([...one.problems, ...other.problems], []);
    await Promise.all([one.leave(), other.leave()]);
  },

  async 'a purge and a lookup show what the cache has'() {
    const { page, problems, leave } = await enter();
    const lookup = async () => {
      await page.fill('form[action$=lookup] input[name=url]', `${site}/stored`);
      // An earlier result must not be taken for this one.
      await page.evaluate(() => document.querySelector('#notice').replaceChildren());
      await page.click('text=Look up');
      await page.waitForSelector('#notice pre');
      return page.textContent('#notice p');
    };
    await fetch(`${site}/stored`);
    assert.match(await lookup(), /: cached, .*fresh for \d+ s.*HIT/);
    await shot(page, 'lookup');
    await page.fill('form[action$=purge] input[name=value]', `${site}/stored`);
    await page.click('form[action$=purge] button');
    await page.waitForSelector('#notice:has-text("Purged.")');
    assert.match(await lookup(), /: not cached.*MISS/);
    // Everything only after a question.
    let questions = 0;
    page.on('dialog', (dialog) => {
      questions += 1;
      dialog.dismiss();
    });
    await fetch(`${site}/stored`);
    await page.selectOption('select[name=kind]', 'all');
    await page.fill('form[action$=purge] input[name=value]', '');
    await page.click('form[action$=purge] button');
    assert.equal(questions, 1);
    assert.match(await lookup(), /: cached/);
    assert.deepEqual(problems, []);
    await leave();
  },

  async 'a ban is lifted by its button'() {
    const { page, problems, leave } = await enter();
    const ban = page.locator('#limits tr', { hasText: '192.0.2.7' });
    await ban.locator('button').click();
    await page.waitForSelector('#notice:has-text("may pass again")');
    await ban.waitFor({ state: 'detached' });
    assert.deepEqual(problems, []);
    await leave();
  },

  async 'a request is explained'() {
    const { page, problems, leave } = await enter();
    const isSame = await stays(page);
    await page.fill('#explain input[name=url]', 'http://odd.test/odd/x');
    await page.fill('#explain textarea', 'Accept: text/html\nX-Other: 1');
    await page.click('#explain button');
    await page.waitForSelector('#notice pre');
    const text = await page.textContent('#notice pre');
    assert.match(text, /route +<script>alert\(1\)<\/script>/);
    assert.match(text, /upstream web/);
    await shot(page, 'explain');
    await page.fill('#explain input[name=url]', 'http://odd.test/odd/x');
    await page.fill('#explain input[name=client]', 'nobody');
    await page.click('#explain button');
    await page.waitForSelector('#notice .bad');
    assert.match(await page.textContent('#notice'), /invalid client address/);
    assert.deepEqual(problems, []);
    // A form that is refused before it is read says why.
    await page.fill('#explain textarea', 'x'.repeat(20_000));
    await page.click('#explain button');
    await page.waitForSelector('#notice:has-text("limit")');
    assert.ok(await isSame(), 'the page was not loaded again');
    await leave();
  },

  async 'requests appear as they end, with their reasons, by a filter'() {
    const { page, problems, leave } = await enter();
    const isSame = await stays(page);
    await page.waitForSelector('#live:has-text("live")');
    await fetch(`${site}/seen-now?x=1`);
    const seen = page.locator('#requests tr', { hasText: '/seen-now' });
    await seen.first().waitFor();
    assert.match(await seen.first().textContent(), /200GET 127\.0\.0\.1:\d+\/seen-now\/\*[\d.]+MISS/);
    await shot(page, 'tail');
    await page.fill('form[data-tail] input[name=path]', '/other');
    await page.click('form[data-tail] button');
    await page.waitForFunction(() => !document.querySelector('#requests').textContent.includes('/seen-now'));
    await page.waitForSelector('#live:has-text("live")');
    await fetch(`${site}/seen-now`);
    await fetch(`${site}/other?<b>`);
    await page.locator('#requests tr', { hasText: '/other' }).first().waitFor();
    assert.equal(await seen.count(), 0);
    assert.ok(await isSame());
    assert.deepEqual(problems, []);
    await leave();
    // Without script, the page has the same.
    const plain = await enter({ javaScriptEnabled: false });
    await plain.page.fill('form[data-tail] input[name=path]', '/seen-now');
    await plain.page.click('form[data-tail] button');
    await plain.page.waitForURL(/path=/);
    assert.equal(await plain.page.locator('#requests tr').count(), 2);
    await plain.page.fill('form[data-tail] input[name=status]', 'odd');
    await plain.page.click('form[data-tail] button');
    await plain.page.waitForSelector('#tail .bad');
    await plain.leave();
  },

  async 'a filter that cannot be read is explained once, and a right one continues'() {
    const { page, leave } = await enter();
    await page.clock.install();
    const isSame = await stays(page);
    await page.waitForSelector('#live.good');
    await page.fill('#explain input[name=url]', '/none');
    const again = page.waitForRequest('**/status/stream?*');
    await page.click('#explain button');
    await page.waitForSelector('#notice pre');
    await again;
    let attempts = 0;
    page.on('request', (request) => {
      if (request.url().includes('/status/stream')) attempts += 1;
    });
    await page.fill('form[data-tail] input[name=status]', 'odd');
    await page.click('form[data-tail] button');
    await page.waitForSelector('#filter-problem');
    assert.match(await page.textContent('#filter-problem'), /status/);
    // Longer than the time after which a lost stream is followed again.
    await page.clock.runFor(10_000);
    // A request that the page had begun is reported before the outcome of a later one.
    await page.evaluate(() => fetch('/status'));
    assert.equal(attempts, 1);
    assert.ok(await page.isVisible('#notice pre'), 'the result of the form is still there');
    await page.fill('form[data-tail] input[name=status]', '2xx');
    await page.click('form[data-tail] button');
    await page.waitForSelector('#live.good');
    assert.equal(await page.isVisible('#filter-problem'), false);
    assert.ok(await isSame());
    await leave();
  },

  async 'an outdated section is not put back after a selection'() {
    const { page, problems, leave } = await enterWithStreams();
    const text = () => page.textContent('#listeners');
    /** Selects the section or nothing, and waits until the page knows it. */
    const select = (isSelected) =>
      page.evaluate((isSelected) => {
        const known = new Promise((resolve) => {
          document.addEventListener('selectionchange', () => resolve(), { once: true });
        });
        if (isSelected) getSelection().selectAllChildren(document.querySelector('#listeners p'));
        else getSelection().removeAllRanges();
        return known;
      }, isSelected);
    await sendSection(page, 'listeners', '<p>first</p>');
    await select(true);
    await sendSection(page, 'listeners', '<p>second</p>');
    assert.equal(await text(), 'first');
    await sendSection(page, 'listeners', '<p>first</p>');
    await select(false);
    assert.equal(await text(), 'first');
    // The control: what is held back and up to date is put in.
    await select(true);
    await sendSection(page, 'listeners', '<p>third</p>');
    assert.equal(await text(), 'first');
    await select(false);
    assert.equal(await text(), 'third');
    assert.deepEqual(problems, []);
    await leave();
  },

  async 'what was wrong with an earlier filter does not touch a later one'() {
    const { page, leave } = await enterWithStreams();
    const isShown = () => page.isVisible('#filter-problem');
    const requests = await hold(page, '**/v1/requests?*');
    await filterBy(page, 'status', 'odd');
    await refuseStream(page);
    await requests.asked;
    await filterBy(page, 'status', '2xx');
    await requests.release();
    assert.equal(await isShown(), false);
    // The control: without a later one.
    await filterBy(page, 'status', 'odd');
    await refuseStream(page);
    await page.waitForSelector('#filter-problem');
    // Nor does a page that comes late put older sections over newer ones.
    const status = await hold(page, '**/status');
    await filterBy(page, 'status', '2xx');
    await refuseStream(page);
    await status.asked;
    await filterBy(page, 'status', '3xx');
    await sendSection(page, 'listeners', '<p>newer</p>');
    // Shortly after a click nothing is replaced.
    await page.waitForSelector('#listeners p:has-text("newer")');
    await status.release();
    assert.equal(await page.textContent('#listeners'), 'newer');
    await leave();
  },

  async 'after a form the stream begins again, as it does not know the sections that came with it'() {
    const { page, problems, leave } = await enterWithStreams();
    const streams = () => page.evaluate(() => window.streams.map(({ url, readyState }) => [new URL(url, location).search, readyState]));
    await filterBy(page, 'path', '/x');
    // Typed, and not yet chosen.
    await page.fill('form[data-tail] input[name=path]', '/y');
    await page.fill('#explain input[name=url]', '/none');
    await page.click('#explain button');
    await page.waitForSelector('#notice pre');
    const [, before, after] = await streams();
    assert.match(before[0], /path=%2Fx/);
    assert.deepEqual([before[1], after], [2, [before[0], 1]]);
    assert.deepEqual(problems, []);
    await leave();
  },

  async 'updates keep focus, open details and texts that are typed'() {
    const { page, problems, leave } = await enter();
    const isSame = await stays(page);
    await page.waitForSelector('#live:has-text("live")');
    await page.locator('#routes summary').first().click();
    await page.fill('#explain input[name=url]', '/typed');
    const button = row(page, '127.0.0.2:1').locator('button');
    await button.focus();
    const before = await page.textContent('#summary');
    const rate = () => page.locator('#routes tr', { hasText: '/*' }).first().locator('td').nth(1).textContent();
    const rateBefore = await rate();
    await Promise.all(Array.from({ length: 40 }, () => fetch(`${site}/stored`)));
    await page.waitForFunction((text) => document.querySelector('#summary').textContent !== text, before);
    for (let tries = 0; (await rate()) === rateBefore; tries += 1) {
      assert.ok(tries < 100, 'the rate of the route changes');
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    // Two more updates; the summary has the time since the start.
    for (let updates = 0; updates < 2; updates += 1) {
      const seen = await page.textContent('#summary');
      await page.waitForFunction((text) => document.querySelector('#summary').textContent !== text, seen);
    }
    assert.equal(await page.locator('#routes details[open]').count(), 1);
    assert.equal(await page.inputValue('#explain input[name=url]'), '/typed');
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Drain');
    assert.ok(await isSame());
    assert.deepEqual(problems, []);
    await leave();
  },

  async 'without script the forms work, and the page loads itself again'() {
    const { page, problems, leave } = await enter({ javaScriptEnabled: false });
    assert.equal(await page.locator('noscript meta').count() + (await page.locator('meta[http-equiv=refresh]').count()) > 0, true);
    await row(page, '127.0.0.2:1').locator('button').click();
    await page.waitForSelector('#notice:has-text("is now drained")');
    assert.equal(new URL(page.url()).pathname, '/status');
    // The result stays until it was read.
    assert.equal(await page.locator('meta[http-equiv=refresh]').count(), 0);
    await row(page, '127.0.0.2:1').locator('button').click();
    await page.waitForSelector('#notice:not(:has-text("drained"))');
    await page.fill('form[action$=lookup] input[name=url]', '/none');
    await page.click('text=Look up');
    await page.waitForSelector('#notice pre');
    await shot(page, 'without-script');
    await page.click('noscript a[href="/status"]');
    assert.equal(await page.locator('#notice').isVisible(), false);
    await page.click('text=Log out');
    await page.waitForSelector('input[name=token]');
    assert.deepEqual(problems, []);
    await leave();
  },

  async 'hostile names are shown as text'() {
    let dialogs = 0;
    const { page, problems, leave } = await enter({}, async (page) => {
      page.on('dialog', (dialog) => {
        dialogs += 1;
        dialog.dismiss();
      });
    });
    await page.waitForSelector('#live:has-text("live")');
    await page.locator('#routes summary', { hasText: hostile }).click();
    assert.ok((await page.textContent('#limits')).includes(hostile));
    assert.equal(await page.locator('main script, main b').count(), 0);
    assert.equal(dialogs, 0);
    assert.deepEqual(problems, []);
    await leave();
  },

  async 'the page fits and is readable, light and dark, wide and narrow'() {
    // `make test-all` has the others as well.
    const others = process.env.EDGEWAY_TEST_ALL ? [['dark', 1280], ['light', 390], ['dark', 320]] : [];
    for (const [colorScheme, width] of [['light', 1280], ['dark', 390], ['light', 320], ...others]) {
      const { page, problems, leave } = await enter({ colorScheme, viewport: { width, height: 800 } });
      await page.waitForSelector('#live:has-text("live")');
      await page.locator('#routes summary').first().click();
      await page.fill('#explain input[name=url]', 'http://odd.test/odd/x');
      await page.click('#explain button');
      await page.waitForSelector('#notice pre');
      const { contrast, fits, wide } = await legibility(page);
      await shot(page, `page-${width}-${colorScheme}`);
      assert.ok(contrast >= 4.5, `contrast ${contrast} at ${width}, ${colorScheme}`);
      assert.ok(fits, `it fits into ${width}: ${wide}`);
      // Paths and names without a place to break.
      await page.evaluate(() => {
        const places = '.problems a, h2, h3, p, summary, summary span, td code, td:not(:has(*))';
        if (innerWidth < 640) for (const place of document.querySelectorAll(places)) place.append(`/${'w'.repeat(70)}`);
      });
      const long = await legibility(page);
      assert.ok(long.fits, `long words fit into ${width}: ${long.wide}`);
      assert.match(await page.textContent('#summary .problems li'), /the last reload was refused.* since \d{4}-/);
      assert.deepEqual(await violations(page), [], `${width}, ${colorScheme}`);
      const nameless = await page.$$eval('th', (all) => all.filter((header) => header.textContent.trim() === '').length);
      assert.equal(nameless, 0, 'columns without a name');
      assert.deepEqual(problems, []);
      await leave();
    }
  },

  async 'the login is accessible, and what is not is seen'() {
    for (const colorScheme of ['light', 'dark']) {
      const { page, leave } = await visit(`${admin}/`, { colorScheme, viewport: { width: 390, height: 800 } });
      assert.deepEqual(await violations(page), [], colorScheme);
      // The controls.
      await page.evaluate(() => {
        document.querySelector('button').textContent = '';
        document.querySelector('p').style.cssText = 'color: #999; background: #888';
      });
      assert.match((await violations(page)).join(), /button-name.*color-contrast/);
      await leave();
    }
  },

  async 'a page of another site gets nothing and does nothing'() {
    // The site at another port of the same host: browsers send it the cookies of the page.
    const { page, leave } = await enter();
    await page.goto(`${site}/stored`);
    const seen = await page.evaluate(async (admin) => {
      const attempt = (path, options) =>
        fetch(admin + path, { credentials: 'include', ...options }).then(
          (response) => response.status,
          (error) => error.name,
        );
      const body = new URLSearchParams({ upstream: 'web', address: '127.0.0.2:1' });
      return Promise.all([
        attempt('/v1/status'),
        attempt('/status/act/drain', { method: 'POST', body }),
        attempt('/status/act/drain', { method: 'POST', body, mode: 'no-cors' }),
      ]);
    }, admin);
    assert.deepEqual(seen, ['TypeError', 'TypeError', 0]);
    await page.goto(`${admin}/status`);
    assert.equal(await row(page, '127.0.0.2:1').locator('button').textContent(), 'Drain');
    await leave();
  },

  async 'the page continues after an upgrade'() {
    const { page, leave } = await enter();
    const isSame = await stays(page);
    await page.waitForSelector(`#summary:has-text("pid ${pid}")`);
    await fetch(`${site}/upgrade-now`);
    await page.waitForFunction((pid) => !document.querySelector('#summary').textContent.includes(`pid ${pid},`), pid);
    await page.waitForSelector('#live:has-text("live")');
    await row(page, '127.0.0.2:1').locator('button').click();
    await page.waitForSelector('#notice:has-text("is now drained")');
    assert.ok(await isSame(), 'the page was not loaded again');
    await leave();
  },
};

await runAll(checks);
