/** @type {import('next').NextConfig} */
export default {
  // The app stands in the gateway's repository: tracing must not wander up to it.
  experimental: { outputFileTracingRoot: import.meta.dirname },
  // No picture of these apps is asked for.
  images: { unoptimized: true },
};
