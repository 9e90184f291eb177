// The connection to Redis: each command has a deadline, and none is sent while Redis is lost.

import { createClient, ErrorReply, RESP_TYPES } from 'redis';
import type { Script } from './scripts.js';

/** Failures in a row after which Redis counts as lost. */
const FAILURES = 3;

/** Longest pause between two attempts to find Redis again, and the longest attempt, in milliseconds. */
const LONGEST_PAUSE = 2000;

/** Errors of a server that is no master any more, or not yet: its address may lead to another one. */
const NO_MASTER = /\b(?:READONLY|MASTERDOWN|LOADING|MOVED|CLUSTERDOWN)\b/;

/** Pause between two lines about rejected commands, in milliseconds. */
const SILENCE = 60_000;

export class RedisLost extends Error {}

export type Argument = string | Buffer;

/** Runs a script; rejects within the deadline if there is no reply. */
export type Run = (script: Script, keys: readonly string[], args: readonly Argument[]) => Promise<unknown[]>;

export class Link {
  readonly #url: string;
  readonly #deadline: number;
  readonly #onBack: (run: Run) => Promise<void>;
  #client: ReturnType<typeof open> | undefined;
  #failures = 0;
  #isOpen = false;
  #isClosed = false;
  #isTrying = false;
  #probe: NodeJS.Timeout | undefined;
  #loggedLoss = false;
  #rejected = -Infinity;

  /** `onBack` runs before the first command after a loss; Redis stays lost if it fails. */
  constructor(url: string, deadline: number, onBack: (run: Run) => Promise<void>) {
    this.#url = url;
    this.#deadline = deadline;
    this.#onBack = onBack;
    void this.#tryAgain(0);
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
    this.#disconnect();
  }

  async #send(script: Script, keys: readonly string[], args: readonly Argument[]): Promise<unknown[]> {
    const client = this.#client;
    if (!client) throw new RedisLost('redis is lost');
    const rest = [String(keys.length), ...keys, ...args];
    const reply = client
      .sendCommand(['EVALSHA', script.sha, ...rest])
      .catch((error: Error) => {
        if (!error.message.startsWith('NOSCRIPT')) throw error;
        return client.sendCommand(['EVAL', script.text, ...rest]);
      });
    try {
      const result = await within(reply, this.#deadline);
      this.#failures = 0;
      if (!Array.isArray(result)) throw new Error('redis: unexpected response');
      return result;
    } catch (error) {
      if (client === this.#client) this.#count(error as Error);
      throw error;
    }
  }

  #count(error: Error): void {
    if (!isRejection(error)) {
      this.#failures += 1;
      if (error instanceof ErrorReply || this.#failures >= FAILURES) this.#lose(error.message);
      return;
    }
    if (performance.now() < this.#rejected + SILENCE) return;
    this.#rejected = performance.now();
    console.warn(`@edgeway/next: redis rejected a command: ${error.message}`);
  }

  #lose(why: string): void {
    this.#isOpen = false;
    // It may be stuck for ever, while a new one would not.
    this.#disconnect();
    if (this.#isClosed) return;
    if (!this.#loggedLoss) {
      this.#loggedLoss = true;
      console.warn(`@edgeway/next: redis lost, continuing without it: ${why}`);
    }
    if (!this.#isTrying) this.#probeSoon(50);
  }

  #disconnect(): void {
    const client = this.#client;
    this.#client = undefined;
    // One that is not connected yet, or not any more, cannot be destroyed.
    if (client?.isOpen) client.destroy();
  }

  #probeSoon(milliseconds: number): void {
    if (this.#isClosed) return;
    clearTimeout(this.#probe);
    this.#probe = setTimeout(() => void this.#tryAgain(milliseconds), milliseconds);
    this.#probe.unref();
  }

  async #tryAgain(waited: number): Promise<void> {
    this.#isTrying = true;
    const client = (this.#client = open(this.#url));
    client.on('error', (error: Error) => client === this.#client && this.#lose(error.message));
    try {
      await within(client.connect(), LONGEST_PAUSE);
      await this.#onBack((script, keys, args) => this.#send(script, keys, args)).catch((error: Error) => {
        // What it has is worth reading.
        if (!isRejection(error)) throw error;
      });
      this.#isOpen = client === this.#client;
    } catch (error) {
      this.#lose((error as Error).message);
    }
    this.#isTrying = false;
    if (!this.#isOpen) return this.#probeSoon(Math.min(Math.max(2 * waited, 100), LONGEST_PAUSE));
    this.#failures = 0;
    if (this.#loggedLoss) console.warn('@edgeway/next: redis connected');
    this.#loggedLoss = false;
  }
}

/** An error that Redis returns took no time to wait for: it is there. */
function isRejection(error: Error): boolean {
  return error instanceof ErrorReply && !NO_MASTER.test(error.message);
}

function open(url: string) {
  return createClient({
    url,
    disableOfflineQueue: true,
    commandOptions: { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } },
    socket: { connectTimeout: LONGEST_PAUSE, reconnectStrategy: false },
  });
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
