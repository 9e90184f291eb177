// The page of the demonstration: buttons send requests, and each request is seen on its way.
'use strict';

const find = (id) => document.getElementById(id);
const way = find('way');
const said = find('said');
const calm = matchMedia('(prefers-reduced-motion: reduce)');
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Milliseconds of a dot from one place to the next. */
const HOP = 150;
/** The filters in their order, and those of each route. */
const FILTERS = ['plugin', 'limit', 'cache'];
const HAS = { '/split': ['plugin'], '/limited': ['limit'], '/product': ['cache'], '/stock': [] };

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

function say(...parts) {
  said.replaceChildren(...parts.map((part, index) => (index % 2 ? make('b', '', part) : part)));
}

/** Lights a place of the picture for a while, with a word beside it. */
const dims = new Map();
function light(name, tone = '', word = '') {
  const node = find(`node-${name}`);
  const flag = node.querySelector('.flag');
  clearTimeout(dims.get(name));
  node.setAttribute('class', `node is-lit ${tone}`);
  flag.textContent = word;
  flag.classList.toggle('is-up', word !== '');
  const dim = () => {
    node.setAttribute('class', 'node');
    flag.classList.remove('is-up');
  };
  dims.set(name, setTimeout(dim, word ? 1600 : 350));
}

function place(name) {
  const node = find(`node-${name}`);
  const share = (axis) => parseFloat(node.getAttribute(axis)) / 100;
  return { x: share('x') * way.clientWidth, y: share('y') * way.clientHeight };
}

async function move(dot, from, to, hops = 1) {
  const [a, b] = [place(from), place(to)];
  const at = ({ x, y }) => `translate(${x}px, ${y}px)`;
  dot.style.transform = at(b);
  await dot.animate([{ transform: at(a) }, { transform: at(b) }], { duration: HOP * hops, easing: 'linear' }).finished;
}

/** Shows a request: it goes until it is known where it ended, and back. */
async function travel(path, response) {
  let end;
  const ended = response.then((seen) => (end = endOf(seen)));
  if (calm.matches) {
    const { at, tone, word } = await ended;
    for (const filter of HAS[path]) light(filter);
    light(at, tone, word);
    return;
  }
  const dot = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
  dot.setAttribute('r', '6');
  dot.setAttribute('class', 'dot');
  find('dots').append(dot);
  light('client');
  let at = 'client';
  for (const next of FILTERS) {
    await move(dot, at, next);
    at = next;
    if (HAS[path].includes(at)) light(at);
    if (end?.at === at) break;
  }
  if (end?.at !== at) {
    await move(dot, at, 'fork');
    at = 'fork';
  }
  // The app works meanwhile.
  const { at: last, tone, word } = await ended;
  if (last !== at) await move(dot, at, last);
  light(last, tone, word);
  dot.setAttribute('class', `dot ${tone}`);
  const isBackend = last.startsWith('shop');
  if (isBackend) await move(dot, last, 'fork');
  await move(dot, isBackend ? 'fork' : last, 'client', 2);
  dot.remove();
}

/** Returns where a request ended, and how. */
function endOf({ status, cache, backend }) {
  if (status === 429) return { at: 'limit', tone: 'warn', word: '429' };
  if (cache === 'HIT') return { at: 'cache', tone: 'good', word: 'HIT' };
  if (backend && status < 400) return { at: backend, tone: 'good', word: cache ?? String(status) };
  if (!status) return { at: 'client', tone: 'bad', word: 'failed' };
  return { at: backend ?? 'cache', tone: 'bad', word: String(status) };
}

const served = { 'shop-1': 0, 'shop-2': 0 };
function count(backend) {
  served[backend] += 1;
  if (backend === 'shop-1' || !way.classList.contains('is-stopped')) label(backend, `${served[backend]} served`);
}
function label(backend, text) {
  document.querySelector(`[data-served="${backend}"]`).textContent = text;
}

let last = { method: 'GET', path: '/product' };

/** Sends a request, which is seen in the picture. */
async function ask(path, options = {}) {
  last = { method: 'GET', path };
  find('last').textContent = `GET ${path}`;
  const begun = performance.now();
  const sent = (async () => {
    try {
      const response = await fetch(path, { cache: 'no-store', ...options });
      const ms = performance.now() - begun;
      const { headers, status } = response;
      return { status, ms, headers, text: (await response.text()).trim(), cache: headers.get('x-cache-status'), backend: headers.get('x-served-by') };
    } catch {
      return { status: 0, ms: performance.now() - begun, text: '', cache: null, backend: null };
    }
  })();
  travel(path, sent);
  const seen = await sent;
  if (!seen.status) throw new Error('the gateway does not respond');
  // A stored response has the header of the backend that made it.
  if (seen.cache === 'HIT') seen.backend = null;
  if (seen.backend in served) count(seen.backend);
  return seen;
}

const milliseconds = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`);

/** What each button does. */
const tries = {
  async cache() {
    const { cache, ms, backend } = await ask('/product');
    const row = find(cache === 'HIT' ? 'race-cache' : 'race-app');
    row.classList.add('is-done');
    row.querySelector('b').textContent = cache;
    row.querySelector('.ms').textContent = milliseconds(ms);
    row.querySelector('.bar').style.setProperty('--share', `${Math.max(1, Math.min(100, ms / 5))}%`);
    find('try-cache').textContent = 'GET /product again';
    say('GET /product  ', cache, backend ? `  by ${backend} in ${milliseconds(ms)}` : `  by the gateway in ${milliseconds(ms)}`);
  },

  async limit() {
    const chips = find('limit-chips');
    chips.replaceChildren();
    let wait = 0;
    for (let number = 0; number < 4; number += 1) {
      const { status, headers } = await ask('/limited');
      chips.append(make('span', `chip ${status === 429 ? 'warn' : status < 400 ? 'good' : 'bad'}`, status));
      if (status === 429) wait = Number(headers.get('retry-after'));
      say('GET /limited  ', String(status), status === 429 ? `  Retry-After: ${wait}` : '');
      await pause(200);
    }
    countDown(wait);
  },

  async split() {
    await visit({ credentials: 'omit' }, (a, b) => `${a} of 8 new visitors see A, ${b} see B.`);
  },

  async same() {
    await visit({}, (a) => `With the cookie it is ${a ? 'A' : 'B'}, each time.`);
  },

  async stop() {
    const stopped = await fetch('/stop', { method: 'POST' });
    if (!stopped.ok) {
      find('stop-says').textContent = `Refused with ${stopped.status}: this button is for localhost.`;
      return;
    }
    const [ticks, counts] = [find('ticks'), { sent: 0, failed: 0, 'shop-1': 0, 'shop-2': 0 }];
    ticks.replaceChildren();
    way.classList.add('is-stopped');
    label('shop-2', 'refuses');
    const seconds = Number((await stopped.text()).match(/(\d+) s/)[1]);
    const begun = performance.now();
    say('shop-2 refuses connections; the page sends ', '4 requests a second', '');
    for (let isBack = false; !isBack; ) {
      const since = (performance.now() - begun) / 1000;
      const { status, backend } = await ask('/stock');
      counts.sent += 1;
      const isServed = status === 200 && backend in served;
      counts[isServed ? backend : 'failed'] += 1;
      ticks.append(make('i', isServed ? backend : 'failed'));
      for (const [id, name] of [['sent', 'sent'], ['failed', 'failed'], ['1', 'shop-1'], ['2', 'shop-2']]) find(`count-${id}`).textContent = counts[name];
      if (since >= seconds && way.classList.contains('is-stopped')) way.classList.remove('is-stopped');
      find('stop-says').textContent = since < seconds ? `shop-2 refuses connections for ${Math.ceil(seconds - since)} s more.` : 'shop-2 listens again; two checks must pass.';
      if (since >= seconds) label('shop-2', 'checked');
      isBack = since >= seconds && backend === 'shop-2';
      if (since > 60 && !isBack) throw new Error('shop-2 has not come back within 60 s');
      await pause(220);
    }
    label('shop-2', `${served['shop-2']} served`);
    find('stop-says').textContent = `shop-2 is back in rotation: ${counts.sent} requests, ${counts.failed} failed.`;
    say('shop-2 is back: ', `${counts.sent} requests, ${counts.failed} failed`, '');
  },

  async headers() {
    const { headers } = await ask('/stock');
    const isSecurity = (name) => /^(content-security|cross-origin|origin-agent|referrer|x-)/.test(name) && !/^x-(served|request)/.test(name);
    const lines = [...headers].filter(([name]) => isSecurity(name));
    facts('headers', lines);
    say('GET /stock  ', `${lines.length} security headers`, '  by the gateway');
  },

  async explain() {
    const { method, path } = last;
    const body = JSON.stringify({ method, url: location.origin + path });
    const response = await fetch('/v1/explain', { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    if (!response.ok) {
      facts('explained', [['refused', `${response.status}: this button is for the gateway's own machine`]]);
      return;
    }
    const { route, action, filters, cache, considered } = await response.json();
    const { now, policy } = cache ?? {};
    const entry = now?.entry;
    facts('explained', [
      ['request', `${method} ${path}`],
      ['route', route],
      ['action', action],
      ['filters', filters.map(({ name }) => name).join(' → ')],
      ['cache', now ? [now.outcome, now.why, entry && `${entry.age} s old, ${entry.hits} hit${entry.hits === 1 ? '' : 's'}`].filter(Boolean).join(', ') : (policy?.[0] ?? 'none')],
      ...considered.slice(0, 4).map((other) => [other.route, other.why]),
    ]);
    say('explain  ', `${method} ${path}`, `  takes route ${route}`);
  },
};

/** Sends eight requests to `/split`. */
async function visit(options, words) {
  const chips = find('split-chips');
  chips.replaceChildren();
  const seen = { a: 0, b: 0 };
  for (let number = 0; number < 8; number += 1) {
    const { text } = await ask('/split', options);
    const variant = text.replace('variant ', '');
    seen[variant] += 1;
    light('plugin', '', variant.toUpperCase());
    chips.append(make('span', `chip ${variant}`, variant.toUpperCase()));
    await pause(120);
  }
  find('split-says').textContent = words(seen.a, seen.b);
  say('GET /split  ', `${seen.a} A, ${seen.b} B`, '  chosen by the plugin');
}

function facts(id, lines) {
  const rows = lines.map(([name, value]) => {
    const row = make('div');
    row.append(make('dt', '', name), make('dd', '', value));
    return row;
  });
  find(id).replaceChildren(...rows);
}

let counting;
function countDown(seconds) {
  clearInterval(counting);
  const end = performance.now() + seconds * 1000;
  const show = () => {
    const left = (end - performance.now()) / 1000;
    find('limit-bar').style.setProperty('--share', `${Math.max(0, (left / seconds) * 100)}%`);
    find('limit-wait').textContent = left > 0 ? `Retry-After: ${seconds}. The next one may come in ${Math.ceil(left)} s.` : 'The next one may come now.';
    if (left <= 0) clearInterval(counting);
  };
  if (seconds > 0) {
    counting = setInterval(show, 100);
    show();
  }
}

for (const hidden of document.querySelectorAll('.needs-script')) hidden.hidden = false;

for (const button of document.querySelectorAll('[data-try]')) {
  const tile = button.closest('.tile');
  button.addEventListener('click', async () => {
    const buttons = tile.querySelectorAll('[data-try]');
    tile.classList.add('is-lit');
    for (const each of buttons) each.disabled = true;
    try {
      await tries[button.dataset.try]();
    } catch (error) {
      way.classList.remove('is-stopped');
      say('', 'Failed', `: ${error.message}. Does \`edgeway demo\` still run?`);
    } finally {
      for (const each of buttons) each.disabled = false;
      button.focus({ preventScroll: true });
      tile.classList.remove('is-lit');
    }
  });
}

for (const line of document.querySelectorAll('[data-curl]')) {
  const box = make('div', 'code');
  const copy = make('button', 'copy', 'Copy');
  copy.type = 'button';
  copy.setAttribute('aria-label', `Copy the line ${line.dataset.curl}`);
  line.replaceWith(box);
  box.append(line, copy);
  copy.addEventListener('click', async () => {
    getSelection().selectAllChildren(line);
    // Without the right to write to the clipboard, the line is selected.
    const isCopied = await navigator.clipboard?.writeText(line.textContent).then(() => true, () => false);
    copy.textContent = isCopied ? 'Copied' : 'Selected';
    setTimeout(() => (copy.textContent = 'Copy'), 1500);
  });
}
