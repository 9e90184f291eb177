import { withEdgeway } from '@edgeway/next';

const folder = import.meta.dirname;
const is16 = process.env.NEXT_MAJOR === '16';
const usesCache = process.env.USE_CACHE === '1';

export default withEdgeway({
  outputFileTracingRoot: folder,
  ...(is16 ? { cacheComponents: usesCache, partialPrefetching: usesCache, turbopack: { root: folder } } : {}),
});
