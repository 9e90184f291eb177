// Checks the gateway with a real browser. `tests/it/browser/mod.rs` passes it the URLs of gateways:
//
// - `front`: the apps with default settings, and a WebSocket route;
// - `api`: only `/api/echo`, open to pages of `front` at 127.0.0.1, and `/api/echo/closed`, open to
//   no other origin;
// - `strict`, a control: a Content-Security-Policy without inline scripts, inline styles and
//   images; no WebSockets;
// - `odd`, another control: `no-referrer`, and without the headers of React's requests;
// - `secure`: as `front`, over TLS with a self-signed certificate; `secureOld` without HTTP/2.
//
// It prints `{"passed": [names], "failed": [{"check", "why", "console"}]}`.
import assert from 'node:assert/strict';

import { holding, isAlive, legibility, runAll, shot, violations, visit, waitFor } from './bench.js';

const { front, api, strict, odd, secure, secureOld } = JSON.parse(process.argv[2]);
const isCsp = (line) => line.includes('Content Security Policy');

const checks = {
  async 'a page comes alive'() {
    const { page, problems, response, leave } = await visit(`${front}/`);
    assert.match(response.headers()['content-security-policy'], /frame-ancestors/, 'the defaults are on');
    assert.ok(response.headers()['content-encoding'], 'the defaults are on');
    await isAlive(page, 'button');
    await page.click('button');
    await page.waitForSelector('text=clicks:1');
    assert.deepEqual(problems, []);
    await leave();

    const control = await visit(`${strict}/`);
    await control.page.click('button');
    assert.equal(await control.page.textContent('button'), 'clicks:0');
    assert.ok(control.problems.some(isCsp), 'refused scripts are seen');
    await control.leave();
  },

  async 'a link changes the page in place'() {
    const follow = async (origin) => {
      const data = [];
      const { page, problems, leave } = await visit(`${origin}/`, {}, async (page) => {
        page.on('response', (response) => {
          if ('rsc' in response.request().headers()) data.push(response);
        });
      });
      await isAlive(page, 'a[href="/isr"]');
      await waitFor(() => data.some((response) => new URL(response.url()).pathname === '/isr'));
      const prefetched = data.length;
      await page.evaluate(() => {
        window.isSame = true;
      });
      await page.click('a[href="/isr"]');
      await page.waitForSelector('text=Made again every 60 s');
      const isSame = await page.evaluate(() => window.isSame === true);
      // A dynamic page is not prefetched completely.
      await page.goBack();
      await page.click('a[href="/dynamic"]');
      await page.waitForSelector('text=user:nobody');
      const responses = data.map((response) => ({
        url: response.url(),
        status: response.status(),
        type: response.headers()['content-type'],
        prefetch: 'next-router-prefetch' in response.request().headers(),
      }));
      await leave();
      return { isSame, prefetched, responses, problems };
    };
    const { isSame, prefetched, responses, problems } = await follow(front);
    assert.ok(isSame, 'the page was not reloaded');
    assert.ok(prefetched > 0 && responses.length > prefetched, `${prefetched} of ${responses.length} came before the click`);
    assert.ok(responses.some((response) => response.prefetch), 'prefetches are among them');
    for (const { url, status, type } of responses) {
      // The proxy redirects this page, and so its data.
      const isSecret = new URL(url).pathname === '/secret';
      assert.equal(status, isSecret ? 307 : 200, url);
      if (!isSecret) assert.match(type, /^text\/x-component/, url);
    }
    assert.deepEqual(problems, []);

    const control = await follow(odd);
    assert.ok(!control.isSame, 'without the headers of such requests the page is reloaded');
  },

  async 'a server action responds to a script'() {
    // Also with `no-referrer`: the request of a script keeps its `Origin`.
    for (const origin of [front, odd]) {
      const actions = [];
      const { page, problems, leave } = await visit(`${origin}/form`, {}, async (page) => {
        page.on('request', (request) => {
          if ('next-action' in request.headers()) actions.push(request.method());
        });
      });
      await isAlive(page, 'form');
      assert.equal(await page.textContent('#said'), 'nothing yet');
      await page.evaluate(() => {
        window.isSame = true;
      });
      await page.click('button');
      await page.waitForSelector('text=greeted:Ada');
      assert.ok(await page.evaluate(() => window.isSame === true), 'the page was not reloaded');
      assert.deepEqual(actions, ['POST']);
      assert.deepEqual(problems, []);
      await leave();
    }
  },

  async 'a server action responds to a form without scripts'() {
    const submit = async (origin) => {
      const { page, problems, leave } = await visit(`${origin}/form`, { javaScriptEnabled: false });
      const [response] = await Promise.all([
        page.waitForResponse((response) => response.request().method() === 'POST'),
        page.click('button'),
      ]);
      await page.waitForLoadState();
      const { origin: sent } = await response.request().allHeaders();
      const said = response.status() === 200 ? await page.textContent('#said') : undefined;
      await leave();
      return { status: response.status(), sent, said, problems };
    };
    assert.deepEqual(await submit(front), { status: 200, sent: front, said: 'greeted:Ada', problems: [] });

    const control = await submit(odd);
    assert.equal(control.sent, 'null');
    assert.equal(control.status, 500);
  },

  async 'an image is shown'() {
    const image = async (origin) => {
      const { page, leave } = await visit(`${origin}/picture`);
      const [width, source] = await page.$eval('img', async (image) => {
        await image.decode().catch(() => {});
        return [image.naturalWidth, image.currentSrc];
      });
      await leave();
      return { width, source };
    };
    const { width, source } = await image(front);
    assert.ok(width > 0);
    assert.match(source, /\/_next\/image\?/);
    assert.equal((await image(strict)).width, 0);
  },

  async 'a streamed page shows what it has'() {
    const watch = async (origin) => {
      const { page, problems, leave } = await visit(`${origin}/stream`, {}, (page) =>
        page.addInitScript(() => {
          window.seen = {};
          new MutationObserver(() => {
            const text = document.body?.innerText ?? '';
            for (const words of ['second waits', 'first-piece', 'second-piece']) {
              if (text.includes(words)) window.seen[words] ??= performance.now();
            }
          }).observe(document, { childList: true, subtree: true, characterData: true });
        }),
      );
      await page.waitForFunction(() => 'second-piece' in window.seen);
      // When the first bytes came, not when they were drawn: a busy machine draws late.
      const [seen, early] = await page.evaluate(() => {
        const { responseStart, responseEnd } = performance.getEntriesByType('navigation')[0];
        return [window.seen, responseEnd - responseStart];
      });
      await leave();
      return { seen, early, problems };
    };
    const [{ seen, early, problems }, held] = await Promise.all([watch(front), watch(await holding(front))]);
    assert.deepEqual(Object.keys(seen), ['second waits', 'first-piece', 'second-piece']);
    assert.ok(early > 500, `the first bytes were there ${early} ms before the last`);
    assert.deepEqual(problems, []);
    assert.ok(held.early < 500, `held back: ${held.early} ms`);
  },

  async 'events come as they happen'() {
    const listen = async (origin) => {
      const { page, problems, leave } = await visit(`${origin}/login`);
      const events = await page.evaluate(
        () =>
          new Promise((resolve, reject) => {
            const events = [];
            const source = new EventSource('/api/sse?events=5');
            source.onerror = () => reject(new Error(`the feed broke after ${events.length} events`));
            source.onmessage = ({ data }) => {
              events.push({ at: performance.now(), number: JSON.parse(data).event });
              if (events.length < 5) return;
              source.close();
              resolve(events);
            };
          }),
      );
      await leave();
      return { numbers: events.map(({ number }) => number), span: events.at(-1).at - events[0].at, problems };
    };
    const [{ numbers, span, problems }, held] = await Promise.all([listen(front), listen(await holding(front))]);
    assert.deepEqual(numbers, [0, 1, 2, 3, 4]);
    assert.ok(span > 500, `five events within ${span} ms`);
    assert.deepEqual(problems, []);
    assert.ok(held.span < 500, `held back: ${held.span} ms`);
  },

  async 'a WebSocket echoes'() {
    const echo = async (origin) => {
      const { page, leave } = await visit(`${origin}/picture`);
      const response = await page.evaluate(
        () =>
          new Promise((resolve) => {
            const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/ws`);
            socket.onopen = () => socket.send('hello');
            socket.onmessage = ({ data }) => {
              socket.close(1000);
              socket.onclose = ({ code, wasClean }) => resolve({ data, code, wasClean });
            };
            socket.onerror = () => resolve('refused');
          }),
      );
      await leave();
      return response;
    };
    assert.deepEqual(await echo(front), { data: 'hello', code: 1000, wasClean: true });
    assert.equal(await echo(strict), 'refused');
  },

  async 'over TLS a page comes alive by HTTP/2, and a WebSocket beside it'() {
    const look = async (origin) => {
      const { page, problems, leave } = await visit(`${origin}/`, { ignoreHTTPSErrors: true });
      await isAlive(page, 'button');
      await page.click('button');
      await page.waitForSelector('text=clicks:1');
      const seen = await page.evaluate(async () => {
        const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/ws`);
        const echo = await new Promise((resolve) => {
          socket.onopen = () => socket.send('hello');
          socket.onmessage = ({ data }) => resolve(data);
          socket.onerror = () => resolve('refused');
        });
        const entries = ['navigation', 'resource'].flatMap((type) => performance.getEntriesByType(type));
        return { echo, protocols: [...new Set(entries.map((entry) => entry.nextHopProtocol))] };
      });
      await leave();
      return { ...seen, problems };
    };
    assert.deepEqual(await look(secure), { echo: 'hello', protocols: ['h2'], problems: [] });
    assert.deepEqual(await look(secureOld), { echo: 'hello', protocols: ['http/1.1'], problems: [] });
  },

  async 'pages of listed origins read an API'() {
    const put = async (from, path) => {
      const { page, leave } = await visit(`${from}/login`);
      const response = await page.evaluate(
        (address) =>
          fetch(address, {
            method: 'PUT',
            headers: { 'content-type': 'application/json', 'x-mark': 'seen' },
            body: '{}',
          }).then(
            async (response) => {
              const { method, headers } = await response.json();
              return { method, mark: headers['x-mark'] };
            },
            (error) => error.name,
          ),
        api + path,
      );
      await leave();
      return response;
    };
    assert.deepEqual(await put(front, '/api/echo'), { method: 'PUT', mark: 'seen' });
    assert.equal(await put(front.replace('127.0.0.1', 'localhost'), '/api/echo'), 'TypeError');
    assert.equal(await put(front, '/api/echo/closed'), 'TypeError');
  },

  async 'our error page is readable'() {
    const look = async (origin, colorScheme, width = 390) => {
      const { page, problems, response, leave } = await visit(`${origin}/missing`, {
        colorScheme,
        viewport: { width, height: 700 },
      });
      assert.equal(response.status(), 404);
      assert.equal(await page.textContent('h1'), '404 Not Found');
      const [isStyled, background] = await page.evaluate(() => [
        getComputedStyle(document.querySelector('main')).maxWidth !== 'none',
        getComputedStyle(document.body).backgroundColor,
      ]);
      const { contrast, fits } = await legibility(page);
      await shot(page, `error-${new URL(origin).port}-${colorScheme}-${width}`);
      const broken = origin === api ? await violations(page) : [];
      // As the page's policy allows a script, but no element.
      await page.evaluate(() => {
        const sheet = new CSSStyleSheet();
        sheet.replaceSync('* { color: #888 !important } main { min-width: 50rem }');
        document.adoptedStyleSheets = [sheet];
      });
      const spoilt = await legibility(page);
      await leave();
      return { isStyled, background, contrast, fits, spoilt, broken, refused: problems.filter(isCsp) };
    };
    const [light, dark] = [await look(api, 'light'), await look(api, 'dark')];
    const wide = [await look(api, 'light', 1280), await look(api, 'dark', 1280)];
    for (const { broken } of [light, dark, ...wide]) assert.deepEqual(broken, []);
    for (const { isStyled, contrast, fits, refused, spoilt } of [light, dark]) {
      assert.ok(isStyled);
      assert.ok(contrast >= 4.5, `contrast ${contrast}`);
      assert.ok(fits);
      assert.deepEqual(refused, []);
      assert.ok(!spoilt.fits);
    }
    assert.ok(light.spoilt.contrast < 4.5);
    assert.notEqual(light.background, dark.background);

    // A policy that fits the app does not take the page's style.
    for (const scheme of ['light', 'dark']) {
      const { isStyled, contrast, fits, refused } = await look(strict, scheme);
      assert.ok(isStyled);
      assert.deepEqual(refused, []);
      assert.ok(contrast >= 4.5 && fits, `contrast ${contrast}`);
    }
  },
};

await runAll(checks);
