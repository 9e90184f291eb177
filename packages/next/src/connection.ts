// The first connection of a process: Next.js opens the store when a request needs it.

import type { Store } from './store.js';

const connections = new WeakMap<Store, Promise<boolean>>();

/** Waits for the first connection, together with other requests, and no longer than for Redis. */
export function connected(store: Store): Promise<boolean> {
  const known = connections.get(store);
  if (known) return known;
  const connection = store.ready(store.settings.deadline);
  connections.set(store, connection);
  return connection;
}
