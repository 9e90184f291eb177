// Support for the checks: one browser, a new context for each visit, and the errors that the
// browser reports.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';

import { chromium } from 'playwright-core';

/** Time for what a page does, on a machine that is busy with other tests. */
const PATIENCE = 60_000;

const axe = await readFile(new URL('node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');

const browser = await chromium.launch({
  executablePath: process.env.BROWSER,
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});
const stops = [() => browser.close()];

/** Messages of the browser since the last call, for the report of a failed check. */
const consoleLines = [];
const takeConsole = () => consoleLines.splice(0);

export const stop = () => Promise.all(stops.map((end) => end()));

/**
 * Opens this address as a new visitor.
 * `problems` are the errors in the console, including refused content; `response` is the first
 * response.
 */
export async function visit(address, options = {}, prepare = async () => {}) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const problems = [];
  const note = (line) => {
    problems.push(line);
    consoleLines.push(`${address}: ${line}`);
  };
  page.on('console', (message) => {
    if (message.type() === 'error') note(`${message.text()} (${message.location().url})`);
  });
  page.on('pageerror', (error) => note(`uncaught: ${error.message}`));
  page.on('requestfailed', (request) => {
    consoleLines.push(`${address}: ${request.method()} ${request.url()}: ${request.failure()?.errorText}`);
  });
  await prepare(page);
  const response = await page.goto(address);
  return { page, problems, response, leave: () => context.close() };
}

/** Waits until React has hydrated this element. */
export async function isAlive(page, selector) {
  const element = await page.waitForSelector(selector);
  await page.waitForFunction((node) => Object.keys(node).some((key) => key.startsWith('__reactProps')), element);
}

export async function waitFor(isSo) {
  const end = performance.now() + PATIENCE;
  while (!isSo()) {
    if (performance.now() > end) throw new Error(`waited in vain for ${isSo}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Starts a gateway that buffers each response until it is complete, as a control. */
export async function holding(origin) {
  const server = createServer(async (incoming, outgoing) => {
    const { accept = '*/*' } = incoming.headers;
    const response = await fetch(origin + incoming.url, { headers: { accept } });
    const body = Buffer.from(await response.arrayBuffer());
    outgoing.writeHead(response.status, { 'content-type': response.headers.get('content-type') ?? 'text/plain' });
    outgoing.end(body);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  stops.push(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

/**
 * Returns the lowest contrast between text and background (WCAG 2.2, 1.4.3 requires 4.5), and
 * `fits`: true if the page is no wider than its window.
 */
export function legibility(page) {
  return page.evaluate(() => {
    const rgb = (color) => color.match(/[\d.]+/g).map(Number);
    const luminance = (color) => {
      const [r, g, b] = rgb(color).map((part) => {
        const share = part / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    // Background of the page itself, which depends on its color scheme.
    const probe = document.body.appendChild(document.createElement('i'));
    probe.style.backgroundColor = 'Canvas';
    const canvas = getComputedStyle(probe).backgroundColor;
    probe.remove();
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const color = getComputedStyle(at).backgroundColor;
        if (rgb(color)[3] !== 0) return color;
      }
      return canvas;
    };
    let lowest = Infinity;
    for (const element of document.body.querySelectorAll('*')) {
      const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim() !== '');
      if (!hasText) continue;
      const [light, dark] = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((a, b) => b - a);
      lowest = Math.min(lowest, (light + 0.05) / (dark + 0.05));
    }
    const fits = document.documentElement.scrollWidth <= innerWidth;
    const isWide = (element) => element.getBoundingClientRect().right > innerWidth;
    const wide = fits ? [] : [...document.body.querySelectorAll('*')].filter(isWide).slice(0, 9);
    return { contrast: lowest, fits, wide: wide.map((element) => element.outerHTML.slice(0, 150)).join('\n') };
  });
}

/** Returns the rules of axe that a page breaks, those of WCAG 2.2 AA among them, with the elements. */
export async function violations(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() =>
    // The rule of WCAG 2.2 alone is off by default. Elements that pass need no names.
    window.axe.run(document, { iframes: false, resultTypes: ['violations'], rules: { 'target-size': { enabled: true } } }),
  );
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target.join(' ')).join(', ')}`);
}

/** Saves a screenshot for a person to look at, if `BROWSER_SHOTS` names a folder. */
export async function shot(page, name) {
  const folder = process.env.BROWSER_SHOTS;
  if (folder) await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
}

/**
 * Runs all checks, one after the other, and ends the process.
 * Prints `{"passed": [names], "failed": [{"check", "why", "console"}], "figures"}`.
 */
export async function runAll(checks, figures = null) {
  const passed = [];
  const failed = [];
  for (const [check, run] of Object.entries(checks)) {
    takeConsole();
    const begun = performance.now();
    try {
      await run();
      passed.push(check);
    } catch (error) {
      failed.push({ check, why: String(error.stack), console: takeConsole() });
    }
    console.error(`${check}: ${Math.round(performance.now() - begun)} ms`);
  }
  await stop();
  console.log(JSON.stringify({ passed, failed, figures }));
  // The parent holds standard input open, which would keep this process alive.
  process.exit(0);
}
