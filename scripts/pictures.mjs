#!/usr/bin/env node
// Makes the images of README: the page of `edgeway demo`, `edgeway top` in front of it, and an
// `edgeway explain`. Usage: scripts/pictures.mjs PROGRAM [FOLDER]. `make pictures` calls it.
//
// The terminal is xterm.js in the browser, fed with what the program writes to a pseudo-terminal.
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(fileURLToPath(import.meta.url), '../..');
const require = createRequire(join(root, 'tests/browser/check.js'));
const { chromium } = require('playwright-core');

const [program, folder = join(root, 'docs/images')] = process.argv.slice(2).map((path) => resolve(path));
if (!program) throw new Error('usage: scripts/pictures.mjs PROGRAM [FOLDER]');

/** Bytes that an image of README may have. */
const MAX_SIZE = 200_000;
const WAIT = 20_000;

const freePort = () =>
  new Promise((done) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

async function until(what, holds) {
  const end = Date.now() + WAIT;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`${what}: not within ${WAIT / 1000} s`);
    await new Promise((again) => setTimeout(again, 50));
  }
}

/** Runs the program in a terminal; `text()` is what it wrote so far. */
function inTerminal(words, columns, rows) {
  const line = [program, ...words].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
  const child = spawn('script', ['-qfec', `stty cols ${columns} rows ${rows}; exec ${line}`, '/dev/null'], {
    env: { ...process.env, TERM: 'xterm-256color', COLORTERM: 'truecolor', NO_COLOR: undefined },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const chunks = [];
  child.stdout.on('data', (chunk) => chunks.push(chunk));
  const ended = new Promise((done) => child.on('close', done));
  return { text: () => Buffer.concat(chunks).toString(), write: (keys) => child.stdin.write(keys), ended };
}

const work = mkdtempSync(join(tmpdir(), 'edgeway-pictures-'));
const listen = await freePort();
const admin = await freePort();
const demo = spawn(program, ['demo', '--listen', `${listen}`, '--admin', `127.0.0.1:${admin}`], {
  env: { ...process.env, XDG_RUNTIME_DIR: work },
  stdio: ['ignore', 'pipe', 'pipe'],
});
let said = '';
for (const stream of [demo.stdout, demo.stderr]) stream.on('data', (text) => (said += text));
const browser = await chromium.launch({
  executablePath: process.env.BROWSER ?? '/usr/bin/chromium-headless-shell',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

mkdirSync(folder, { recursive: true });
async function save(name, target, options = {}) {
  const path = join(folder, `${name}.png`);
  await target.screenshot({ path, ...options });
  const { size } = statSync(path);
  if (size > MAX_SIZE) throw new Error(`${path}: ${size} bytes, more than ${MAX_SIZE}`);
  console.log(`${path}: ${Math.round(size / 1024)} KiB`);
}

/** Draws the text of a terminal, and saves it. */
async function saveTerminal(name, text, columns, rows) {
  const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
  const file = (path) => readFileSync(join(root, 'tests/browser/node_modules/@xterm/xterm', path), 'utf8');
  await page.setContent('<body style="margin:0;background:#0d1117"><div id="screen" style="display:inline-block;padding:14px"></div>');
  await page.addStyleTag({ content: file('css/xterm.css') });
  await page.addScriptTag({ content: file('lib/xterm.js') });
  await page.evaluate(
    ([bytes, cols, lines]) =>
      new Promise((drawn) => {
        const theme = { background: '#0d1117', foreground: '#c9d1d9', cursor: '#0d1117' };
        const terminal = new Terminal({ cols, rows: lines, fontSize: 14, lineHeight: 1.2, fontFamily: 'DejaVu Sans Mono, monospace', theme, convertEol: true, allowProposedApi: true });
        terminal.open(document.getElementById('screen'));
        terminal.write(bytes, drawn);
      }),
    [text, columns, rows],
  );
  // The terminal draws in the frame after the write.
  await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
  await save(name, page.locator('#screen'));
  await page.close();
}

try {
  const base = `http://127.0.0.1:${listen}`;
  await until(`the demonstration: ${said}`, () => fetch(base).then((response) => response.ok, () => false));
  const socket = /--socket (\S+)/.exec(said)?.[1];

  const page = await browser.newPage({ viewport: { width: 1280, height: 1120 } });
  await page.goto(base);
  for (const tile of ['cache', 'cache', 'limit']) await page.click(`#try-${tile}:not([disabled])`);
  // While one backend is stopped, requests go to the other one.
  await page.click('#try-stop');
  await page.waitForSelector('text=/^refuses$/');
  await page.evaluate(() => window.scrollTo(0, 0));
  await save('demo', page);
  await page.close();

  // Some traffic, so that there is something to see.
  let isOver = false;
  const paths = ['/', '/product', '/product', '/product', '/split', '/api/echo', '/limited', '/stock/items'];
  const traffic = (async () => {
    while (!isOver) await Promise.all(paths.map((path) => fetch(base + path).then((response) => response.text())));
  })();
  const top = inTerminal(['top', '--socket', socket], 120, 32);
  await until('edgeway top', () => top.text().includes('req/s') || top.text().includes('/s'));
  await new Promise((later) => setTimeout(later, 6000));
  const screen = top.text();
  top.write('q');
  await top.ended;
  isOver = true;
  await traffic;
  // What the program draws at its end restores the screen of the shell.
  await saveTerminal('top', screen, 120, 32);

  const words = ['explain', '--live', '--socket', socket, 'GET', `${base}/product`];
  const explain = inTerminal(words, 100, 40);
  await explain.ended;
  const shown = `$ edgeway explain --live GET http://127.0.0.1:8080/product\n${explain.text()}`;
  await saveTerminal('explain', shown.replaceAll(String(listen), '8080').trimEnd(), 100, shown.trimEnd().split('\n').length);
} finally {
  demo.kill('SIGTERM');
  await browser.close();
  rmSync(work, { recursive: true, force: true });
}
