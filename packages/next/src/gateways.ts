// Purges at the gateways, by `POST /v1/purge` of their admin API; each gateway passes a purge on
// to all that share its Redis, and its receipt says which have applied it.

import type { Settings } from './settings.js';

export interface GatewayReceipt {
  readonly url: string;
  /** Status of the response; 200: every gateway has applied it. */
  readonly status?: number;
  readonly receipt?: unknown;
  readonly error?: string;
}

/** Longest wait for a receipt: gateways wait 5 s for one another. */
const WAIT = 7000;

/** Most purges in one request to a gateway. */
const MOST_PURGES = 256;

const PATH_TAG = '_N_T_';

interface Purge {
  readonly url?: string;
  readonly prefix?: string;
  readonly tag?: string;
  readonly all?: true;
  readonly soft?: true;
}

export async function purgeGateways(
  settings: Settings,
  tags: readonly string[],
  paths: readonly string[],
  soft: boolean,
): Promise<GatewayReceipt[]> {
  if (settings.gateways.length === 0 || tags.length === 0) return [];
  const purges = purgesOf(tags, paths).map((purge): Purge => (soft ? { ...purge, soft: true } : purge));
  const receipts = await Promise.all(settings.gateways.map((url) => purgeOne(url, settings.gatewayToken, purges)));
  for (const { url, status, error } of receipts) {
    if (status !== 200) console.warn(`@edgeway/next: purge is not over at ${url}: ${error ?? `status ${status}`}`);
  }
  return receipts;
}

async function purgeOne(url: string, token: string | undefined, purges: readonly Purge[]): Promise<GatewayReceipt> {
  try {
    const response = await fetch(new URL('/v1/purge', url), {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(token ? { authorization: `Bearer ${token}` } : {}) },
      // The instances have one cache, which is already revalidated.
      body: JSON.stringify({ purges, fan_out: false }),
      signal: AbortSignal.timeout(WAIT),
    });
    return { url, status: response.status, receipt: await response.json() };
  } catch (error) {
    return { url, error: (error as Error).message };
  }
}

/** Returns the purges of the responses that belong to these tags of Next.js, and of these paths. */
export function purgesOf(tags: readonly string[], paths: readonly string[] = []): Purge[] {
  if (paths.includes('*')) return [{ all: true }];
  const purges = new Map<string, Purge>();
  for (const purge of [...tags.flatMap(purgesOfTag), ...paths.flatMap(purgesOfPath)]) purges.set(JSON.stringify(purge), purge);
  if (purges.size > MOST_PURGES) return [{ all: true }];
  return [...purges.values()];
}

function purgesOfTag(tag: string): Purge[] {
  if (!tag.startsWith(PATH_TAG)) return [{ tag }];
  const path = tag.slice(PATH_TAG.length).replace(/\/(page|route)$/, '').replace(/\/index$/, '') || '/';
  const base = path.replace(/\/layout$/, '');
  const dynamic = base.indexOf('/[');
  if (dynamic >= 0) return [{ prefix: `${base.slice(0, dynamic)}/` }];
  if (base !== path) return base === '' ? [{ all: true }] : [{ url: base }, { prefix: `${base}/` }, { prefix: `${base}?` }];
  return purgesOfPath(path);
}

/** The payload of a page has a query, `?_rsc=`, so a path is purged with any. */
function purgesOfPath(path: string): Purge[] {
  return [{ url: path }, { prefix: `${path}?` }];
}
