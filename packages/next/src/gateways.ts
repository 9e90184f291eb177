// Purges at the gateways, by `POST /v1/purge` of their admin API; each gateway passes a purge on
// to all that share its Redis, and its receipt says which have applied it.

import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { json } from 'node:stream/consumers';
import { purgesOf, type Purge } from './purges.js';
import type { Settings } from './settings.js';

export { purgesOf } from './purges.js';

export interface GatewayReceipt {
  readonly url: string;
  /** Status of the response; 200: every gateway has applied it. */
  readonly status?: number;
  readonly receipt?: unknown;
  readonly error?: string;
  /** Reason for which the gateway refused the purges, and was told to drop everything instead. */
  readonly refused?: string;
}

/** Longest wait for a receipt: gateways wait 5 s for one another. */
const WAIT = 7000;

/** Most bytes of purges in one request: a gateway reads 16 KiB. */
const MOST_BYTES = 15_000;

/** Most requests to a gateway for one revalidation. */
const MOST_REQUESTS = 8;

/** Statuses that say that the same request would be refused again. */
const REFUSALS = [400, 413, 422];

/** Pauses between attempts to reach a gateway that does not have a purge yet, in milliseconds. */
const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 30_000;

/** What one gateway does not have yet. */
interface Owed {
  requests: readonly Purge[][];
  pause: number;
  timer?: NodeJS.Timeout;
}

export class Gateways {
  readonly #settings: Settings;
  readonly #owed = new Map<string, Owed>();
  #isClosed = false;

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** Purges at every gateway; one that does not take it gets it later, and the receipt says so. */
  async purge(tags: readonly string[], paths: readonly string[], soft: boolean): Promise<GatewayReceipt[]> {
    const { gateways, site } = this.#settings;
    if (gateways.length === 0 || tags.length + paths.length === 0) return [];
    const requests = requestsOf(purgesOf(tags, paths, site), soft);
    const receipts = await Promise.all(gateways.map((url) => this.#send(url, requests)));
    for (const receipt of receipts) {
      report(receipt);
      if (!isTaken(receipt)) this.#owe(receipt.url, requests);
    }
    return receipts;
  }

  /** True while a gateway has not taken a purge. */
  get owes(): boolean {
    return this.#owed.size > 0;
  }

  close(): void {
    this.#isClosed = true;
    for (const { timer } of this.#owed.values()) clearTimeout(timer);
  }

  #send(url: string, requests: readonly Purge[][]): Promise<GatewayReceipt> {
    return purgeOne(url, this.#settings.gatewayToken, requests);
  }

  #owe(url: string, requests: readonly Purge[][]): void {
    const owed = this.#owed.get(url);
    // One debt for each gateway, so that a gateway that is gone costs no memory.
    if (owed) owed.requests = [everything(false)];
    else this.#sendLater(url, { requests, pause: FIRST_PAUSE });
  }

  #sendLater(url: string, owed: Owed): void {
    if (this.#isClosed) return;
    this.#owed.set(url, owed);
    owed.timer = setTimeout(async () => {
      const { requests } = owed;
      const isOver = isTaken(await this.#send(url, requests)) && owed.requests === requests;
      if (!isOver) return this.#sendLater(url, Object.assign(owed, { pause: Math.min(2 * owed.pause, LONGEST_PAUSE) }));
      this.#owed.delete(url);
      console.warn(`@edgeway/next: ${url} has the purges that it lacked`);
    }, owed.pause);
    owed.timer.unref();
  }
}

/** A gateway that says how far the others are has the purge, and passes it on by itself. */
function isTaken({ status, receipt }: GatewayReceipt): boolean {
  return status === 200 || (receipt as Answer | undefined)?.others !== undefined;
}

/** Distributes purges to requests that a gateway accepts. */
function requestsOf(purges: readonly Purge[], soft: boolean): Purge[][] {
  const requests: Purge[][] = [];
  let bytes = Infinity;
  for (const purge of purges.map((one) => hardOrSoft(one, soft))) {
    const more = Buffer.byteLength(JSON.stringify(purge)) + 1;
    if (bytes + more > MOST_BYTES) {
      requests.push([]);
      bytes = 0;
    }
    requests.at(-1)!.push(purge);
    bytes += more;
  }
  const isWithin = requests.length > 0 && requests.length <= MOST_REQUESTS;
  return isWithin ? requests : [everything(soft)];
}

function everything(soft: boolean): Purge[] {
  return [hardOrSoft({ all: true }, soft)];
}

function hardOrSoft(purge: Purge, soft: boolean): Purge {
  return soft ? { ...purge, soft: true } : purge;
}

/** Returns the receipt of the request that has done least. */
async function purgeOne(url: string, token: string | undefined, requests: readonly Purge[][]): Promise<GatewayReceipt> {
  const receipts = await Promise.all(requests.map((purges) => send(url, token, purges)));
  const refusal = receipts.find(({ status }) => REFUSALS.includes(status ?? 0));
  if (!refusal) return receipts.find(({ status }) => status !== 200) ?? receipts.at(-1)!;
  const isSoft = requests.every((purges) => purges.every(({ soft }) => soft));
  return { ...(await send(url, token, everything(isSoft))), refused: reasonOf(refusal) };
}

async function send(url: string, token: string | undefined, purges: readonly Purge[]): Promise<GatewayReceipt> {
  try {
    // The instances have one cache, which is already revalidated.
    return { url, ...(await post(new URL('/v1/purge', url), token, JSON.stringify({ purges, fan_out: false }))) };
  } catch (error) {
    return { url, error: (error as Error).message };
  }
}

/** Not by `fetch`, which Next.js replaces: a route may keep the responses of that one in its cache. */
function post(url: URL, token: string | undefined, body: string): Promise<{ status: number; receipt: unknown }> {
  const request = url.protocol === 'https:' ? requestHttps : requestHttp;
  const headers = {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    ...(token ? { authorization: `Bearer ${token}` } : {}),
  };
  return new Promise((resolve, reject) => {
    const sent = request(url, { method: 'POST', headers, agent: false });
    const timer = setTimeout(() => sent.destroy(new Error(`no response within ${WAIT} ms`)), WAIT);
    sent.on('close', () => clearTimeout(timer));
    sent.on('error', reject);
    sent.on('response', (response) => {
      const status = response.statusCode!;
      const receipt = json(response);
      // What is in front of a gateway may refuse a request in its own words.
      (status === 200 ? receipt : receipt.catch(() => undefined)).then((value) => resolve({ status, receipt: value }), reject);
    });
    sent.end(body);
  });
}

function report(receipt: GatewayReceipt): void {
  const { url, status, refused } = receipt;
  if (refused) console.warn(`@edgeway/next: ${url} refused a purge, so it is told to drop everything: ${refused}`);
  if (status !== 200) console.warn(`@edgeway/next: purge is not over at ${url}: ${reasonOf(receipt)}`);
}

interface Answer {
  readonly error?: { readonly reason?: unknown; readonly message?: unknown };
  readonly others?: unknown;
}

/** Returns what the gateway says about its status: `422 bad_purge: …`. */
function reasonOf({ status, receipt, error }: GatewayReceipt): string {
  if (error !== undefined) return error;
  const { error: said, others } = (receipt ?? {}) as Answer;
  if (said) return `status ${status} ${String(said.reason)}: ${String(said.message)}`;
  return others ? `status ${status}, others ${String(others)}` : `status ${status}`;
}
