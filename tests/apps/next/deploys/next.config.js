// Built several times, with and without `deploymentId` (tests/apps/build.sh).
/** @type {import('next').NextConfig} */
export default {
  // The cache that builds of this app share (tests/apps/build.sh).
  experimental: { turbopackFileSystemCacheForBuild: true },
  turbopack: { root: `${import.meta.dirname}/..` },
  outputFileTracingRoot: `${import.meta.dirname}/..`,
  deploymentId: process.env.DEPLOYMENT || undefined,
};
