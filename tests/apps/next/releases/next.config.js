// Built several times with other texts, with and without `deploymentId`, and with further settings
// (tests/apps/build.sh).
/** @type {import('next').NextConfig} */
export default {
  // The cache that builds of this app share (tests/apps/build.sh).
  experimental: { turbopackFileSystemCacheForBuild: true },
  turbopack: { root: `${import.meta.dirname}/..` },
  outputFileTracingRoot: `${import.meta.dirname}/..`,
  deploymentId: process.env.DEPLOYMENT || undefined,
  ...JSON.parse(process.env.MORE_CONFIG || '{}'),
};
