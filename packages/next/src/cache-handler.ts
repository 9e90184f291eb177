// The `cacheHandler` of Next.js 15 and 16: pages, route handlers and the cache of `fetch`.

import { dirname } from 'node:path';
import { PAGE, type Page } from './codec.js';
import { revalidateForNext } from './revalidate.js';
import { shared } from './shared.js';
import type { Moment, Name, Store } from './store.js';

const TAGS_HEADER = 'x-next-cache-tags';
const SECOND = 1000;

interface Context {
  serverDistDir?: string;
}

interface ReadContext {
  kind?: string;
  revalidate?: number | false;
  tags?: string[];
  softTags?: string[];
}

interface WriteContext {
  tags?: string[];
  cacheControl?: { revalidate?: number | false; expire?: number };
  revalidate?: number | false;
}

interface Value {
  lastModified: number;
  value: Record<string, unknown> | null;
  cacheControl?: unknown;
}

/** Next.js creates one for each request. */
export class EdgewayCacheHandler {
  readonly #store: Store;
  readonly #created = performance.now();
  // The first read of a key comes before everything that this request makes for it. A later read
  // may come after a render has begun, so it says nothing about that render.
  readonly #begun = new Map<string, Moment>();

  constructor(context: Context = {}, store?: Store) {
    const folder = context.serverDistDir ? dirname(context.serverDistDir) : undefined;
    this.#store = store ?? shared(folder).store;
  }

  async get(key: string, context: ReadContext = {}): Promise<Value | null> {
    const tags = [...(context.tags ?? []), ...(context.softTags ?? [])];
    const name = nameOf(key, context.kind === 'FETCH');
    const { found, moment } = await this.#store.get(name, tags, PAGE);
    if (!this.#begun.has(name.key)) this.#begun.set(name.key, moment);
    if (!found) return null;
    return found.isStale ? stale(found.value, context) : asRead(found.value);
  }

  async set(key: string, value: Record<string, unknown> | null, context: WriteContext = {}): Promise<void> {
    const isFetch = value?.kind === 'FETCH' || 'fetchCache' in context;
    const name = nameOf(key, isFetch);
    const moment = this.#begun.get(name.key) ?? this.#store.momentAt(this.#created);
    const page: Page = { value, lastModified: Date.now(), cacheControl: context.cacheControl };
    const expire = context.cacheControl?.expire;
    await this.#store.set(name, page, tagsOf(value, context), PAGE, moment, expire ?? Infinity);
  }

  async revalidateTag(tags: string | string[], durations?: { expire?: number }): Promise<void> {
    const list = typeof tags === 'string' ? [tags] : tags;
    await revalidateForNext(this.#store, list, durations);
  }

  resetRequestCache(): void {}
}

/** Next.js 16 puts a page's path behind the route that it belongs to. */
function nameOf(key: string, isFetch: boolean): Name {
  if (isFetch) return { key: `fetch:${key}` };
  const path = key.replace(/^\/route-cache\/[^/]+\/[^/]+\/\$/, '');
  return { key: `page:${key}`, path: path === '/index' ? '/' : path };
}

function tagsOf(value: Record<string, unknown> | null, context: WriteContext): string[] {
  const headers = value?.headers as Record<string, unknown> | undefined;
  const header = headers?.[TAGS_HEADER];
  const own = Array.isArray(value?.tags) ? (value.tags as string[]) : [];
  const named = typeof header === 'string' ? header.split(',') : [];
  return [...new Set([...own, ...(context.tags ?? []), ...named].filter(Boolean))];
}

function asRead({ value, lastModified, cacheControl }: Page): Value {
  return cacheControl ? { value, lastModified, cacheControl } : { value, lastModified };
}

/** Gives the value an age at which Next.js serves it and makes it again in the background. */
function stale(page: Page, context: ReadContext): Value {
  if (context.kind === 'FETCH') {
    const revalidate = Number(context.revalidate || page.value?.revalidate || 0);
    return { value: page.value, lastModified: Math.min(page.lastModified, Date.now() - (revalidate + 1) * SECOND) };
  }
  const lastModified = Math.min(page.lastModified, Date.now() - 2 * SECOND);
  return { value: page.value, lastModified, cacheControl: { ...(page.cacheControl as object), revalidate: 1 } };
}

export default EdgewayCacheHandler;
