// Built several times with other texts, and with and without `deploymentId` (tests/apps/build.sh).
/** @type {import('next').NextConfig} */
export default {
  turbopack: { root: `${import.meta.dirname}/..` },
  outputFileTracingRoot: `${import.meta.dirname}/..`,
  deploymentId: process.env.DEPLOYMENT || undefined,
};
