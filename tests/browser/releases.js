// Tabs that were opened before a deploy, and are used after it: what each asks for is of its own
// build. The command that deploys is given, so that the same steps run without the gateway's help.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

import { isAlive, runAll, visit } from './bench.js';

const { front, home = '/', legacy = '/legacy', old, latest, tabs, deploy, isNamed, afterwards } = JSON.parse(process.argv[2]);
const run = promisify(execFile);

const steps = async (argumentsOf) => {
  for (const [program, ...words] of argumentsOf) await run(program, words, { env: process.env });
};

const text = async (page, selector) => (await page.waitForSelector(selector)).textContent();

function equal(found, expected, what) {
  if (found !== expected) throw new Error(`${what}: "${found}" instead of "${expected}"`);
}

/** Opens an address, and collects each response that failed. */
async function collect(address, options) {
  const failures = [];
  const tab = await visit(`${front}${address}`, options, async (page) => {
    page.on('response', (response) => {
      if (response.status() >= 400) failures.push(`${response.status()} ${response.url()}`);
    });
    page.on('requestfailed', (request) => {
      const why = request.failure()?.errorText;
      // The browser itself gives up what a page that is left has asked for, and scripts that it is
      // not to run.
      if (why !== 'net::ERR_ABORTED' && why !== 'csp') failures.push(`${why} ${request.url()}`);
    });
  });
  return { ...tab, failures };
}

/** Opens the page of the old build. */
async function open(options) {
  const tab = await collect(home, options);
  equal(await text(tab.page, '#build'), `page of ${old}`, 'the page before the deploy');
  if (options.javaScriptEnabled !== false) {
    await isAlive(tab.page, '#greet');
    await tab.page.evaluate(() => (window.isTheSamePage = true));
  }
  return tab;
}

/** Opens a page of the Pages Router. */
async function openLegacy() {
  const tab = await collect(legacy, {});
  equal(await text(tab.page, '#legacy'), `step 0 of ${old} in ${old}`, 'the page of the other router');
  await isAlive(tab.page, '#on');
  await tab.page.evaluate(() => (window.isTheSamePage = true));
  return tab;
}

/** Asks for data of a page of the Pages Router, which must be of the build of its code. */
async function useLegacy({ page }) {
  for (const step of [1, 2]) {
    await page.click('#on');
    await page.waitForFunction((start) => document.querySelector('#legacy').textContent.startsWith(start), `step ${step} `);
    equal(await text(page, '#legacy'), `step ${step} of ${old} in ${old}`, 'the data of the other router');
  }
  equal(await page.evaluate(() => window.isTheSamePage), true, 'the page of the other router was not loaded again');
}

/** Uses a tab of the old build in an order of its own. */
async function use(tab, number, texts) {
  const { page } = tab;
  const parts = [
    async () => {
      await page.click('#open');
      equal(await text(page, '#lazy p'), `lazy part of ${texts.files}`, 'the lazy chunk');
      const loaded = page.waitForFunction(() => {
        const picture = document.querySelector('#picture');
        return picture?.complete && picture.naturalWidth > 0;
      });
      await loaded;
      const style = await page.evaluate(() =>
        getComputedStyle(document.querySelector('#lazy')).getPropertyValue('--build'),
      );
      equal(style.replaceAll('"', '').trim(), texts.files, 'the style');
    },
    async () => {
      await page.click('#greet');
      await page.waitForFunction(() => document.querySelector('#greeting').textContent !== 'none');
      equal(await text(page, '#greeting'), `${texts.actions} greets Ada`, 'the action');
    },
  ];
  // Each order comes up.
  if (number % 2) parts.reverse();
  for (const part of parts) await part();
  equal(await page.evaluate(() => window.isTheSamePage), true, 'the page was not loaded again');

  await page.click('#shop');
  equal(await text(page, '#shop-build'), `shop of ${texts.navigation}`, 'the navigation');
  const isTheSame = await page.evaluate(() => window.isTheSamePage === true);
  equal(isTheSame, texts.staysOnPage, 'the navigation stays on the page');
  await page.goBack();
  await page.waitForSelector('#build');
}

/** Sends a form without JavaScript. */
async function send(tab) {
  await tab.page.click('#send');
  equal(await text(tab.page, '#ordered'), `${old}-Ada`, 'the form');
}

function fine(tab) {
  equal([...tab.failures, ...tab.problems].join('; '), '', 'failures');
}

const checks = {
  'tabs that were open before a deploy go on': async () => {
    const openAll = (options) => Promise.all(Array.from({ length: tabs }, () => open(options)));
    const scripted = await openAll({});
    const plain = await openAll({ javaScriptEnabled: false });
    const other = await openLegacy();
    await steps(deploy);
    await useLegacy(other);
    fine(other);
    const texts = {
      files: old,
      actions: old,
      navigation: isNamed ? old : latest,
      staysOnPage: isNamed,
    };
    for (const [number, tab] of scripted.entries()) {
      await use(tab, number, texts);
      fine(tab);
    }
    for (const tab of plain) {
      await send(tab);
      fine(tab);
    }
    const visitor = await visit(`${front}${home}`);
    equal(await text(visitor.page, '#build'), `page of ${latest}`, 'a new visitor');
    await isAlive(visitor.page, '#greet');
    await visitor.page.click('#greet');
    await visitor.page.waitForFunction(() => document.querySelector('#greeting').textContent !== 'none');
    equal(await text(visitor.page, '#greeting'), `${latest} greets Ada`, 'its action');
    for (const tab of [...scripted, ...plain, other, visitor]) await tab.leave();
  },
  'a tab of a release that has gone gets the new page, and no error': async () => {
    const scripted = await open({});
    const lazy = await open({});
    const plain = await open({ javaScriptEnabled: false });
    await steps(afterwards);
    // Files of the old release are still there.
    await lazy.page.click('#open');
    equal(await text(lazy.page, '#lazy p'), `lazy part of ${old}`, 'the lazy chunk');
    // The action is lost, but nothing breaks: the page loads again.
    await scripted.page.click('#greet');
    await scripted.page.waitForFunction(() => window.isTheSamePage !== true);
    equal(await text(scripted.page, '#build'), `page of ${latest}`, 'the page after the action');
    fine(scripted);
    await plain.page.click('#send');
    const words = await plain.page.textContent('body');
    if (!words.includes('earlier version of the site')) throw new Error(`the form: ${words}`);
    for (const tab of [scripted, lazy, plain]) await tab.leave();
  },
};
const [living, gone] = Object.keys(checks);
const wanted = [deploy && living, afterwards && gone].filter(Boolean);
await runAll(Object.fromEntries(wanted.map((name) => [name, checks[name]])));
