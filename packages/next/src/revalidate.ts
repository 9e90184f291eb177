// Revalidation of tags and paths: first for all instances, through Redis, then at the gateways.

import { purgeGateways, type GatewayReceipt } from './gateways.js';
import { shared } from './shared.js';
import type { Receipt, Store } from './store.js';

export interface RevalidateReceipt extends Receipt {
  /** One for each gateway in `EDGEWAY_ADMIN_URL`. */
  readonly gateways: readonly GatewayReceipt[];
}

export interface Targets {
  readonly tags?: readonly string[];
  readonly paths?: readonly string[];
}

interface Durations {
  expire?: number;
}

/** Longest time for which entries may be stale, in milliseconds: about three centuries. */
const LONGEST = 1e13;

/** Tag of a path, as Next.js forms it. */
const PATH_TAG = '_N_T_';

/**
 * Revalidates tags and paths in every instance and every gateway, and says who has done it.
 *
 * It rejects nothing: a lost Redis or gateway is in the receipt.
 */
export async function revalidate({ tags = [], paths = [] }: Targets): Promise<RevalidateReceipt> {
  const named = paths.map((path) => PATH_TAG + (path.length > 1 ? path.replace(/\/+$/, '') : path));
  return revalidateEverywhere(shared().store, [...tags, ...named]);
}

/** Longest time for which the functions of Next.js wait for gateways, in milliseconds. */
const PATIENCE = 1000;

/** Revalidations of this moment: Next.js passes each to the handler of every cache. */
const current = new WeakMap<Store, Map<string, Promise<void>>>();

/** Revalidates for the functions of Next.js, which a visitor may be waiting for. */
export function revalidateForNext(store: Store, tags: readonly string[], durations?: Durations): Promise<void> {
  const calls = current.get(store) ?? new Map<string, Promise<void>>();
  current.set(store, calls);
  const name = JSON.stringify([tags, durations]);
  const known = calls.get(name);
  if (known) return known;
  const call = revalidatePatiently(store, tags, durations);
  calls.set(name, call);
  // Nothing happens within a tick that a second call could have to cover.
  queueMicrotask(() => calls.delete(name));
  return call;
}

async function revalidatePatiently(store: Store, tags: readonly string[], durations?: Durations): Promise<void> {
  const begun = begin(store, tags, durations);
  await begun.instances;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, PATIENCE)));
  await Promise.race([begun.gateways, late]);
  clearTimeout(timer);
}

async function revalidateEverywhere(store: Store, tags: readonly string[]): Promise<RevalidateReceipt> {
  const begun = begin(store, tags);
  const { instances } = await begun.instances;
  return { instances, gateways: await begun.gateways };
}

function begin(store: Store, tags: readonly string[], durations?: Durations) {
  const staleFor = durations ? Math.min((durations.expire ?? Infinity) * 1000, LONGEST) : undefined;
  const instances = store.revalidate(tags, staleFor);
  // A gateway that is purged first would fetch the old page again.
  const gateways = instances.then(({ paths }) =>
    purgeGateways(store.settings, tags, paths, staleFor !== undefined && staleFor > 0),
  );
  return { instances, gateways };
}
