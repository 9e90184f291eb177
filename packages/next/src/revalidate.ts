// Revalidation of tags and paths: first for all instances, through Redis, then at the gateways.

import { connected } from './connection.js';
import type { GatewayReceipt } from './gateways.js';
import { encoded, headerSafe, keysOf, meantPaths, PATH_TAG } from './paths.js';
import { shared } from './shared.js';
import type { Site } from './site.js';
import type { Receipt, Store } from './store.js';

export interface RevalidateReceipt extends Receipt {
  /** True if all instances are reached, and every gateway has applied the purge. */
  readonly ok: boolean;
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

/**
 * Revalidates tags and paths in every instance and every gateway, and says who has done it.
 *
 * It rejects nothing: a lost Redis or gateway is in the receipt.
 */
export async function revalidate(targets: Targets): Promise<RevalidateReceipt> {
  return revalidateStore(shared().store, targets);
}

/** Revalidates tags and paths in a store of its own, and at its gateways. */
export async function revalidateStore(store: Store, { tags = [], paths = [] }: Targets): Promise<RevalidateReceipt> {
  const named = paths.flatMap(meantPaths).map((path) => PATH_TAG + path);
  const begun = begin(store, [...tags, ...named]);
  const receipts = begun.instances.then(({ moment }) => store.receipt(moment));
  const [receipt, gateways] = await Promise.all([receipts, begun.gateways]);
  const ok = receipt.instances === 'reached' && gateways.every(({ status }) => status === 200);
  return { ok, ...receipt, gateways };
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
  await patiently(begun.gateways);
}

/** Purges a page at the gateways that the instances have made again, with the patience of a visitor. */
export async function purgePage(store: Store, path: string): Promise<void> {
  await patiently(store.purge([], [path], false));
}

async function patiently(action: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, PATIENCE)));
  await Promise.race([action, late]);
  clearTimeout(timer);
}

/** Returns the tags that entries may have instead, since Next.js writes one path in several ways. */
function spellingsOf(tag: string, site: Site): string[] {
  const plain = inHeader(tag);
  const path = tag.slice(PATH_TAG.length);
  // A tag of a file has no other spelling.
  if (!tag.startsWith(PATH_TAG) || /\/(page|route|layout)$/.test(path)) return plain;
  return [...plain, ...inDefaultLocale(path, site).flatMap(keysOf).flatMap((key) => spellingsOfKey(key, site))];
}

/** Next.js puts the locale before the path of a page of the Pages Router. */
function inDefaultLocale(path: string, { locales, defaultLocale }: Site): string[] {
  const hasLocale = locales.some((locale) => path === `/${locale}` || path.startsWith(`/${locale}/`));
  if (!defaultLocale || hasLocale) return [path];
  return [path, `/${defaultLocale}${path === '/' ? '' : path}`];
}

/** The tag of a route handler is the path of the request, with its slash. */
function spellingsOfKey(key: string, { hasSlash }: Site): string[] {
  if (key === '/') return [`${PATH_TAG}/`, `${PATH_TAG}/index`];
  const paths = [key, encoded(key)];
  const withSlash = hasSlash ? paths.map((path) => `${path}/`) : [];
  return [...paths, ...withSlash].flatMap((path) => inHeader(PATH_TAG + path));
}

/** Returns what is left of a tag in the header of Next.js, which separates tags by commas. */
function inHeader(tag: string): string[] {
  const safe = headerSafe(tag);
  const first = safe.split(',', 1)[0]!;
  return first ? [tag, safe, first] : [tag, safe];
}

function begin(store: Store, given: readonly string[], durations?: Durations) {
  const tags = [...new Set(given.flatMap((tag) => spellingsOf(tag, store.settings.site)))];
  const staleFor = durations ? Math.min((durations.expire ?? Infinity) * 1000, LONGEST) : undefined;
  const instances = connected(store).then(() => store.revalidate(tags, staleFor));
  // A gateway that is purged first would fetch the old page again.
  const gateways = instances.then(({ moment, paths, isUnknown }) =>
    // Pages that Redis does not know are dropped once: made stale, they stay unknown.
    store.purge(tags, paths, staleFor !== undefined && staleFor > 0 && !isUnknown, moment),
  );
  return { instances, gateways };
}
