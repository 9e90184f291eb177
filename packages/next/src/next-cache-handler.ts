// The `cacheHandler` that Next.js loads, and bundles for routes of the edge runtime, where neither
// Redis nor memory is shared with the rest of the app.

/** Holds nothing, and does not claim that a revalidation has been done. */
class EdgeCacheHandler {
  async get(): Promise<null> {
    return null;
  }

  async set(): Promise<void> {}

  async revalidateTag(): Promise<void> {
    const message = "@edgeway/next: the edge runtime cannot revalidate; remove `runtime = 'edge'` from this route";
    // Next.js does not report the error of a response that it has sent.
    console.error(message);
    throw new Error(message);
  }

  resetRequestCache(): void {}
}

// A bundler replaces `NEXT_RUNTIME`, and leaves out what is not reached.
export default process.env.NEXT_RUNTIME === 'edge'
  ? EdgeCacheHandler
  : (require('./cache-handler.js') as typeof import('./cache-handler.js')).EdgewayCacheHandler;
