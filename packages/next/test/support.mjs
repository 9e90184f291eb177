// A real redis-server and stores over it.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
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
    const args = ['--port', redis.port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', redis.folder];
    redis.process = spawn('redis-server', args.map(String), { stdio: 'ignore' });
    redis.client = createClient({ url: redis.url, socket: { reconnectStrategy: () => 20 } });
    redis.client.on('error', () => undefined);
    await redis.client.connect();
    return redis;
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
