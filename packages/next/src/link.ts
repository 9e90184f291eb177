// The connection to Redis: each command has a deadline, and none is sent while Redis is lost.

import { createClient, ErrorReply, RESP_TYPES } from 'redis';
import type { Script } from './scripts.js';

/** Failures in a row after which Redis counts as lost. */
const FAILURES = 3;

/** Longest pause between two attempts to find Redis again, in milliseconds. */
const LONGEST_PAUSE = 2000;

export class RedisLost extends Error {}

export type Argument = string | Buffer;

/** Runs a script; rejects within the deadline if there is no reply. */
export type Run = (script: Script, keys: readonly string[], args: readonly Argument[]) => Promise<unknown[]>;

export class Link {
  readonly #client;
  readonly #deadline: number;
  readonly #onBack: (run: Run) => Promise<void>;
  #failures = 0;
  #isOpen = false;
  #isClosed = false;
  #probe: NodeJS.Timeout | undefined;
  #loggedLoss = false;

  /** `onBack` runs before the first command after a loss; Redis stays lost if it fails. */
  constructor(url: string, deadline: number, onBack: (run: Run) => Promise<void>) {
    this.#deadline = deadline;
    this.#onBack = onBack;
    this.#client = createClient({
      url,
      disableOfflineQueue: true,
      commandOptions: { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } },
      socket: {
        connectTimeout: 2000,
        reconnectStrategy: (tries) => Math.min(50 * 2 ** Math.min(tries, 6), LONGEST_PAUSE),
      },
    });
    this.#client.on('error', (error: Error) => this.#lose(error.message));
    this.#client.on('ready', () => this.#probeSoon(0));
    this.#client.connect().catch((error: Error) => this.#lose(error.message));
  }

  get isUp(): boolean {
    return this.#isOpen;
  }

  /** Runs a script, as `Run`; rejects at once if Redis is lost. */
  readonly run: Run = async (script, keys, args) => {
    if (!this.#isOpen) throw new RedisLost('redis is lost');
    return this.#send(script, keys, args);
  };

  /** Waits until Redis is connected, or for this many milliseconds. */
  async ready(milliseconds: number): Promise<boolean> {
    const end = performance.now() + milliseconds;
    while (!this.#isOpen && performance.now() < end) await pause(5);
    return this.#isOpen;
  }

  close(): void {
    this.#isClosed = true;
    this.#isOpen = false;
    clearTimeout(this.#probe);
    this.#client.destroy();
  }

  async #send(script: Script, keys: readonly string[], args: readonly Argument[]): Promise<unknown[]> {
    const rest = [String(keys.length), ...keys, ...args];
    const reply = this.#client
      .sendCommand(['EVALSHA', script.sha, ...rest])
      .catch((error: Error) => {
        if (!error.message.startsWith('NOSCRIPT')) throw error;
        return this.#client.sendCommand(['EVAL', script.text, ...rest]);
      });
    try {
      const result = await within(reply, this.#deadline);
      this.#failures = 0;
      if (!Array.isArray(result)) throw new Error('redis: unexpected response');
      return result;
    } catch (error) {
      // An error that Redis returns took no time to wait for: it is there.
      if (error instanceof ErrorReply) throw error;
      this.#failures += 1;
      if (this.#failures >= FAILURES) this.#lose((error as Error).message);
      throw error;
    }
  }

  #lose(why: string): void {
    this.#isOpen = false;
    if (this.#isClosed) return;
    if (!this.#loggedLoss) {
      this.#loggedLoss = true;
      console.warn(`@edgeway/next: redis lost, continuing without it: ${why}`);
    }
    this.#probeSoon(100);
  }

  #probeSoon(milliseconds: number): void {
    if (this.#isClosed) return;
    clearTimeout(this.#probe);
    this.#probe = setTimeout(() => void this.#tryAgain(milliseconds), milliseconds);
    this.#probe.unref();
  }

  async #tryAgain(waited: number): Promise<void> {
    if (this.#isOpen || this.#isClosed) return;
    try {
      await within(this.#client.sendCommand(['PING']), this.#deadline);
      await this.#onBack((script, keys, args) => this.#send(script, keys, args));
    } catch {
      if (!this.#isOpen) this.#probeSoon(Math.min(Math.max(2 * waited, 100), LONGEST_PAUSE));
      return;
    }
    if (this.#isClosed) return;
    this.#failures = 0;
    this.#isOpen = true;
    if (this.#loggedLoss) console.warn('@edgeway/next: redis connected');
    this.#loggedLoss = false;
  }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

async function within<T>(promise: Promise<T>, milliseconds: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`redis: no response within ${milliseconds} ms`)), milliseconds);
  });
  // A response that fails after the deadline has nobody waiting for it.
  promise.catch(() => undefined);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
