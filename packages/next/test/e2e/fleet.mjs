// Two instances of a built app of Next.js behind two gateways, with one Redis and one origin of
// data.

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { freePort, pause, Redis } from '../support.mjs';

const PACKAGE = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const ROOT = resolve(PACKAGE, '../..');
const TOKEN = 'a-token-of-the-tests-only';

/** Builds the app with the Next.js that is installed in `folder`; `variant` adds pages. */
export function build(folder, variant) {
  const modules = join(folder, 'node_modules');
  if (!existsSync(join(modules, 'next'))) throw new Error(`${modules}: no Next.js; run EDGEWAY_TEST_ALL=1 tests/apps/build.sh`);
  const app = mkdtempSync(join(tmpdir(), 'edgeway-next-app-'));
  cpSync(join(PACKAGE, 'test/app/app'), join(app, 'app'), { recursive: true });
  for (const file of ['next.config.mjs', 'package.json']) cpSync(join(PACKAGE, 'test/app', file), join(app, file));
  if (variant) {
    rmSync(join(app, 'app/tagged'), { recursive: true });
    cpSync(join(PACKAGE, 'test/app/variants', variant), join(app, 'app'), { recursive: true });
  }
  // Links instead of copies where the file system can: they take no time and no room.
  const linked = spawnSync('cp', ['-al', realpathSync(modules), join(app, 'node_modules')]);
  if (linked.status !== 0) cpSync(modules, join(app, 'node_modules'), { recursive: true });
  const own = join(app, 'node_modules/@edgeway/next');
  mkdirSync(own, { recursive: true });
  for (const part of ['package.json', 'dist', 'node_modules']) cpSync(join(PACKAGE, part), join(own, part), { recursive: true });
  const version = JSON.parse(readFileSync(join(modules, 'next/package.json'), 'utf8')).version;
  const env = { ...process.env, NEXT_MAJOR: version.split('.')[0], USE_CACHE: variant ? '1' : '0', NEXT_TELEMETRY_DISABLED: '1', CI: '1', NODE_ENV: 'production' };
  const built = spawnSync(process.execPath, ['node_modules/next/dist/bin/next', 'build'], { cwd: app, env, encoding: 'utf8' });
  if (built.status !== 0) throw new Error(`next build failed:\n${built.stdout}\n${built.stderr}`);
  return { folder: app, env, version };
}

export class Fleet {
  instances = [];
  gateways = [];
  #children = [];
  #folders = [];

  static async start(app, options = {}) {
    const fleet = new Fleet();
    fleet.app = app;
    try {
      await fleet.#start(options);
    } catch (error) {
      await fleet.stop();
      throw new Error(`${error.message}\n${fleet.output.slice(-3000)}`);
    }
    return fleet;
  }

  async #start(options) {
    this.redis = await Redis.start();
    await this.#startData();
    this.admin = await freePort();
    this.instances = [await this.#startInstance(options), await this.#startInstance(options)];
    if (options.gateways !== false) {
      this.gateways = [await this.#startGateway(0, this.admin), await this.#startGateway(1, await freePort())];
    }
  }

  /** The data behind the pages: a number, and how often it was read. */
  async #startData() {
    this.data = { value: 1, reads: 0 };
    this.server = createServer((request, response) => {
      this.data.reads += 1;
      response.end(String(this.data.value));
    }).listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    this.dataUrl = `http://127.0.0.1:${this.server.address().port}`;
  }

  async #startInstance({ env = {} }) {
    const port = await freePort();
    this.#spawn(process.execPath, ['node_modules/next/dist/bin/next', 'start', '-p', port, '-H', '127.0.0.1'], {
      cwd: this.app.folder,
      env: {
        ...this.app.env, DATA_URL: this.dataUrl, EDGEWAY_REDIS_URL: this.redis.url,
        EDGEWAY_ADMIN_URL: `http://127.0.0.1:${this.admin}`, EDGEWAY_ADMIN_TOKEN: TOKEN, ...env,
      },
    });
    await isServing(`http://127.0.0.1:${port}/`);
    return port;
  }

  async #startGateway(number, admin) {
    const port = await freePort();
    const folder = mkdtempSync(join(tmpdir(), 'edgeway-next-gateway-'));
    this.#folders.push(folder);
    writeFileSync(join(folder, 'edgeway.yaml'), `
listeners: [{ address: "127.0.0.1:${port}" }]
admin: { address: "127.0.0.1:${admin}", socket: off, token: "${TOKEN}" }
redis: { url: "${this.redis.url}", secret: "a secret of the tests only, 32 characters", timeout: 200ms }
upstreams:
  web: { app: nextjs, guarded: [], backends: [${this.instances.map((instance) => `"127.0.0.1:${instance}"`).join(', ')}] }
routes:
  - { match: { path: "/*" }, upstream: web, cache: {} }
`);
    const program = process.env.EDGEWAY_BIN ?? join(ROOT, 'target/debug/edgeway');
    this.#spawn(program, ['run', '-c', join(folder, 'edgeway.yaml')], { cwd: folder });
    await isServing(`http://127.0.0.1:${port}/`);
    return port;
  }

  #spawn(program, args, options) {
    const child = spawn(program, args.map(String), { stdio: ['ignore', 'pipe', 'pipe'], ...options });
    child.output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (child.output += chunk));
    this.#children.push(child);
  }

  get output() {
    return this.#children.map((child) => child.output).join('\n');
  }

  async stop() {
    for (const child of this.#children) {
      const exit = once(child, 'exit');
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGKILL');
        await exit;
      }
    }
    this.server?.close();
    for (const folder of [this.app.folder, ...this.#folders]) rmSync(folder, { recursive: true, force: true });
    await this.redis?.kill();
  }
}

async function isServing(url) {
  const end = performance.now() + 20_000;
  for (;;) {
    const response = await fetch(url).catch(() => undefined);
    if (response?.status === 200) return response.text();
    if (performance.now() > end) throw new Error(`${url}: no response with status 200`);
    await pause(50);
  }
}

/** Reads a page and returns its value. */
export async function value(port, path) {
  const response = await fetch(`http://127.0.0.1:${port}${path}`);
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${path} at ${port}: status ${response.status}\n${text.slice(0, 500)}`);
  return { value: /value:(\w+):end/.exec(text)?.[1], headers: response.headers };
}

export async function post(port, path) {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, { method: 'POST' });
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${path} at ${port}: status ${response.status}\n${text.slice(0, 500)}`);
  return text;
}

/** Folders with an installed Next.js of each major version that is tested. */
export const NEXT16 = process.env.NEXT16 ?? join(ROOT, 'tests/apps/next');
export const ALL = process.env.EDGEWAY_TEST_ALL ? [NEXT16, process.env.NEXT15 ?? join(ROOT, 'tests/apps/next15')] : [NEXT16];
