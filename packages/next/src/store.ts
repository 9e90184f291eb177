// Entries shared through Redis, with a layer in the process.
//
// Invariant: a read that begins after `revalidate` resolved with `reached` sees no entry whose
// making began before it, in any process. Each revalidation increments a counter in Redis and
// stores it with its tags; each entry is stamped with a value of the counter seen before its
// making began; Redis compares the two at every read. So no clock is involved, and an entry that
// arrives late is refused or never read. What an instance serves without Redis it compares with the
// revalidations that it was told of when it renewed its lease; `reached` waits for that.

import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { Gateways, type GatewayReceipt } from './gateways.js';
import { Link, type Argument, type Run } from './link.js';
import { Memory } from './memory.js';
import { DROPPED, FORGET, GET, INSTANCES, LEASE, MOST_MISSED, MOST_TAGS, RENEW, REVALIDATE, SET } from './scripts.js';
import type { Settings } from './settings.js';

/** A tag that every entry has, for when more revalidations wait for Redis than are kept. */
const EVERYTHING = '*';

/** Most revalidations that wait for Redis; beyond them, everything is revalidated. */
const MOST_UNSENT = 10_000;

/** Seconds for which a gateway may keep a page, and the paths of a tag are known: a year, as Next.js tells it. */
const LONGEST_KEPT = 31_536_000;

/** Pause between two renewals of the lease, in milliseconds; receipts wait for the next one. */
const BEAT = 200;

/** Pause between two questions of a receipt whether all have renewed it, in milliseconds. */
const ASK = 20;

/** Most paths of pages that Redis does not know; beyond them, `*` stands for all. */
const MOST_ASIDE = 1000;

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
  /** `reached`: no instance serves older entries; `linked`: none with a link to Redis; `unreached`: sent when Redis is back. */
  readonly instances: 'reached' | 'linked' | 'unreached';
  /** With `linked`: how many instances were cut off within the last hour and are not back. */
  readonly lapsed?: number;
}

export interface Revalidated {
  /** When Redis counted it; nothing if Redis is lost. */
  readonly moment: Moment | undefined;
  /** Paths of the pages that have the tags or are being made; `*`: any. */
  readonly paths: readonly string[];
  /** True if gateways may have pages that Redis does not know. */
  readonly isUnknown?: boolean;
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
  /** The moment before its making if Redis may not have it. */
  local: Moment | undefined;
}

interface Unsent {
  readonly tags: readonly string[];
  readonly expiresIn: number | undefined;
}

/** Pages that were served without Redis, so that a revalidation of others does not name them. */
interface Aside {
  /** What was known when the first was served. */
  readonly moment: Moment | undefined;
  readonly paths: Set<string>;
}

export class Store {
  readonly #gateways: Gateways;
  readonly #build: string;
  readonly #link: Link | undefined;
  readonly #memory: Memory<Held>;
  readonly #meta: readonly string[];
  readonly #making: string;
  readonly #paths: string;
  readonly #leases: readonly string[];
  readonly #instance = randomId();
  readonly #beat: NodeJS.Timeout | undefined;
  #isBeating = false;
  #isPurging = false;
  /** True until gateways have what they did not take of such a purge. */
  #isOwing = false;
  #hasLeft = false;
  /** The last revalidation that reads without Redis respect. */
  #applied: Moment | undefined;
  #aside: Aside | undefined;
  #history: Moment[] = [];
  #unsent: Unsent[] = [];
  /** Renders that have ended, of which Redis does not know yet. */
  #ended: string[] = [];
  /** Tags revalidated, by the clock of this process: for reads without Redis. */
  #own = new Map<string, number>();
  #ownFloor = -Infinity;

  constructor(readonly settings: Settings, build: string) {
    this.#gateways = new Gateways(settings);
    this.#build = build;
    this.#memory = new Memory(settings.memoryBytes);
    const prefix = `edgeway:next:{${settings.app}}:`;
    this.#meta = [`${prefix}meta`, `${prefix}tags`, `${prefix}order`];
    this.#making = `${prefix}making`;
    this.#paths = `${prefix}paths:`;
    this.#leases = [`${prefix}leases`, `${prefix}positions:`];
    if (!settings.redisUrl) return;
    this.#link = new Link(settings.redisUrl, settings.deadline, (run) => this.#catchUp(run));
    this.#beat = setInterval(() => void this.#keepUp(), BEAT).unref();
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

  /** Gives the lease back: receipts do not wait for a process that ends. */
  async leave(): Promise<void> {
    this.#hasLeft = true;
    // Redis has this script already: a process that ends may not live for a second exchange.
    await this.#link?.run(RENEW, [...this.#meta, ...this.#leases], [randomId(), this.#instance]).catch(() => undefined);
  }

  close(): void {
    clearInterval(this.#beat);
    this.#gateways.close();
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
      return { found: this.#take(key, page !== undefined, reply, held, tags, codec, begun), moment };
    } catch {
      // Whatever is wrong with Redis, the request goes on with what the process has.
      const found = this.#withoutRedis<T>(held, tags);
      if (page) this.#putAside(found && !held!.local ? undefined : page.path);
      return { found, moment: this.momentAt(begun) };
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
    const held: Held = { id, value, tags, confirmed: moment.at, local: undefined };
    const begun = performance.now();
    try {
      if (!this.#link?.isUp) throw new Error('redis is lost');
      const keys = [...this.#meta, this.#keyOf(key), this.#making, this.#paths];
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
      if (page) this.#putAside(page.path);
      this.#hold(key, { ...held, local: moment }, body.length);
      return 'unknown';
    }
  }

  /** Takes back that these renders are being made. */
  async forget(pages: readonly PageName[]): Promise<void> {
    this.#ended.push(...pages.map(memberOf));
    await this.#forgetEnded((script, keys, args) => this.#link!.run(script, keys, args)).catch(() => undefined);
  }

  async #forgetEnded(run: Run): Promise<void> {
    // The oldest are forgotten when their time is over, at the latest.
    const ended = this.#ended.splice(0).slice(-MOST_ASIDE);
    if (!this.#link || ended.length === 0) return;
    await run(FORGET, [this.#making], ended).catch((error: unknown) => {
      this.#ended.push(...ended);
      throw error;
    });
  }

  /** Returns true if this process has revalidated one of these tags. */
  hasRevalidated(tags: readonly string[]): boolean {
    return this.#ownFloor > -Infinity || tags.some((tag) => this.#own.has(tag));
  }

  /** Makes entries with one of these tags misses, or stale for so many milliseconds first. */
  async revalidate(tags: readonly string[], staleFor?: number): Promise<Revalidated> {
    if (tags.length === 0) return { moment: this.#history.at(-1), paths: [] };
    this.#apply(tags);
    const unsent = { tags: [...tags], expiresIn: staleFor };
    if (!this.#link) return { moment: undefined, paths: ['*'] };
    try {
      return await this.#send(unsent, this.#link.run);
    } catch {
      this.#unsent.push(unsent);
      if (this.#unsent.length > MOST_UNSENT) this.#unsent = [{ tags: [EVERYTHING], expiresIn: undefined }];
      // Once Redis has counted it, gateways must drop what they got from other instances until then.
      this.#putAside();
      return { moment: undefined, paths: ['*'] };
    }
  }

  /** Purges at the gateways; what they have dropped, no later revalidation names again. */
  async purge(tags: readonly string[], paths: readonly string[], soft: boolean, moment?: Moment): Promise<GatewayReceipt[]> {
    const receipts = await this.#gateways.purge(tags, paths, soft);
    const isOver = receipts.length > 0 && receipts.every(({ status }) => status === 200);
    if (isOver && !soft && moment) {
      const args = [moment.epoch, String(moment.version), paths.includes('*') ? '*' : '', ...tags];
      await this.#link?.run(DROPPED, [this.#meta[0]!, this.#paths], args).catch(() => undefined);
    }
    return receipts;
  }

  /** Waits until every instance with a lease has applied a revalidation, or has lost its lease. */
  async receipt(moment: Moment | undefined): Promise<Receipt> {
    if (!this.#link || !moment) return { instances: 'unreached' };
    // Leases end by then; one that is renewed all the time belongs to an instance whose purges last.
    const end = performance.now() + 2 * LEASE;
    let late: Receipt = { instances: 'unreached' };
    do {
      try {
        await this.#renew(this.#link.run);
        const reply = await this.#link.run(INSTANCES, [this.#meta[0]!, ...this.#leases], [String(moment.version)]);
        const [waiting, lapsed] = [Number(reply[1]), Number(reply[2])];
        // Redis has lost data, and with it the leases.
        if (String(reply[0]) !== moment.epoch) return { instances: 'unreached' };
        if (waiting + lapsed === 0) return { instances: 'reached' };
        late = { instances: 'linked', lapsed: waiting + lapsed };
        if (waiting === 0) return late;
      } catch {
        // Redis has counted it, so a response that is late is no reason to give up.
      }
      await pause(ASK);
    } while (performance.now() < end);
    return late;
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
    isPage: boolean,
    reply: unknown[],
    held: Held | undefined,
    tags: readonly string[],
    codec: Codec<T>,
    begun: number,
  ): Found<T> | undefined {
    const verdict = Number(reply[2]);
    if (verdict === 0) {
      const { epoch, version } = this.#history.at(-1)!;
      // One that Redis rejected is as good as without Redis, until something is revalidated. Of a
      // page Redis has to know the path.
      const isRejected = held?.local?.epoch === epoch && held.local.version === version;
      if (isRejected && !isPage) return this.#withoutRedis<T>(held, tags);
      if (held) this.#memory.delete(key);
      return undefined;
    }
    const isStale = verdict === 2;
    const id = String(reply[3]);
    if (held && held.id === id) {
      if (this.#isUnsent([...held.tags, ...tags])) return this.#withoutRedis<T>(held, tags);
      held.confirmed = begun;
      held.local = undefined;
      return { value: held.value as T, isStale };
    }
    const body = reply[5];
    if (!Buffer.isBuffer(body)) return undefined;
    const value = codec.decode(body);
    const own = tagsFrom(String(reply[6]));
    if (value === undefined || this.#isUnsent([...own, ...tags])) return undefined;
    this.#hold(key, { id, value, tags: own, confirmed: begun, local: undefined }, body.length);
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

  /** Runs each `BEAT` while Redis is there. */
  async #keepUp(): Promise<void> {
    if (!this.#link?.isUp || this.#isBeating) return;
    this.#isBeating = true;
    try {
      await this.#catchUp(this.#link.run);
      if (await this.#purgeAside()) await this.#renew(this.#link.run);
    } catch {
      // The next time is soon.
    }
    this.#isBeating = false;
  }

  async #catchUp(run: Run): Promise<void> {
    await this.#renew(run);
    for (const unsent of [...this.#unsent]) {
      await this.#send(unsent, run);
      this.#unsent = this.#unsent.filter((other) => other !== unsent);
    }
    await this.#forgetEnded(run);
  }

  /** Renews the lease, and applies the revalidations since the last time. */
  async #renew(run: Run): Promise<void> {
    while (!this.#hasLeft) {
      const begun = performance.now();
      const before = this.#applied;
      // What gateways got without Redis may be older, so receipts wait until they have dropped it.
      this.#isOwing &&= this.#gateways.owes;
      const isAll = this.#aside === undefined && !this.#isPurging && !this.#isOwing;
      const args = [randomId(), this.#instance, before?.epoch ?? '', String(before?.version ?? 0), isAll ? '1' : '0'];
      const reply = await run(RENEW, [...this.#meta, ...this.#leases], args);
      this.#applied = this.#observe(reply, begun);
      const isLost = before !== undefined && before.epoch !== this.#applied.epoch;
      this.#apply(isLost ? [EVERYTHING] : (reply[3] as unknown[]).map(String));
      // A receipt may wait for this instance, so it says at once that it has applied them.
      if (before?.epoch === this.#applied.epoch && before.version === this.#applied.version) return;
    }
  }

  #apply(tags: readonly string[]): void {
    const now = performance.now();
    for (const tag of tags) this.#own.set(tag, now);
    if (this.#own.size > MOST_TAGS || tags.length > MOST_MISSED || tags.includes(EVERYTHING)) {
      this.#own.clear();
      this.#ownFloor = now;
    }
  }

  async #send(unsent: Unsent, run: Run): Promise<Revalidated> {
    const sent = performance.now();
    const reply = await run(REVALIDATE, [...this.#meta, this.#making, this.#paths], argumentsOf(unsent));
    const paths = (reply[3] as unknown[]).map(String);
    return { moment: this.#observe(reply, sent), paths, isUnknown: reply.length > 4 };
  }

  /** Notes that a page, or one whose path Redis does not know, is served without Redis. */
  #putAside(path?: string): void {
    if (!this.#link) return;
    const aside = (this.#aside ??= { moment: this.#history.at(-1), paths: new Set() });
    if (path !== undefined) aside.paths.add(aside.paths.size < MOST_ASIDE ? path : '*');
  }

  /** Makes gateways drop what they got without Redis; they do not keep what is on its way either. */
  async #purgeAside(): Promise<boolean> {
    const now = this.#history.at(-1);
    if (!this.#aside || !now) return false;
    const { moment, paths } = this.#aside;
    this.#aside = undefined;
    const isSame = moment?.epoch === now.epoch && moment.version === now.version;
    this.#isPurging = true;
    try {
      await this.purge([], isSame ? [...paths] : ['*'], false, now);
    } finally {
      this.#isPurging = false;
    }
    this.#isOwing = this.#gateways.owes;
    return true;
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
