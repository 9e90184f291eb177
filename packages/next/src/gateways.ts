// Purges at the gateways, by `POST /v1/purge` of their admin API; each gateway passes a purge on
// to all that share its Redis, and its receipt says which have applied it.

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

export async function purgeGateways(
  settings: Settings,
  tags: readonly string[],
  paths: readonly string[],
  soft: boolean,
): Promise<GatewayReceipt[]> {
  if (settings.gateways.length === 0 || tags.length + paths.length === 0) return [];
  const requests = requestsOf(purgesOf(tags, paths, settings.site), soft);
  const receipts = await Promise.all(settings.gateways.map((url) => purgeOne(url, settings.gatewayToken, requests, soft)));
  for (const receipt of receipts) report(receipt);
  return receipts;
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
async function purgeOne(
  url: string,
  token: string | undefined,
  requests: readonly Purge[][],
  soft: boolean,
): Promise<GatewayReceipt> {
  const receipts = await Promise.all(requests.map((purges) => send(url, token, purges)));
  const refusal = receipts.find(({ status }) => REFUSALS.includes(status ?? 0));
  if (!refusal) return receipts.find(({ status }) => status !== 200) ?? receipts.at(-1)!;
  return { ...(await send(url, token, everything(soft))), refused: reasonOf(refusal) };
}

async function send(url: string, token: string | undefined, purges: readonly Purge[]): Promise<GatewayReceipt> {
  try {
    const response = await fetch(new URL('/v1/purge', url), {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(token ? { authorization: `Bearer ${token}` } : {}) },
      // The instances have one cache, which is already revalidated.
      body: JSON.stringify({ purges, fan_out: false }),
      signal: AbortSignal.timeout(WAIT),
    });
    const { status } = response;
    if (status === 200) return { url, status, receipt: await response.json() };
    // What is in front of a gateway may refuse a request in its own words.
    return { url, status, receipt: await response.json().catch(() => undefined) };
  } catch (error) {
    return { url, error: (error as Error).message };
  }
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
