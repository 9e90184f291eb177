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

export async function revalidateEverywhere(
  store: Store,
  tags: readonly string[],
  durations?: { expire?: number },
): Promise<RevalidateReceipt> {
  const staleFor = durations ? (durations.expire ?? Infinity) * 1000 : undefined;
  // A gateway that is purged first would fetch the old page again.
  const limit = staleFor === undefined ? undefined : Math.min(staleFor, LONGEST);
  const { instances, paths } = await store.revalidate(tags, limit);
  const isSoft = staleFor !== undefined && staleFor > 0;
  const gateways = await purgeGateways(store.settings, tags, paths, isSoft);
  return { instances, gateways };
}
