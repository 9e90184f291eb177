// Settings of the package, from the environment, so that one build runs anywhere.

import { UNKNOWN_SITE, type Site } from './site.js';

export interface Settings {
  /** Address of Redis; without one, nothing is shared. */
  readonly redisUrl: string | undefined;
  /** Name of the app: the prefix of its keys, and the scope of its tags. */
  readonly app: string;
  /** Identity of the build, in place of the one that is computed from its files. */
  readonly build: string | undefined;
  /** Most milliseconds that a request waits for Redis. */
  readonly deadline: number;
  /** Most milliseconds for which an entry is served after Redis last confirmed it. */
  readonly staleWithoutRedis: number;
  /** Most bytes of entries in this process. */
  readonly memoryBytes: number;
  /** Most seconds for which Redis keeps an entry. */
  readonly keepSeconds: number;
  /** Most milliseconds for which a page is expected to be in the making. */
  readonly making: number;
  /** Admin listeners of gateways that are told about revalidated paths. */
  readonly gateways: readonly string[];
  readonly gatewayToken: string | undefined;
  /** Addresses of the build's pages. */
  readonly site: Site;
}

/** Returns the settings that the environment names, with defaults for the rest. */
export function settingsFrom(env: Record<string, string | undefined>): Settings {
  return {
    redisUrl: env.EDGEWAY_REDIS_URL || undefined,
    app: env.EDGEWAY_NEXT_APP || 'app',
    build: env.EDGEWAY_NEXT_BUILD || undefined,
    deadline: number(env, 'EDGEWAY_NEXT_DEADLINE_MS', 200),
    staleWithoutRedis: number(env, 'EDGEWAY_NEXT_STALE_MS', 30_000),
    memoryBytes: number(env, 'EDGEWAY_NEXT_MEMORY_BYTES', 50 * 1024 * 1024),
    keepSeconds: number(env, 'EDGEWAY_NEXT_KEEP_SECONDS', 7 * 24 * 3600),
    making: 1000 * number(env, 'EDGEWAY_NEXT_RENDER_SECONDS', 60),
    gateways: (env.EDGEWAY_ADMIN_URL ?? '').split(',').map((url) => url.trim()).filter(Boolean),
    gatewayToken: env.EDGEWAY_ADMIN_TOKEN || undefined,
    site: UNKNOWN_SITE,
  };
}

function number(env: Record<string, string | undefined>, name: string, otherwise: number): number {
  const text = env[name];
  if (!text) return otherwise;
  const value = Number(text);
  if (!Number.isFinite(value) || value < 0) {
    throw new Error(`${name}: \`${text}\` is not a number of zero or more; write digits`);
  }
  return value;
}
