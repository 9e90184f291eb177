// What `next build` made, read by the class with which Next.js itself reads it.
//
// An entry of the build has no stamp, so nothing says whether a revalidation was before or after.
// With Redis only shells without any content come from here: there is nothing in them that a
// revalidation could make outdated. Next.js needs them, for it cannot make them while it serves.

import type { Store } from './store.js';

export const TAGS_HEADER = 'x-next-cache-tags';

const READER = 'next/dist/server/lib/incremental-cache/file-system-cache.js';

/** What Next.js passes to the constructor of a handler. */
export interface HandlerContext {
  readonly fs?: unknown;
  readonly serverDistDir?: string;
}

export interface ReadContext {
  readonly kind?: string;
  readonly revalidate?: number | false;
  readonly isFallback?: boolean;
  readonly tags?: readonly string[];
  readonly softTags?: readonly string[];
}

export interface Value {
  readonly lastModified: number;
  readonly value: Record<string, unknown> | null;
  readonly cacheControl?: unknown;
}

interface Reader {
  get(key: string, context: ReadContext): Promise<Value | null>;
}

type ReaderClass = new (context: object) => Reader;

let loaded: { readonly class?: ReaderClass } | undefined;

/** Shells that were read before, with nothing for those that have content; they are as many as routes. */
const shells = new Map<string, Record<string, unknown> | undefined>();

export class Prerendered {
  readonly #reader: Reader | undefined;
  readonly #folder: string;

  constructor({ fs, serverDistDir = '' }: HandlerContext) {
    this.#folder = serverDistDir;
    // A build must not read what an earlier one left.
    if (!fs || !serverDistDir || process.env.NEXT_PHASE === 'phase-production-build') return;
    loaded ??= { class: readerClass(serverDistDir) };
    // Without `flushToDisk` it never writes.
    if (loaded.class) this.#reader = new loaded.class({ fs, serverDistDir, flushToDisk: false, revalidatedTags: [] });
  }

  /** Returns the fallback shell of a route, if it has no content. */
  async emptyShell(key: string, context: ReadContext): Promise<Value | null> {
    if (!this.#reader || !context.isFallback) return null;
    const name = `${this.#folder}:${key}`;
    if (!shells.has(name)) {
      const read = await this.#read(key, context);
      if (!read?.value) return null;
      shells.set(name, withoutContent(read.value));
    }
    const value = shells.get(name);
    return value ? { value, lastModified: Date.now(), cacheControl: { revalidate: false } } : null;
  }

  /** Returns a page of the build if nobody else can revalidate it, and this process has not. */
  async page(key: string, context: ReadContext, store: Store): Promise<Value | null> {
    if (!this.#reader || store.isShared || context.isFallback || context.kind === 'FETCH') return null;
    const read = await this.#read(key, context);
    const tags = (read?.value?.headers as Record<string, unknown> | undefined)?.[TAGS_HEADER];
    // The rest of a postponed page may hold results with tags that its header does not name.
    if (typeof tags !== 'string' || read?.value?.postponed !== undefined) return null;
    return store.hasRevalidated(tags.split(',')) ? null : read;
  }

  async #read(key: string, context: ReadContext): Promise<Value | null> {
    try {
      return (await this.#reader!.get(key, context)) ?? null;
    } catch {
      return null;
    }
  }
}

/** Finds the class beside the server that runs; another version of Next.js may not have it. */
function readerClass(folder: string): ReaderClass | undefined {
  try {
    const path = require.resolve(READER, { paths: [folder, process.cwd(), __dirname] });
    const found: unknown = (require(path) as { default?: unknown }).default;
    return typeof found === 'function' ? (found as ReaderClass) : undefined;
  } catch {
    return undefined;
  }
}

/** Returns a shell without all that a revalidation could concern; nothing if its page has content. */
function withoutContent(shell: Record<string, unknown>): Record<string, unknown> | undefined {
  const { kind, html, postponed, headers, status } = shell;
  if (kind !== 'APP_PAGE' || html !== '' || typeof postponed !== 'string') return undefined;
  const state = stateWithoutResults(postponed);
  if (!state) return undefined;
  const { [TAGS_HEADER]: _, ...rest } = (headers ?? {}) as Record<string, unknown>;
  return { kind, html, postponed: state, headers: rest, status, segmentData: treeOf(shell.segmentData) };
}

/** Of the parts that a browser prefetches, only this one has no content: the names of the others. */
function treeOf(segments: unknown): Map<string, unknown> {
  const tree: unknown = segments instanceof Map ? segments.get('/_tree') : undefined;
  return new Map(tree ? [['/_tree', tree]] : []);
}

/** Drops the results of `use cache` and `fetch` that a build puts behind the state: `LENGTH:STATE RESULTS`. */
function stateWithoutResults(postponed: string): string | undefined {
  const digits = /^(\d+):/.exec(postponed)?.[1];
  if (!digits) return undefined;
  const end = digits.length + 1 + Number(digits);
  return end <= postponed.length ? `${postponed.slice(0, end)}null` : undefined;
}
