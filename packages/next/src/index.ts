// What an app imports: the configuration in one line, and revalidation with a receipt.

export { revalidate, type RevalidateReceipt, type Targets } from './revalidate.js';
export type { GatewayReceipt } from './gateways.js';

/** The options of `next.config` that this package reads or sets. */
interface NextOptions {
  cacheHandler?: string;
  cacheHandlers?: Record<string, string | undefined>;
  cacheComponents?: boolean;
  cacheMaxMemorySize?: number;
  deploymentId?: string;
  experimental?: { useCache?: boolean; cacheComponents?: boolean; dynamicIO?: boolean };
  serverExternalPackages?: string[];
}

/** Packages that are loaded as they are: Next.js must not bundle a copy into each route. */
const EXTERNAL = ['@edgeway/next', 'redis', '@redis/client'];

/**
 * Sets up the shared caches in a configuration of Next.js; its own options come first.
 *
 * A configuration may be a function, as in Next.js itself.
 */
export function withEdgeway<C extends object>(config: C): C;
export function withEdgeway<A extends unknown[], C extends object>(
  config: (...args: A) => C | Promise<C>,
): (...args: A) => Promise<C>;
export function withEdgeway(config: object | ((...args: unknown[]) => unknown)): unknown {
  if (typeof config === 'function') {
    return async (...args: unknown[]) => extended((await config(...args)) as NextOptions);
  }
  return extended(config as NextOptions);
}

function extended(config: NextOptions): NextOptions {
  const useCache = require.resolve('./use-cache.js');
  const deploymentId = config.deploymentId ?? process.env.EDGEWAY_DEPLOYMENT_ID;
  const result: NextOptions = {
    // The store has a layer in the process; a second one would not learn of revalidations.
    cacheMaxMemorySize: 0,
    cacheHandler: require.resolve('./next-cache-handler.js'),
    ...config,
    serverExternalPackages: [...new Set([...(config.serverExternalPackages ?? []), ...EXTERNAL])],
  };
  if (deploymentId) result.deploymentId = deploymentId;
  // Next.js 15 has another interface for these, and refuses the option. Next.js 16 cannot build
  // routes for the edge runtime with them, which an app with `use cache` has none of.
  if (nextMajor() >= 16 && hasUseCache(config)) result.cacheHandlers = { default: useCache, remote: useCache, ...config.cacheHandlers };
  return result;
}

function hasUseCache({ cacheComponents, experimental = {} }: NextOptions): boolean {
  return Boolean(cacheComponents || experimental.useCache || experimental.cacheComponents || experimental.dynamicIO);
}

function nextMajor(): number {
  try {
    const path = require.resolve('next/package.json', { paths: [process.cwd(), __dirname] });
    return Number.parseInt((require(path) as { version: string }).version, 10);
  } catch {
    throw new Error('withEdgeway: no package `next` in this folder; run it where the app is installed');
  }
}
