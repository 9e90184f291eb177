// A real redis-server and stores over it.

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { connect, createServer } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createClient } from 'redis';

import { settingsFrom } from '../dist/settings.js';
import { Store } from '../dist/store.js';

export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

export class Redis {
  static async start(port) {
    const redis = new Redis();
    redis.port = port ?? (await freePort());
    redis.url = `redis://127.0.0.1:${redis.port}`;
    redis.folder = mkdtempSync(join(tmpdir(), 'edgeway-next-'));
    redis.spawn();
    redis.client = createClient({ url: redis.url, socket: { reconnectStrategy: () => 20 } });
    redis.client.on('error', () => undefined);
    await redis.client.connect();
    return redis;
  }

  spawn() {
    const args = ['--port', this.port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', this.folder];
    this.process = spawn('redis-server', args.map(String), { stdio: 'ignore' });
  }

  /** Ends it by a signal, and starts it with the data of the last `SAVE`. */
  async crash() {
    const exit = once(this.process, 'exit');
    this.process.kill('SIGKILL');
    await exit;
    this.spawn();
    await until(() => this.client.isReady, 'Redis does not start');
  }

  /** Empties it, as if it had known all pages of the gateways so far. */
  async clear() {
    await this.client.flushAll();
    await this.client.hSet('edgeway:next:{app}:meta', { epoch: randomBytes(8).toString('hex'), version: 1, floor: 1, count: 0 });
  }

  hang() {
    this.process.kill('SIGSTOP');
  }

  goOn() {
    this.process.kill('SIGCONT');
  }

  async kill() {
    this.client.destroy();
    if (this.process.exitCode === null && this.process.signalCode === null) {
      const exit = once(this.process, 'exit');
      this.process.kill('SIGKILL');
      await exit;
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A network between a store and Redis, which a test can cut. */
export class Network {
  #pairs = new Set();
  #isCut = false;

  static async start(redis) {
    const network = new Network();
    network.server = createServer((near) => network.#join(near, redis.port)).listen(0, '127.0.0.1');
    await once(network.server, 'listening');
    network.url = `redis://127.0.0.1:${network.server.address().port}`;
    return network;
  }

  #join(near, port) {
    if (this.#isCut) return near.destroy();
    const far = connect(port, '127.0.0.1');
    const pair = [near, far];
    this.#pairs.add(pair);
    for (const [from, to] of [pair, [far, near]]) {
      from.on('error', () => undefined).on('close', () => to.destroy());
      from.on('data', (chunk) => pair.isStuck || to.write(chunk));
    }
    near.on('close', () => this.#pairs.delete(pair));
  }

  cut() {
    this.#isCut = true;
    for (const [near] of this.#pairs) near.destroy();
  }

  mend() {
    this.#isCut = false;
  }

  /** Nothing passes on the connections of this moment, which stay open. */
  stick() {
    for (const pair of this.#pairs) pair.isStuck = true;
  }

  stop() {
    this.cut();
    this.server.close();
  }
}

export const ALL = [{ all: true }];
export const both = (...urls) => urls.flatMap((url) => [{ url }, { prefix: `${url}?` }]);

/** A gateway that keeps what it is asked, and responds as a test wants. */
export class Gateway {
  purges = [];
  respond = () => [200, { others: 'alone' }];

  static async start() {
    const gateway = new Gateway();
    gateway.server = createHttpServer((request, response) => {
      let body = '';
      request.on('data', (chunk) => (body += chunk)).on('end', () => {
        const { purges } = JSON.parse(body);
        gateway.purges.push(purges);
        const [status, text] = gateway.respond(purges, body);
        response.writeHead(status).end(JSON.stringify(text));
      });
    }).listen(0, '127.0.0.1');
    await once(gateway.server, 'listening');
    gateway.url = `http://127.0.0.1:${gateway.server.address().port}`;
    return gateway;
  }

  stop() {
    this.server.close();
  }
}

export async function openStore(url, options = {}, build = 'build') {
  const store = new Store({ ...settingsFrom({ EDGEWAY_REDIS_URL: url }), ...options }, build);
  if (url && !(await store.ready(5000))) throw new Error('no connection to redis');
  return store;
}

/** A generator of numbers that a seed determines (mulberry32). */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Waits until something is true, and fails with this reason if it takes long. */
export async function until(isTrue, why, milliseconds = 8000) {
  const end = performance.now() + milliseconds;
  while (!(await isTrue())) {
    if (performance.now() > end) throw new Error(why);
    await pause(5);
  }
}

export function page(text, tags) {
  return { kind: 'APP_PAGE', html: text, rscData: Buffer.from([1, 2, 3]), status: 200, postponed: undefined,
    headers: { 'x-next-cache-tags': tags.join(',') }, segmentData: new Map([['/a', Buffer.from('segment')]]) };
}
