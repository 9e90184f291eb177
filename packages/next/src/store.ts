// Entries shared through Redis, with a layer in the process.
//
// Invariant: a read that begins after `revalidate` resolved with `reached` sees no entry whose
// making began before it, in any process. Each revalidation increments a counter in Redis and
// stores it with its tags; each entry is stamped with a value of the counter seen before its
// making began; Redis compares the two at every read. So no clock is involved, and an entry that
// arrives late is refused or never read.

import { randomBytes } from 'node:crypto';
import { Gateways } from './gateways.js';
import { Link, type Argument } from './link.js';
import { Memory } from './memory.js';
import { FORGET, GET, MOST_TAGS, REVALIDATE, SET } from './scripts.js';
import type { Settings } from './settings.js';

/** A tag that every entry has, for when more revalidations wait for Redis than are kept. */
const EVERYTHING = '*';

/** Most revalidations that wait for Redis; beyond them, everything is revalidated. */
const MOST_UNSENT = 10_000;

/** Seconds for which a gateway may keep a page, and the paths of a tag are known: a year, as Next.js tells it. */
const LONGEST_KEPT = 31_536_000;

/** Pause before revalidations that failed are sent again, in milliseconds. */
const RESEND = 100;

/** Times at which the counter changed, kept to stamp entries whose making began earlier. */
const HISTORY = 1024;

/** A moment before which an entry's making had not begun. */
export interface Moment {
  readonly epoch: string;
  readonly version: number;
  /** Milliseconds of the process's own clock. */
  readonly at: number;
}

export interface Found<T> {
  readonly value: T;
  readonly isStale: boolean;
}

export interface Receipt {
  /** `reached`: no instance serves older entries; `unreached`: sent when Redis is back. */
  readonly instances: 'reached' | 'unreached';
}

/** A receipt with the paths of the pages that have the tags or are being made; `*`: any. */
export interface StoreReceipt extends Receipt {
  readonly paths: readonly string[];
}

/** A page that gateways may have, and a name for the one render of it that is meant. */
export interface PageName {
  readonly path: string;
  readonly render: string;
}

/** An entry's key and, if gateways may have it, its page. */
export interface Name {
  readonly key: string;
  readonly page?: PageName;
}

/** What became of a value: `refused` if a revalidation made it outdated, `unknown` without Redis. */
export type Outcome = 'stored' | 'refused' | 'unknown';

export interface Codec<T> {
  encode(value: T): Buffer;
  /** Returns nothing for bytes that are not a value. */
  decode(body: Buffer): T | undefined;
}

interface Held {
  id: string;
  value: unknown;
  tags: readonly string[];
  /** When its making began, or when Redis was last asked about it. */
  confirmed: number;
}

interface Unsent {
  readonly tags: readonly string[];
  readonly expiresIn: number | undefined;
}

export class Store {
  readonly gateways: Gateways;
  readonly #build: string;
  readonly #link: Link | undefined;
  readonly #memory: Memory<Held>;
  readonly #meta: readonly string[];
  readonly #making: string;
  readonly #pages: string;
  #history: Moment[] = [];
  #unsent: Unsent[] = [];
  #resend: NodeJS.Timeout | undefined;
  /** Tags revalidated by this process, by its clock: for reads without Redis. */
  #own = new Map<string, number>();
  #ownFloor = -Infinity;

  constructor(readonly settings: Settings, build: string) {
    this.gateways = new Gateways(settings);
    this.#build = build;
    this.#memory = new Memory(settings.memoryBytes);
    const prefix = `edgeway:next:{${settings.app}}:`;
    this.#meta = [`${prefix}meta`, `${prefix}tags`, `${prefix}order`];
    this.#making = `${prefix}making`;
    this.#pages = `${prefix}pages:`;
    this.#link = settings.redisUrl
      ? new Link(settings.redisUrl, settings.deadline, () => this.#sendUnsent())
      : undefined;
  }

  /** True if other processes can revalidate what this one serves. */
  get isShared(): boolean {
    return this.#link !== undefined;
  }

  get memoryBytes(): number {
    return this.#memory.bytes;
  }

  /** Waits until Redis is connected, or for this many milliseconds. */
  async ready(milliseconds: number): Promise<boolean> {
    return (await this.#link?.ready(milliseconds)) ?? false;
  }

  close(): void {
    clearTimeout(this.#resend);
    this.gateways.close();
    this.#link?.close();
  }

  /** Returns the last known moment that is not after this time of `performance.now()`. */
  momentAt(at: number): Moment {
    for (let i = this.#history.length - 1; i >= 0; i -= 1) {
      const moment = this.#history[i]!;
      if (moment.at <= at) return { ...moment, at };
    }
    return { epoch: '', version: 0, at };
  }

  async get<T>(
    { key, page }: Name,
    tags: readonly string[],
    codec: Codec<T>,
  ): Promise<{ found: Found<T> | undefined; moment: Moment }> {
    const begun = performance.now();
    const held = this.#memory.get(key);
    try {
      if (!this.#link?.isUp) throw new Error('redis is lost');
      const keys = [...this.#meta, this.#keyOf(key), this.#making];
      const render = page ? memberOf(page) : '';
      const args = [randomId(), held?.id ?? '', render, String(this.settings.making), EVERYTHING, ...tags];
      const reply = await this.#link.run(GET, keys, args);
      const moment = this.#observe(reply, begun);
      return { found: this.#take(key, reply, held, tags, codec, begun), moment };
    } catch {
      // Whatever is wrong with Redis, the request goes on with what the process has.
      return { found: this.#withoutRedis(held, tags), moment: this.momentAt(begun) };
    }
  }

  /** Stores a value whose making began after `moment`. */
  async set<T>(
    { key, page }: Name,
    value: T,
    tags: readonly string[],
    codec: Codec<T>,
    moment: Moment,
    keepSeconds: number,
  ): Promise<Outcome> {
    const body = codec.encode(value);
    const id = randomId();
    const seconds = Math.max(1, Math.min(Math.ceil(keepSeconds), this.settings.keepSeconds));
    const held: Held = { id, value, tags, confirmed: moment.at };
    const begun = performance.now();
    try {
      if (!this.#link?.isUp) throw new Error('redis is lost');
      const keys = [...this.#meta, this.#keyOf(key), this.#making, this.#pages];
      const list = tags.length > 0 ? JSON.stringify(tags) : '{}';
      const args: Argument[] = [
        randomId(), moment.epoch, String(moment.version), id, list, body, String(seconds),
        page?.path ?? '', String(Math.max(this.settings.keepSeconds, LONGEST_KEPT)), page ? memberOf(page) : '',
      ];
      const reply = await this.#link.run(SET, keys, args);
      this.#observe(reply, begun);
      const isStored = Number(reply[2]) === 1;
      if (isStored) this.#hold(key, held, body.length);
      return isStored ? 'stored' : 'refused';
    } catch {
      this.#hold(key, held, body.length);
      return 'unknown';
    }
  }

  /** Takes back that these renders are being made. */
  async forget(pages: readonly PageName[]): Promise<void> {
    // Without Redis they are forgotten when their time is over.
    await this.#link?.run(FORGET, [this.#making], pages.map(memberOf)).catch(() => undefined);
  }

  /** Returns true if this process has revalidated one of these tags. */
  hasRevalidated(tags: readonly string[]): boolean {
    return this.#ownFloor > -Infinity || tags.some((tag) => this.#own.has(tag));
  }

  /** Makes entries with one of these tags misses, or stale for so many milliseconds first. */
  async revalidate(tags: readonly string[], staleFor?: number): Promise<StoreReceipt> {
    if (tags.length === 0) return { instances: 'reached', paths: [] };
    const now = performance.now();
    for (const tag of tags) this.#own.set(tag, now);
    if (this.#own.size > MOST_TAGS) {
      this.#own.clear();
      this.#ownFloor = now;
    }
    const unsent = { tags: [...tags], expiresIn: staleFor };
    if (!this.#link) return { instances: 'unreached', paths: ['*'] };
    try {
      const reply = await this.#link.run(REVALIDATE, [...this.#meta, this.#making, this.#pages], argumentsOf(unsent));
      this.#observe(reply, now);
      return { instances: 'reached', paths: (reply[3] as unknown[]).map(String) };
    } catch {
      this.#unsent.push(unsent);
      if (this.#unsent.length > MOST_UNSENT) this.#unsent = [{ tags: [EVERYTHING], expiresIn: undefined }];
      this.#resendSoon();
      return { instances: 'unreached', paths: ['*'] };
    }
  }

  #keyOf(key: string): string {
    return `edgeway:next:{${this.settings.app}}:${this.#build}:${key}`;
  }

  #hold(key: string, held: Held, bytes: number): void {
    // Strings of the value may take two bytes for each character.
    this.#memory.set(key, held, 2 * bytes);
  }

  #take<T>(
    key: string,
    reply: unknown[],
    held: Held | undefined,
    tags: readonly string[],
    codec: Codec<T>,
    begun: number,
  ): Found<T> | undefined {
    const verdict = Number(reply[2]);
    if (verdict === 0) {
      if (held) this.#memory.delete(key);
      return undefined;
    }
    const isStale = verdict === 2;
    const id = String(reply[3]);
    if (held && held.id === id) {
      if (this.#isUnsent([...held.tags, ...tags])) return undefined;
      held.confirmed = begun;
      return { value: held.value as T, isStale };
    }
    const body = reply[5];
    if (!Buffer.isBuffer(body)) return undefined;
    const value = codec.decode(body);
    const own = tagsFrom(String(reply[6]));
    if (value === undefined || this.#isUnsent([...own, ...tags])) return undefined;
    this.#hold(key, { id, value, tags: own, confirmed: begun }, body.length);
    return { value, isStale };
  }

  #withoutRedis<T>(held: Held | undefined, tags: readonly string[]): Found<T> | undefined {
    if (!held) return undefined;
    const age = performance.now() - held.confirmed;
    if (this.#link && age > this.settings.staleWithoutRedis) return undefined;
    if (held.confirmed <= this.#ownFloor) return undefined;
    for (const tag of [...held.tags, ...tags]) {
      if (held.confirmed <= (this.#own.get(tag) ?? -Infinity)) return undefined;
    }
    return { value: held.value as T, isStale: false };
  }

  /** Returns true if Redis does not know yet that one of these tags was revalidated here. */
  #isUnsent(tags: readonly string[]): boolean {
    return this.#unsent.some((unsent) => unsent.tags.some((tag) => tag === EVERYTHING || tags.includes(tag)));
  }

  /** Takes the counter from a response to a command that was sent at this time. */
  #observe(reply: unknown[], sent: number): Moment {
    const moment: Moment = { epoch: String(reply[0]), version: Number(reply[1]), at: performance.now() };
    const last = this.#history.at(-1);
    const isLoss = last && (last.epoch !== moment.epoch || (moment.version < last.version && sent > last.at));
    if (!last || isLoss) {
      // Redis has lost data, so nothing from before can be checked any more.
      this.#history = [moment];
      this.#memory.clear();
    } else if (moment.version > last.version) {
      this.#history.push(moment);
      if (this.#history.length > HISTORY) this.#history.shift();
    }
    return moment;
  }

  #resendSoon(): void {
    if (this.#resend) return;
    this.#resend = setTimeout(async () => {
      this.#resend = undefined;
      // Without a connection they are sent when it is back, before anything else.
      if (this.#link?.isUp) await this.#sendUnsent().catch(() => undefined);
      if (this.#unsent.length > 0) this.#resendSoon();
    }, RESEND);
    this.#resend.unref();
  }

  async #sendUnsent(): Promise<void> {
    for (const unsent of [...this.#unsent]) {
      await this.#link!.runBeforeOpen(REVALIDATE, [...this.#meta, this.#making, this.#pages], argumentsOf(unsent));
      this.#unsent = this.#unsent.filter((other) => other !== unsent);
    }
  }
}

function tagsFrom(text: string): string[] {
  const tags: unknown = JSON.parse(text);
  return Array.isArray(tags) ? tags.map(String) : [];
}

function argumentsOf(unsent: Unsent): string[] {
  return [randomId(), unsent.expiresIn === undefined ? '' : String(unsent.expiresIn), ...unsent.tags];
}

function memberOf({ render, path }: PageName): string {
  return `${render} ${path}`;
}

export function randomId(): string {
  return randomBytes(12).toString('base64url');
}
