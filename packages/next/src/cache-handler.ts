// The `cacheHandler` of Next.js 15 and 16: pages, route handlers and the cache of `fetch`.

import { dirname } from 'node:path';
import { PAGE, type Page } from './codec.js';
import { connected } from './connection.js';
import { headerSafe, PATH_TAG, pathOfEntry } from './paths.js';
import { Prerendered, TAGS_HEADER, type HandlerContext, type ReadContext, type Value } from './prerendered.js';
import { withoutQuery } from './query.js';
import { whenSent } from './requests.js';
import { purgePage, revalidateForNext } from './revalidate.js';
import { shared } from './shared.js';
import { randomId, type Moment, type Name, type Store } from './store.js';

const SECOND = 1000;

/** Header with which `res.revalidate` of the Pages Router requests a page from its own server. */
const ON_DEMAND = 'x-prerender-revalidate';

interface Context extends HandlerContext {
  /** Headers of the request that Next.js made the handler for. */
  readonly _requestHeaders?: Readonly<Record<string, string | string[] | undefined>>;
}

interface WriteContext {
  tags?: string[];
  cacheControl?: { revalidate?: number | false; expire?: number };
  revalidate?: number | false;
  isFallback?: boolean;
}

/** Next.js creates one for each request. */
export class EdgewayCacheHandler {
  readonly #store: Store;
  readonly #created = performance.now();
  // The first read of a key comes before everything that this request makes for it. A later read
  // may come after a render has begun, so it says nothing about that render.
  readonly #begun = new Map<string, Moment>();
  readonly #render = randomId();
  /** Pages that were missing and are not stored since: those that this request makes, or fails to. */
  readonly #making = new Map<string, Name>();
  readonly #prerendered: Prerendered;
  readonly #isOnDemand: boolean;

  constructor(context: Context = {}, store?: Store) {
    const folder = context.serverDistDir ? dirname(context.serverDistDir) : undefined;
    this.#store = store ?? shared(folder).store;
    this.#prerendered = new Prerendered(context);
    const { previewId } = this.#store.settings.site;
    // Visitors do not know the id, with which the server proves that it asks itself.
    this.#isOnDemand = previewId !== undefined && context._requestHeaders?.[ON_DEMAND] === previewId;
  }

  async get(key: string, context: ReadContext = {}): Promise<Value | null> {
    // Of a page that is made before Redis is connected no revalidation would know the path.
    await connected(this.#store);
    const shell = await this.#prerendered.emptyShell(key, context);
    if (shell) return shell;
    const tags = [...(context.tags ?? []), ...(context.softTags ?? [])];
    const name = this.#nameOf(key, context.kind === 'FETCH', context.isFallback);
    const { found, moment } = await this.#store.get(name, tags, PAGE);
    if (!this.#begun.has(name.key)) this.#begun.set(name.key, moment);
    if (found) return found.isStale ? stale(found.value, context) : asRead(found.value);
    const page = await this.#prerendered.page(key, context, this.#store);
    if (!page) this.#begin(name);
    return page;
  }

  async set(key: string, value: Record<string, unknown> | null, context: WriteContext = {}): Promise<void> {
    const isFetch = value?.kind === 'FETCH' || 'fetchCache' in context;
    const name = this.#nameOf(key, isFetch, context.isFallback);
    const moment = this.#begun.get(name.key) ?? this.#store.momentAt(this.#created);
    const shown = value?.kind === 'APP_PAGE' ? withoutQuery(value) : value;
    if (shown === undefined) return;
    const page: Page = { value: shown, lastModified: Date.now(), cacheControl: context.cacheControl };
    const expire = context.cacheControl?.expire;
    // Pages of the Pages Router have no tag of their path, and those of route handlers vary.
    const own = name.page ? [PATH_TAG + headerSafe(name.page.path)] : [];
    const tags = [...tagsOf(value, context), ...own];
    const outcome = await this.#store.set(name, page, tags, PAGE, moment, expire ?? Infinity);
    // Redis may not know the tags of one that is `unknown`, so it stays in the making for a while.
    if (outcome !== 'refused') this.#making.delete(name.key);
    if (name.page && this.#isOnDemand) await purgePage(this.#store, name.page.path);
  }

  async revalidateTag(tags: string | string[], durations?: { expire?: number }): Promise<void> {
    const list = typeof tags === 'string' ? [tags] : tags;
    await revalidateForNext(this.#store, list, durations);
  }

  resetRequestCache(): void {}

  #begin(name: Name): void {
    if (!name.page) return;
    this.#making.set(name.key, name);
    if (this.#making.size === 1) whenSent(() => void this.#end());
  }

  /** What is still being made when the response is sent has failed, or goes to no gateway. */
  async #end(): Promise<void> {
    const pages = [...this.#making.values()].flatMap(({ page }) => page ?? []);
    this.#making.clear();
    if (pages.length > 0) await this.#store.forget(pages);
  }

  #nameOf(key: string, isFetch: boolean, isFallback = false): Name {
    if (isFetch) return { key: `fetch:${key}` };
    // The path of a shell is that of a route, which no gateway has; its page has its own entry.
    if (isFallback) return { key: `page:${key}` };
    return { key: `page:${key}`, page: { path: pathOfEntry(key), render: this.#render } };
  }
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
