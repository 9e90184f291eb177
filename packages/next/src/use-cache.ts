// The handler of `cacheHandlers`, for functions with `use cache` in Next.js 16.

import { RESULT, type Result } from './codec.js';
import { connected } from './connection.js';
import { revalidateForNext } from './revalidate.js';
import { shared } from './shared.js';
import type { Store } from './store.js';

interface Entry {
  value: ReadableStream<Uint8Array>;
  tags: string[];
  stale: number;
  timestamp: number;
  expire: number;
  revalidate: number;
}

export function useCacheHandler(given?: Store) {
  // Next.js loads the handler before the app runs; the store is opened by the first request.
  const store = () => given ?? shared().store;
  const pending = new Map<string, Promise<void>>();

  return {
    async get(key: string, softTags: string[]): Promise<Entry | undefined> {
      await pending.get(key);
      // Otherwise a new process would make what others have made.
      await connected(store());
      const { found } = await store().get({ key: `use:${key}` }, softTags, RESULT);
      if (!found) return undefined;
      const { bytes, ...rest } = found.value;
      const revalidate = found.isStale ? -1 : rest.revalidate;
      return { ...rest, revalidate, value: streamOf(bytes) };
    },

    async set(key: string, pendingEntry: Promise<Entry>): Promise<void> {
      const done = keep(store(), key, pendingEntry);
      pending.set(key, done);
      await done;
      if (pending.get(key) === done) pending.delete(key);
    },

    async refreshTags(): Promise<void> {
      // Redis compares an entry with its tags at every read.
    },

    async getExpiration(): Promise<number> {
      // Next.js then passes the tags of the page to `get`.
      return Infinity;
    },

    async updateTags(tags: string[], durations?: { expire?: number }): Promise<void> {
      await revalidateForNext(store(), tags, durations);
    },
  };
}

/** Never rejects: a result that cannot be kept is made again. */
async function keep(store: Store, key: string, pendingEntry: Promise<Entry>): Promise<void> {
  try {
    const { value, ...rest } = await pendingEntry;
    const chunks: Uint8Array[] = [];
    for await (const chunk of value as unknown as AsyncIterable<Uint8Array>) chunks.push(chunk);
    // Such a result is never served again.
    if (rest.expire === 0) return;
    const result: Result = { ...rest, bytes: Buffer.concat(chunks) };
    // The sum of two clocks is rounded; a moment too early is safe.
    const moment = store.momentAt(rest.timestamp - performance.timeOrigin - 0.01);
    await store.set({ key: `use:${key}` }, result, rest.tags, RESULT, moment, rest.expire);
  } catch {
    // The function failed, and Next.js shows its error.
  }
}

function streamOf(bytes: Buffer): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      // A reader may transfer the buffer of a chunk, so it gets a copy.
      if (bytes.length > 0) controller.enqueue(new Uint8Array(bytes));
      controller.close();
    },
  });
}

export default useCacheHandler();
