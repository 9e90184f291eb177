// The one store of this process. Next.js may load the package several times, bundled and not, so
// the store is kept in `globalThis`.

import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { buildIdentity } from './build.js';
import { settingsFrom, type Settings } from './settings.js';
import { siteOf } from './site.js';
import { Store } from './store.js';

interface Shared {
  readonly settings: Settings;
  readonly store: Store;
}

const KEY = Symbol.for('@edgeway/next');
const place = globalThis as { [KEY]?: Shared };

/** Returns the store; the first caller that knows the folder of the build determines it. */
export function shared(folder?: string): Shared {
  return (place[KEY] ??= open(folder ?? process.env.EDGEWAY_NEXT_FOLDER ?? join(process.cwd(), '.next')));
}

function open(folder: string): Shared {
  let settings: Settings = { ...settingsFrom(process.env), site: siteOf(folder) };
  // A build has no visitors, and its results belong to no build yet.
  if (process.env.NEXT_PHASE === 'phase-production-build') settings = { ...settings, redisUrl: undefined };
  const build = settings.build ?? buildIdentity(folder);
  if (settings.redisUrl && !build && process.env.NODE_ENV === 'production') {
    console.warn(`@edgeway/next: no build in ${folder}, so nothing is shared; set EDGEWAY_NEXT_FOLDER`);
  }
  const store = new Store(settings, build ?? `none-${randomBytes(12).toString('base64url')}`);
  leaveAtEnd(store);
  return { settings, store };
}

/** Gives the lease back before the server ends: its listeners end the process too soon to do so beside them. */
function leaveAtEnd(store: Store): void {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    const listeners = process.rawListeners(signal);
    // Without any, the signal ends the process by itself, and would not beside one of ours.
    if (!store.isShared || listeners.length === 0) continue;
    process.removeAllListeners(signal);
    process.once(signal, async (...args) => {
      for (const listener of listeners) process.on(signal, listener as NodeJS.SignalsListener);
      await store.leave();
      for (const listener of listeners) listener.apply(process, args);
    });
  }
}
