// Sessions that are used while a release is deployed behind them, each in an order of its own. A
// balancer spreads their connections over the gateways, so a page, its files and its actions come
// through different ones. Whatever a page asks for must be of the build of that page.
import { execFile } from 'node:child_process';
import { connect, createServer } from 'node:net';
import { promisify } from 'node:util';

import { isAlive, runAll, visit } from './bench.js';

const { gateways, scripted, plain, seed, builds, isNamed, steps, least } = JSON.parse(process.argv[2]);
const [old, latest] = builds;
const run = promisify(execFile);

/** Starts a balancer that knows connections and no requests. Returns its address. */
async function balance() {
  let turn = 0;
  const server = createServer((client) => {
    const [host, port] = gateways[turn++ % gateways.length].split(':');
    const gateway = connect(Number(port), host);
    client.pipe(gateway).pipe(client);
    const end = () => [client, gateway].forEach((socket) => socket.destroy());
    for (const socket of [client, gateway]) socket.on('error', end).on('close', end);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${server.address().port}`;
}

/** Returns random numbers below 1 (mulberry32): the same ones for the same seed. */
function random(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

const text = async (page, selector) => (await page.waitForSelector(selector)).textContent();

function equal(found, expected, what) {
  if (found !== expected) throw new Error(`${what}: "${found}" instead of "${expected}"`);
}

const front = await balance();
const figures = { seed, actions: {}, documents: {}, whileDeploying: 0, afterwards: 0, seconds: 0 };
/** Phase of the run: `before`, `deploying`, `after`. */
let phase = 'before';

/** A visitor with one tab. */
class Session {
  failures = [];
  done = { before: 0, deploying: 0, after: 0 };

  constructor(number, hasScripts) {
    this.number = number;
    this.hasScripts = hasScripts;
    this.draw = random(seed + number);
  }

  async begin() {
    this.tab = await visit(`${front}/`, { javaScriptEnabled: this.hasScripts }, async (page) => {
      page.on('response', (response) => {
        if (response.status() >= 400) this.failures.push(`${response.status()} ${response.url()}`);
      });
      page.on('requestfailed', (request) => {
        const why = request.failure()?.errorText;
        // The browser itself gives up what a page that is left has asked for, and scripts that it
        // is not to run.
        if (why !== 'net::ERR_ABORTED' && why !== 'csp') this.failures.push(`${why} ${request.url()}`);
      });
    });
    this.page = this.tab.page;
    await this.arrived();
  }

  /** Notes the build of the page that is shown. */
  async arrived() {
    const shown = await text(this.page, '#build');
    this.build = builds.find((build) => shown === `page of ${build}`);
    if (!this.build) throw new Error(`a page of no build: ${shown}`);
    figures.documents[this.build] = (figures.documents[this.build] ?? 0) + 1;
    if (!this.hasScripts) return;
    await isAlive(this.page, '#greet');
    await this.page.evaluate(() => (window.isTheSamePage = true));
  }

  async reload() {
    await this.page.goto(`${front}/`);
    await this.arrived();
  }

  /** Loads a chunk, a style and an image that the page did not need before. */
  async lazy() {
    if (await this.page.$('#lazy')) await this.reload();
    await this.page.click('#open');
    equal(await text(this.page, '#lazy p'), `lazy part of ${this.build}`, 'the lazy chunk');
    await this.page.waitForFunction(() => {
      const image = document.querySelector('#picture');
      return image?.complete && image.naturalWidth > 0;
    });
    const style = await this.page.evaluate(() =>
      getComputedStyle(document.querySelector('#lazy')).getPropertyValue('--build'),
    );
    equal(style.replaceAll('"', '').trim(), this.build, 'the style');
  }

  async action() {
    const responded = this.page.waitForResponse((response) => response.request().method() === 'POST');
    await this.page.click('#greet');
    await responded;
    await this.page.waitForFunction(() => document.querySelector('#greeting').textContent !== 'none');
    equal(await text(this.page, '#greeting'), `${this.build} greets Ada`, 'the action');
  }

  /** Follows a link, and comes back. */
  async navigation() {
    await this.page.click('#shop');
    const shop = await text(this.page, '#shop-build');
    if (this.hasScripts && isNamed) {
      equal(shop, `shop of ${this.build}`, 'the navigation');
      equal(await this.page.evaluate(() => window.isTheSamePage), true, 'the page was not loaded again');
    } else if (!builds.some((build) => shop === `shop of ${build}`)) {
      throw new Error(`a page of no build: ${shop}`);
    }
    await this.page.goBack();
    await this.arrived();
  }

  /** Sends the form, and goes back to its page. */
  async form() {
    await this.page.click('#send');
    equal(await text(this.page, '#ordered'), `${this.build}-Ada`, 'the form');
    if (this.draw() < 0.5) {
      await this.page.goBack();
      await this.arrived();
    } else {
      await this.reload();
    }
  }

  /** Does what a visitor does until enough was done after the deploy. */
  async use() {
    const all = this.hasScripts ? ['lazy', 'action', 'navigation', 'form', 'reload'] : ['navigation', 'form', 'form', 'reload'];
    while (phase !== 'after' || this.done.after < least) {
      const name = all[Math.floor(this.draw() * all.length)];
      const kind = this.hasScripts ? name : `${name} without scripts`;
      const during = phase;
      try {
        await this[name]();
        equal([...this.failures, ...this.tab.problems].join('; '), '', 'failures');
      } catch (error) {
        const seen = [...this.failures, ...this.tab.problems].join('; ');
        throw new Error(`session ${this.number} (${kind}, ${during}): ${error.message} [${seen}]`);
      }
      this.done[during] += 1;
      figures.actions[kind] = (figures.actions[kind] ?? 0) + 1;
      await new Promise((resolve) => setTimeout(resolve, this.draw() * 400));
    }
  }
}

const sessions = Array.from({ length: scripted + plain }, (_, number) => new Session(number, number < scripted));

/** Deploys once each session has done something. */
async function deploy(isBroken) {
  while (sessions.some((session) => session.done.before === 0) && !isBroken()) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  phase = 'deploying';
  const begun = performance.now();
  for (const [program, ...words] of steps) await run(program, words, { env: process.env });
  figures.seconds = Math.round((performance.now() - begun) / 1000);
  phase = 'after';
}

await runAll(
  {
    'sessions go on through a deploy': async () => {
      for (const session of sessions) {
        await session.begin();
        equal(session.build, old, 'the page before the deploy');
      }
      const errors = [];
      const used = sessions.map((session) => session.use().catch((error) => errors.push(error.message)));
      await deploy(() => errors.length > 0);
      await Promise.all(used);
      for (const session of sessions) {
        figures.whileDeploying += session.done.deploying;
        figures.afterwards += session.done.after;
      }
      figures.broken = errors.length;
      if (errors.length > 0) throw new Error(`${errors.length} sessions broke:\n${errors.join('\n')}`);
      // Whoever comes now gets the new build, through any gateway.
      for (const session of sessions) {
        await session.reload();
        equal(session.build, latest, 'the page after the deploy');
        await session.tab.leave();
      }
    },
  },
  figures,
);
