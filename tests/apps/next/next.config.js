/** @type {import('next').NextConfig} */
export default {
  poweredByHeader: true,
  reactStrictMode: true,
  // The app stands in the gateway's repository: tracing must not wander up to it.
  turbopack: { root: import.meta.dirname },
  outputFileTracingRoot: import.meta.dirname,
  images: { imageSizes: [64, 128], deviceSizes: [640, 1080], formats: ['image/avif', 'image/webp'] },
  async redirects() {
    return [{ source: '/old', destination: '/isr', permanent: true }];
  },
};
